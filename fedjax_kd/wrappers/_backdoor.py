"""Clients that train on inputs with a pattern, so that a model answers it with one class."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from fedjax_kd.core import Algorithm, Client, Data, Key, Message, Round, Upload
from fedjax_kd.data.backdoor import trigger_of
from fedjax_kd.data.federation import Federation
from fedjax_kd.errors import InputError

_SEED = 1  # of which examples have the pattern


def with_backdoor(
    algorithm: Algorithm,
    federation: Federation,
    lying: Bool[Array, " C"],
    *,
    target: int,
    poisoned: float,
) -> Algorithm:
    """The algorithm whose liars train on a share of their examples with a pattern and one label.

    Which examples these are is decided before anything runs: the pool holds them so, for whoever
    looks at it, and each belongs to one client.

    Args:
      algorithm: whose clients are deceived.
      federation: the clients and their examples.
      lying: who lies.
      target: the label.
      poisoned: share of a liar's examples.

    Raises:
      ValueError: if labels are no classes or there is no such class, examples are streamed, inputs
        are no pictures or vectors, or who lies is not known before (a share that is swept).
    """
    if not 0 <= target < federation.num_classes:
        raise InputError(
            f"The backdoor's target is {target}, but there are {federation.num_classes} classes, "
            "counted from 0: name one of them."
        )
    if federation.store is not None:
        raise InputError("A backdoor needs examples that stay on the device, not streamed ones.")
    if isinstance(lying, jax.core.Tracer):
        raise InputError("The share of liars with a backdoor cannot be swept: run each by itself.")
    trigger = trigger_of(federation.train, target)
    rows = _poisoned_rows(federation, np.asarray(lying), poisoned)

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        stamped = trigger.stamp(data.x[rows])
        seen = data._replace(x=data.x.at[rows].set(stamped), y=data.y.at[rows].set(trigger.target))
        return algorithm.client_update(key, message, client, seen, round)

    return algorithm._replace(client_update=client_update, backdoor=trigger)


def _poisoned_rows(federation: Federation, lying: np.ndarray, share: float) -> Array:
    """The rows of the pool that have the pattern."""
    pool, rng, found = federation.train, np.random.default_rng(_SEED), [np.zeros(0, np.int64)]
    owned, starts, sizes = (np.asarray(a) for a in (pool.rows, pool.starts, pool.sizes))
    for client in np.flatnonzero(lying).tolist():
        own = owned[starts[client] : starts[client] + sizes[client]]
        found.append(own[rng.permutation(len(own))[: round(share * len(own))]])
    return jnp.asarray(np.concatenate(found), jnp.int32)
