"""HeteroFL against golden vectors and networks that are really narrow, and what it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, federation, logistic, play, rounds
from flax import nnx
from vectors import golden

from fedjax_kd import losses, tree
from fedjax_kd.algorithms import heterofl
from fedjax_kd.components.model_parts import head
from fedjax_kd.components.width_slices import (
    SliceChange,
    channels_at,
    hidden_layers,
    loss_of_slice,
    mean_of_holders,
    of_classes,
    slice_bytes,
    slices,
    within,
)
from fedjax_kd.core import Batch, Variables
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.task import Task, from_nnx

VECTORS = golden("heterofl_aggregate")


class Blocks(nnx.Module):
    """Convolution, normalisation, convolution, the mean over places and a classifier."""

    def __init__(self, widths: Sequence[int], *, rngs: nnx.Rngs) -> None:
        inputs, first, second, classes = widths
        self.first = nnx.Conv(inputs, first, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(first, rngs=rngs)
        self.second = nnx.Conv(first, second, (3, 3), rngs=rngs)
        self.classifier = nnx.Linear(second, classes, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.first(x)))
        return nnx.relu(self.second(x)).mean((1, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(self.features(x))


# Where the vectors have what.
PLACES = {
    ("first", "kernel"): "blocks_0_weight",
    ("first", "bias"): "blocks_0_bias",
    ("norm", "scale"): "blocks_2_weight",
    ("norm", "bias"): "blocks_2_bias",
    ("second", "kernel"): "blocks_5_weight",
    ("second", "bias"): "blocks_5_bias",
    ("classifier", "kernel"): "classifier_weight",
    ("classifier", "bias"): "classifier_bias",
}


def in_our_layout(a: np.ndarray) -> np.ndarray:
    """Torch's kernels have their outputs first and their places last."""
    return a.transpose(2, 3, 1, 0) if a.ndim == 4 else a.T


def parameters(prefix: str) -> dict[str, dict[str, np.ndarray]]:
    """Of a network of the vectors."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for (layer, name), place in PLACES.items():
        found.setdefault(layer, {})[name] = in_our_layout(VECTORS[f"{prefix}_{place}"])
    return found


def blocks(widths: Sequence[int]) -> Task:
    def build(rngs: nnx.Rngs) -> Blocks:
        return Blocks(widths, rngs=rngs)

    return from_nnx(build, example_x=jnp.zeros((1, 8, 8, widths[0])))


@cache
def whole() -> Task:
    given = parameters("in")
    inputs, first = given["first"]["kernel"].shape[-2:]
    return blocks((inputs, first, *given["classifier"]["kernel"].shape))


def padded(small: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """With zeros behind, up to a shape."""
    return np.pad(small, [(0, n - m) for m, n in zip(small.shape, shape, strict=True)])


def clients() -> range:
    return range(len(VECTORS["in_rates"]))


@pytest.mark.parametrize("k", clients())
def test_slices_are_those_of_the_vectors(k: int):
    model = whole().init(jax.random.key(0))._replace(params=parameters("in"))
    held = slices(whole(), VECTORS["in_rates"].tolist()).at(k)
    expected = parameters(f"out_split{k}")
    own = within(held, model).params
    jax.tree.map(lambda a, e: np.testing.assert_array_equal(a, padded(e, a.shape)), own, expected)
    sizes = jax.tree.map(lambda mask, e: int(mask.sum()) == e.size, held.params, expected)
    assert all(jax.tree.leaves(sizes))


def test_means_over_those_who_hold_a_value():
    model = whole().init(jax.random.key(0))._replace(params=parameters("in"))
    cut, last, sent = slices(whole(), VECTORS["in_rates"].tolist()), head(whole()), []
    for k, mask in enumerate(VECTORS["in_label_mask"]):
        new = jax.tree.map(lambda a, b: padded(b, a.shape), model.params, parameters(f"in_new{k}"))
        change = tree.sub(model._replace(params=new), within(cut.at(k), model))
        kind = jnp.zeros(len(clients())).at[k].set(1)
        mine, present = of_classes(cut.at(k), last, jnp.asarray(mask)), mask.astype(np.float32)
        sent.append(SliceChange(within(mine, change), kind, jnp.outer(kind, present)))
    summed = jax.tree.map(lambda *leaves: jnp.stack(leaves).sum(0), *sent)
    moved = tree.add(model, mean_of_holders(summed, cut, last)).params
    expected = parameters("out_combined")
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, atol=2e-6), moved, expected)


@pytest.mark.parametrize(("absent", "fill"), [("zero", "zero_fill"), ("excluded", "neg_inf")])
def test_absent_classes_in_the_loss(absent: Any, fill: str):
    logits, y = jnp.asarray(VECTORS["in_masked_logits"]), jnp.asarray(VECTORS["in_masked_y"])
    counts = jnp.bincount(y, length=logits.shape[-1]).astype(jnp.float32)
    values = losses.cross_entropy(
        losses.adjusted(logits, losses.absent_classes(counts, absent)), y.astype(jnp.int32)
    )
    expected = VECTORS[f"out_masked_{fill}_ce"]
    np.testing.assert_allclose(values.mean(), expected, rtol=1e-6)


def test_hidden_outputs_are_divided_by_the_rate():
    """The vectors' activations are what a hidden layer puts out; the head reads what is left."""
    hidden, scaled = VECTORS["in_masked_logits"], VECTORS["out_scaler_train"]
    width = hidden.shape[-1]
    build = MODELS["mlp"]((width,), width, hidden=(width,))
    task = from_nnx(build, example_x=jnp.zeros((1, width)))
    same = {"kernel": jnp.eye(width), "bias": jnp.zeros(width)}
    model = Variables({"hidden": {0: same}, "head": same}, {})
    everything = slices(task, [1.0]).at(0)
    seen: list[Any] = []

    def noted(logits: jax.Array, y: jax.Array) -> jax.Array:
        seen.append(logits)
        return losses.cross_entropy(logits, y)

    by = losses.absent_classes(jnp.ones(width), "kept")
    rate = jnp.float32(VECTORS["in_scaler_rate"])
    noting = task._replace(example_loss=noted)
    loss = loss_of_slice(noting, everything, hidden_layers(task), rate, by)
    rows = len(hidden)
    loss(model, Batch(hidden, jnp.zeros(rows, jnp.int32), jnp.ones(rows)), jax.random.key(0))
    np.testing.assert_allclose(seen[0], np.maximum(scaled, 0), rtol=1e-6)


NETWORKS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "mlp": ((6,), {"hidden": (9, 7)}),
    "cnn_small": ((12, 12, 3), {"widths": (5, 9), "norm": "batch"}),
}


def wide_and_narrow(name: str, rate: float) -> tuple[Task, Task]:
    """A network, and one of so few channels; flattened inputs and normalisation among them."""
    shape, wide = NETWORKS[name]
    narrow = {
        option: tuple(channels_at(rate, n) for n in value) if isinstance(value, tuple) else value
        for option, value in wide.items()
    }
    tasks = (
        from_nnx(MODELS[name](shape, CLASSES, **given), example_x=jnp.zeros((1, *shape)))
        for given in (wide, narrow)
    )
    return next(tasks), next(tasks)


@pytest.mark.parametrize("rate", [0.5, 0.3, 0.06])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_slice_has_the_size_of_a_narrow_network(name: str, rate: float):
    wide, narrow = wide_and_narrow(name, rate)
    expected = tree.num_bytes(jax.eval_shape(narrow.init, jax.random.key(0)))
    assert slice_bytes(slices(wide, [rate]), wide).tolist() == [expected]


def cut_out(values: Any, held: Any, like: Any) -> Any:
    """The values that a slice holds, as those of a network of its own."""
    return jax.tree.map(
        lambda a, mask, b: np.asarray(a)[np.asarray(mask)].reshape(b.shape), values, held, like
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.thorough] * (n == "cnn_small")) for n in NETWORKS],
)
def test_a_client_learns_as_a_narrow_network_does(name: str):
    wide, narrow = wide_and_narrow(name, 0.5)
    shape, rng, key = NETWORKS[name][0], np.random.default_rng(0), jax.random.key(1)
    y = jnp.asarray(rng.integers(0, CLASSES, 8), jnp.int32)
    batch = Batch(jnp.asarray(rng.normal(size=(8, *shape)), jnp.float32), y, jnp.ones(8))
    held, by = slices(wide, [0.5]).at(0), losses.absent_classes(jnp.ones(CLASSES), "kept")
    model = wide.init(key)
    small = cut_out(model, held, narrow.init(key))

    def learns(loss: Any, model: Variables) -> tuple[Any, Any]:
        return jax.value_and_grad(lambda p: loss(model._replace(params=p), batch, key)[0])(
            model.params
        )

    of_slice = loss_of_slice(wide, held, hidden_layers(wide), jnp.float32(1.0), by)
    (value, gradient), (expected, of_small) = learns(of_slice, model), learns(narrow.loss, small)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    own = cut_out(gradient, held.params, of_small)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), own, of_small)
    outside = within(jax.tree.map(jnp.logical_not, held.params), gradient)
    assert tree.sq_norm(outside) == 0


def test_what_nobody_holds_stays_as_it_was():
    task, fit = logistic(hidden=4), local_training(client_lr=0.5, batch_size=4)
    algorithm = heterofl(task, fit, rates=(0.5,))
    state, _ = play(algorithm, federation().train, [(0, 4, 5)] * 3)
    before = algorithm.server_init(jax.random.key(0)).model
    first, last = state.server.model.params
    np.testing.assert_array_equal(first["w"][:, 2:], before.params[0]["w"][:, 2:])
    np.testing.assert_array_equal(last["w"][2:], before.params[1]["w"][2:])
    assert (first["w"][:, :2] != before.params[0]["w"][:, :2]).all()


def test_rates_by_number_and_drawn():
    """A client with the same number has the same slice; others are drawn anew in every round."""
    task, fit = logistic(hidden=4), local_training(client_lr=0.5, batch_size=4)
    # With a byte for each class, whether the client has it.
    small, large = (slice_bytes(slices(task, [0.25, 1.0]), task) + CLASSES).tolist()
    sizes = {}
    for assignment in ("fixed", "dynamic"):
        algorithm = heterofl(task, fit, rates=(0.25, 1.0), assignment=assignment)
        played = rounds(algorithm, federation().train, [(0, 3, 4)] * 12)
        sizes[assignment] = [float(report.wire[0].up.sum()) for _, report in played]
    assert set(sizes["fixed"]) == {2 * small + large}
    assert len(set(sizes["dynamic"])) > 1
    assert all(3 * small <= size <= 3 * large for size in sizes["dynamic"])
