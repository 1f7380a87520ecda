"""FedAlign, mixup, stochastic depth and GradAug: the authors' numbers, and hard cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import FEATURES, federation, gap, logistic, task_of
from flax import linen, nnx
from objectives import FILLING, local_loss, wide
from vectors import golden

from fedjax_kd import losses, tree
from fedjax_kd.algorithms.fedalign import fedalign
from fedjax_kd.algorithms.fedgradaug import fedgradaug
from fedjax_kd.algorithms.fedmixup import fedmixup
from fedjax_kd.core import Algorithm, Key, Variables
from fedjax_kd.local import local_training
from fedjax_kd.models.mlp import logistic as no_hidden_layer
from fedjax_kd.models.mlp import mlp
from fedjax_kd.models.resnet import Block as ResidualBlock
from fedjax_kd.models.resnet import Layout, resnet8
from fedjax_kd.nn.depth import StochasticDepth
from fedjax_kd.nn.narrow import first_channels, kept, narrow
from fedjax_kd.nn.resize import bilinear, dealt
from fedjax_kd.task import Block, Task, from_linen, from_nnx
from fedjax_kd.validate import check_algorithm

TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
FIT = local_training(client_lr=0.1, batch_size=4)
Method = Callable[..., Algorithm]
KEY = jax.random.key(0)


@pytest.fixture
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


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
        block=Block(passed, alone), score=lambda logits, y: jnp.full(y.shape, supervised)
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


class Blocks(nnx.Module):
    """Two convolutions, the second one the last block, with or without normalisation."""

    def __init__(self, rngs: nnx.Rngs, norm: str = "batch") -> None:
        self.first = nnx.Conv(1, 8, (3, 3), rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        kinds = {"batch": nnx.BatchNorm, "group": partial(nnx.GroupNorm, num_groups=4)}
        self.norm = kinds[norm](16, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def last_block(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.second(x)))

    def features(self, x: jax.Array) -> jax.Array:
        return self.last_block(jax.nn.relu(self.first(x))).mean((1, 2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


class LinenBlocks(linen.Module):
    """The same in Linen."""

    def setup(self):
        self.first = linen.Conv(8, (3, 3))
        self.second = linen.Conv(16, (3, 3), strides=2)
        self.norm, self.head = linen.BatchNorm(), linen.Dense(3)

    def last_block(self, x: jax.Array, train: bool) -> jax.Array:
        return jax.nn.relu(self.norm(self.second(x), use_running_average=not train))

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.last_block(jax.nn.relu(self.first(x)), train)
        return self.head(x.mean((1, 2)))


class Normed(nnx.Module):
    """Two hidden layers, the second one with batch normalisation."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = nnx.Linear(16, 8, rngs=rngs), nnx.Linear(8, 16, rngs=rngs)
        self.norm, self.head = nnx.BatchNorm(16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)

    def last_block(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.second(x)))

    def features(self, x: jax.Array) -> jax.Array:
        return self.last_block(jax.nn.relu(self.first(x.reshape(len(x), -1))))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4, 4, 1)), jnp.float32)
NETWORKS: dict[str, Callable[[], Task]] = {
    "nnx": lambda: from_nnx(Blocks),
    "linen": lambda: from_linen(LinenBlocks(), IMAGES),
    "mlp": lambda: from_nnx(mlp((16,), 3, hidden=(8, 16))),
    "normed": lambda: from_nnx(Normed),
}


@cache
def network(name: str) -> tuple[Task, Variables]:
    task = NETWORKS[name]()
    return task, jax.jit(task.init)(KEY)


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


@pytest.mark.parametrize("make", [fedalign, fedgradaug])
def test_one_example_under_batch_normalisation(make: Method):
    task, model = network("normed")
    x, y = IMAGES[:1], jnp.zeros(1, jnp.int32)
    seen = local_loss(partial(make, task), model, model.params, x, y)
    assert bool(tree.is_finite(seen))


def test_subnets_are_taught_by_the_whole():
    task, y = logistic(hidden=8), jnp.arange(6, dtype=jnp.int32) % 3
    model, x = task.init(jax.random.key(0)), IMAGES[:, 0, :, 0]
    make = partial(fedgradaug, task, width=0.25, subnets=1, mu=2.0)
    value, grads = local_loss(make, model, model.params, x, y)

    def logits(params: Any, width: int) -> jax.Array:
        layer, head = params
        hidden = jnp.tanh(x @ layer["w"] + layer["b"][None])[:, :width]
        return hidden @ head["w"][:width] + head["b"][None]

    def loss(params: Any) -> jax.Array:
        said = jax.lax.stop_gradient(logits(params, 8))
        taught = losses.kl_divergence(logits(params, 2), said).mean()
        return losses.cross_entropy(logits(params, 8), y).mean() + 2 * taught

    expected, slopes = jax.jit(jax.value_and_grad(loss))(model.params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert gap(grads, slopes) < 1e-5
    plain = losses.cross_entropy(logits(model.params, 8), y).mean()
    assert float(value) > float(plain) + 1e-3


def test_images_of_other_resolutions():
    """As in PyTorch: corners stay, and what is between is between."""
    ramp = jnp.arange(5.0)[None, :, None] * 10 + jnp.arange(5.0)[None, None]
    small = bilinear(jnp.tile(ramp[..., None], (2, 1, 1, 3)), 3)
    expected = np.array([0.0, 2, 4])[:, None] * 10 + np.array([0.0, 2, 4])
    np.testing.assert_allclose(small[1, ..., 2], expected)
    pixels = bilinear(jnp.array([[[0, 255], [0, 255]]], jnp.uint8), 4)
    np.testing.assert_array_equal(pixels[0, 0], [0, 85, 170, 255])
    assert pixels.dtype == jnp.uint8
    hands = jnp.concatenate(dealt(jax.random.key(3), 7, 3))
    np.testing.assert_array_equal(jnp.sort(hands), jnp.arange(7))


def test_rows_that_are_dealt_to_resolutions_meet_their_own_teacher():
    """Constant images look alike in any size, and this network has no layer to be narrow."""
    shapes, model = [], Variables(jnp.array([[1.0, -1.0, 0.5]]))
    x = jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], (6, 4, 4, 1))
    y = jnp.arange(6, dtype=jnp.int32) % 3

    def features(model: Variables, x: jax.Array, key: Key | None = None) -> jax.Array:
        shapes.append(x.shape)
        return x.mean((1, 2))

    def classify(model: Variables, z: jax.Array) -> jax.Array:
        return z @ model.params

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any]:
        return classify(model, x.mean((1, 2))), model.stats

    task = task_of(lambda key: model, apply)._replace(features=features, classify=classify)
    make = partial(fedgradaug, task, resolutions=(4, 3))
    value, _ = local_loss(make, model, model.params, x, y)
    rows = 6 + FILLING
    assert shapes[:2] == [(rows - rows // 2, 4, 4, 1), (rows // 2, 3, 3, 1)]
    expected = losses.cross_entropy(apply(model, x)[0], y).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_resolutions_that_do_not_suit():
    with pytest.raises(ValueError, match="A batch has 1 rows, but there are 2 resolutions"):
        dealt(jax.random.key(0), 1, 2)
    flat = fedgradaug(from_nnx(mlp((FEATURES,), 3, hidden=(4,))), FIT, resolutions=(4, 3))
    with pytest.raises(TypeError, match=r"has shape \(2, 4\), but only images"):
        check_algorithm(flat, federation().train)


@pytest.mark.parametrize("method", [fedmixup, fedgradaug])
def test_augmentation_comes_first_and_once(method: Method):
    """Mixed and narrow passes see what was made of the examples, not the examples."""
    seen = []

    def augment(key: Key, x: jax.Array) -> jax.Array:
        seen.append(x.shape)
        return x + 100.0

    build = mlp((FEATURES,), 3, hidden=(4,))
    task = from_nnx(build, prepare=lambda x: jnp.minimum(x, 1.0), augment=augment)
    model, bare = task.init(KEY), task.unaugmented
    x, y = jnp.zeros((5, FEATURES)), jnp.zeros(5, jnp.int32)
    assert bare is not None
    logits, _ = task.apply(model, x, KEY)
    np.testing.assert_array_equal(logits, bare.apply(model, x + 1, KEY)[0])
    assert len(seen) == 1
    jax.eval_shape(lambda: local_loss(partial(method, task), model, model.params, x, y))
    assert len(seen) == 2


def test_stochastic_depth():
    """One draw a batch in training, the expected branch in evaluation."""
    task, branch = from_nnx(lambda rngs: StochasticDepth(0.75, rngs=rngs)), jnp.ones((4, 2))
    model, keys = task.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 300)
    seen = np.asarray(jax.jit(jax.vmap(lambda key: task.apply(model, branch, key)[0]))(keys))
    np.testing.assert_array_equal(seen, np.broadcast_to(seen[:, :1, :1], seen.shape))
    assert 0.65 < float(seen.mean()) < 0.85
    np.testing.assert_allclose(task.apply(model, branch)[0], 0.75 * branch)


def test_a_network_with_stochastic_depth():
    """The first block always stays, the others less and less often, each with its own draw."""
    net = nnx.eval_shape(lambda: resnet8((4, 4, 1), 3, survival=0.4)(nnx.Rngs(0)))
    depths = [block.depth for block in net.blocks]
    assert depths[0] is None
    np.testing.assert_allclose([depth.survival for depth in depths[1:]], [0.7, 0.4])
    layout = Layout((2,), 1, "pad", "group", 1, 0.5)
    task = from_nnx(lambda rngs: ResidualBlock(1, 1, 1, layout, 0.5, rngs=rngs))

    @jax.jit
    def passes(keys: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = task.init(KEY)
        trained = jax.vmap(lambda key: task.apply(model, IMAGES, key)[0])(keys)
        return trained, task.apply(model, IMAGES)[0]

    trained, evaluated = passes(jax.random.split(KEY, 20))
    gone = np.array([gap(one, jax.nn.relu(IMAGES)) == 0 for one in trained])
    assert 0 < gone.sum() < 20
    whole = trained[int(np.argmin(gone))]
    inside = (np.asarray(whole) > 0) & (IMAGES > 0)  # where no sum is cut off by the ReLU
    np.testing.assert_allclose(evaluated[inside], (whole + IMAGES)[inside] / 2, rtol=1e-4)


WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (fedalign, {"mu": -1}, "mu is -1, but must be >= 0"),
    (fedalign, {"width": 0}, r"width is 0, but must be in \(0, 1\)"),
    (fedalign, {"width": 1.0}, r"width is 1.0, but must be in \(0, 1\)"),
    (fedalign, {"divisor": 0}, "divisor is 0, but must be >= 1"),
    (fedmixup, {"gamma": -0.1}, "gamma is -0.1, but must be >= 0"),
    (fedgradaug, {"subnets": 0}, "subnets is 0, but must be >= 1"),
    (fedgradaug, {"resolutions": (8, 0)}, r"resolutions are \(8, 0\), but all must be >= 1"),
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
