"""What clients compute in: read off their programs, and compared on real data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from fedjax_kd import local
from fedjax_kd.core import Batch, Variables
from fedjax_kd.data import load
from fedjax_kd.models import MODELS, resnet
from fedjax_kd.task import Task, from_linen, from_nnx

PRODUCTS = ("dot_general", "conv_general_dilated", "ragged_dot_general")
KEY = jax.random.key(0)
SHORT, WIDE = jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)

MODELS_HERE: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp", {"hidden": (32,)}),
    "cnn": ("cnn_emnist", {"dropout": (0.0, 0.0)}),
    "resnet8 group": ("resnet8", {"norm": "group"}),
    "resnet8 batch": ("resnet8", {"norm": "batch"}),
    "char_lstm": ("char_lstm", {"units": 16}),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS_HERE)
REST = ("cnn", "char_lstm", "small group", "small batch")  # beside the fastest
OTHERS = ["LinenNet", "LinenText", "NnxText"]


class LinenNet(linen.Module):
    """Convolution, BatchNorm, and a float32 constant that would lengthen what follows."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = linen.BatchNorm(use_running_average=not train)(linen.Conv(4, (3, 3))(x[..., None]))
        x = x.reshape(len(x), -1) + np.ones((1, 1), np.float32)
        return linen.Dense(10)(linen.LayerNorm()(x))


class LinenText(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(10)(linen.RNN(linen.LSTMCell(8))(linen.Embed(10, 4)(x)))


class NnxText(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(10, 4, rngs=rngs)
        self.rnn = nnx.RNN(nnx.OptimizedLSTMCell(4, 8, rngs=rngs), rngs=rngs)
        self.head = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.rnn(self.embed(x)))


def digits() -> Batch:
    """Real pictures; the last row is filling."""
    data = load("digits").train
    return Batch(jnp.asarray(data.x[:32]), jnp.asarray(data.y[:32]), jnp.ones(32).at[-1].set(0.0))


def text(length: int = 8) -> Batch:
    symbols = jax.random.randint(KEY, (16, length + 1), 0, 10, jnp.int32)
    return Batch(symbols[:, :-1], symbols[:, 1:], jnp.ones(16))


def pixels(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) / 16


def case(name: str, precision: Any) -> tuple[Task, Batch]:
    """A task in some precision, and a batch for it."""
    if name == "LinenText":
        return from_linen(LinenText(), text().x, precision=precision), text()
    if name == "NnxText":
        return from_nnx(lambda rngs: NnxText(rngs=rngs), precision=precision), text()
    if name == "LinenNet":
        images = digits()
        return from_linen(LinenNet(), images.x, prepare=pixels, precision=precision), images
    if name.startswith("small"):
        layout = resnet.ResNetShape((4, 8), 1, "pad", name.removeprefix("small "), 2)
        net = partial(resnet.ResNet, (8, 8, 1), 10, layout)
        return from_nnx(lambda rngs: net(rngs=rngs), prepare=pixels, precision=precision), digits()
    model, options = MODELS_HERE.get(name, (name, {}))
    is_text = model in ("char_lstm", "transformer")
    batch = text() if is_text else digits()
    build = MODELS[model](batch.x.shape[1:], 10, **options)
    return from_nnx(build, prepare=None if is_text else pixels, precision=precision), batch


def step(task: Task, batch: Batch) -> Callable[[Variables], tuple]:
    return lambda model: local.gradient(task.loss, model, batch, KEY)


def is_program(part: Any) -> bool:
    return isinstance(part, Jaxpr | ClosedJaxpr)


def equations(program: Jaxpr) -> Iterator[JaxprEqn]:
    """Those of a program and of all programs within it."""
    for equation in program.eqns:
        yield equation
        for part in jax.tree.leaves(equation.params, is_leaf=is_program):
            if is_program(part):
                yield from equations(part.jaxpr if isinstance(part, ClosedJaxpr) else part)


def products(function: Callable, *arguments: Any) -> list[JaxprEqn]:
    program = jax.make_jaxpr(function)(*arguments).jaxpr
    found = [e for e in equations(program) if e.primitive.name in PRODUCTS]
    assert found
    return found


@cache
def products_of_step(name: str, precision: Any) -> list[JaxprEqn]:
    """All products of one local step, forward and backward."""
    task, batch = case(name, precision)
    return products(step(task, batch), jax.eval_shape(task.init, KEY))


def factors(product: JaxprEqn) -> set[np.dtype]:
    return {jnp.dtype(factor.aval.dtype) for factor in product.invars}


def dtypes(tree: Any) -> set[np.dtype]:
    return {jnp.dtype(leaf.dtype) for leaf in jax.tree.leaves(tree)}


@pytest.mark.parametrize("name", [*MODELS_HERE, *OTHERS])
def test_bfloat16_multiplies_nothing_else_forward_or_backward(name: str):
    found = products_of_step(name, "bfloat16")
    assert all(factors(product) == {SHORT} for product in found)
    assert len(found) == len(products_of_step(name, None))


@EVERY_MODEL
@pytest.mark.parametrize(
    ("precision", "level"),
    [("float32", jax.lax.Precision.HIGHEST), ("tf32", jax.lax.Precision.HIGH)],
)
def test_float32_and_tf32_name_the_precision_of_every_product(name: str, precision: str, level):
    for product in products_of_step(name, precision):
        assert factors(product) == {WIDE}
        assert product.params["precision"] == (level, level)


def test_without_a_precision_products_are_as_jax_is_set():
    task, batch = case("mlp", None)
    model = task.init(KEY)
    assert all(p.params["precision"] is None for p in products(step(task, batch), model))
    with jax.default_matmul_precision("highest"):
        assert all(p.params["precision"] is not None for p in products(step(task, batch), model))


@pytest.mark.parametrize("name", [*MODELS_HERE, *OTHERS])
def test_weights_gradients_and_statistics_stay_float32(name: str):
    task, batch = case(name, "bfloat16")
    model = jax.eval_shape(task.init, KEY)
    loss, stats, grads = jax.eval_shape(step(task, batch), model)
    assert dtypes((model, loss, grads)) == {WIDE}
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, model.params)
    assert dtypes(stats) <= {WIDE}
    assert jax.tree.structure(stats) == jax.tree.structure(model.stats)
    assert dtypes(jax.eval_shape(task.apply, model, batch.x)) == {WIDE}


def test_features_are_float32_but_computed_in_bfloat16():
    task, batch = case("mlp", "bfloat16")
    model = jax.eval_shape(task.init, KEY)
    assert jax.eval_shape(task.features, model, batch.x).dtype == WIDE
    assert all(factors(p) == {SHORT} for p in products(task.features, model, batch.x))


@pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(n, marks=pytest.mark.thorough) for n in REST)]
)
def test_bfloat16_is_close_on_real_digits(name: str):
    """Within 2 % in the loss, and within an angle of 14 degrees (cosine 0.97) in the gradient."""
    wide, batch = case(name, "float32")
    short, _ = case(name, "bfloat16")
    model = wide.init(KEY)
    loss, stats, grads = jax.jit(step(wide, batch))(model)
    loss_short, stats_short, grads_short = jax.jit(step(short, batch))(model)
    assert loss_short == pytest.approx(float(loss), rel=0.02)
    assert loss_short != loss, "nothing was rounded"
    a, b = (np.concatenate([np.ravel(g) for g in jax.tree.leaves(t)]) for t in (grads, grads_short))
    assert a @ b > 0.97 * np.linalg.norm(a) * np.linalg.norm(b)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0.02, atol=0.02), stats, stats_short
    )


@pytest.mark.parametrize("name", ["mlp", "cnn", "char_lstm"])
def test_on_a_cpu_tf32_is_float32(name: str):
    model = case(name, None)[0].init(KEY)
    plain, full, short = (jax.jit(step(*case(name, p)))(model) for p in (None, "float32", "tf32"))
    jax.tree.map(np.testing.assert_array_equal, full, short)
    jax.tree.map(np.testing.assert_array_equal, full, plain)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_running_statistics_are_not_rounded(kind: str):
    """0.99 + 0.01 * 1.1 is 1.001, which bfloat16 does not have."""
    x = jnp.asarray([[1.0], [1.2]])
    if kind == "nnx":
        task = from_nnx(lambda rngs: nnx.BatchNorm(1, rngs=rngs), precision="bfloat16")
    else:
        task = from_linen(
            linen.BatchNorm(), x, train_argument="use_running_average", precision="bfloat16"
        )
    model = task.init(KEY)
    ones = model._replace(stats=jax.tree.map(jnp.ones_like, model.stats))
    _, stats = task.apply(ones, x, KEY)
    means = [
        s for path, s in jax.tree.leaves_with_path(stats) if "mean" in jax.tree_util.keystr(path)
    ]
    np.testing.assert_allclose(means[0], 1.001, rtol=1e-4)
    logits, _ = task.apply(Variables(model.params, stats), jnp.ones((1, 1)))
    np.testing.assert_allclose(logits, -0.001, rtol=0.1)


def test_a_statistic_of_short_activations_stays_float32():
    class Last(nnx.Module):
        def __init__(self):
            self.last = nnx.BatchStat(jnp.zeros(3))

        def __call__(self, x: jax.Array) -> jax.Array:
            self.last[...] = x[0]
            return x

    task = from_nnx(lambda rngs: Last(), precision="bfloat16")
    _, stats = task.apply(task.init(KEY), jnp.ones((2, 3)), KEY)
    np.testing.assert_array_equal(stats["last"], jnp.ones(3))
    assert dtypes(stats) == {WIDE}


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_layer_keeps_the_dtype_that_it_was_given(kind: str):
    x, wide = jnp.ones((2, 3)), jnp.float32
    if kind == "nnx":
        task = from_nnx(lambda rngs: nnx.Linear(3, 2, dtype=wide, rngs=rngs), precision="bfloat16")
    else:
        task = from_linen(linen.Dense(2, dtype=wide), x, precision="bfloat16")
    assert factors(products(task.apply, task.init(KEY), x)[0]) == {WIDE}


def test_attention_multiplies_bfloat16_but_for_the_gradient_of_its_scores():
    """JAX's attention keeps scores in float32, and multiplies their gradient as it is."""
    task, batch = case("transformer", "bfloat16")
    with jax.numpy_dtype_promotion("standard"):
        found = products(step(task, batch), jax.eval_shape(task.init, KEY))
    assert all(SHORT in factors(product) for product in found)
    mixed = [product for product in found if WIDE in factors(product)]
    assert len(mixed) == 4


def test_symbols_are_not_cast():
    seen = []

    class Spy(nnx.Module):
        def __call__(self, x: dict[str, jax.Array]) -> jax.Array:
            seen.append(jax.tree.map(lambda leaf: leaf.dtype, x))
            return x["pixels"]

    task = from_nnx(lambda rngs: Spy(), precision="bfloat16")
    task.apply(task.init(KEY), {"pixels": jnp.ones((2, 2)), "symbols": jnp.ones(2, jnp.int32)})
    assert seen[-1] == {"pixels": SHORT, "symbols": jnp.int32}
