"""The comparison with other simulators: workloads, settings, the check of curves, the table.

No rival is installed or run here.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from benchmarks.rivals import __main__ as command
from benchmarks.rivals import environments, launch, measure, same_work, workloads
from benchmarks.rivals.environments import Environment
from benchmarks.rivals.launch import Outcome
from benchmarks.rivals.measure import Measurement
from benchmarks.rivals.runners import job as jobs
from benchmarks.rivals.runners import ours
from benchmarks.rivals.table import table
from fedjax_kd.data import load
from fedjax_kd.data.federation import federate
from fedjax_kd.models import MODELS
from fedjax_kd.task import from_nnx

IMAGES = {"mlp": (8, 8, 1), "cnn_cifar": (32, 32, 3), "resnet8": (32, 32, 3)}
PARAMETERS = {"mlp": 4810, "cnn_cifar": 1_626_442, "resnet8": 75_290}

PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many random images as CIFAR-10 has; tiny ones, but for the colours."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    np.savez(
        folder / "cifar10.npz",
        train_x=rng.integers(0, 256, (50_000, 8, 8, 3), np.uint8),
        train_y=np.arange(50_000) % 10,
        test_x=rng.integers(0, 256, (100, 8, 8, 3), np.uint8),
        test_y=np.arange(100) % 10,
    )
    return folder


def report(curve: list[tuple[int, float, float]], **other: Any) -> dict[str, Any]:
    """What a runner would write: setup in 3 s, then 5 s for the first round and 1 or 2 s."""
    return {
        "versions": {"system": "1.2"},
        "parameters": 10,
        "setup_seconds": 3.0,
        "round_seconds": [5.0, 1.0, 2.0, 1.0],
        "evaluation_seconds": [0.1, 0.1],
        "curve": curve,
    } | other


def measured(curve: list[tuple[int, float, float]], **other: Any) -> Measurement:
    return Measurement({"threads": 1}, [], [report(curve, **other)])


@pytest.mark.parametrize("name", workloads.WORKS)
def test_a_workload_is_deterministic_and_its_clients_are_disjoint(
    name: str, data_dir: Path
) -> None:
    work = workloads.WORKS[name]
    first, again = (workloads.make(work, data_dir=data_dir, rounds=6) for _ in range(2))
    arrays = first.arrays
    assert all(np.array_equal(again.arrays[key], value) for key, value in arrays.items())
    assert again.settings == first.settings
    assert arrays["clients"].shape == (work.num_clients, work.examples)
    assert len(np.unique(arrays["clients"])) == arrays["clients"].size
    assert arrays["cohorts"].shape == (6, work.cohort_size)
    assert all(len(set(cohort)) == work.cohort_size for cohort in arrays["cohorts"].tolist())
    other = workloads.make(work, data_dir=data_dir, rounds=6, seed=1).arrays
    for key in ("clients", "cohorts", "weights/head.kernel"):
        assert not np.array_equal(other[key], arrays[key])


def test_w1_is_the_published_round() -> None:
    work = workloads.WORKS["w1"]
    assert (work.num_clients, work.examples, work.cohort_size) == (1000, 50, 50)
    assert (work.batch_size, work.epochs, work.client_lr) == (10, 1, 0.1)


@pytest.mark.parametrize("model", IMAGES)
def test_the_neutral_weights_are_those_of_our_networks(model: str) -> None:
    shapes = workloads.shapes(model, IMAGES[model], 10)
    weights = workloads.initial_weights(np.random.default_rng(0), shapes)
    assert sum(w.size for w in weights.values()) == PARAMETERS[model]
    task = from_nnx(MODELS[model](IMAGES[model], 10, **ours._OPTIONS.get(model, {})))
    params = ours.given_weights(task, weights).init(jax.random.key(0)).params
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert len(leaves) == len(weights)
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        np.testing.assert_array_equal(leaf, weights[name])
    types = jax.eval_shape(task.init, jax.random.key(0)).params
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, types)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ValueError, match="must be mlp, cnn_cifar or resnet8"):
        workloads.shapes("vgg", (32, 32, 3), 10)


@pytest.mark.parametrize(("given", "made"), [((None, None), 60), ((3, None), 3), ((7, 5), 10)])
def test_rounds_are_a_multiple_of_the_evaluations(
    given: tuple[int | None, int | None], made: int
) -> None:
    digits = workloads.make(workloads.WORKS["digits"], rounds=given[0], eval_every=given[1])
    assert digits.settings["rounds"] == len(digits.arrays["cohorts"]) == made
    assert made % digits.settings["eval_every"] == 0


def test_runners_read_what_was_written_and_standardise_as_we_do(tmp_path: Path) -> None:
    made = workloads.make(workloads.WORKS["digits"])
    workloads.write(made, tmp_path / "work.npz")
    job = jobs.read(str(tmp_path / "work.npz"), str(tmp_path / "work.json"))
    assert job.num_parameters == workloads.num_parameters(made) == PARAMETERS["mlp"]
    everything = job.standardised(job.arrays["train_x"])
    assert everything.mean() == pytest.approx(0, abs=1e-4)
    assert everything.std() == pytest.approx(1, abs=1e-4)
    federation = federate(load("digits"), lambda dataset: list(job.arrays["clients"]))
    x, y = job.client(3)
    rows = made.arrays["clients"][3]
    expected = federation.prepare(made.arrays["train_x"][rows])
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y, made.arrays["train_y"][rows])


def test_the_loop_of_the_runners_evaluates_when_it_is_due() -> None:
    job = jobs.Job({"rounds": 4, "eval_every": 2, "spawned_at": 0.0}, {})
    seen: list[int] = []
    found = jobs.loop(job, seen.append, lambda: (float(len(seen)), 0.5))
    assert seen == [0, 1, 2, 3]
    assert found.curve == [(0, 0.0, 0.5), (2, 2.0, 0.5), (4, 4.0, 0.5)]
    assert (len(found.rounds), len(found.evaluations)) == (4, 3)


@pytest.mark.thorough
def test_our_runner_trains_the_workload(tmp_path: Path) -> None:
    made = workloads.make(workloads.WORKS["digits"], rounds=4, eval_every=2)
    workloads.write(made, tmp_path / "work.npz")
    outcome = launch.run("ours", PYTHON, tmp_path / "work.npz", settings={}, timeout=120)
    assert outcome.report is not None, outcome.problem
    assert [point[0] for point in outcome.report["curve"]] == [0, 2, 4]
    assert outcome.report["curve"][-1][1] < outcome.report["curve"][0][1]
    assert outcome.report["parameters"] == PARAMETERS["mlp"]
    assert len(outcome.report["round_seconds"]) == 4


@pytest.mark.parametrize(
    ("program", "timeout", "said"),
    [
        ("import sys; print('the reason'); sys.exit(3)", 60, r"failed \(exit code 3\)\nthe reason"),
        ("import time; time.sleep(60)", 0.2, "no result within"),
        ("pass", 60, "ended without a report"),
    ],
)
def test_what_goes_wrong_in_a_run_is_told(
    program: str, timeout: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work.json").write_text("{}", encoding="utf-8")
    start = launch._start
    monkeypatch.setattr(
        launch, "_start", lambda words, *rest: start([words[0], "-c", program], *rest)
    )
    outcome = launch.run("ours", PYTHON, tmp_path / "work.npz", settings={}, timeout=timeout)
    assert outcome.report is None
    assert re.match(said, outcome.problem)


def test_an_environment_that_cannot_be_made_gives_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(environments.PINS, "pfl", (("no such requirement",),))
    monkeypatch.setattr(environments.venv, "create", lambda home, with_pip: home.mkdir())
    found = environments.prepare("pfl", tmp_path)
    assert found.python is None
    run = measure.runner({"pfl": found}, tmp_path / "work.npz", 1)
    assert run("pfl", {}, 1).problem.startswith("not installed (")


def test_a_finished_environment_is_used_again(tmp_path: Path) -> None:
    home = tmp_path / "pfl"
    python = environments._interpreter(home)
    python.parent.mkdir(parents=True)
    python.touch()
    (home / "rival.txt").write_text(repr(environments.PINS["pfl"]), encoding="utf-8")
    assert environments.prepare("pfl", tmp_path) == Environment(python)


def fake(seconds: Callable[[str, dict[str, Any]], float | None]) -> tuple[measure.Run, list[str]]:
    """A way to run systems that takes the seconds a round it is told, and a list of its calls."""
    calls: list[str] = []

    def run(system: str, settings: dict[str, Any], limit: float) -> Outcome:
        calls.append(system)
        spent = seconds(system, settings)
        if spent is None:
            return Outcome(None, "failed (exit code 1)\nits last words")
        return Outcome(report([(0, 2.3, 0.1), (4, 1.0, 0.7)], round_seconds=[9.0, spent, spent]))

    return run, calls


def test_systems_alternate_at_their_best_settings() -> None:
    run, calls = fake(lambda system, settings: 1.0 / settings.get("threads", 1))
    options = {"ours": [{}], "torch": [{"threads": 1}, {"threads": 2}]}
    found = measure.measure(run, options, rounds=8)
    assert calls == ["torch", "torch", "ours", "torch", "ours", "torch"]
    assert found["torch"].settings == {"threads": 2}
    assert found["torch"].trials == [({"threads": 1}, 1.0), ({"threads": 2}, 0.5)]
    assert all(len(m.reports) == measure.PASSES for m in found.values())


def test_settings_that_fail_are_passed_over_and_a_system_that_fails_is_kept_in_the_table() -> None:
    run, calls = fake(
        lambda system, settings: None if system == "pfl" or settings.get("threads") == 2 else 1.0
    )
    options = {"torch": [{"threads": 2}, {"threads": 1}], "pfl": [{"threads": 1}, {"threads": 2}]}
    found = measure.measure(run, options, rounds=8)
    assert found["torch"].settings == {"threads": 1}
    assert not found["torch"].problem
    assert calls.count("pfl") == 2
    lines = table(found, cohort_size=5, warmup=1).splitlines()
    assert lines[3].startswith("| pfl |")
    assert "failed (exit code 1)" in lines[3]
    assert "its last words" in lines


def test_the_table_shows_medians_ratios_and_start() -> None:
    ours_, other = measured([(0, 2.3, 0.1), (4, 1.0, 0.75)]), measured([(0, 2.3, 0.1), (4, 1.0, 1)])
    slow = other.reports[0] | {"round_seconds": [11.0, 4.0, 4.0, 3.0]}
    found = {"ours": ours_, "pfl": other._replace(reports=[slow])}
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in table(found, cohort_size=8, warmup=1).splitlines()
    ]
    assert rows[2] == ["ours", "1.2", "1 thread", "1", "1", "1.00x", "8", "7.0", "0.7500", ""]
    assert rows[3] == ["pfl", "1.2", "1 thread", "4", "3", "4.00x", "2", "10.0", "1.0000", ""]
    assert {len(row) for row in rows} == {10}


GOOD = [(0, 2.3, 0.1), (5, 1.5, 0.5), (10, 1.0, 0.7)]


@pytest.mark.parametrize(
    ("curve", "exact", "said"),
    [
        ([(0, 2.301, 0.1), *GOOD[1:]], False, "starts at a loss of"),
        ([GOOD[0], (5, 1.9, 0.3), (10, 1.7, 0.4)], False, "on average"),
        ([GOOD[0], (5, 1.5, 0.5), (10, 1.01, 0.7)], True, "its loss is off by 0.0100"),
        ([GOOD[0], (4, 1.5, 0.5), (10, 1.0, 0.7)], False, "other rounds"),
        (GOOD[:2], False, "other rounds"),
        ([GOOD[0], (5, float("nan"), 0.1), (10, float("nan"), 0.1)], False, "on average"),
    ],
)
def test_a_system_whose_curve_differs_is_flagged(
    curve: list[tuple[int, float, float]], exact: bool, said: str
) -> None:
    found = {"ours": measured(GOOD), "pfl": measured(GOOD), "torch": measured(curve)}
    seen = same_work.judged(found, parameters=10, exact=exact)
    assert not seen["ours"].fault
    assert not seen["pfl"].fault
    assert said in seen["torch"].fault
    assert f"{same_work.LABEL}: " in table(seen, cohort_size=1, warmup=1).splitlines()[4]


def test_noise_is_not_flagged_but_another_number_of_parameters_is() -> None:
    near = [GOOD[0], (5, 1.53, 0.48), (10, 0.96, 0.71)]
    found = {"ours": measured(GOOD), "pfl": measured(near), "torch": measured(GOOD, parameters=11)}
    seen = same_work.judged(found, parameters=10, exact=False)
    assert [bool(m.fault) for m in seen.values()] == [False, False, True]


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = fake(lambda system, settings: 0.5)
    monkeypatch.setattr(measure, "runner", lambda *of: run)
    monkeypatch.setattr(environments, "PINS", {})  # nothing would be installed
    words = ["--work", "digits", "--systems", "ours", "fedjax", "--rounds", "4"]
    words += ["--python", "fedjax=python"]
    command.main([*words, "--envs", str(tmp_path), "--json", str(tmp_path / "out.json")])
    printed = capsys.readouterr().out
    assert "| fedjax | 1.2 | jit |" in printed
    written = (tmp_path / "out.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in written
    told = json.loads(written)
    assert set(told["works"]["digits"]["systems"]) == {"ours", "fedjax"}
    assert told["works"]["digits"]["systems"]["ours"]["figures"]["median"] == 0.5
    assert told["works"]["digits"]["systems"]["fedjax"]["reports"][0]["curve"][-1] == [4, 1.0, 0.7]
