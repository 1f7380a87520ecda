"""What belongs to no client: held-out rows, other data sets, noise, generators."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import dataset, federation, logistic

from fedjax_kd.algorithms import fedavg
from fedjax_kd.core import Algorithm
from fedjax_kd.data import from_arrays, load, set_apart
from fedjax_kd.data.public import hold_out
from fedjax_kd.data.public_inputs import MissingError, Public, Stored, inputs_of, validation_of
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training

KEY = jax.random.key(3)


def rows_of(*arrays: Any) -> set[bytes]:
    return {np.asarray(row).tobytes() for array in arrays for row in array}


def test_stored_inputs_come_in_random_order_none_twice_before_all():
    source = Stored(jnp.arange(5), jnp.arange(5) * 10)
    x, y = source.examples(KEY, 13)
    assert sorted(x[:5].tolist()) == sorted(x[5:10].tolist()) == list(range(5))
    assert x[:5].tolist() != x[5:10].tolist()
    np.testing.assert_array_equal(y, 10 * x)
    np.testing.assert_array_equal(source.draw(KEY, 13), x)
    assert source.draw(jax.random.key(4), 5).tolist() != x[:5].tolist()


def test_what_is_held_out_is_no_clients():
    whole = dataset(50)
    left, apart = set_apart(
        whole, public="holdout", public_size=10, validation_fraction=0.2, seed=1
    )
    parts = left.train.x, apart.inputs.x, apart.validation.x
    assert [len(part) for part in parts] == [30, 10, 10]
    assert rows_of(*parts) == rows_of(whole.train.x)
    labels = {row.tobytes(): int(y) for row, y in zip(whole.train.x, whole.train.y, strict=True)}
    known = zip(np.asarray(apart.inputs.x), apart.inputs.y.tolist(), strict=True)
    assert all(labels[row.tobytes()] == y for row, y in known)
    again, _ = set_apart(whole, public="holdout", public_size=10, validation_fraction=0.2, seed=1)
    np.testing.assert_array_equal(again.train.x, left.train.x)


def test_columns_follow_their_rows():
    whole = from_arrays(
        np.arange(6.0, dtype=np.float32)[:, None], np.zeros(6, np.int32),
        np.zeros((1, 1), np.float32), np.zeros(1, np.int32),
        train_columns={"writer": np.arange(6)}, num_classes=1,
    )  # fmt: skip
    left, taken = hold_out(whole, 2, seed=0)
    for part in (left.train, taken):
        np.testing.assert_array_equal(part.x[:, 0], part.columns["writer"])


@pytest.mark.parametrize("kind", ["noise", "generator"])
def test_inputs_made_of_nothing_are_in_the_range_of_the_pixels(kind: str):
    _, apart = set_apart(load("digits"), public=kind)
    made = apart.inputs.draw(KEY, 50)
    assert made.shape == (50, 8, 8, 1)
    assert float(made.min()) >= 0
    assert float(made.max()) <= 16
    assert float(made.std()) > 1
    if kind == "noise":
        assert float(made.min()) == 0
        assert float(made.max()) == 16


def test_another_data_set_gives_its_inputs(tmp_path: Any):
    other = np.arange(20 * 64, dtype=np.uint8).reshape(20, 8, 8, 1)
    labels = np.zeros(20, np.int64)
    np.savez(tmp_path / "other.npz", train_x=other, train_y=labels, test_x=other, test_y=labels)
    whole = load("digits")
    left, apart = set_apart(whole, public="other", public_size=7, data_dir=tmp_path)
    assert left is whole
    assert apart.inputs.x.shape == (7, 8, 8, 1)
    assert rows_of(apart.inputs.x) <= rows_of(other)
    assert apart.inputs.y == ()
    np.savez(
        tmp_path / "wide.npz", train_x=other[:, :4], train_y=labels, test_x=other, test_y=labels
    )
    for name, size, words in [("other", 21, "20 training rows"), ("digit", None, "digit")]:
        with pytest.raises(ValueError, match=words):
            set_apart(whole, public=name, public_size=size, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"validation_fraction": 1.0}, r"\[0, 1\)"),
        ({"public": "holdout", "public_size": 50}, "leaves the clients none"),
        ({"public": "holdout", "public_size": 0}, "public_size is 0"),
        ({"public_size": 5}, "public=None"),
        ({"public": "noise", "public_size": 5}, "public='noise'"),
    ],
)
def test_bad_input_is_explained(given: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        set_apart(dataset(50), **given)


def needing(what: Any) -> Algorithm:
    """FedAvg whose server looks at what belongs to no client."""
    base = fedavg(logistic(), local_training())

    def server_update(key: Any, server: Any, update: Any, round: Any) -> Any:
        what(round, "This method")
        return base.server_update(key, server, update, round)

    return base._replace(server_update=server_update)


@pytest.mark.parametrize("what", [inputs_of, validation_of])
@pytest.mark.parametrize("public", [None, Public()])
def test_what_is_missing_is_said_when_it_is_built(what: Any, public: Public | None):
    import dataclasses

    clients = dataclasses.replace(federation(), public=public)
    with pytest.raises(MissingError, match=r"This method needs .* --"):
        simulate(needing(what), clients, num_rounds=1, cohort_size=2)
