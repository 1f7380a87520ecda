"""How classes are numbered: gaps are named, numbering anew is offered, and shared by both parts."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedjax_kd.commands._announce import announce_data
from fedjax_kd.data import IidPartitioner, from_arrays, load
from fedjax_kd.data.federation import federate
from fedjax_kd.runs.data_config import DataConfig, federation_of

MASKS = np.array([0, 255, 0, 255, 255, 0]).repeat(4).reshape(6, 2, 2)


def made(y: Any, test_y: Any = None, **options: Any) -> Any:
    y = np.asarray(y)
    test_y = y[:2] if test_y is None else np.asarray(test_y)
    x = np.arange(4.0 * len(y)).reshape(len(y), 2, 2)
    return from_arrays(x, y, x[: len(test_y)], test_y, **options)


@pytest.mark.parametrize(
    ("y", "words"),
    [
        ([100, 200, 300], "only 3 of 301 classes.*are 0, 1, 2, 3, 4, 5, ..."),
        (range(1, 11), "only 10 of 11 classes have a row; without one are 0"),
        ([0, 7], "only 2 of 8 classes.* are 1, 2, 3, 4, 5, 6. Number"),
        (MASKS, r"only 2 of 256 classes.*\(-1 marks places without a label\)"),
        ([7, 2**31 - 1], "only 2 of 2147483648 classes"),
    ],
)
def test_gaps_that_come_from_the_numbering(y: Any, words: str) -> None:
    held = np.unique(np.asarray(y))
    with pytest.raises(ValueError, match=rf"{words}.*relabel=True.*num_classes="):
        made(y)
    again = made(y, relabel=True)
    assert again.num_classes == len(held)
    assert again.class_names == tuple(str(n) for n in held)
    np.testing.assert_array_equal(held[again.train.y], y)
    np.testing.assert_array_equal(held[again.test.y], np.asarray(y)[:2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if held.max() < 1000:
            assert made(y, num_classes=1000).num_classes == 1000


def test_other_gaps_are_told() -> None:
    with pytest.warns(UserWarning, match="No row has class 1, 3, 5: models get outputs"):
        assert made([0, 2, 4, 6]).num_classes == 7


def test_classes_are_numbered_over_both_parts() -> None:
    with pytest.warns(UserWarning, match="No training row has class 1, but test rows have"):
        data = made(["c", "a", "c"], ["b", "a"], relabel=True)
    assert data.class_names == ("a", "b", "c")
    assert (data.train.y.tolist(), data.test.y.tolist()) == ([2, 0, 2], [1, 0])
    assert made([-1, 1, -1], relabel=True).train.y.tolist() == [0, 1, 0]
    assert made([1.0, 2.0, 1.0], relabel=True).problem.name == "classification"
    objects = np.array(["b", "a", "b"], dtype=object)
    assert made(objects, relabel=True).train.y.tolist() == [1, 0, 1]


def test_what_training_never_shows_is_told_but_for_identities() -> None:
    with pytest.warns(UserWarning, match="No training row has class 2, but test rows have"):
        made([0, 1, 1], [2, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made([0, 1, 1], [2, 0], num_classes=3)
        made([0, 1, 1], [2, 3], problem="retrieval")
        ignored = made(np.where(MASKS > 0, 1, -1), problem="segmentation", relabel=True)
    assert ignored.train.y.min() == -1


def test_a_vocabulary_may_have_gaps() -> None:
    x = np.array([[3, 90], [7, 3]])
    assert from_arrays(x, x, x, x).num_classes == 91


@pytest.mark.parametrize(
    ("y", "options", "error", "words"),
    [
        ([0.5, 1.5], {"relabel": True, "problem": "regression"}, ValueError, "numbers classes"),
        ([0.5, np.nan], {"relabel": True}, TypeError, "the targets are float64"),
        ({"a": np.arange(2)}, {"relabel": True}, TypeError, "the targets are dict"),
        ([1, 2, 3], {"num_classes": 3}, ValueError, r"lie in 1..3, but num_classes=3 allows 0..2"),
    ],
)
def test_what_cannot_be_numbered(y: Any, options: Any, error: Any, words: str) -> None:
    rows = 2 if isinstance(y, dict) else len(y)
    x = np.arange(2.0 * rows).reshape(rows, 2)
    with pytest.raises(error, match=words):
        from_arrays(x, y, x, y, **options)
    with pytest.raises(TypeError, match=r"in one part and .* in the other"):
        made([1, 2], ["a", "b"], relabel=True)


def test_files_are_numbered_on_demand(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    x, y = np.arange(24.0).reshape(6, 4), np.array([10, 20, 30] * 2)
    np.savez(tmp_path / "tens.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    with pytest.raises(ValueError, match=r"^tens.npz: Labels lie in 10..30.*--relabel"):
        load("tens", data_dir=tmp_path)
    data = DataConfig("tens", str(tmp_path), "iid", num_clients=2, relabel=True)
    federation = federation_of(data)[1]
    assert federation.class_names == ("10", "20", "30")
    announce_data(federation, quiet=False)
    assert "classes: 10 is 0, 20 is 1, 30 is 2" in capsys.readouterr().err
    with pytest.raises(ValueError, match="those of digits are numbered from 0 already"):
        load("digits", relabel=True)
    assert federate(load("digits"), IidPartitioner(2)).class_names == ()
