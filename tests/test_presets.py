"""An experiment, shrunk, on data of the right shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments import seven_methods

SHAPES = {"mnist": (28, 28, 1), "cifar10": (32, 32, 3)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random pictures in the files that the presets read."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, shape in SHAPES.items():
        np.savez(
            folder / f"{name}.npz",
            train_x=rng.integers(0, 256, (2000, *shape), np.uint8),
            train_y=np.arange(2000) % 10,
            train_client=np.arange(2000) // 40,
            test_x=rng.integers(0, 256, (50, *shape), np.uint8),
            test_y=np.arange(50) % 10,
        )
    return folder


@pytest.mark.parametrize(("task", "method"), [("digits", "scaffold-I"), ("mnist", "fedadam")])
def test_an_experiment_ends_with_a_table_and_goes_on(
    task: str, method: str, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = None if task == "digits" else str(data_dir)
    for seeds in (1, 2):
        seven_methods.main(
            task, data_dir=where, methods=[method], seeds=seeds, out=tmp_path, smoke=True
        )
    row = next(r for r in capsys.readouterr().out.splitlines()[::-1] if r.startswith("| "))
    assert row.startswith(f"| {method} |")
    assert "nan" not in row
    assert (tmp_path / f"{task}.png").exists()
