"""Targets that are the inputs: data, tallies, an autoencoder that learns, and its run folder."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commandline import command
from labelled import labelled

import fedjax_kd as fk
from fedjax_kd import losses, metrics
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.engine.evaluation import evaluate_personal
from fedjax_kd.engine.measuring import measure_all, measure_clients, measure_rows
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.build import build, with_model
from fedjax_kd.runs.config import Config, TrainingConfig, from_json, to_json
from fedjax_kd.runs.data_config import STORED, DataConfig, federation_of

OF_PIXELS = {"loss": metrics.mean_of(losses.squared_error, larger_is_better=False)}
SMALL = {"hidden": (16,), "bottleneck": 4}


@pytest.fixture(scope="module")
def digits() -> Federation:
    """Ten clients, whose labels are skewed."""
    data = DataConfig(num_clients=10, target="input")
    return federation_of(data)[1]


def config(**training: int) -> Config:
    data = DataConfig(num_clients=10, target="input")
    options = {"num_rounds": 2, "cohort_size": 4, "eval_every": 2, **training}
    return Config("fedavg", data=data, model_options=SMALL, training=TrainingConfig(**options))


def test_inputs_are_targets_and_lie_on_the_device_once(digits: Federation) -> None:
    for pool in (digits.train, digits.test, digits.client_test):
        assert pool.y is pool.x
    assert digits.train.x.dtype == jnp.uint8
    placed = build(config(devices=2), digits).federation
    assert placed.train.y is placed.train.x


def test_labels_still_divide_the_rows(digits: Federation) -> None:
    labelled_too = federation_of(DataConfig(num_clients=10))[1]
    for mine, theirs in zip(digits.parts, labelled_too.parts, strict=True):
        assert np.array_equal(mine, theirs)
    for mine, theirs in ((digits.client_test, labelled_too.client_test),):
        assert jnp.array_equal(mine.rows, theirs.rows)


def test_pixels_are_stretched_to_the_unit_interval(digits: Federation) -> None:
    x, y = digits.prepare(digits.train.x), losses.unit(digits.train.y)
    assert jnp.array_equal(x, y)
    assert (float(x.min()), float(x.max())) == (0, 1)
    raw = fk.load("digits").train.x
    np.testing.assert_allclose(x, raw / 16, atol=0.5 / 255 + 1e-6)


def test_bytes_that_fill_their_range_stay_as_they_are() -> None:
    x = np.random.default_rng(0).integers(0, 256, (8, 3, 3), np.uint8)
    x[0, 0, 0] = 255
    y = np.arange(8) % 2
    made = federate(fk.from_arrays(x, y, x[:4], y[:4]), fk.IidPartitioner(2), target="input")
    assert np.array_equal(made.train.x, x)


def test_floats_are_their_own_targets() -> None:
    x, y = np.linspace(-2, 2, 12).reshape(6, 2), np.arange(6) % 2
    made = federate(fk.from_arrays(x, y, x, y), fk.IidPartitioner(2), target="input")
    assert np.array_equal(made.prepare(made.train.x), x.astype(np.float32))
    assert losses.squared_error(jnp.zeros((6, 2)), made.train.y).mean() == pytest.approx(
        (x**2).mean()
    )


def test_tallies_are_mean_squared_errors(digits: Federation) -> None:
    pool, guess = digits.client_test, 0.25
    found = measure_rows(lambda x: jnp.full(x.shape, guess), OF_PIXELS, pool, 25)
    errors = ((np.asarray(pool.x, float)[pool.rows] / 255 - guess) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found[0]["loss"][0], errors, rtol=1e-5)
    assert metrics.summary(OF_PIXELS, measure_all(OF_PIXELS, *found, pool)) == {
        "loss": pytest.approx(errors.mean(), rel=1e-5)
    }
    clients = measure_clients(OF_PIXELS, *found, pool, 0)["loss"]
    assert clients[1].tolist() == pool.sizes.tolist()
    ends = np.cumsum(pool.sizes)
    each = [part.mean() if len(part) else np.nan for part in np.split(errors, ends)[:-1]]
    values = OF_PIXELS["loss"].value(clients)
    np.testing.assert_allclose(values, each, rtol=1e-5)
    spread = metrics.over_clients(values, larger_is_better=False)
    assert spread["mean"] == pytest.approx(np.nanmean(each), rel=1e-5)
    assert spread["worst_decile"] == pytest.approx(np.nanmax(each), rel=1e-5)  # of ten clients one


def test_rows_with_mask_zero_count_nothing() -> None:
    given = jnp.ones((3, 2)), jnp.zeros((3, 2)), jnp.array([1.0, 0.0, 1.0])
    rows = metrics.sums_of(OF_PIXELS, *given)
    assert metrics.summary(OF_PIXELS, metrics.total_of(rows)) == {"loss": 1.0}
    assert [part.tolist() for part in rows["loss"]] == [[1, 0, 1], [1, 0, 1]]
    nothing = metrics.sums_of(OF_PIXELS, *given[:2], jnp.zeros(3))
    assert np.isnan(metrics.summary(OF_PIXELS, metrics.total_of(nothing))["loss"])


@pytest.mark.thorough
def test_an_autoencoder_learns(digits: Federation) -> None:
    make = fk.MODELS["autoencoder"](digits.input_shape, 10, hidden=(32,), bottleneck=8)
    task = fk.from_nnx(make, prepare=digits.prepare, example_loss=digits.example_loss)
    algorithm = fk.fedadam(task, fk.local_training(client_lr=1.0, batch_size=10), eta=0.03)
    result = fk.train(algorithm, digits, num_rounds=60, cohort_size=10, eval_every=60)
    first, last = (result.history[n]["test_loss"] for n in (0, -1))
    always_the_mean = float(np.var(np.asarray(digits.test.x) / 255, axis=0).mean())
    assert last < 0.8 * always_the_mean < first
    assert result.history[-1]["train_loss"] == pytest.approx(last, rel=0.3)


@pytest.mark.thorough
def test_clients_own_models_are_tallied_too(digits: Federation) -> None:
    simulation = build(config(), digits)
    state = fk.initial_state(simulation)
    pools = (digits.train, digits.client_test)
    key, algorithm = simulation.key("evaluate"), simulation.groups[0]
    personal, _ = evaluate_personal(simulation, [algorithm], key, state, pools)
    measures, own = simulation.measures(algorithm), digits.client_test
    rows = measure_rows(lambda x: algorithm.predict(state.server, (), x), measures, own, 25)
    shared = measure_clients(measures, *rows, own, simulation.test_capacity)
    np.testing.assert_allclose(personal["loss"][0], shared["loss"][0], rtol=1e-5)
    assert personal.keys() == {"loss"}


def test_the_configuration_keeps_the_target(digits: Federation) -> None:
    given = config()
    assert from_json(json.loads(json.dumps(to_json(given)))) == given
    assert with_model(given, digits).model == "autoencoder"
    older = to_json(given)
    del older["data"]["target"], older["training"]["augment"]
    assert from_json(older) == replace(given, data=DataConfig(num_clients=10))


@pytest.mark.thorough
def test_a_run_is_made_evaluated_drawn_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "run"
    sizes = ("--model", "autoencoder", "--hidden", "16", "--bottleneck", "4")
    rounds = ("--num-rounds", "4", "--eval-every", "2", "--num-clients", "10")
    args = ("--target", "input", *sizes, *rounds, "--cohort-size", "4", "--out", str(folder))
    assert command("run", "fedavg", "fedadam", *args) == 0
    shown = capsys.readouterr()
    assert "round 4 of 4, loss 0." in shown.err
    assert "accuracy" not in shown.out + shown.err
    summary = run_folder.read_summary(folder / "fedavg")
    rows = run_folder.read_rows(folder / "fedavg")
    evaluated = [row["test_loss"] for row in rows if "test_loss" in row]
    assert len(evaluated) == 3
    assert summary["best_test_loss"] == min(evaluated)
    assert summary["final_test_loss"] == evaluated[-1]
    assert not any("accuracy" in name for name in {*summary, *rows[0], *rows[-1]})
    assert (folder / "fedavg/curve.png").exists()
    assert command("evaluate", str(folder / "fedavg")) == 0
    assert "client loss worst decile" in capsys.readouterr().out
    with (folder / "fedavg/clients.csv").open(newline="") as file:
        clients = list(csv.DictReader(file))
    sums = sum(float(c["loss"] or 0) * int(c["test_examples"]) for c in clients)
    assert sums / 360 == pytest.approx(evaluated[-1], rel=1e-5)
    assert "accuracy" not in clients[0]
    assert command("plot", str(folder), "--out", str(tmp_path / "both.png")) == 0
    assert (tmp_path / "both.png").exists()
    assert command("resume", str(folder / "fedavg"), "--num-rounds", "6", "--quiet") == 0
    assert run_folder.read_summary(folder / "fedavg")["finished_rounds"] == 6


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--target", "inputs"), "invalid choice"),
        (
            ("--target", "input", "--model", "mlp"),
            r"outputs of shape \(10,\) an example, but digits asks for \(8, 8, 1\).*autoencoder",
        ),
        (
            ("--model", "autoencoder"),
            r"outputs of shape \(8, 8, 1\) an example, but digits asks for \(10,\)",
        ),
        (("--target", "input", "--augment", "crop_flip"), "the inputs are the targets"),
        (("--augment", "crop24_flip"), r"shape \(8, 8, 1\), but this augmentation needs"),
        (("--augment", "flip"), "no augmentation 'flip'"),
    ],
)
def test_what_does_not_fit_together_is_said_before_training(
    args: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("run", "fedavg", *args, "--out", str(tmp_path / "run")) != 0
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert re.search(message, shown)


def test_symbols_and_stores_have_no_inputs_as_targets() -> None:
    with pytest.raises(ValueError, match="target is 'x', but must be one of label, input"):
        federate(labelled(), fk.IidPartitioner(2), target="x")
    x, y = np.zeros((4, 5), np.int32), np.zeros(4, np.int32)
    with pytest.raises(ValueError, match="are symbols, which have numbers but no distance"):
        federate(fk.from_arrays(x, y, x, y), fk.IidPartitioner(2), target="input")
    with pytest.raises(ValueError, match="client store nowhere holds labels"):
        federation_of(DataConfig("nowhere", partition=STORED, target="input"))
