"""What is done with inputs: the same for all dtypes, and robust to what training did not show."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import fedjax_kd as fk
from fedjax_kd.commands._announce import announce_data
from fedjax_kd.data.federation import Federation
from fedjax_kd.data.inputs import FARTHEST, moments_of, statistics_of
from fedjax_kd.runs.config import Config, from_json, to_json
from fedjax_kd.runs.data_config import DataConfig, federation_of

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 200, (60, 5, 4, 3)).astype(np.uint8)


def federated(x: Any, test_x: Any = None, how: Any = "auto", y: Any = None) -> Federation:
    y = np.arange(len(jax.tree.leaves(x)[0])) % 2 if y is None else y
    test_x = x if test_x is None else test_x
    test_y = y[:1].repeat(len(jax.tree.leaves(test_x)[0]), 0)
    data = fk.from_arrays(x, y, test_x, test_y, num_classes=3)
    return fk.federate(data, fk.IidPartitioner(3), standardise=how)


def digits(scaled: Any) -> Federation:
    data = fk.load("digits")
    parts = scaled(data.train.x), data.train.y, scaled(data.test.x), data.test.y
    return fk.federate(fk.from_arrays(*parts, num_classes=10), fk.IidPartitioner(10))


SCALED = (
    lambda x: x.astype(np.float32) / 16,
    lambda x: x.astype(np.float64) * 16,
    lambda x: x.astype(np.int64),
)


def test_the_same_digits_are_the_same_inputs_whatever_their_dtype() -> None:
    f = digits(lambda x: x)
    expected = f.prepare(f.train.x)
    for scaled in SCALED:
        f = digits(scaled)
        np.testing.assert_array_equal(f.prepare(f.train.x), expected)


@pytest.mark.thorough
def test_the_same_digits_give_the_same_run_whatever_their_dtype() -> None:
    found = []
    for scaled in (lambda x: x, *SCALED):
        f = digits(scaled)
        build = fk.MODELS["logistic"](f.input_shape, 10)
        fit = fk.local_training(client_lr=0.1)
        algorithm = fk.fedavg(fk.from_nnx(build, prepare=f.prepare), fit)
        result = fk.train(algorithm, f, num_rounds=3, cohort_size=10, eval_every=3, chunk=10)
        found.append(result.history[-1]["test_accuracy"])
    assert len(set(found)) == 1
    assert found[0] > 0.8


@pytest.mark.parametrize("shape", [(5, 4, 3), (20, 3), (60,)])
@pytest.mark.parametrize("how", ["auto", "channel", "feature", "unit"])
def test_bytes_floats_and_multiples_are_prepared_alike(shape: tuple, how: Any) -> None:
    x = PIXELS.reshape(60, *shape)
    ready = federated(x, how=how).prepare(x)
    assert ready.dtype == jnp.float32
    for scaled in (x.astype(np.float32) / 16, x.astype(float) * 1000, x.astype(float) - 1e4):
        found = federated(scaled, how=how).prepare(scaled.astype(np.float32))
        np.testing.assert_allclose(found, ready, atol=1e-3)


def test_each_channel_feature_or_image_has_its_mean() -> None:
    x = PIXELS * np.array([1, 0.5, 0.1])[None, None, None] + np.array([0, 9, 5])
    x = x.astype(np.float32)
    np.testing.assert_allclose(federated(x).prepare(x).mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(federated(x).prepare(x).std((0, 1, 2)), 1, atol=1e-5)
    flat = x[:, 0, 0]
    np.testing.assert_allclose(federated(flat).prepare(flat).std(0), 1, atol=1e-5)
    gray = x[..., 0]
    alike = federated(gray).prepare(gray)
    np.testing.assert_allclose(alike, (gray - gray.mean()) / gray.std(), atol=1e-5)
    unit = federated(x, how="unit").prepare(x)
    np.testing.assert_allclose(unit, (x - x.min()) / (x.max() - x.min()), atol=1e-6)


def test_a_feature_that_is_constant_in_training_has_scale_one() -> None:
    x = np.stack([np.arange(60), np.full(60, 7)], 1)
    for kind in (np.uint8, np.float32):
        f = federated(x.astype(kind), np.array([[30, 12], [30, 255]]).astype(kind))
        ready = np.asarray(f.prepare(f.test.x))
        assert ready[:, 1].tolist() == [5, FARTHEST]
        assert np.asarray(f.prepare(f.train.x))[:, 1].tolist() == [0] * 60
    almost = np.full((60, 1), 0.1, np.float32)
    almost[0] = np.nextafter(almost[0], 1)
    assert float(jnp.abs(federated(almost).prepare(almost)).max()) < 1e-6


def test_what_training_rows_hardly_showed_is_cut() -> None:
    x = np.zeros((6000, 2), np.uint8)
    x[:, 0], x[0, 1] = np.arange(6000) % 200, 1
    f = federated(x, np.array([[100, 255]], np.uint8))
    assert float(f.prepare(f.test.x)[0, 1]) == FARTHEST


def test_symbols_are_left_unless_they_are_amounts() -> None:
    x = RNG.integers(0, 9, (60, 5))
    f = federated(x)
    assert f.prepare(f.train.x).dtype == jnp.int32
    assert np.array_equal(f.prepare(f.train.x), x)
    assert f.inputs == "symbols, as they are"
    amounts = federated(x, how="feature")
    assert amounts.train.x.dtype == jnp.float32
    np.testing.assert_allclose(amounts.prepare(amounts.train.x).std(0), 1, atol=1e-5)


def test_sequences_of_values_have_a_mean_for_each_value() -> None:
    x = RNG.normal([0, 100], 1, (60, 7, 2))
    y = np.where(RNG.random((60, 7)) < 0.9, 2, -1)  # -1: no label here
    ready = federated(x, y=y).prepare(x.astype(np.float32))
    np.testing.assert_allclose(ready.mean((0, 1)), 0, atol=1e-4)


def test_each_array_of_a_tree_is_prepared_for_itself() -> None:
    x = {"image": PIXELS, "row": RNG.normal(5, 3, (60, 2)), "words": np.arange(120).reshape(60, 2)}
    f = federated(x)
    assert f.inputs == (
        f"['image'] {federated(PIXELS).inputs}; ['row'] {federated(x['row']).inputs}; "
        "['words'] symbols, as they are"
    )
    ready = f.prepare(f.train.x)
    np.testing.assert_allclose(ready["image"].mean(), 0, atol=1e-5)
    np.testing.assert_allclose(ready["row"].std(0), 1, atol=1e-5)
    assert np.array_equal(ready["words"], x["words"])
    assert f.input_shape == {"image": (5, 4, 3), "row": (2,), "words": (2,)}


def test_moments_do_not_depend_on_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.normal(1e4, 3, (500, 6)).astype(np.float32)
    whole = statistics_of(moments_of(x))
    monkeypatch.setattr("fedjax_kd.data.inputs._AT_ONCE", 100)
    for a, b in zip(whole, statistics_of(moments_of(x)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(whole.std, x.astype(float).std(0), rtol=1e-6)


@pytest.mark.parametrize("how", ["mean", "Channel"])
def test_an_unknown_way_is_refused(how: str) -> None:
    with pytest.raises(ValueError, match=r"standardise is .* but must be one of auto, channel"):
        federated(PIXELS, how=how)


def test_it_is_said_and_kept(capsys: pytest.CaptureFixture) -> None:
    data = DataConfig(num_clients=10, partition="iid", standardise="unit")
    announce_data(federation_of(data)[1], quiet=False)
    shown = capsys.readouterr().err
    assert "digits: 10 clients, problem classification" in shown
    assert "inputs: bytes, 0..16 mapped to [0, 1]" in shown
    written = json.loads(json.dumps(to_json(Config("fedavg", data=data))))
    assert from_json(written).data == data
    for name in ("standardise", "problem", "relabel"):
        del written["data"][name]
    assert from_json(written).data.standardise == "auto"
