"""Data sets of every problem: what is read from arrays, stored, divided, and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_kd as fk
from fedjax_kd.data import from_arrays, load, pack
from fedjax_kd.data.dataset import posed_as
from fedjax_kd.data.public import hold_out
from fedjax_kd.problems import PROBLEMS
from fedjax_kd.runs.data_config import DataConfig, federation_of

RNG = np.random.default_rng(0)
X = {
    "rows": RNG.normal(size=(12, 5)),
    "images": RNG.integers(0, 255, (12, 6, 5, 3)).astype(np.uint8),
    "gray": RNG.normal(size=(12, 6, 5)),
    "symbols": RNG.integers(0, 9, (12, 5)),
    "series": RNG.normal(size=(12, 5, 2)),
}
LABELS = np.arange(12) % 3
BITS = np.stack([LABELS > 0, LABELS > 1, LABELS < 2, LABELS == 1, np.arange(12) < 6], 1)
PIXELS = RNG.integers(-1, 2, (12, 6, 5))
POSITIONS = RNG.integers(0, 9, (12, 5))


def made(x: Any, y: Any, **options: Any) -> Any:
    return from_arrays(x, y, x, y, **options)


@pytest.mark.parametrize(
    ("x", "y", "problem", "size", "stored"),
    [
        ("rows", LABELS, "classification", 3, "int32(12,)"),
        ("rows", LABELS.astype(np.uint8), "classification", 3, "int32(12,)"),
        ("rows", LABELS > 0, "classification", 2, "int32(12,)"),
        ("rows", LABELS + 0.5, "regression", 1, "float32(12, 1)"),
        ("rows", RNG.normal(size=(12, 2)), "regression", 2, "float32(12, 2)"),
        ("rows", BITS.astype(int), "multilabel", 5, "int32(12, 5)"),
        ("images", BITS.astype(float), "multilabel", 5, "int32(12, 5)"),
        ("images", BITS, "multilabel", 5, "int32(12, 5)"),
        ("symbols", POSITIONS, "tokens", 9, "int32(12, 5)"),
        ("series", POSITIONS, "tokens", 9, "int32(12, 5)"),
        ("images", PIXELS, "segmentation", 2, "int32(12, 6, 5)"),
        ("gray", PIXELS > 0, "segmentation", 2, "int32(12, 6, 5)"),
        ("rows", None, "none", 1, None),
        ("rows", (), "none", 1, None),
        ("rows", {"a": LABELS, "b": LABELS / 2}, "none", 1, None),
    ],
)
def test_what_arrays_ask(x: str, y: Any, problem: str, size: int, stored: str | None) -> None:
    data = made(X[x], y)
    assert (data.problem, data.num_classes) == (PROBLEMS[problem], size)
    if stored is not None:
        assert f"{data.train.y.dtype}{data.train.y.shape}" == stored
    federation = fk.federate(data, fk.IidPartitioner(3))
    assert federation.problem is data.problem
    assert int(federation.client_test.sizes.sum()) == 12


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        ("rows", LABELS[:, None], ValueError, r"\(12, 1\).*take y\[:, 0\]"),
        ("rows", np.eye(3, dtype=int)[LABELS], ValueError, r"one-hot.*y.argmax\(axis=1\)"),
        ("rows", np.eye(3)[LABELS], ValueError, r"one-hot.*y.argmax\(axis=1\)"),
        ("rows", LABELS.astype(float), TypeError, r"0..2 alone.*\.astype\(int\).*'regression'"),
        ("images", PIXELS[..., None], ValueError, r"take y\[..., 0\]"),
        ("rows", PIXELS, ValueError, "no problem has: give one class an example"),
        ("symbols", BITS.astype(int), ValueError, "may be tokens or multilabel: say problem="),
        ("rows", np.array(list("ab" * 6)), TypeError, "Number the words: by relabel=True"),
        ("rows", np.array([{}] * 12), TypeError, "is object.* Stack the entries"),
        ("rows", LABELS.astype(complex), TypeError, "is complex128.* Convert it to numbers"),
    ],
)
def test_targets_that_ask_nothing(x: str, y: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        made(X[x], y)


@pytest.mark.parametrize(
    ("problem", "y", "words"),
    [
        ("classification", LABELS[:, None], r"Take y\[:, 0\]"),
        ("classification", np.eye(3, dtype=int)[LABELS], r"y.argmax\(axis=1\)"),
        ("classification", LABELS - 1, "holds -1, but classes are numbered from 0"),
        ("classification", LABELS + 0.5, "say so by problem='regression'"),
        ("classification", None, "holds no arrays.*problem='none'"),
        ("segmentation", LABELS, r"must have a class a pixel, \(N, H, W\)"),
        ("multilabel", LABELS[:, None], "lies in 0..2, but several labels"),
        ("multilabel", 2 * BITS.astype(int) - 1, "holds -1 and no 0"),
        ("regression", np.full(12, np.nan), "a NaN or an infinity, first in row 0"),
        ("regression", {"a": LABELS / 2, "b": LABELS / 2}, "holds 2 arrays, but"),
        ("ranking", LABELS, "no problem 'ranking'"),
    ],
)
def test_targets_that_do_not_fit_their_problem(problem: str, y: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        made(X["images"], y, problem=problem)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="num_classes is 3, but the targets have 5 columns"):
        made(X["rows"], BITS.astype(int), num_classes=3)
    assert made(X["rows"], None, num_classes=16).num_classes == 16


def test_a_tree_of_arrays_is_divided_row_by_row() -> None:
    x = {"image": X["images"], "row": X["rows"], "number": np.arange(12), "yes": LABELS > 0}
    y = (np.arange(12) * 10, {"value": np.arange(12) / 4})
    data = from_arrays(x, y, x, y, name="mixed")
    assert {k: str(a.dtype) for k, a in data.train.x.items()} == {
        "image": "uint8", "row": "float32", "number": "int32", "yes": "uint8"
    }  # fmt: skip
    left, taken = hold_out(data, 3, seed=0)
    assert (left.train.num_rows, taken.num_rows) == (9, 3)
    assert set(taken.x["number"]) | set(left.train.x["number"]) == set(range(12))
    f = fk.federate(data, [[3, 1], range(4, 9)], client_test_fraction=0.5)
    own = f.train.of(jnp.int32(1)).take(jnp.arange(2, dtype=jnp.int32), jnp.ones(2))
    numbers = np.asarray(own.x["number"])
    np.testing.assert_array_equal(own.x["image"], X["images"][numbers])
    np.testing.assert_array_equal(own.y[0], numbers * 10)
    np.testing.assert_array_equal(own.y[1]["value"], numbers / 4)
    assert f.client_test.x["image"] is f.train.x["image"], "no copy on the device"


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        ({"a": np.ones((4, 2)), "b": np.ones((3, 2))}, None, ValueError, r"x\['b'\] 3"),
        ({"a": np.ones((4, 2)), "b": np.ones(())}, None, ValueError, "at least one row"),
        ({}, None, ValueError, "without an array"),
        ({"a": np.full((4, 2), np.inf)}, None, ValueError, r"train_x\['a'\] holds a NaN"),
        ({"a": np.array(list("abcd"))}, None, TypeError, r"train_x\['a'\] is <U1"),
        (np.ones((4, 2)), {"a": np.arange(3)}, ValueError, r"train_y\['a'\] 3"),
    ],
)
def test_trees_that_do_not_fit(x: Any, y: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        made(x, y)


UINT8, FLOATS = X["images"], X["images"] / 255


@pytest.mark.parametrize(
    ("x", "test_x", "words"),
    [
        (UINT8, FLOATS, "train_x is uint8 and test_x float64"),
        (FLOATS, UINT8, "train_x is float64 and test_x uint8"),
        (UINT8, UINT8.astype(int), "train_x is uint8 and test_x int64"),
        (UINT8, UINT8 > 9, "train_x is uint8 and test_x bool"),
        ({"a": UINT8}, {"a": FLOATS}, r"train_x\['a'\] is uint8 and test_x\['a'\] float64"),
        ({"a": UINT8}, {"b": UINT8}, r"train_x\['a'\], but test_x\['b'\]"),
        (UINT8, {"b": UINT8}, r"There is train_x, but test_x\['b'\]"),
    ],
)
def test_parts_of_different_kinds_are_refused(x: Any, test_x: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        from_arrays(x, LABELS, test_x, LABELS)


def test_parts_of_other_scales_and_columns() -> None:
    from_arrays(FLOATS, LABELS, FLOATS.astype(np.float32), LABELS)
    with pytest.warns(UserWarning, match="were both scaled in the same way"):
        from_arrays(FLOATS, LABELS, FLOATS * 255, LABELS)
    with pytest.raises(TypeError, match=r"column train_id is .* and test_id"):
        made(X["rows"], LABELS, train_columns={"id": LABELS}, test_columns={"id": ["a"] * 12})


@pytest.mark.parametrize("public", ["noise", "generator"])
@pytest.mark.parametrize("x", [{"a": X["rows"]}, X["symbols"]])
def test_inputs_that_cannot_be_made_of_nothing(public: str, x: Any) -> None:
    data = made(x, LABELS)
    with pytest.raises(ValueError, match=r"are (symbols|several arrays): take public 'holdout'"):
        fk.set_apart(data, public=public)
    left, apart = fk.set_apart(data, public="holdout", public_size=4, validation_fraction=0.25)
    assert left.train.num_rows == 5
    assert len(jax.tree.leaves(apart.inputs.x)[0]) == 4


def test_without_targets_inputs_are_given_to_the_loss() -> None:
    f = fk.federate(load("digits_unlabelled"), fk.IidPartitioner(4))
    assert f.train.y is f.train.x
    assert f.client_test.y is f.test.x
    with pytest.raises(ValueError, match="'none', which has no loss of its own"):
        _ = f.example_loss
    _, apart = fk.set_apart(load("digits_unlabelled"), validation_fraction=0.1)
    assert apart.validation.y is apart.validation.x
    posed = posed_as(load("digits"), "reconstruction")
    _, apart = fk.set_apart(posed, validation_fraction=0.1)
    assert apart.validation.y is apart.validation.x
    assert int(apart.validation.x.max()) == 255


def test_every_problem_has_its_loss() -> None:
    for name in ("digits", "digits_bits", "digits_strokes", "diabetes"):
        f = fk.federate(load(name), fk.IidPartitioner(4))
        assert f.example_loss is f.problem.score


def test_small_data_sets_are_what_they_say() -> None:
    digits, bits, strokes = (load(name) for name in ("digits", "digits_bits", "digits_strokes"))
    np.testing.assert_array_equal(bits.train.y @ [1, 2, 4, 8], digits.train.y)
    np.testing.assert_array_equal(strokes.train.y, digits.train.x[..., 0] >= 8)
    np.testing.assert_array_equal(strokes.test.columns["digit"], digits.test.y)
    best = max(  # of all thresholds of a pixel alone
        float(((strokes.test.x[..., 0] >= ink) == strokes.test.y).mean()) for ink in range(256)
    )
    assert 0.85 < best < 0.93
    diabetes = load("diabetes")
    assert diabetes.problem is PROBLEMS["regression"]
    np.testing.assert_allclose([diabetes.train.y.mean(), diabetes.train.y.std()], [0, 1], atol=1e-5)
    x, y = (np.c_[e.x, np.ones(e.num_rows)] for e in (diabetes.train, diabetes.test))
    line = np.linalg.lstsq(x, diabetes.train.y, rcond=None)[0]
    left = diabetes.test.y - y @ line
    assert 0.3 < 1 - (left**2).mean() / diabetes.test.y.var() < 0.6


def test_columns_by_which_problems_are_divided() -> None:
    with pytest.raises(ValueError, match=r"has quantile \(its targets are values to predict\)"):
        fk.DirichletPartitioner(5, 0.1)(load("diabetes"))
    skewed = fk.ShardPartitioner(5, 1, partition_by="quantile")(load("diabetes"))
    means = [load("diabetes").train.y[part].mean() for part in skewed]
    assert np.ptp(means) > 2
    with pytest.raises(ValueError, match=r"has digit .*several labels.* choose one of these"):
        fk.ShardPartitioner(5)(load("digits_bits"))
    parts = fk.ShardPartitioner(10, 1, partition_by="digit")(load("digits_strokes"))
    dealt = fk.federate(load("digits_strokes"), parts).client_test
    assert int(dealt.sizes.sum()) == 360
    assert posed_as(load("digits"), "regression").labels is None


def test_files_tell_their_problem(tmp_path: Path) -> None:
    x, y = X["symbols"], BITS.astype(int)
    arrays = {"train_x": x, "train_y": y, "test_x": x, "test_y": y}
    np.savez(tmp_path / "bits.npz", **arrays, problem="multilabel")
    assert load("bits", data_dir=tmp_path).problem is PROBLEMS["multilabel"]
    assert load("bits", data_dir=tmp_path, problem="tokens").problem is PROBLEMS["tokens"]
    made = federation_of(DataConfig("bits", str(tmp_path), "iid", num_clients=2, problem="tokens"))
    assert made[1].problem is PROBLEMS["tokens"]
    np.savez(tmp_path / "bare.npz", train_x=x, test_x=x)
    assert load("bare", data_dir=tmp_path, problem="none").problem is PROBLEMS["none"]
    with pytest.raises(ValueError, match=r"train_y, test_y are missing.*problem 'none'"):
        load("bare", data_dir=tmp_path)
    np.savez(tmp_path / "objects.npz", **arrays | {"train_y": np.array([[1], [2, 3]] * 6, object)})
    with pytest.raises(ValueError, match=r"array train_y holds Python objects.*numpy\.stack"):
        load("objects", data_dir=tmp_path)
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"There is table\.csv, which is not read.*table\.npz"):
        load("table", data_dir=tmp_path)


def test_problems_are_chosen_by_name() -> None:
    data = DataConfig("digits", partition="iid", num_clients=3, problem="regression")
    dataset, federation = federation_of(data)
    assert federation.problem is PROBLEMS["regression"]
    assert dataset.train.y.shape == (1437, 1)
    again = federation_of(DataConfig(partition="iid", num_clients=3, problem="reconstruction"))[1]
    assert again.train.y is again.train.x
    assert again.target == "input"
    assert again.inputs == "pixels in [0, 1]"
    with pytest.raises(ValueError, match="give one of both"):
        federation_of(DataConfig(problem="regression", target="input"))
    with pytest.raises(ValueError, match="no problem 'regresion'"):
        load("digits", problem="regresion")


def test_a_line_says_what_there_is(tmp_path: Path) -> None:
    data = load("digits")
    split = fk.DirichletPartitioner(100, 0.1, min_partition_size=1)
    for thing in (data, fk.federate(data, split), pack(tmp_path / "s", data, split)):
        shown = repr(thing)
        assert len(shown) < 250
        assert "classification" in shown
        assert "uint8[8, 8, 1]" in shown
