"""GradAug's subnets and stochastic depth: narrower, smaller, shallower networks."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from blocks import FIT, IMAGES, KEY, Method, network
from federations import FEATURES, federation, gap, logistic, task_of
from flax import nnx
from objectives import FILLING, local_loss

from fedjax_kd import losses, tree
from fedjax_kd.algorithms.fedalign import fedalign
from fedjax_kd.algorithms.fedgradaug import fedgradaug
from fedjax_kd.algorithms.fedmixup import fedmixup
from fedjax_kd.core import Key, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.models.mlp import mlp
from fedjax_kd.models.resnet import ResidualBlock, ResNetShape, resnet8
from fedjax_kd.nn.depth import StochasticDepth
from fedjax_kd.nn.resize import bilinear, dealt
from fedjax_kd.task import from_nnx


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
    layout = ResNetShape((2,), 1, "pad", "group", 1, 0.5)
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
