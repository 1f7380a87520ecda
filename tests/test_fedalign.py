"""FedAlign and mixup: the authors' numbers, and hard cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blocks import FIT, IMAGES, Blocks, Method, network
from federations import FEATURES, federation, gap, logistic, task_of
from flax import nnx
from objectives import FILLING, local_loss, wide
from vectors import golden

from fedjax_kd import losses, tree
from fedjax_kd.algorithms.fedalign import fedalign
from fedjax_kd.algorithms.fedgradaug import fedgradaug
from fedjax_kd.algorithms.fedmixup import fedmixup
from fedjax_kd.core import Key, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.models.mlp import logistic as no_hidden_layer
from fedjax_kd.models.resnet import resnet8
from fedjax_kd.nn.narrow import first_channels, kept, narrow
from fedjax_kd.task import LastBlock, from_nnx

TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32


def filled(x: jax.Array) -> jax.Array:
    """An array with rows of zeros at its end, as a batch with filling has."""
    return jnp.pad(x, ((0, FILLING), *((0, 0),) * (x.ndim - 1)))


@pytest.mark.usefixtures("float64")
def test_golden_fedalign():
    """Feature maps are given; the model is the narrow block's output, in the corner of an array."""
    vectors = golden("fedalign_lipschitz")
    s2, s3, t2, t3 = (
        jnp.moveaxis(wide(vectors[f"in_{name}"]), 1, -1) for name in ("s2", "s3", "t2", "t3")
    )
    mu, supervised = (float(vectors[f"in_{name}"]) for name in ("mu", "loss_ce"))

    def passed(model: Variables, x: jax.Array, key: Key | None = None) -> tuple:
        return filled(t2), filled(t3), jnp.zeros((len(x), 3)), model.stats

    def alone(model: Variables, x: jax.Array, key: Key | None = None) -> jax.Array:
        wrong = jnp.abs(x - filled(s2)).sum()
        return filled(model.params) + 1e9 * wrong

    task = task_of(lambda key: Variables(()), lambda *args: passed(*args)[2:])._replace(
        block=LastBlock(passed, alone), example_loss=lambda logits, y: jnp.full(y.shape, supervised)
    )
    rows, channels = s3.shape[-2:]
    corner = jnp.pad(s3, ((0, 0), (0, 0), (0, 3 * rows), (0, 3 * channels)))
    make = partial(fedalign, task, mu=mu, width=0.25)
    x, y = jnp.zeros((len(s2), 1)), jnp.zeros(len(s2), jnp.int32)
    value, gradient = local_loss(make, Variables(corner), corner, x, y)
    np.testing.assert_allclose(value - supervised, vectors["out_scaled"], **TORCH)
    expected = np.moveaxis(vectors["out_grad_s3"], 1, -1)
    np.testing.assert_allclose(gradient[..., :rows, :channels], expected, **TORCH)
    np.testing.assert_allclose(jnp.abs(gradient).sum(), np.abs(expected).sum(), rtol=1e-5)


@pytest.mark.usefixtures("float64")
def test_golden_mixup(monkeypatch: pytest.MonkeyPatch):
    """Share and partners are given; the logits are the model, if its inputs are the mixed ones."""
    vectors = golden("mixup")
    x, y, pred, mixed = (wide(vectors[f"{name}"]) for name in ("in_x", "in_y", "in_pred", "out_x"))
    partner = (
        jnp.arange(len(y) + FILLING, dtype=jnp.int32).at[: len(y)].set(wide(vectors["in_perm"]))
    )

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any]:
        wrong = jnp.abs(x[: len(y)] - mixed).sum()
        return filled(model.params + 1e9 * wrong**2), model.stats

    def given(key: Key, batch: Any, gamma: float) -> losses.Mixed:
        return losses.mixed_with(batch, partner, jnp.asarray(vectors["in_lam"]))

    monkeypatch.setattr(losses, "mixup", given)
    task = task_of(lambda key: Variables(()), apply)
    value, _ = local_loss(partial(fedmixup, task, gamma=0.4), Variables(pred), pred, x, y)
    np.testing.assert_allclose(value, vectors["out_loss"], **TORCH)


@pytest.mark.parametrize("name", ["nnx", "linen", "mlp"])
def test_a_block_cut_down_is_one_whose_other_channels_are_zero(name: str):
    task, model = network(name)
    block = task.block
    assert block is not None

    @jax.jit
    def outputs(width: jax.Array) -> tuple[Any, ...]:
        def alone(width: Any) -> jax.Array:
            return block.alone(narrow(model, width), first_channels(x2, width), key)

        key = jax.random.key(1)
        x2, x3, logits, stats = block.passed(model, IMAGES, key)
        expected = task.apply(model, IMAGES, key)
        return (
            x2,
            x3,
            (logits, stats),
            expected,
            block.alone(model, x2, key),
            alone(0.25),
            alone(width),
        )

    x2, x3, passed, expected, again, cut, masked = outputs(jnp.float32(0.25))
    assert gap(passed, expected) < 1e-6
    assert gap(x3, again) < 1e-6
    assert cut.shape[-1] == 4
    assert x2.shape[-1] == 8
    np.testing.assert_allclose(masked[..., :4], cut, rtol=1e-4, atol=1e-5)
    assert float(jnp.abs(masked[..., 4:]).max()) == 0
    assert gap(x3[..., :4], cut) > 1e-3


def test_groups_of_a_narrow_network():
    """A narrow layer has as many groups as before; too few channels for them are an error."""
    task = from_nnx(partial(Blocks, norm="group"))
    model, block = task.init(jax.random.key(0)), task.block
    assert block is not None
    x2 = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, 4, 8)), jnp.float32)

    def alone(width: float, divisor: int = 1) -> jax.Array:
        return block.alone(narrow(model, width, divisor), first_channels(x2, width, divisor))

    def by_flax() -> jax.Array:
        rngs = nnx.Rngs(0)
        conv = nnx.Conv(4, 8, (3, 3), strides=2, rngs=rngs)
        norm = nnx.GroupNorm(8, num_groups=4, rngs=rngs)
        conv.kernel[...] = model.params["second"]["kernel"][:, :, :4, :8]
        return jax.nn.relu(norm(conv(x2[..., :4])))

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        seen, expected = jax.jit(lambda: (alone(0.5), by_flax()))()
    np.testing.assert_allclose(seen, expected, atol=1e-4)
    assert jax.eval_shape(partial(alone, 0.1, 4)).shape[-1] == 4
    with pytest.raises(ValueError, match="has 2 features, but its normalisation 4 groups"):
        alone(0.1)


@pytest.mark.parametrize(
    ("channels", "width", "divisor", "expected"),
    [(32, 0.25, 1, 8), (3, 0.1, 1, 1), (2, 0.25, 1, 1), (16, 0.25, 8, 8), (4, 0.5, 8, 4)],
)
def test_channels_that_are_kept(channels: int, width: float, divisor: int, expected: int):
    assert kept(channels, width, divisor) == expected
    assert int(kept(channels, jnp.float32(width), divisor)) == expected


def test_the_alignment_trains_the_first_channels_of_the_block():
    """And nothing where there is nothing to align: all features are zero, so are both constants."""
    task, model = network("normed")
    y = jnp.arange(6, dtype=jnp.int32) % 3

    def grads(mu: jax.Array, scale: jax.Array) -> Any:
        scaled = tree.scale(scale, model.params)
        return local_loss(partial(fedalign, task, mu=mu), model, scaled, IMAGES, y)

    mus, scales = np.array([[0.45, 0, 0.45, 0], [1, 1, 0, 0]], np.float32)
    seen = jax.tree.map(np.asarray, jax.jit(jax.vmap(grads))(mus, scales))
    (value, plain, zero, still), slopes = seen
    own = jax.tree.map(lambda a: np.abs(a[0] - a[1]), slopes)
    kernel, scale = own.pop("second")["kernel"], own.pop("norm")["scale"]
    np.testing.assert_allclose(value, 1.45 * plain, rtol=1e-5)
    assert min(kernel[:2, :4].max(), scale[:4].max()) > 1e-4
    assert max(kernel[2:].max(), kernel[:, 4:].max(), scale[4:].max()) < 1e-6
    assert max(a.max() for a in jax.tree.leaves(own)) < 1e-6
    np.testing.assert_allclose(zero, still, rtol=1e-6)
    assert gap(*(jax.tree.map(lambda a, i=i: a[i], slopes) for i in (2, 3))) == 0


WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (fedalign, {"mu": -1}, "mu is -1, but must be >= 0"),
    (fedalign, {"width": 0}, r"width is 0, but must be in \(0, 1\)"),
    (fedalign, {"width": 1.0}, r"width is 1.0, but must be in \(0, 1\)"),
    (fedalign, {"divisor": 0}, "divisor is 0, but must be >= 1"),
    (fedmixup, {"gamma": -0.1}, "gamma is -0.1, but must be >= 0"),
    (fedgradaug, {"subnets": 0}, "subnets is 0, but must be >= 1"),
    (fedgradaug, {"resolutions": (8, 0)}, r"resolutions is \(8, 0\), but each must be >= 1"),
]


@pytest.mark.parametrize(("method", "given", "message"), WRONG)
def test_options_out_of_range(method: Method, given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        method(network("mlp")[0], FIT, **given)


def test_networks_that_do_not_suit():
    groups = from_nnx(resnet8((8, 8, 1), 3))
    with pytest.raises(ValueError, match="does not say which the last block"):
        fedalign(logistic(), FIT)
    with pytest.raises(ValueError, match="has group normalisation, but channels"):
        fedgradaug(groups, FIT)
    with pytest.raises(ValueError, match="has group normalisation, but channels"):
        fedalign(groups, FIT, width=jnp.float32(0.25))
    with pytest.raises(ValueError, match="does not give logits of features"):
        fedgradaug(task_of(lambda key: Variables(()), lambda *args: args), FIT)
    flat = fedalign(from_nnx(no_hidden_layer((FEATURES,), 3)), FIT)
    with pytest.raises(TypeError, match="calls `last_block` 0 times"):
        check_algorithm(flat, federation().train)
    with pytest.raises(ValueError, match=r"survival is 0, but must be in \(0, 1\]"):
        resnet8((8, 8, 1), 3, survival=0)
