"""How good the models are: the global one on the test set, and each client's on its own rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import NDArray

from fedjax_kd import losses, metrics, tree
from fedjax_kd.batching import over_rows
from fedjax_kd.core import Algorithm, Batch, Client, Data, Key, Pool, PyTree, Server, State, keep
from fedjax_kd.metrics import ClassTally, Tally

Sums = TypeVar("Sums", Tally, ClassTally)

Predict = Callable[[PyTree], Array]
"""x ``[B, ...]`` -> logits ``[B, ..., L]``, or values of the shape of the targets"""

Members = Sequence[NDArray[np.int64] | range]
"""The numbers of each group's clients."""

# The patches of more rows leave a CPU's cache: 10,000 images through the EMNIST CNN took 2 s at 25
# rows, 6.7 s from 100 on (2 cores). An accelerator wants to be filled.
_ROWS_AT_ONCE, _ROWS_AT_ONCE_ON_CPU = 500, 25
_CLIENT_BATCH = 50
_CLIENTS_AT_ONCE = 50  # at most


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
    # Entries after the last client's, which fill a pool up, are nobody's and count nothing.
    owner = jnp.searchsorted(ends, jnp.arange(len(pool.rows)), side="right")
    return jax.tree.map(lambda a: jax.ops.segment_sum(a, owner, num_clients), rows)


def by_class(rows: Tally, pool: Pool, num_classes: int) -> ClassTally:
    """The tallies of a pool's entries, one label each, added up class by class."""
    labels = pool.y.at[pool.rows].get(mode="clip").astype(jnp.int32)
    own = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    return ClassTally(rows.labels @ own, jnp.asarray(rows.correct) @ own)


def mean_of_groups(tallies: Sequence[Sums], members: Members) -> Sums:
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
      at_once: clients that are looked at together; what wins is what wins in training.
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
        return tree.add(sums, metrics.total(rows))

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
