"""Tasks from NNX and Linen modules: modes, keys, statistics, and convolutions exchanged."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from fedjax_kd import losses
from fedjax_kd.core import Batch
from fedjax_kd.task import from_linen, from_nnx

KEY = jax.random.key(0)


class NnxNet(nnx.Module):
    """A convolution, BatchNorm, dropout and a head: all that is special in one module."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.drop_again = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def features(self, x):
        x = nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2))
        return self.drop_again(self.drop(x))

    def __call__(self, x):
        return self.head(self.features(x))


class LinenBlock(linen.Module):
    """A nested module with a convolution of its own."""

    @linen.compact
    def __call__(self, x):
        return linen.Conv(4, (3, 3))(x)


class LinenNet(linen.Module):
    """The same network in Linen; its convolution is called twice."""

    def setup(self):
        self.block = LinenBlock()
        self.again = linen.Conv(4, (3, 3))
        self.norm = linen.BatchNorm()
        self.drop = linen.Dropout(0.5)
        self.head = linen.Dense(3)

    def features(self, x, train=False):
        x = self.again(self.again(self.block(x)))
        x = linen.relu(self.norm(x, use_running_average=not train)).mean(axis=(1, 2))
        return self.drop(x, deterministic=not train)

    def __call__(self, x, train=False):
        return self.head(self.features(x, train))


def pixels(x):
    return x.astype(jnp.float32) / 255


def invert(key, x):
    return jnp.where(jax.random.bernoulli(key), 255 - x, x)


def make(kind, **options):
    if kind == "nnx":
        return from_nnx(NnxNet, prepare=pixels, **options)
    return from_linen(LinenNet(), jnp.zeros((1, 6, 6, 1), jnp.uint8), prepare=pixels, **options)


def batch(seed=0):
    x = jax.random.randint(jax.random.key(seed), (8, 6, 6, 1), 0, 256).astype(jnp.uint8)
    return Batch(x, jnp.arange(8) % 3, jnp.ones(8))


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(lambda x, y: bool((x == y).all()), a, b)))


both = pytest.mark.parametrize("kind", ["nnx", pytest.param("linen", marks=pytest.mark.thorough)])


@both
def test_a_gradient_flows_to_every_parameter_and_statistics_are_none(kind):
    task = make(kind)
    model = task.init(KEY)

    def loss(params):
        return task.loss(model._replace(params=params), batch(), None)[0]

    gradients = jax.jit(jax.grad(loss))(model.params)
    assert jax.tree.structure(gradients) == jax.tree.structure(model.params)
    assert all(bool(jnp.abs(leaf).sum() > 0) for leaf in jax.tree.leaves(gradients))
    names = [str(path) for path, _ in jax.tree_util.tree_leaves_with_path(model.params)]
    assert not any("mean" in name or "var" in name or "rngs" in name for name in names)
    assert len(jax.tree.leaves(model.stats)) == 2


@both
def test_variables_are_plain_dicts(kind):
    for tree in make(kind).init(KEY):
        assert type(tree) is dict
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))


@both
def test_statistics_change_in_training_only_and_keep_their_form(kind):
    task = make(kind)
    model = task.init(KEY)
    _, kept = task.apply(model, batch().x)
    _, moved = task.apply(model, batch().x, KEY)
    assert same(kept, model.stats)
    assert not same(moved, model.stats)
    assert jax.tree.structure(moved) == jax.tree.structure(model.stats)
    logits, _ = task.apply(model._replace(stats=moved), batch().x)
    assert not same(logits, task.apply(model, batch().x)[0])


@both
def test_dropout_follows_the_key_and_is_off_without_one(kind):
    task = make(kind)
    model, x = task.init(KEY), batch().x
    first, again, other = (task.apply(model, x, jax.random.key(seed))[0] for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)
    assert same(task.apply(model, x)[0], task.apply(model, x)[0])


def test_two_dropouts_of_a_module_draw_different_masks():
    task = make("nnx")
    model = task.init(KEY)
    alive = (task.features(model, batch().x, KEY) != 0).mean()
    evaluated = (task.features(model, batch().x) != 0).mean()
    # Equal masks would leave a half of what is positive, different ones a quarter.
    assert alive < 0.4 * evaluated


@both
def test_stacked_models_equal_a_loop(kind):
    task = make(kind, augment=invert)
    keys = jax.random.split(KEY, 3)
    models = jax.vmap(task.init)(keys)
    batches = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[batch(seed) for seed in range(3)])
    values, stats = jax.jit(jax.vmap(task.loss))(models, batches, keys)
    for i in range(3):
        model = jax.tree.map(lambda leaf, i=i: leaf[i], models)
        value, own = jax.jit(task.loss)(model, batch(i), keys[i])
        np.testing.assert_allclose(values[i], value, rtol=1e-5)
        its = jax.tree.map(lambda leaf, i=i: leaf[i], stats)
        chex.assert_trees_all_close(its, own, rtol=1e-4, atol=1e-6)


@both
def test_training_runs_in_a_scan(kind):
    task = make(kind)

    def step(model, key):
        def loss(params):
            return task.loss(model._replace(params=params), batch(), key)

        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(model.params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, model.params, gradients)
        return type(model)(params, stats), value

    _, values = jax.jit(lambda m, k: jax.lax.scan(step, m, k))(task.init(KEY), _keys(20))
    assert values[-5:].mean() < values[:5].mean()


def _keys(count):
    return jax.random.split(KEY, count)


@both
def test_augmentation_sees_stored_examples_and_training_only(kind):
    seen = []

    def spy(key, x):
        seen.append(x.dtype)
        return jnp.zeros_like(x)

    task = make(kind, augment=spy)
    model = task.init(KEY)
    plain = make(kind).apply(model, batch().x)[0]
    assert same(task.apply(model, batch().x)[0], plain)
    assert seen == []
    blank = task.apply(model, batch(1).x, KEY)[0]
    assert seen == [jnp.uint8]
    assert same(blank, task.apply(model, batch(2).x, KEY)[0])


@both
def test_filling_rows_and_missing_labels_count_nothing(kind):
    task = make(kind)
    model = task.init(KEY)
    whole = batch()._replace(mask=jnp.array([1.0] * 4 + [0.0] * 4))
    half = Batch(whole.x[:4], whole.y[:4], jnp.ones(4))
    unlabelled = batch()._replace(y=jnp.where(jnp.arange(8) < 4, whole.y, -1))
    expected = task.loss(model, half, None)[0]
    np.testing.assert_allclose(task.loss(model, whole, None)[0], expected, rtol=1e-6)
    np.testing.assert_allclose(task.loss(model, unlabelled, None)[0], expected, rtol=1e-6)


def test_a_loss_over_other_targets_is_masked_by_row():
    task = from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs), example_loss=losses.squared_error)
    model = task.init(KEY)
    x, y = jnp.ones((4, 2)), jnp.zeros((4, 3)).at[2:].set(100.0)
    masked = task.loss(model, Batch(x, y, jnp.array([1.0, 1, 0, 0])), None)[0]
    np.testing.assert_allclose(masked, task.loss(model, Batch(x[:2], y[:2], jnp.ones(2)), None)[0])


@both
def test_no_convolution_is_left(kind):
    task = make(kind)
    model = task.init(KEY)

    def loss(params):
        return task.loss(model._replace(params=params), batch(), KEY)[0]

    assert "conv_general_dilated" not in str(jax.make_jaxpr(jax.grad(loss))(model.params))


def test_exchanged_convolutions_give_the_same_logits():
    model, x = make("linen").init(KEY), pixels(batch().x)
    expected = LinenNet().apply({"params": model.params, **model.stats}, x)
    np.testing.assert_allclose(make("linen").apply(model, batch().x)[0], expected, atol=1e-5)
    net = NnxNet(nnx.Rngs(KEY))
    net.eval()
    ours = make("nnx").apply(make("nnx").init(KEY), batch().x)[0]
    np.testing.assert_allclose(ours, net(x), atol=1e-5)


def test_a_convolution_that_was_chosen_is_kept():
    called = []

    def own(*arguments, **options):
        called.append(1)
        return jax.lax.conv_general_dilated(*arguments, **options)

    def layer(rngs):
        return nnx.Conv(1, 2, (3, 3), conv_general_dilated=own, rngs=rngs)

    task = from_nnx(layer, prepare=pixels)
    task.apply(task.init(KEY), batch().x)
    assert called


@both
def test_the_head_of_the_features_gives_the_logits(kind):
    task = make(kind)
    model = task.init(KEY)
    head = model.params["head"]
    features = task.features(model, batch().x)
    logits = features @ head["kernel"] + head["bias"][None]
    np.testing.assert_allclose(logits, task.apply(model, batch().x)[0], atol=1e-6)
    np.testing.assert_allclose(task.classify(model, features), logits, atol=1e-6)


@pytest.mark.parametrize(
    "task",
    [
        from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs)),
        from_linen(linen.Dense(3), jnp.ones((1, 2))),
    ],
)
def test_features_need_a_method_of_that_name(task):
    with pytest.raises(TypeError, match="has no method 'features'"):
        task.features(task.init(KEY), jnp.ones((1, 2)))
