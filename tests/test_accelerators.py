"""What is compiled for accelerators, and, where that is possible, some of it."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.accelerators import table, targets
from benchmarks.accelerators.targets import TARGETS
from benchmarks.accelerators.workloads import OF_MODELS, WORKLOADS, federation_of
from benchmarks.check import failures
from benchmarks.methods import make
from fedjax_kd import MODELS, simulate
from fedjax_kd.algorithms import REGISTRY

main = importlib.import_module("benchmarks.accelerators.__main__")
RECORDED = Path(main.__file__).parents[1] / "results" / "accelerators.json"
ROOT = RECORDED.parents[2]


def names(*args: str) -> list[str]:
    return [cell.name for cell in main.cells(main.make_options().parse_args(args))]


def test_what_is_asked_for_adds_up() -> None:
    assert names("--target", "h100") == ["h100, fedavg, digits_mlp, cohort 100"]
    widths = names("--target", "v5e", "--case", "cnn_emnist", "cnn_cifar", "--chunk", "1", "50")
    assert [name.split(", ")[2:] for name in widths] == [
        ["cnn_emnist", "cohort 10", "chunk 1"],
        ["cnn_cifar", "cohort 50", "chunk 1"],
        ["cnn_cifar", "cohort 50", "chunk 50"],
    ]
    assert len(names("--methods")) == 2 * len(REGISTRY)
    assert len(names("--models")) == 2 * len(MODELS)
    assert len(names("--methods", "fedavg", "fedbn", "--mesh", "4")) == 2 * 3
    graphs = names("--graph")
    assert len(graphs) == 1 + 2
    assert graphs[-1].endswith(", graph")


def test_every_model_has_a_workload() -> None:
    assert set(OF_MODELS) == set(MODELS)
    assert all(WORKLOADS[name].model == name for name in OF_MODELS)


@pytest.mark.parametrize("name", ["char_lstm", "transformer", "autoencoder", "fcn"])
def test_networks_get_the_data_that_they_are_for(name: str) -> None:
    case = WORKLOADS[name]
    federation = federation_of(case, 2)
    assert np.all(federation.sizes == case.examples)
    algorithm = make("fedavg", case, federation)
    simulate(algorithm, federation, num_rounds=1, cohort_size=2, chunk=1)  # which checks the types


def run(*args: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: it needs other devices than the tests."""
    surroundings = {n: v for n, v in os.environ.items() if n not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-m", "benchmarks.accelerators", *args]
    return subprocess.run(
        command, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [(("--mesh", "5"), "at most 4"), (("--chunk", "0"), "1 or more")],
)
def test_wrong_numbers_end_at_once(args, message, monkeypatch, capsys) -> None:
    monkeypatch.setattr(main, "is_installed", lambda target: True)
    monkeypatch.setattr(sys, "argv", ["accelerators", *args])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_missing_compiler_is_said_with_what_to_do(monkeypatch, capsys) -> None:
    monkeypatch.setattr(targets, "_spec", lambda module: None)
    monkeypatch.setattr(sys, "argv", ["accelerators", "--target", "v5e"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    assert "libtpu: pip install" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        targets.devices_of(TARGETS["h100"])


def test_what_fails_to_compile_is_a_row_that_says_why(monkeypatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise NotImplementedError("no such product\nand more")

    monkeypatch.setattr(table, "compile_block", fails)
    result = table.look_at(table.Cell("h100", "digits_mlp"))
    assert result.row["compiled"] == "NotImplementedError: no such product"
    assert not result.is_good
    assert result.ratios == {}  # which `benchmarks.check` calls missing


@pytest.mark.parametrize("target", ["v5e", "h100"])
def test_small_network_compiles_as_recorded(target: str, tmp_path: Path) -> None:
    if not targets.is_installed(TARGETS[target]):
        pytest.skip("needs the extra aot")
    file = tmp_path / "new.json"
    ended = run("--target", target, "--case", "digits_mlp", "--mesh", "4", "--json", str(file))
    assert ended.returncode == 0, ended.stderr
    new = json.loads(file.read_text("utf-8"))["ratios"]
    old = json.loads(RECORDED.read_text("utf-8"))["ratios"]
    assert len(new) >= 8
    assert not failures({name: old[name] for name in new}, new)
