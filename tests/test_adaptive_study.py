"""The study of adaptive server optimisers: its presets, its tables, and the whole of it, shrunk."""

from __future__ import annotations

import math
import re
from pathlib import Path

import fake_sweeps
import numpy as np
import pytest

from experiments import adaptive_federated_optimization as study
from experiments import adaptive_presets as presets
from experiments import adaptive_tables as tables
from experiments.adaptive_tables import Found, Measure
from experiments.comparison import words
from fedjax_kd.commands import run
from fedjax_kd.report import sweeps, table_files

ACCURACY = Measure("test_accuracy", last=10)
METHODS = ["fedavg", "fedadam"]
EVERY = [(task, size) for size in ("small", "paper") for task in presets.PAPER]


@pytest.fixture(scope="module")
def tuning(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """A sweep of two methods over rates and tau, with one seed, scored by the training loss."""
    folder = tmp_path_factory.mktemp("sweeps") / "tuning"
    settings = fake_sweeps.parameters(METHODS, fake_sweeps.HALF_DECADES)
    fake_sweeps.write(folder, settings, seeds=1, metric="train_loss")
    return Found(
        table_files.read_table(folder / "points.csv"),
        table_files.read_table(folder / "results.csv"),
    )


@pytest.fixture(scope="module")
def final(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """One configuration of two methods with three seeds each."""
    folder = tmp_path_factory.mktemp("sweeps") / "final"
    settings = [{"method": m, "client_lr": 0.1, "server_lr": 0.01} for m in METHODS]
    fake_sweeps.write(folder, settings, seeds=3)
    return Found(
        table_files.read_table(folder / "points.csv"),
        table_files.read_table(folder / "results.csv"),
    )


@pytest.mark.parametrize(("task", "size"), EVERY)
def test_presets_have_options_that_exist(task: str, size: presets.Size) -> None:
    for smoke in (False, True):
        options = words(presets.preset(task, size, smoke=smoke).options)
        with pytest.raises((ValueError, SystemExit)) as caught:
            run.main(["fedadam", *options, "--data-dir", "nowhere", "--num-rounds", "1"])
        assert re.search("data folder .*nowhere", str(caught.value))
    found = presets.preset(task, size)
    assert found.num_rounds % found.eval_every == 0
    assert found.last >= found.eval_every


def test_the_paper_is_what_it_says() -> None:
    shape = {
        task: (p.num_rounds, p.options["batch_size"], p.last) for task, p in presets.PAPER.items()
    }
    assert shape == {
        "mnist": (1500, 20, 100),
        "mnist_ae": (3000, 20, 100),
        "cifar100": (4000, 20, 100),
        "shakespeare": (1200, 4, 100),
    }
    assert "cohort_size" not in presets.PAPER["mnist"].options  # 10 is the default


def test_commands_name_methods_grid_and_rule() -> None:
    mnist = presets.SMALL["mnist"]
    first = presets.tuning(mnist, METHODS, 7)
    assert first[:2] == METHODS
    assert first.count("--grid") == 3
    assert presets.tuning(mnist, ["fedavgm"], 7).count("--grid") == 2
    second = presets.finals(mnist, METHODS, Path("best.csv"), 0, 3)
    assert second[2:4] == ["--table", "best.csv"]
    for given, seed in ((first, "7"), (second, "0")):
        assert given[given.index("--metric") + 1] == "train_loss"
        assert given[given.index("--last") + 1] == "6"
        assert given[given.index("--seed") + 1] == seed


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random pictures in the file that the presets read."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    np.savez(
        folder / "mnist.npz",
        train_x=rng.integers(0, 256, (400, 28, 28, 1), np.uint8),
        train_y=np.arange(400) % 10,
        train_client=np.arange(400) // 40,
        test_x=rng.integers(0, 256, (50, 28, 28, 1), np.uint8),
        test_y=np.arange(50) % 10,
    )
    return folder


@pytest.mark.thorough
def test_a_study_ends_with_tables_and_goes_on(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task, methods = "mnist_ae", ["fedavgm", "fedadam"]
    options = {"data_dir": str(data_dir), "methods": methods, "out": tmp_path, "smoke": True}
    study.main(task, **options)
    text = (tmp_path / f"{task}-smoke/tables.md").read_text()
    assert text in capsys.readouterr().out
    assert [text.count(f"| {m} | 0.1 |") for m in methods] == [1] * len(methods)
    assert "nan" not in text
    for name in ("plane.png", "curves.png", "tuning/points.csv", "final/results.csv"):
        assert (tmp_path / f"{task}-smoke" / name).exists()
    best = table_files.read_table(tmp_path / f"{task}-smoke/best.csv")
    tuned = table_files.read_table(tmp_path / f"{task}-smoke/tuning/points.csv")
    for row in best:
        own = [p for p in tuned if p["method"] == row["method"]]
        assert row["server_lr"] == min(own, key=lambda p: p["score"])["server_lr"]
    before = (tmp_path / f"{task}-smoke/final/sweep.json").stat().st_mtime_ns
    study.main(task, **options)
    assert (tmp_path / f"{task}-smoke/final/sweep.json").stat().st_mtime_ns == before
    assert text in capsys.readouterr().out


def test_points_are_scored_by_another_metric(tuning: Found) -> None:
    points = tables.rescored(tuning, ACCURACY)
    assert len(points) == len(tuning.points)
    rows = sweeps.by_value(tuning.results, "point")
    for point in points:
        if point["status"] == "diverged":
            assert point["score"] is None
            continue
        late = [r["test_accuracy"] for r in rows[point["point"]] if r["round"] > 40]
        seen = [a for a in late if a is not None]
        assert point["score"] == pytest.approx(sum(seen) / len(seen))
    assert any(p["status"] == "diverged" for p in points)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_final_table(final: Found) -> None:
    head, _, avg, adam = tables.final_table(final, ACCURACY, target=0.6).splitlines()
    assert cells(head)[4:] == ["test accuracy (%)", "less that of fedavg, paired", "rounds to 60"]
    assert cells(avg)[0] == "fedavg"
    assert cells(avg)[1:4] == ["0.1", "0.01", ""]
    assert cells(avg)[5] == ""
    scores = {
        m: [p["score"] for p in tables.rescored(final, ACCURACY) if p["method"] == m]
        for m in METHODS
    }
    for line, method in ((avg, "fedavg"), (adam, "fedadam")):
        mean = 100 * sum(scores[method]) / 3
        assert cells(line)[4].startswith(f"{mean:.1f} ± ")
    apart = [100 * (b - a) for a, b in zip(*scores.values(), strict=True)]
    assert cells(adam)[5].startswith(f"{sum(apart) / 3:+.1f} (")
    assert float(cells(adam)[6]) <= 50
    never = tables.final_table(final, ACCURACY, target=1.1).splitlines()[-1]
    assert cells(never)[-1] == "- (0 of 3)"


def test_the_region_table(tuning: Found) -> None:
    lines = [cells(line) for line in tables.region_table(tuning, ACCURACY).splitlines()[2:]]
    assert [line[0] for line in lines] == METHODS
    for line in lines:
        good, tried = map(int, line[2].split(" of "))
        assert tried == 25
        assert line[3] == f"{good / 25:.0%}"
        assert int(line[6]) == len(
            {
                (p["client_lr"], p["server_lr"])
                for p in tuning.points
                if p["method"] == line[0] and p["status"] == "diverged"
            }
        )


def test_the_tau_table(tuning: Found) -> None:
    head, _, line = tables.tau_table(tuning, ACCURACY).splitlines()
    assert cells(head) == ["method", "tau 0.001", "tau 0.1"]
    assert cells(line)[0] == "fedadam"
    points = tables.rescored(tuning, ACCURACY)
    for column, tau in ((1, 1e-3), (2, 0.1)):
        top = max(p["score"] or 0 for p in points if p.get("tau") == tau)
        assert cells(line)[column].startswith(f"{100 * top:.1f} (")


def test_what_diverged_is_a_word_and_no_number(final: Found) -> None:
    points = [{**p, "status": "diverged"} for p in final.points if p["method"] == "fedadam"]
    points = [p for p in final.points if p["method"] == "fedavg"] + points
    found = Found(points, final.results)
    line = tables.final_table(found, ACCURACY, 0.6).splitlines()[-1]
    assert cells(line)[4:6] == ["diverged", "-"]
    adaptive = [{**p, "tau": 1e-3} for p in points if p["method"] == "fedadam"]
    assert "diverged" in tables.tau_table(Found(adaptive, final.results), ACCURACY)
    region = tables.region_table(Found(adaptive, final.results), ACCURACY).splitlines()[-1]
    assert cells(region)[1:] == ["-", "0 of 1", "0%", "-", "-", "1"]


def test_errors_are_shown_in_thousandths() -> None:
    rows = [{"point": 0, "round": 1, "test_loss": 0.01234, "config": 0, "seed": 0}]
    point = {"point": 0, "config": 0, "seed": 0, "method": "fedavg", "status": "finished"}
    found = Found([{**point, "finished_rounds": 1, "score": math.pi}], rows)
    text = tables.final_table(found, Measure("test_loss", 1, 1000), 0.02)
    assert cells(text.splitlines()[0])[4] == "test loss × 1000"
    assert cells(text.splitlines()[2])[4:] == ["12.3", "", "1"]
