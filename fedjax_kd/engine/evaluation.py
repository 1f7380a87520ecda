"""How good the models are: the global one on the test set, and each client's on its own rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import NDArray

from fedjax_kd import losses, metrics, tree
from fedjax_kd.batching import over_rows
from fedjax_kd.core import Algorithm, Batch, Client, Data, Key, Pool, PyTree, Server, State, keep
from fedjax_kd.engine.mesh import everywhere
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.engine.validation import check_state
from fedjax_kd.metrics import ClassTally, Tally

_Sums = TypeVar("_Sums", Tally, ClassTally)

Predict = Callable[[PyTree], Array]
"""x ``[B, ...]`` -> logits ``[B, ..., L]``, or values of the shape of the targets"""

Members = Sequence[NDArray[np.int64] | range]
"""The numbers of each group's clients."""

# The patches of more rows leave a CPU's cache: 10,000 images through the EMNIST CNN took 2 s at 25
# rows, 6.7 s from 100 on (2 cores). An accelerator wants to be filled.
_ROWS_AT_ONCE, _ROWS_AT_ONCE_ON_CPU = 500, 25
_CLIENT_BATCH = 50
_CLIENTS_AT_ONCE = 50  # at most


class Pools(NamedTuple):
    """Every example that an evaluation may need."""

    train: Pool
    test: Pool
    client_test: Pool | None


class Evaluation(NamedTuple):
    """Tallies of the test set, and of each client's own test rows ``[C, ...]``."""

    test: Tally  # of several groups the mean, weighed by their clients
    clients: Tally | None  # under the model of a newcomer; None if clients have no test rows
    personal: Tally | None  # under each client's own model, if it can differ
    groups: Tally | None  # of the test set, ``[G, ...]``; None if there is one group
    classes: ClassTally | None  # of the test set, leaves ``[L]``; None if not asked for


def shared_model(algorithm: Algorithm, key: Key, server: Server) -> Predict:
    """The model that a client new to the federation would use."""
    newcomer = algorithm.client_init(key, server)
    return lambda x: algorithm.predict(server, newcomer, x)


def tally_rows(predict: Predict, pool: Pool) -> Tally:
    """One tally for each entry of ``pool.rows``, leaves ``[R, ...]``."""
    everyone = Data(pool.x, pool.y, pool.rows, jnp.int32(0), jnp.int32(len(pool.rows)))
    at_once = _ROWS_AT_ONCE_ON_CPU if jax.default_backend() == "cpu" else _ROWS_AT_ONCE
    batches = -(-len(pool.rows) // at_once)

    def one_batch(i: Array) -> Tally:
        positions = i * at_once + jnp.arange(at_once, dtype=jnp.int32)
        batch = everyone.take(positions, (positions < everyone.size).astype(jnp.float32))
        return metrics.tally(predict(batch.x), batch.y, batch.mask)

    tallies = jax.lax.map(one_batch, jnp.arange(batches, dtype=jnp.int32))
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[: len(pool.rows)], tallies)


def by_client(rows: Tally, pool: Pool) -> Tally:
    """The tallies of a pool's entries, added up client by client, leaves ``[C, ...]``."""
    num_clients = len(pool.sizes)
    ends = jnp.cumsum(pool.sizes)
    # Entries after the last client's, which fill a pool up, are of no client and count nothing.
    owner = jnp.searchsorted(ends, jnp.arange(len(pool.rows)), side="right")
    return jax.tree.map(lambda a: jax.ops.segment_sum(a, owner, num_clients), rows)


def by_class(rows: Tally, pool: Pool, num_classes: int) -> ClassTally:
    """The tallies of a pool's entries, one label each, added up class by class."""
    labels = pool.y.at[pool.rows].get(mode="clip").astype(jnp.int32)
    own = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return ClassTally(rows.counted @ own, jnp.asarray(rows.correct) @ own)


def mean_of_groups(tallies: Sequence[_Sums], members: Members) -> _Sums:
    """The mean of the groups' tallies of the same rows, each weighed by its clients."""
    population = sum(map(len, members))
    return reduce(
        tree.add,
        (tree.scale(len(m) / population, t) for t, m in zip(tallies, members, strict=True)),
    )


def each_of_its_group(tallies: Sequence[Tally], members: Members) -> Tally:
    """Of the tallies of all clients under each group's model, those under the own group's one."""
    pairs = zip(tallies, map(np.asarray, members), strict=True)
    own = [jax.tree.map(lambda a, m=m: a[m], tally) for tally, m in pairs]
    return _by_number(own, members)


def _by_number(parts: Sequence[Tally], members: Members) -> Tally:
    """The tallies of each group's own clients, in the order of the clients' numbers."""
    order = np.argsort(np.concatenate(list(members)))
    return jax.tree.map(lambda *of: jnp.concatenate(of)[order], *parts)


def personal_tallies(
    algorithm: Algorithm,
    key: Key,
    state: tuple[Server, Client],
    numbers: Int[Array, " C"],
    pools: tuple[Pool, Pool],
    *,
    at_once: int,
) -> Tally:
    """Each client's test rows under its own model, leaves ``[C, ...]``.

    Args:
      algorithm: of these clients.
      key: consumed.
      state: the server's, and that of each client, leaves ``[C, ...]``, before ``personalise``.
      numbers: the clients' numbers.
      pools: training and test rows of the whole population.
      at_once: clients that are evaluated together; as many as in training are fastest here too.
    """
    server, clients = state
    train, test = pools

    def one(who: tuple[Client, Array]) -> Tally:
        client, number = who
        own_key = jax.random.fold_in(key, number)
        client = algorithm.personalise(own_key, server, client, train.of(number))
        return _tally(lambda x: algorithm.predict(server, client, x), test.of(number))

    return jax.lax.map(one, (clients, numbers), batch_size=min(at_once, _CLIENTS_AT_ONCE))


def _tally(predict: Predict, data: Data) -> Tally:
    """The tally of one client's rows."""

    def add(sums: Tally, batch: Batch, _: Array) -> Tally:
        rows = metrics.tally(predict(batch.x), batch.y, batch.mask)
        return tree.add(sums, metrics.total_of(rows))

    start = metrics.empty(of_labels=losses.are_labels(data.y))
    return over_rows(data, _CLIENT_BATCH, add, start)


def has_personal_model(algorithm: Algorithm, server: Server, client: Client, x: PyTree) -> bool:
    """Whether a client's model can differ from a newcomer's; the arguments may be abstract."""
    if algorithm.personalise is not keep:
        return True
    given = (server, x)
    read = tree.reads(lambda c, given: algorithm.predict(given[0], c, given[1]), client, given)
    return any(jax.tree.leaves(read))


def evaluate_personal(
    groups: Sequence[Algorithm],
    members: Members,
    key: Key,
    state: State,
    pools: tuple[Pool, Pool],
    *,
    at_once: Sequence[int],
) -> Tally:
    """`personal_tallies` of all groups, in the order of the clients' numbers."""
    each = zip(groups, state.clients, members, at_once, strict=True)
    parts = [
        personal_tallies(
            group, key, (state.server, clients), jnp.asarray(own, jnp.int32), pools, at_once=width
        )
        for group, clients, own, width in each
    ]
    return _by_number(parts, members)


def pools_of(s: Simulation) -> Pools:
    """All pools of a simulation that its evaluation reads."""
    return Pools(s.federation.train, s.federation.test, s.federation.client_test)


def make_evaluation(s: Simulation, state: State) -> Callable[[State], Evaluation]:
    """Compiles the evaluation of states like ``state`` on all test rows.

    Raises:
      TypeError: if the state is that of another method, model or number of clients.
    """
    check_state(s.types, [len(members) for members in s.layout.members], state)
    # The pools are arguments: as constants they would become part of the program.
    program = jax.jit(evaluation_of(s), out_shardings=everywhere(s.mesh))
    compiled = program.lower(state, pools_of(s)).compile()
    return lambda state: compiled(state, pools_of(s))


def evaluation_of(s: Simulation) -> Callable[[State, Pools], Evaluation]:
    """The evaluation of a state on all test rows, to be jitted."""
    federation, key = s.federation, s.key("evaluate")
    own = federation.client_test
    test_is_dealt = own is not None and own.x is federation.test.x
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), federation.test.x)
    own_models = own is not None and any(
        has_personal_model(a, t.server, t.client, x) for a, t in zip(s.groups, s.types, strict=True)
    )

    def under(algorithm: Algorithm, state: State, pools: Pools) -> tuple[Any, Any, Any]:
        predict = shared_model(algorithm, key, state.server)
        rows, theirs = tally_rows(predict, pools.test), pools.client_test
        whole, classes = metrics.total_of(rows), None
        if s.per_class:
            classes = by_class(rows, pools.test, federation.num_classes)
        if theirs is None:
            return whole, classes, None
        if test_is_dealt:
            owned = jax.tree.map(lambda a: a[theirs.rows], rows)
        else:
            owned = tally_rows(predict, theirs)
        return whole, classes, by_client(owned, theirs)

    def evaluate(state: State, pools: Pools) -> Evaluation:
        members, theirs, personal = s.layout.members, pools.client_test, None
        test, classes, clients = zip(*(under(a, state, pools) for a in s.groups), strict=True)
        if own_models and theirs is not None:
            both = (pools.train, theirs)
            personal = evaluate_personal(
                s.groups, members, key, state, both, at_once=list(map(max, s.chunk))
            )
        return Evaluation(
            mean_of_groups(test, members),
            None if theirs is None else each_of_its_group(clients, members),
            personal,
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *test) if len(test) > 1 else None,
            mean_of_groups(classes, members) if s.per_class else None,
        )

    return evaluate
