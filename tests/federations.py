"""Tiny models and federations that the tests share, and a bare loop over rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_kd import losses
from fedjax_kd.backends import Backend, backend_of
from fedjax_kd.core import Algorithm, Batch, Data, Key, Pool, Round, SizeRange, State, Variables
from fedjax_kd.data.dataset import Dataset, from_arrays
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.data.public_inputs import Public, Stored
from fedjax_kd.engine.chunk_width import requested_chunks
from fedjax_kd.engine.debug import make_debug_round
from fedjax_kd.engine.round import Report, Resident, RoundFn, make_round
from fedjax_kd.engine.schedule import lay_out
from fedjax_kd.task import LastBlock, Task, from_nnx

CPU = backend_of("cpu")
FEATURES, CLASSES = 4, 3
SIZES = (7, 0, 1, 5, 12, 3)  # of the ragged federation: an empty client, and one with one example
COHORTS = ((0, 4, 2), (1, 5, 3), (4, 3, 0))


def dataset(rows: int, seed: int = 0) -> Dataset:
    """Gaussian clouds, one a class."""
    rng = np.random.default_rng(seed)
    centres = 2.0 * rng.normal(size=(CLASSES, FEATURES))
    y = rng.integers(0, CLASSES, 2 * rows).astype(np.int32)
    x = (centres[y] + rng.normal(size=(2 * rows, FEATURES))).astype(np.float32)
    return from_arrays(x[:rows], y[:rows], x[rows:], y[rows:], num_classes=CLASSES)


@cache
def federation(sizes: tuple[int, ...] = SIZES, seed: int = 0) -> Federation:
    """Clients of the given sizes."""
    ends = np.cumsum([0, *sizes])
    parts = [np.arange(a, b) for a, b in pairwise(ends)]
    # The formulas that tests compare with are of the values as they are.
    return federate(dataset(int(ends[-1]), seed), lambda data: parts, standardise="none")


@cache
def public() -> Public:
    """Ten labelled rows of the server, at which everyone may look."""
    x, y = federation().test.x[:10], federation().test.y[:10]
    return Public(Stored(x, y), Data.all_of(x, y))


def logistic(hidden: int = 0) -> Task:
    """Logistic regression; with ``hidden`` units a network of one hidden layer."""
    widths = (FEATURES, hidden, CLASSES) if hidden else (FEATURES, CLASSES)

    def init(key: Key) -> Variables:
        shapes = list(pairwise(widths))
        keys = jax.random.split(key, len(shapes))
        layers = [
            {"w": 0.3 * jax.random.normal(k, shape), "b": jnp.zeros(shape[1])}
            for k, shape in zip(keys, shapes, strict=True)
        ]
        return Variables(layers)

    def features(variables: Variables, x: jax.Array, key: Key | None = None) -> jax.Array:
        for layer in variables.params[:-1]:
            x = jnp.tanh(x @ layer["w"] + layer["b"][None])
        return x

    def apply(variables: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any]:
        return classify(variables, features(variables, x)), variables.stats

    def both(variables: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any, Any]:
        return features(variables, x), *apply(variables, x)

    def classify(variables: Variables, z: jax.Array) -> jax.Array:
        head = variables.params[-1]
        return z @ head["w"] + head["b"][None]

    def passed(variables: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, ...]:
        return x, *both(variables, x)

    block = LastBlock(passed, features) if hidden else None
    example = jax.ShapeDtypeStruct((1, FEATURES), jnp.float32)
    return task_of(init, apply)._replace(
        features=features,
        features_and_logits=both,
        classify=classify,
        input_types=example,
        block=block,
    )


class Normed(nnx.Module):
    """Logistic regression on normalised features."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(FEATURES, epsilon=0.1, rngs=rngs)
        self.head = nnx.Linear(FEATURES, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(x))


def normed() -> Task:
    """The smallest task with batch normalisation."""
    return from_nnx(Normed)


def task_of(init: Callable[[Key], Variables], apply: Callable[..., tuple[Any, Any]]) -> Task:
    """A classification task from ``init`` and ``apply`` alone."""

    def loss(variables: Variables, batch: Batch, key: Key | None) -> tuple[Any, Any]:
        logits, stats = apply(variables, batch.x, key)
        values = losses.cross_entropy(logits, batch.y)
        return losses.masked_mean(values, batch.mask), stats

    return Task(init, apply, lambda variables, x, key=None: x, losses.cross_entropy, loss)


def start(groups: Sequence[Algorithm], group_of: np.ndarray) -> State:
    """A federation before its first round."""
    server = groups[0].server_init(jax.random.key(0))

    def clients(g: int) -> Any:
        keys = jax.random.split(jax.random.key(1), int((group_of == g).sum()))
        return jax.vmap(lambda key: groups[g].client_init(key, server))(keys)

    return State(server, tuple(clients(g) for g in range(len(groups))))


def rounds(
    algorithm: Algorithm | Sequence[Algorithm],
    pool: Pool,
    cohorts: Sequence[Sequence[int]] = COHORTS,
    *,
    chunk: int | Sequence[int] = 100,
    places: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    debug: bool = False,
    group_of: Sequence[int] | None = None,
    state: State | None = None,
    public: Any = None,
    run: RoundFn | None = None,
    backend: Backend = CPU,
) -> Iterator[tuple[State, Report]]:
    """Rounds with the given cohorts, through one compiled round (or the debug engine)."""
    groups = (algorithm,) if isinstance(algorithm, Algorithm) else tuple(algorithm)
    sizes = np.asarray(pool.sizes, np.int64)
    group = np.zeros(len(sizes), np.int64) if group_of is None else np.asarray(group_of)
    devices = 1 if mesh is None else mesh.size
    members = [np.flatnonzero(group == g) for g in range(len(groups))]
    most, widths = places or max(map(len, cohorts)), (chunk,) if isinstance(chunk, int) else chunk
    chunks = [requested_chunks(CPU, widths, -(-min(most, len(m)) // devices)) for m in members]
    layout = lay_out(
        members, len(sizes), most, chunks, work=[a.work for a in groups], devices=devices
    )
    if run is None and debug:
        run = make_debug_round(groups, layout, CPU)
    known = SizeRange.of(sizes) if backend.fixed_loops else None
    run = run or jax.jit(make_round(groups, layout, backend, sizes=known, mesh=mesh))
    state = start(groups, group) if state is None else state
    for number, ids in enumerate(cohorts):
        who = np.asarray(ids, np.int64)
        placements = jax.tree.map(jnp.asarray, layout.place(who, sizes[who])[0])
        key = jax.random.fold_in(jax.random.key(2), number)
        state, report = run(key, state, Resident(pool, public), placements, jnp.int32(number))
        yield state, report


def play(*args: Any, **options: Any) -> tuple[State, list[Report]]:
    """The state after the last of `rounds`, and the report of each."""
    played = list(rounds(*args, **options))
    return played[-1][0], [report for _, report in played]


def in_round(number: int = 0, clients: int = 1, population: int = len(SIZES)) -> Round:
    """A round with the first clients, all of them present."""
    there = jnp.ones(clients)
    ids = jnp.arange(clients, dtype=jnp.int32)
    return Round(jnp.int32(number), ids, there, there, population, public())


def gap(a: Any, b: Any) -> float:
    """The largest difference between two trees of arrays."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    gaps = jax.tree.map(
        lambda x, y: float(np.max(np.abs(np.asarray(x, float) - np.asarray(y, float)), initial=0)),
        a,
        b,
    )
    return float(np.max(jax.tree.leaves(gaps), initial=0.0))  # unlike `max`, this lets NaN through
