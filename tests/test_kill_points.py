"""A training that dies before any operation on its files ends like one that was left alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from commandline import command
from dying import Death, dying
from invented import replace_trainings

from benchmarks.kill_anytime import differences
from fedjax_kd.runs import folder as run_folder

SMALL = ("--model", "logistic", "--num-clients", "4", "--partition", "iid", "--cohort-size", "2")
QUICK = (*SMALL, "--eval-every", "1", "--quiet")
KINDS = {
    "comparison": (
        *("run", "fedavg", "fedprox", *QUICK, "--num-rounds", "2"),
        *("--checkpoint-every", "1"),
    ),
    "run": ("run", "scaffold", *QUICK, "--num-rounds", "3", "--checkpoint-every", "1"),
    "sweep": (
        *("sweep", "fedavg", *QUICK, "--num-rounds", "2", "--grid", "client-lr=0.1,1"),
        *("--halving", "2", "--first-rung", "1"),
    ),
}


def dies(args: Sequence[str], folder: Path, operation: int) -> bool:
    """Whether the command came to that operation; if not, it has ended well."""
    try:
        with dying(folder, operation) as done:
            code = command(*args)
    except Death:
        return True
    if len(done) < operation or operation == 0:
        assert code == 0
        return False
    return True  # a library has turned the death into an error of its own


def continued(kind: str, folder: Path, operation: int = 0) -> bool:
    """Goes on with a training, or begins it anew where nothing was begun; whether it died."""
    if not folder.exists() or run_folder.is_unused(folder):
        return dies([*KINDS[kind], "--out", str(folder)], folder, operation)
    return dies(["resume", str(folder), "--quiet"], folder, operation)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the files that are tested, so nothing else takes time."""
    replace_trainings(monkeypatch)


@pytest.mark.usefixtures("quick")
def test_files_of_a_comparison_that_dies_again_and_again(tmp_path: Path):
    expected, folder = tmp_path / "alone", tmp_path / "training"
    with dying(expected) as done:
        assert command(*KINDS["comparison"], "--out", str(expected)) == 0
    deaths = 0
    for operation in range(1, len(done), 6):
        if not continued("comparison", folder, operation):
            break
        deaths += 1
    assert 5 < deaths < len(done) // 6, "each attempt gets further"
    assert differences(folder, expected) == []


@pytest.mark.thorough
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_training_that_dies_goes_on_to_the_same_end(tmp_path: Path, kind: str):
    expected = tmp_path / "alone"
    with dying(expected) as done:
        assert command(*KINDS[kind], "--out", str(expected)) == 0
    for share in (0.1, 0.5, 0.9):
        folder, operation = tmp_path / f"died-{share}", 1 + int(share * len(done))
        assert continued(kind, folder, operation)
        continued(kind, folder, operation)
        continued(kind, folder)
        assert differences(folder, expected) == []
