"""Wrappers go around every method, and do to its numbers what they say."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, federation, gap, in_round, logistic, play, public
from wrapping import OPTIONS, around, clients

from fedjax_kd import tree
from fedjax_kd.algorithms import fedavg, feddf, fedper, scaffold
from fedjax_kd.core import Algorithm, State
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.local import local_training
from fedjax_kd.runs.wrapper_config import wrapped
from fedjax_kd.wrappers import WRAPPERS

FIT = local_training(client_lr=0.1, batch_size=0, epochs=2)


METHODS: dict[str, Callable[..., Algorithm]] = {
    "fedavg": lambda task, **options: fedavg(task, FIT, **options),
    "scaffold": lambda task, **options: scaffold(task, FIT, **options),
    "fedper": lambda task, **options: fedper(task, FIT, **options),
    "feddf": lambda task, **options: feddf(
        task, FIT, distil_steps=2, distil_batch=4, eta=0.02, best=False, **options
    ),
}
EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
NEUTRAL: dict[str, dict[str, Any]] = {
    "top_k": {"keep": 1.0},
    "privacy": {"clip": 1e6, "noise": 0.0},
    "krum": {"select": 99},
    "ema": {"beta": 0.0},
    "swa": {"start": 99},
    "ccvr": {"after": 99},
}


def made(method: str, **options: Any) -> tuple[Any, Algorithm]:
    """A task with a head, and a method of it."""
    task = logistic(hidden=2)
    return task, METHODS[method](task, **options)


@cache
def plain_state(method: str, weighting: str, cohorts: tuple[tuple[int, ...], ...]) -> State:
    """The state after rounds without a wrapper."""
    _, base = made(method, weighting=weighting)
    return play(base, federation().train, cohorts, public=public())[0]


def predictions(algorithm: Algorithm, state: Any) -> Any:
    """What each client would predict."""
    x = federation().test.x[:7]
    (own,) = state.clients
    if not jax.tree.leaves(own):
        return algorithm.predict(state.server, own, x)
    return jax.vmap(lambda client: algorithm.predict(state.server, client, x))(own)


def is_thorough(wrapper: str, method: str) -> bool:
    """FedAvg stands for the others by default, but where clients keep something."""
    return method != "fedavg" and (wrapper, method) not in (
        ("top_k", "scaffold"),
        ("ema", "fedper"),
    )


NEUTRAL_PAIRS = [
    pytest.param(w, m, marks=[pytest.mark.thorough] * is_thorough(w, m))
    for w in NEUTRAL
    for m in METHODS
    if (w, m) != ("ccvr", "fedper")  # which has no global model
]


@pytest.mark.parametrize(("wrapper", "method"), NEUTRAL_PAIRS)
def test_a_neutral_wrapper_changes_nothing(wrapper: str, method: str):
    weighting = "uniform" if wrapper in ("privacy", "krum") else "examples"
    task, base = made(method, weighting=weighting)
    other = around(wrapper, base, task, **NEUTRAL[wrapper])
    inside, _ = play(other, federation().train, COHORTS[:2], public=public())
    expected = predictions(base, plain_state(method, weighting, COHORTS[:2]))
    assert gap(expected, predictions(other, inside)) < 1e-5


@pytest.mark.parametrize(
    "method", [pytest.param(m, marks=[pytest.mark.thorough] * (m == "scaffold")) for m in METHODS]
)
def test_the_median_of_two_is_their_mean(method: str):
    task, base = made(method, weighting="uniform")
    cohorts = ((0, 4), (4, 5))
    other, plain = around("median", base, task), plain_state(method, "uniform", cohorts)
    inside, _ = play(other, federation().train, cohorts, public=public())
    if method == "feddf":  # its teachers are the median, not the clients' models
        assert gap(predictions(base, plain), predictions(other, inside)) > 1e-6
        return
    assert gap(plain.server, inside.server) < 1e-6


# What is compiled anew and run one by one takes seconds: one of each kind by default.
BY_DEFAULT = {("top_k", "scaffold"), ("privacy", "feddf"), ("krum", "fedavg")}
PAIRS = [
    pytest.param(w, m, marks=[] if (w, m) in BY_DEFAULT else [pytest.mark.thorough])
    for w in ("top_k", "privacy", "median", "krum", "ema", "swa")
    for m in METHODS
]


def engines_agree(wrapper: str, method: str, **how: Any) -> None:
    """Compares a round run in another way with that of a cohort at once."""
    task, base = made(method)
    algorithm, pool = around(wrapper, base, task), federation().train
    plain = play(algorithm, pool, COHORTS[:1], public=public())
    other = play(algorithm, pool, COHORTS[:1], public=public(), **how)
    # Adam's first steps on the server have the size of eta, whatever the gradient's is.
    assert gap(plain[0], other[0]) < (1e-4 if method == "feddf" else 1e-5)
    for one, two in zip(plain[1], other[1], strict=True):
        counts = [sum(map(np.sum, jax.tree.leaves(r.wire))) for r in (one, two)]
        assert counts[0] == counts[1]


@pytest.mark.parametrize(("wrapper", "method"), PAIRS)
def test_chunks_and_devices_change_nothing(wrapper: str, method: str):
    engines_agree(wrapper, method, chunk=1, mesh=make_mesh(2))


@pytest.mark.thorough
@pytest.mark.parametrize("wrapper", ["top_k", "privacy", "median", "krum", "ema", "swa"])
def test_the_debug_engine_agrees(wrapper: str):
    engines_agree(wrapper, "fedavg", debug=True)


def test_wrappers_go_around_each_other():
    task, base = made("scaffold")
    both = wrapped(base, {"top_k": {"keep": 0.5}, "median": {}}, task, clients())
    by_hand = around("median", around("top_k", base, task, keep=0.5), task)
    pool = federation().train
    assert gap(play(both, pool, COHORTS)[0], play(by_hand, pool, COHORTS)[0]) == 0


WRONG = [
    ("top_k", {"keep": 0.0}, r"keep is 0.0, but must be in \(0, 1\]"),
    ("top_k", {"keep": 1.5}, r"keep is 1.5, but must be in \(0, 1\]"),
    ("top_k", {"scope": "layer"}, "scope is 'layer', but must be one of message, tensor"),
    ("privacy", {"clip": 0.0}, "clip is 0.0, but must be > 0"),
    ("privacy", {"noise": -1.0}, "noise is -1.0, but must be >= 0"),
    ("privacy", {"denominator": 0.0}, "denominator is 0.0, but must be > 0"),
    ("krum", {"malicious": -1}, "malicious is -1"),
    ("krum", {"select": 0}, "select is 0, but must be >= 1"),
    ("bulyan", {"malicious": -1}, "malicious is -1"),
    ("trimmed_mean", {"share": 0.5}, r"share is 0.5, but must be in \[0, 0.5\)"),
    ("geometric_median", {"steps": 0}, "steps is 0, but must be >= 1"),
    ("geometric_median", {"smoothing": 0.0}, "smoothing is 0.0, but must be > 0"),
    ("norm_bound", {"bound": 0.0}, "bound is 0.0, but must be > 0"),
    ("centred_clipping", {"bound": -1.0}, "bound is -1.0, but must be > 0"),
    ("ema", {"beta": 1.0}, r"beta is 1.0, but must be in \[0, 1\)"),
    ("ema", {"ema_start": "one"}, "ema_start is 'one', but must be one of model, zero"),
    ("swa", {"every": 0}, "every is 0, but must be >= 1"),
    ("swa", {"start": -1}, "start is -1, but must be >= 0"),
    ("krumm", {}, "There is no wrapper 'krumm'; near it: krum"),
    ("krum", {"f": 1}, "wrapper krum has no option 'f'"),
]


@pytest.mark.parametrize(("name", "options", "message"), WRONG)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str):
    task, base = made("fedavg")
    with pytest.raises(ValueError, match=message):
        wrapped(base, {name: options}, task, clients())


@pytest.mark.parametrize("name", WRAPPERS)
def test_numeric_options_are_traceable(name: str):
    """A sweep gives traced numbers."""
    task, base = made("fedavg")
    numbers = {
        p.name: p.default
        for p in inspect.signature(WRAPPERS[name]).parameters.values()
        if isinstance(p.default, float)
    }

    @jax.jit
    def run(values: dict[str, Any]) -> Any:
        algorithm = around(name, base, task, **values)
        server = algorithm.server_init(jax.random.key(0))
        client = algorithm.client_init(jax.random.key(0), server)
        number, round = jnp.int32(4), in_round(clients=3)
        message = algorithm.broadcast(server, number, round)
        data = clients().train.of(number)
        upload, _ = algorithm.client_update(jax.random.key(1), message, client, data, round)
        return upload.message, algorithm.predict(server, client, federation().test.x[:2])

    given = OPTIONS.get(name, {})
    traced = {k: given.get(k, v) for k, v in numbers.items()}
    algorithm_values = run(traced)
    assert bool(tree.is_finite(algorithm_values))
