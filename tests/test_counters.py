"""Counters and flags in a model: averaged as values of their types, by each method and engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, FEATURES, SIZES, federation, play, public
from flax import linen, nnx

from fedjax_kd import tree
from fedjax_kd.algorithms import fedadam, fedavg, feddf, fedper, scaffold
from fedjax_kd.components.low_rank import cut
from fedjax_kd.components.model_parts import models_like
from fedjax_kd.core import Algorithm, Variables, mean
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.errors import InputTypeError
from fedjax_kd.local import local_training
from fedjax_kd.losses.objectives import gradient
from fedjax_kd.task import Task, from_linen, from_nnx
from fedjax_kd.wrappers import with_ema, with_krum, with_median, with_privacy, with_top_k

FIT = local_training(client_lr=0.1, batch_size=4)
EVERYONE = ((0, 2, 3, 4, 5),)
STEPS = -(-np.array(SIZES) // 4)  # (2, 0, 1, 2, 3, 1)
LARGE = 2**30 + 1  # float32 does not hold it
MEAN_STEPS = {"examples": (STEPS * SIZES).sum() / sum(SIZES), "uniform": STEPS.sum() / 5}


class Counting(nnx.Module):
    """A network that counts its steps of training, in several types."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.body = nnx.Linear(FEATURES, 2, rngs=rngs)
        self.head = nnx.Linear(2, CLASSES, rngs=rngs)
        self.deterministic = True  # which `train()` and `eval()` set
        self.up = nnx.BatchStat(jnp.zeros((), jnp.uint32))
        self.down = nnx.BatchStat(jnp.full(2, 200, jnp.uint8))
        self.large = nnx.Variable(jnp.int32(LARGE))
        self.even = nnx.Variable(jnp.bool_(True))
        self.short = nnx.Variable(jnp.bfloat16(0))

    def features(self, x: jax.Array) -> jax.Array:
        return jnp.tanh(self.body(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.deterministic:
            self.up[...] += jnp.uint32(3)
            self.down[...] -= jnp.uint8(7)
            self.large[...] += 3
            self.even[...] = ~self.even[...]
            self.short[...] += jnp.bfloat16(1)
        return self.head(self.features(x))


class LinenCounting(linen.Module):
    """The same as a Linen module, with two counters."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        up = self.variable("cache", "up", lambda: jnp.zeros((), jnp.uint32))
        down = self.variable("counters", "down", lambda: jnp.full(2, 200, jnp.uint8))
        if train:
            up.value += jnp.uint32(3)
            down.value -= jnp.uint8(7)
        return linen.Dense(CLASSES)(x)


def example() -> jax.Array:
    return federation().train.x[:1]


def counting() -> Task:
    return from_nnx(Counting, example_x=example())


def statistics(task: Task, server: Any) -> dict[str, Any]:
    """The statistics of the only model in a server's state."""
    find, _ = models_like(jax.eval_shape(task.init, jax.random.key(0)))
    (model,) = find(server)
    return model.stats


def check(stats: dict[str, Any], steps: float) -> None:
    """By hand, from the mean number of steps of the clients."""
    assert int(stats["up"]) == np.rint(3 * steps)
    assert stats["up"].dtype == jnp.uint32
    np.testing.assert_array_equal(stats["down"], np.full(2, np.rint(200 - 7 * steps), np.uint8))
    assert stats["down"].dtype == jnp.uint8
    if "large" in stats:
        assert int(stats["large"]) == LARGE + np.rint(3 * steps)
        assert stats["even"].dtype == bool
        assert bool(stats["even"]) is bool(EVEN[steps] > 0.5)
    if "short" in stats:
        assert stats["short"].dtype == jnp.bfloat16
        assert float(stats["short"]) == pytest.approx(steps, rel=2**-8)


EVEN = {
    MEAN_STEPS["examples"]: ((STEPS % 2 == 0) * SIZES).sum() / sum(SIZES),
    MEAN_STEPS["uniform"]: (STEPS[STEPS > 0] % 2 == 0).mean(),
}

METHODS: dict[str, tuple[Callable[[Task], Algorithm], str]] = {
    "fedavg": (lambda task: fedavg(task, FIT), "examples"),
    "fedadam": (lambda task: fedadam(task, FIT), "examples"),
    "scaffold": (lambda task: scaffold(task, FIT), "uniform"),
    "feddf": (lambda task: feddf(task, FIT, distil_steps=0), "uniform"),
    "top_k": (lambda task: with_top_k(fedavg(task, FIT), federation(), keep=0.1), "examples"),
    "privacy": (lambda task: with_privacy(fedavg(task, FIT), clip=1e-3, noise=0.0), "uniform"),
    "median": (lambda task: with_median(fedavg(task, FIT)), "examples"),
    "krum": (lambda task: with_krum(fedavg(task, FIT)), "examples"),
}
FLOATS_BY_RULE = ("privacy", "median", "krum")  # of counters there is the mean
BY_DEFAULT = ("fedavg", "feddf")
CASES = [
    pytest.param(name, marks=() if name in BY_DEFAULT else pytest.mark.thorough) for name in METHODS
]


@pytest.mark.parametrize("name", CASES)
def test_means_are_values_of_their_types(name: str):
    method, weighting = METHODS[name]
    task = counting()
    state, _ = play(method(task), federation().train, EVERYONE, public=public())
    stats = statistics(task, state.server)
    if name in FLOATS_BY_RULE:
        stats.pop("short")
    check(stats, MEAN_STEPS[weighting])


def test_those_of_a_linen_module_too():
    task = from_linen(LinenCounting(), example())
    state, _ = play(fedavg(task, FIT), federation().train, EVERYONE, chunk=(1, 3))
    stats = statistics(task, state.server)
    check(stats["cache"] | stats["counters"], MEAN_STEPS["examples"])


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["chunk", "mesh", "debug"])
def test_engines_agree(how: str):
    options: dict[str, dict[str, Any]] = {
        "chunk": {"chunk": 1},
        "mesh": {"mesh": make_mesh(2), "places": 6},
        "debug": {"debug": True},
    }
    task = counting()
    state, _ = play(fedavg(task, FIT), federation().train, EVERYONE, **options[how])
    check(statistics(task, state.server), MEAN_STEPS["examples"])


def test_clients_keep_their_own():
    """FedPer with all statistics at home."""
    task = counting()

    def personal(model: Variables) -> Variables:
        params = jax.tree.map(lambda a: False, model.params)
        return Variables(params, jax.tree.map(lambda a: True, model.stats))

    state, _ = play(fedper(task, FIT, personal=personal), federation().train, EVERYONE)
    np.testing.assert_array_equal(state.clients[0].stats["up"], 3 * STEPS)
    np.testing.assert_array_equal(state.clients[0].stats["even"], STEPS % 2 == 0)
    np.testing.assert_array_equal(state.clients[0].stats["down"][:, 0], 200 - 7 * STEPS)


@pytest.mark.thorough
def test_an_average_over_rounds_leaves_counters_as_they_are():
    task = counting()
    algorithm = with_ema(fedavg(task, FIT), federation())
    state, _ = play(algorithm, federation().train, EVERYONE)
    check(statistics(task, state.server.base), MEAN_STEPS["examples"])


@pytest.mark.thorough
def test_the_mean_of_a_students_models_has_their_types():
    """FedDF's SWA: 50 steps further, of which the models after 25 and 50 are averaged."""
    task = counting()
    algorithm = feddf(task, FIT, distil_steps=50, swa=True, best=False)
    state, _ = play(algorithm, federation().train, EVERYONE, public=public())
    stats = statistics(task, state.server)
    before = np.rint(3 * MEAN_STEPS["uniform"])
    assert int(stats["up"]) == np.rint(before + 3 * (25 + 50) / 2)


def numbers(dtype: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    if dtype is bool:
        return rng.random((2, 40)) < 0.5
    info = np.iinfo(dtype)
    ends = np.array([[info.min, info.max, info.max - 1], [info.max, info.min, info.max]], dtype)
    inner = rng.integers(info.min // 2, info.max // 2, (2, 40), dtype, endpoint=True)
    return np.concatenate([ends, inner, inner[::-1] // 3], axis=1)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int16, np.uint32, np.int32])
def test_a_mean_of_two_is_numpys(dtype: Any):
    """Of far values, too: a signed difference of unsigned numbers does not wrap around."""
    low, high = numbers(dtype)
    if np.dtype(dtype).itemsize == 4:  # differences fit into 31 bits
        low, high = low[3:], high[3:]
    change = tree.sub(jnp.array([low, high]), jnp.array(low)[None])
    moved = tree.add(jnp.array(low), tree.weighted_mean(change, jnp.array([1.0, 1.0])))
    assert moved.dtype == dtype
    wide = np.stack([low, high]).astype(float)
    tolerance = 64 if np.dtype(dtype).itemsize == 4 else 0  # a difference is a float32
    np.testing.assert_allclose(np.asarray(moved, float), np.rint(wide.mean(0)), atol=tolerance)


@pytest.mark.parametrize(
    ("value", "change", "expected"),
    [
        (jnp.uint32(1), -2.6, 0),  # the end of its range
        (jnp.uint8(250), 1e9, 255),
        (jnp.int8(-100), -1e3, -128),
        (jnp.uint32(2**32 - 1), -1.0, 2**32 - 2),
        (jnp.int32(2**31 - 1), -0.2, 2**31 - 1),
        (jnp.int32(7), -0.5, 6),  # halves go to the even one
        (jnp.int32(-7), 0.5, -6),
        (jnp.bool_(True), -0.4, True),
        (jnp.bool_(False), 0.6, True),
        (jnp.float16(1), 2.0**-11, 1.0),
    ],
)
def test_what_is_moved_keeps_its_type(value: Any, change: float, expected: Any):
    moved = tree.add(value, jnp.float32(change))
    assert (moved.dtype, moved.item()) == (value.dtype, expected)


def test_half_a_change_of_a_counter_is_not_lost():
    """As in methods that scale changes by the clients' steps."""
    change = tree.scale(0.5, tree.sub(jnp.uint32(3), jnp.uint32(0)))
    assert float(change) == 1.5
    assert int(tree.add_scaled(jnp.int32(10), 1 / 3, jnp.int32(5))) == 12


def test_counters_are_sent_whole_where_matrices_are_cut():
    change = {"w": jnp.outer(jnp.ones(20), jnp.ones(9)), "n": jnp.ones((20, 9), jnp.int32)}
    sent = cut(change, 0.5)
    np.testing.assert_array_equal(sent.base["n"], change["n"])
    assert int(sent.size) == 4 * (20 + 9 + 1) + 4 * 20 * 9


def test_a_mean_of_messages_stays_a_float():
    """What clients send may be counted in integers; its mean is none."""
    total, votes = mean.accumulate(jnp.array([1, 2]), jnp.ones(2), jnp.ones(2))
    assert float(mean.finalise(total, votes)) == 1.5


class Keyed(nnx.Module):
    """A network that keeps a random key as if it were a statistic."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.head = nnx.Linear(FEATURES, CLASSES, rngs=rngs)
        self.key = nnx.Variable(jax.random.key(0))
        self.other = nnx.Param(jnp.int32(3))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(x)


def test_what_has_no_mean_is_named():
    with pytest.raises(InputTypeError, match=r"At \.stats\['key'\].*no mean.*nnx\.Rngs"):
        tree.sub(*[from_nnx(Keyed).init(jax.random.key(0))] * 2)


def test_parameters_without_a_gradient_are_named():
    task = from_nnx(Keyed)
    with pytest.raises(InputTypeError, match=r"parameter at \['other'\] is int32.*nnx\.Variable"):
        gradient(task.loss, task.init(jax.random.key(0)), None, jax.random.key(0))


def test_the_message_reaches_who_builds_a_simulation():
    with pytest.raises(InputTypeError, match=r"^The parameter at \['other'\]"):
        simulate(fedavg(from_nnx(Keyed), FIT), federation(), num_rounds=1, cohort_size=2)
