"""The command line, from end to end."""

from __future__ import annotations

import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from commandline import command

from fedjax_kd import cli
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.engine import compile_cache
from fedjax_kd.nn.native import library
from fedjax_kd.runs import folder as run_folder

SMALL = ("--model", "logistic", "--num-clients", "10", "--cohort-size", "4", "--num-rounds", "4")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison of two methods."""
    folder = tmp_path_factory.mktemp("runs") / "compared"
    args = (*SMALL, "--eval-every", "2", "--data-seed", "5", "--seed", "1", "--tensorboard")
    assert command("run", "fedyogi", "scaffold", *args, "--out", str(folder)) == 0
    return folder


def test_without_a_method_the_demo_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("run") == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert folder.parent == Path("runs")
    assert (folder / "curve.png").stat().st_size > 10_000
    for method in ("fedadam", "fedavg"):
        assert run_folder.read_summary(folder / method)["final_test_accuracy"] > 0.95


def test_a_run_writes_everything(compared: Path) -> None:
    names = {"config.json", "metrics.csv", "summary.json", "curve.png", "checkpoints"}
    assert {"curve.png", "partition.png", "fedyogi", "scaffold"} <= set(names_in(compared))
    assert names <= set(names_in(compared / "fedyogi"))
    assert any((compared / "fedyogi/tensorboard").iterdir())
    given = json.loads((compared / "fedyogi/config.json").read_text())
    assert given["method_options"]["tau"] == 1e-3
    assert given["local"]["batch_size"] == 20
    assert given["data"]["partition_options"]["alpha"] == 0.1
    assert (given["data"]["seed"], given["training"]["seed"]) == (5, 1)
    assert {"python", "jax", "flax", "optax", "fedjax_kd", "device"} <= set(given["environment"])
    summary = run_folder.read_summary(compared / "fedyogi")
    assert given["environment"]["convolution"] == summary["convolution"] == library.description()
    assert summary["status"] == "finished"
    assert summary["best_test_accuracy"] >= summary["final_test_accuracy"] > 0.1
    assert summary["bytes_up"] == 4 * 4 * 650 * 4  # rounds, clients, parameters, bytes


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_metrics_have_a_row_a_round(compared: Path) -> None:
    rows = run_folder.read_rows(compared / "scaffold")
    assert [row["round"] for row in rows] == [0, 1, 2, 3, 4]
    assert ["test_accuracy" in row for row in rows] == [True, False, True, False, True]
    assert "personal_accuracy_mean" not in rows[0]
    assert all(row["clients"] == 4 for row in rows[1:])
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds)
    assert seconds[0] == 0 < seconds[1]
    with (compared / "fedyogi/metrics.csv").open(newline="") as file:
        assert next(csv.reader(file))[-1] == "seconds"


def test_compared_methods_start_alike(compared: Path) -> None:
    one, two = (run_folder.read_rows(compared / m)[0] for m in ("fedyogi", "scaffold"))
    assert one == two
    assert (compared / "fedyogi/partition.png").exists() is False


def test_the_path_is_printed_last_and_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("run", "fedavg", *SMALL, "--dropout-rate", "0.5") == 0
    shown = capsys.readouterr()
    folder = Path(shown.out.splitlines()[-1])
    assert folder.parent == Path("runs")
    assert folder.name.endswith("-fedavg-digits")
    assert run_folder.read_summary(folder)["finished_rounds"] == 4
    assert "round 4 of 4, accuracy" in shown.err


def test_evaluate_writes_every_client(compared: Path, capsys: pytest.CaptureFixture) -> None:
    assert command("evaluate", str(compared / "fedyogi")) == 0
    assert "client accuracy worst decile" in capsys.readouterr().out
    with (compared / "fedyogi/clients.csv").open(newline="") as file:
        clients = list(csv.DictReader(file))
    assert len(clients) == 10
    assert sum(int(c["train_examples"]) for c in clients) == 1437
    assert sum(int(c["test_examples"]) for c in clients) == 360
    correct = sum(float(c["accuracy"] or 0) * int(c["test_examples"]) for c in clients)
    last = run_folder.read_rows(compared / "fedyogi")[-1]["test_accuracy"]
    assert correct / 360 == pytest.approx(last)


def test_plot_draws_runs_together(
    compared: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    picture = tmp_path / "both.png"
    assert command("plot", str(compared), "--metric", "train_loss", "--out", str(picture)) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "fedyogi" in shown
    assert "scaffold" in shown


def test_list_and_describe_know_every_method(capsys: pytest.CaptureFixture) -> None:
    assert command("list") == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*REGISTRY, "cnn_emnist", "pathological", "tfds:NAME"))
    assert command("describe", "scaffold") == 0
    shown = capsys.readouterr().out
    assert "--option" in shown
    assert "float32[64,10]" in shown
    assert "38,480 down, 38,480 up" in shown


def test_partition_shows_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "split.png"
    args = ("--partition", "iid", "--num-clients", "9", "--out", str(out))
    assert command("partition", *args) == 0
    assert out.exists()
    assert "1437" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["", *cli.COMMANDS, "run fedyogi", "run fedavg scaffold"])
def test_help_is_there(name: str, capsys: pytest.CaptureFixture) -> None:
    assert command(*name.split(), "--help") == 0
    shown = capsys.readouterr().out
    assert "fedjax-kd" in shown
    if name == "run fedyogi":
        assert all(f"--{word}" in shown for word in ("tau", "server-lr", "alpha", "client-lr"))
    if name == "run fedavg scaffold":
        assert "fedavg examples, scaffold uniform" in " ".join(shown.replace("│", "").split())


def test_the_options_are_those_that_apply(capsys: pytest.CaptureFixture) -> None:
    assert command("run", "fedsgd", "--partition", "natural", "--model=mlp", "--help") == 0
    shown = capsys.readouterr().out.split("method options")[1]
    assert "--hidden" in shown
    for absent in ("--client-lr", "--alpha", "--num-clients", "--tau"):
        assert absent not in shown


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys\nfrom fedjax_kd import cli\n"
        "try: cli.main(['run', '--help'])\nexcept SystemExit: pass\n"
        "heavy = {'matplotlib', 'orbax', 'sklearn', 'tensorflow_datasets'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version(capsys: pytest.CaptureFixture) -> None:
    assert command("--version") == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def test_the_package_is_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["fedjax_kd", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("fedjax_kd", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out.strip() == "0.1.0"


def test_rejected_uploads_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    args = ("run", "fedavg", *SMALL, "--client-lr", "3e38")
    assert command(*args, "--out", str(tmp_path / "run")) == 0
    summary = run_folder.read_summary(tmp_path / "run")
    assert summary["rejected"] > 0
    assert f"{summary['rejected']} uploads rejected" in capsys.readouterr().err


def test_the_cache_can_be_elsewhere_or_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compile_cache.VARIABLE, "off")
    assert compile_cache.enable() is None
    monkeypatch.delenv(compile_cache.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compile_cache.folder() == tmp_path / "fedjax_kd"
    (tmp_path / "file").touch()
    monkeypatch.setenv(compile_cache.VARIABLE, str(tmp_path / "file/cache"))
    with pytest.warns(UserWarning, match="no compiled programs are kept"):
        assert compile_cache.enable() is None
