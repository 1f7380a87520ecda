"""Checks of an algorithm before anything runs, on types alone (``jax.eval_shape``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.core import Algorithm, Message, Pool, PyTree, Reducer, Round, State, Upload
from fedjax_kd.data.public_inputs import MissingError
from fedjax_kd.engine import aggregation
from fedjax_kd.errors import InputTypeError

_PLACES = 2  # of the cohort on which types are checked


class Types(NamedTuple):
    """Types of states and messages, as trees of ``jax.ShapeDtypeStruct``."""

    server: PyTree
    client: PyTree
    message: Message  # down, to one client
    upload: Upload  # up, from one client

    @property
    def bytes_down(self) -> int:
        """Bytes that one client receives in a round."""
        return tree.num_bytes(self.message)

    @property
    def bytes_up(self) -> int:
        """Bytes that one client sends in a round."""
        return tree.num_bytes(self.upload.message)


def check_algorithm(algorithm: Algorithm, pool: Pool, public: PyTree = None) -> Types:
    """The types of an algorithm's data flow.

    Args:
      algorithm: to be checked.
      pool: the training data of the federation.
      public: what belongs to no client.

    Raises:
      MissingError: if the algorithm needs data of this kind which are not there.
      TypeError: naming the function at fault, if one fails on abstract values, if a state changes
        its type from one round to the next, if ``client_update`` returns no `Upload`, or if
        ``aggregate`` does not fit the message.
    """
    return check_groups([algorithm], pool, public)[0]


def check_groups(
    groups: Sequence[Algorithm], pool: Pool, public: PyTree = None
) -> tuple[Types, ...]:
    """`check_algorithm` of several groups behind the first one's server.

    Raises:
      MissingError: as `check_algorithm`.
      TypeError: also if the groups' servers differ in type.
    """
    key, _, _, round, in_round = around = abstract_round(pool, public, len(groups))
    types = tuple(_types(a, around) for a in groups)
    for g, other in enumerate(types[1:], 1):
        check_same_type(types[0].server, other.server, f"group {g} must have group 0's server")
    received = _reduced([a.aggregate for a in groups], [t.upload.message for t in types])
    update = in_round(groups[0].server_update)
    after = _run("server_update", update, key, types[0].server, received, round)
    rule = "server_update must return a server state like the one it got"
    check_same_type(types[0].server, after, rule)
    return types


def _types(algorithm: Algorithm, around: tuple) -> Types:
    """The types of an algorithm's states and messages; `server_update` is checked elsewhere."""
    key, number, data, round, in_round = around
    server = _run("server_init", algorithm.server_init, key)
    client = _run("client_init", algorithm.client_init, key, server)
    message = _run("broadcast", in_round(algorithm.broadcast), server, number, round)
    update = in_round(algorithm.client_update)
    upload, after = _run("client_update", update, key, message, client, data, round)
    _check_upload(upload)
    check_same_type(client, after, "client_update must return the client state it was given")
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), data.x)
    _run("predict", algorithm.predict, server, client, x)
    ready = _run("personalise", algorithm.personalise, key, server, client, data)
    _run("predict", algorithm.predict, server, ready, x)
    return Types(server, client, message, upload)


def newcomers_outputs(algorithm: Algorithm, x: PyTree) -> PyTree:
    """The type of what a client new to the federation predicts for inputs of the type ``x``."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    server = _run("server_init", algorithm.server_init, key)
    client = _run("client_init", algorithm.client_init, key, server)
    return _run("predict", algorithm.predict, server, client, x)


def abstract_round(
    pool: Pool, public: PyTree, groups: int = 1
) -> tuple[Any, Any, Any, Any, Callable]:
    """Types of key, client number, data and round, and how to call a function with that round.

    The last one makes of a function whose last argument is the round one that can be traced.
    """

    def some(pool: Pool, public: PyTree) -> tuple:
        number = jnp.int32(0)
        slots = jnp.zeros(groups * _PLACES, jnp.int32)
        round = Round(number, slots, jnp.ones(len(slots)), jnp.zeros(len(slots)), 0, public)
        return jax.random.key(0), number, pool.of(number), round

    def in_round(function: Callable) -> Callable:
        # The population is a number that may size arrays, so it must not be traced.
        size = int(pool.sizes.shape[0])
        return lambda *args: function(*args[:-1], args[-1]._replace(population=size))

    return *jax.eval_shape(some, pool, public), in_round


def check_same_type(expected: PyTree, given: PyTree, rule: str) -> None:
    """Raises TypeError with the first difference in structure, shape or dtype.

    Example:
      >>> check_same_type({"w": jnp.zeros(3)}, {"w": jnp.zeros(4)}, "the shape stays")
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputTypeError: the shape stays, but at ['w'] it is float32[4] instead of
      float32[3].
    """
    before = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(expected)}
    after = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(given)}
    for path in [*before, *(p for p in after if p not in before)]:
        old, new = _kind(before.get(path)), _kind(after.get(path))
        if old != new:
            raise InputTypeError(
                f"{rule}, but at {path or 'the root'} it is {new} instead of {old}."
            )
    old, new = str(jax.tree.structure(expected)), str(jax.tree.structure(given))
    if old != new:
        raise InputTypeError(f"{rule}, but its structure is {new} instead of {old}.")


def repeated(server: PyTree, places: int) -> PyTree:
    """So many copies of a server's state, leaves ``[V, ...]``."""
    return jax.tree.map(lambda a: jnp.broadcast_to(a[None], (places, *a.shape)), server)


def check_state(
    types: Sequence[Types], num_clients: Sequence[int], state: State, places: int = 0
) -> None:
    """Raises TypeError, with the first difference, if a state is that of something else.

    Args:
      types: of each group of a simulation.
      num_clients: of each group.
      places: for servers of the past.
      state: from the same method, model and clients, or from others.
    """

    def stacked(client: PyTree, count: int) -> PyTree:
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype), client)

    pairs = zip(types, num_clients, strict=True)
    past = stacked(types[0].server, places) if places else ()
    expected = State(types[0].server, tuple(stacked(t.client, n) for t, n in pairs), past)
    rule = "A state must be of the same method, model and number of clients as the simulation"
    check_same_type(expected, state, rule)


def _kind(leaf: Any) -> str:
    if leaf is None:
        return "absent"
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _run(name: str, function: Callable, *args: PyTree) -> PyTree:
    """The abstract result of a function, or TypeError naming it."""
    try:
        return jax.eval_shape(function, *args)
    except (MissingError, InputTypeError):
        raise
    except Exception as error:
        raise InputTypeError(
            f"{name} cannot be traced: {type(error).__name__}: {error}. Every function of an "
            "Algorithm must be pure and traceable by JAX; the debug engine shows where it stops."
        ) from error


def _check_upload(upload: Any) -> None:
    if not isinstance(upload, Upload):
        raise InputTypeError(
            f"client_update must return (Upload, client), but its first part is a "
            f"{type(upload).__name__}: wrap the message as Upload(message, weight, metrics)."
        )
    scalars = {"weight": upload.weight, **{f"metrics[{k!r}]": v for k, v in upload.metrics.items()}}
    scalars |= {f"wire.{k}": v for k, v in upload.wire._asdict().items() if v is not None}
    for name, value in scalars.items():
        if jnp.shape(value) != ():
            raise InputTypeError(f"Upload.{name} must be a scalar a client, but is {_kind(value)}.")


def _reduced(aggregates: Sequence[PyTree], messages: Sequence[PyTree]) -> PyTree:
    """The type of what the server receives from all groups."""
    for aggregate in aggregates:
        rules = jax.tree.leaves(aggregate)
        if not rules or not all(isinstance(r, Reducer) for r in rules):
            raise InputTypeError(
                f"aggregate must be a tree of Reducers (mean, total, ...), not {aggregate}."
            )
    many = jax.tree.map(lambda a: jax.ShapeDtypeStruct((_PLACES, *a.shape), a.dtype), [*messages])
    votes = jax.ShapeDtypeStruct((_PLACES,), jnp.float32)

    def receive(messages: list[PyTree], votes: Any) -> PyTree:
        pairs = zip(aggregates, messages, strict=True)
        lifted = [aggregation.accumulate(*pair, votes, votes) for pair in pairs]
        return aggregation.finalise(*aggregation.merge(list(aggregates), lifted))

    try:
        return jax.eval_shape(receive, many, votes)
    except ValueError as error:
        raise InputTypeError(
            f"aggregate {aggregates[0]} is no tree prefix of the message "
            f"{jax.tree.structure(messages[0])}: give one Reducer for each of its entries. "
            f"({error})"
        ) from error
