"""Codecs between clients and server: a memory on the way up, differences on the way down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, UInt

from fedjax_kd import tree
from fedjax_kd.components.codecs import Codec
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import (
    Algorithm,
    Data,
    Key,
    Message,
    PyTree,
    Reducer,
    Round,
    Server,
    Upload,
    Variables,
    mean,
    uniform_mean,
)
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice
from fedjax_kd.wrappers._beside import (
    Beside,
    beside_client,
    beside_server,
    is_float,
    rule_of_each,
    wire_of,
)

Memory = Literal["none", "ef14", "ef21"]
Way = Literal["up", "down", "both"]

_UP, _DOWN = 11, 12  # folded into the keys of a method, which has its own use for them
_ANYONE = 0  # a client's number, where all get the same


class Followed(NamedTuple):
    """What all clients have of the server's messages, and what that took so far."""

    view: PyTree
    sent: UInt[Array, ""]  # bytes of all differences, modulo 2^32


class Seen(NamedTuple):
    """Up to where a client has followed the server's messages."""

    sent: UInt[Array, ""]
    met: Bool[Array, ""]


def with_codec(
    algorithm: Algorithm,
    federation: Federation,
    make: Callable[[bool], Codec],
    *,
    memory: Memory,
    way: Way,
) -> Algorithm:
    """The algorithm whose messages pass through a codec; see `up` and `down`.

    Args:
      algorithm: whose messages are compressed.
      federation: the clients.
      make: the codec; told whether what it leaves out is remembered, which must then be less than
        what it was given, also where chance decides.
      memory: of the clients.
      way: which messages.

    Raises:
      ValueError: if ``memory`` or ``way`` is unknown, or the algorithm's messages do not suit.
    """
    check_choice("memory", memory, Memory)
    check_choice("way", way, Way)
    if way != "up":
        algorithm = down(algorithm, federation, make(True))
    if way != "down":
        algorithm = up(algorithm, federation, make(memory != "none"), memory)
    return algorithm


def up(algorithm: Algorithm, federation: Federation, codec: Codec, memory: Memory) -> Algorithm:
    """Clients send what a codec C makes of their uploads u_k.

        none:  sent = C(u_k)
        ef14:  sent = C(u_k + e_k);  e_k = u_k + e_k - sent                 (Stich et al., 2018)
        ef21:  sent = C(u_k - h_k);  h_k = h_k + sent                       (Richtarik et al., 2021)

    With EF21 the server keeps the mean H of all clients' h_k, absent ones' too: it grows by the
    mean of what was sent, times the share of the population that sent it, and is what the
    algorithm inside receives. Parameters' changes pass through the codec; statistics of
    normalisation and whole numbers travel as they are. Columns of the history: how near what
    arrives is to what was meant, ``train_upload_cosine``, and what an ideal entropy coder is
    estimated to take, ``train_entropy_bytes``.
    """
    types = check_algorithm(algorithm, federation.train, federation.public).upload.message
    if memory == "ef14" and algorithm.uploads == "values":
        raise InputError(
            "memory is 'ef14', which sends later what was left out of a change, but clients of "
            "this method send values of one round, such as logits: use memory=none."
        )
    if memory == "ef21":
        means_only(algorithm, types, "EF21 keeps")
    start = tree.zeros_like(compressible(types))
    inside = algorithm if memory == "none" else beside_client(algorithm, lambda *_: start)

    def client_update(
        key: Key, message: Message, client: Any, data: Data, round: Round
    ) -> tuple[Upload, Any]:
        own, held = (client, None) if memory == "none" else client
        upload, own = algorithm.client_update(key, message, own, data, round)
        meant = compressible(upload.message)
        waiting = meant
        if memory != "none":
            waiting = (tree.add if memory == "ef14" else tree.sub)(meant, held)
        sent = codec(jax.random.fold_in(key, _UP), waiting, round.number)
        raw = tree.num_bytes(upload.message) - tree.num_bytes(meant)
        whole = jnp.asarray(wire_of(message, upload).up)
        arrives = tree.add(held, sent.decoded) if memory == "ef21" else sent.decoded
        told = {
            "upload_cosine": cosine(meant, arrives),
            "entropy_bytes": sent.entropy + raw,
        }
        upload = upload._replace(
            message=combine(sent.decoded, upload.message),
            wire=upload.wire._replace(up=jnp.minimum(sent.size + raw, whole)),
            metrics=upload.metrics | told,
        )
        if memory == "none":
            return upload, own
        kept = arrives if memory == "ef21" else tree.sub(waiting, sent.decoded)
        return upload, Beside(own, kept)

    outside = inside._replace(client_update=client_update)
    return _with_estimates(outside, types) if memory == "ef21" else outside


def _with_estimates(algorithm: Algorithm, message: Message) -> Algorithm:
    """A server that adds what EF21's clients send to the mean of all their estimates."""
    base = beside_server(algorithm, lambda *_: tree.zeros_like(compressible(message)))

    def server_update(key: Key, server: Beside, update: PyTree, round: Round) -> Beside:
        share = round.present.sum() / jnp.asarray(round.population, jnp.float32)
        estimate = tree.add_scaled(server.extra, share, compressible(update))
        moved = algorithm.server_update(key, server.base, combine(estimate, update), round)
        return Beside(moved, estimate)

    return base._replace(server_update=server_update)


def down(algorithm: Algorithm, federation: Federation, codec: Codec) -> Algorithm:
    """The server sends what a codec makes of how its message differs from what clients have.

        sent = C(m_t - view);  view = view + sent

    What was left out of one round is thereby part of the next difference. A client pays for all
    differences since it was last asked, at most for a whole message; at first it gets a whole one.
    """
    first = Round.first()._replace(population=federation.num_clients, public=federation.public)
    _one_message_for_all(algorithm, first)

    def init(key: Key, server: Server) -> Followed:
        return Followed(
            compressible(algorithm.broadcast(server, jnp.int32(_ANYONE), first)), jnp.uint32(0)
        )

    base = beside_client(
        beside_server(algorithm, init), lambda *_: Seen(jnp.uint32(0), jnp.bool_(False))
    )

    def broadcast(server: Beside, number: Array, round: Round) -> tuple[Message, Array]:
        message = algorithm.broadcast(server.base, number, round)
        return combine(server.extra.view, message), server.extra.sent

    def client_update(
        key: Key, received: tuple[Message, Array], client: Beside, data: Data, round: Round
    ) -> tuple[Upload, Beside]:
        message, sent = received
        upload, own = algorithm.client_update(key, message, client.base, data, round)
        raw = tree.num_bytes(message) - tree.num_bytes(compressible(message))
        whole = jnp.asarray(wire_of(message, upload).down, jnp.uint32)
        missed = jnp.minimum(sent - client.extra.sent + jnp.uint32(raw), whole)
        cost = jnp.where(client.extra.met, missed, whole).astype(jnp.int32)
        wire = upload.wire._replace(down=cost, up=wire_of(message, upload).up)
        return upload._replace(wire=wire), Beside(own, Seen(sent, jnp.bool_(True)))

    def server_update(key: Key, server: Beside, update: PyTree, round: Round) -> Beside:
        moved = algorithm.server_update(key, server.base, update, round)
        after, (view, before) = round._replace(number=round.number + 1), server.extra
        ahead = tree.sub(compressible(algorithm.broadcast(moved, jnp.int32(_ANYONE), after)), view)
        sent = codec(jax.random.fold_in(key, _DOWN), ahead, after.number)
        size = before + sent.size.astype(jnp.uint32)
        return Beside(moved, Followed(tree.add(view, sent.decoded), size))

    return base._replace(
        broadcast=broadcast, client_update=client_update, server_update=server_update
    )


def means_only(algorithm: Algorithm, message: Message, what: str) -> set[Reducer]:
    """The means that the server takes of what codecs may change.

    Raises:
      ValueError: if it takes sums, or looks at clients one by one.
    """
    kept = {id(part) for part in jax.tree.leaves(compressible(message))}
    rules = jax.tree.leaves(rule_of_each(algorithm, message))
    pairs = zip(rules, jax.tree.leaves(message), strict=True)
    used = {rule for rule, part in pairs if id(part) in kept}
    if others := sorted(rule.name for rule in used - {mean, uniform_mean}):
        raise InputError(
            f"{what} means of what clients send, and this method's server takes {others}: choose "
            "another memory or wrapper."
        )
    if not used:
        raise InputError(
            f"{what} means of what clients send, and in this method they send nothing."
        )
    return used


def _one_message_for_all(algorithm: Algorithm, round: Round) -> None:
    server = jax.eval_shape(algorithm.server_init, jax.random.key(0))
    asks = tree.reads(
        lambda number, given: algorithm.broadcast(given[0], number, given[1]),
        jax.ShapeDtypeStruct((), jnp.int32),
        (server, round),
    )
    if asks:
        raise InputError(
            "This method sends each client another message, and what is compressed on the way down "
            "is the difference to the last one: use way=up."
        )


def compressible(message: Message) -> Message:
    """Floats that are no statistics of a model; None in place of the others."""

    def of(part: Any) -> Any:
        if isinstance(part, Variables):
            return Variables(compressible(part.params), jax.tree.map(lambda _: None, part.stats))
        return part if is_float(part) else None

    return jax.tree.map(of, message, is_leaf=lambda part: isinstance(part, Variables))


def cosine(one: PyTree, other: PyTree) -> Float[Array, ""]:
    """The cosine of the angle between two trees; 1 if both are zero, 0 if one is.

    Example:
      >>> cosine({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array([2.0, 0.0])})
      Array(1., dtype=float32)
    """
    norms = tree.sq_norm(one), tree.sq_norm(other)
    product = jnp.sqrt(norms[0]) * jnp.sqrt(norms[1])
    both_zero = (norms[0] == 0) & (norms[1] == 0)
    aligned = tree.dot(one, other) / jnp.where(product > 0, product, 1)
    return jnp.where(both_zero, 1, aligned).astype(jnp.float32)
