"""What wrappers are made of: state beside that of the algorithm inside, and bytes on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import tree
from fedjax_kd.core import (
    Algorithm,
    Client,
    Data,
    Key,
    Message,
    PyTree,
    Round,
    Server,
    Upload,
    Wire,
    keep,
)


class Beside(NamedTuple):
    """The state of an algorithm, and what a wrapper keeps with it."""

    base: Any
    extra: Any


def beside_server(algorithm: Algorithm, init: Callable[[Key, Server], PyTree]) -> Algorithm:
    """The same algorithm on a server that is `Beside`; a wrapper replaces what it changes.

    Args:
      algorithm: to be wrapped.
      init: ``(key, server) -> extra``, which stays as it is.
    """

    def server_init(key: Key) -> Beside:
        server = algorithm.server_init(key)
        return Beside(server, init(key, server))

    def server_update(key: Key, server: Beside, update: PyTree, round: Round) -> Beside:
        return server._replace(base=algorithm.server_update(key, server.base, update, round))

    def personalise(key: Key, server: Beside, client: Client, data: Data) -> Client:
        return algorithm.personalise(key, server.base, client, data)

    def score(key: Key, server: Beside, number: Array, data: Data, round: Round) -> Array:
        assert algorithm.choice is not None
        return algorithm.choice.score(key, server.base, number, data, round)

    return algorithm._replace(
        server_init=server_init,
        client_init=lambda key, server: algorithm.client_init(key, server.base),
        broadcast=lambda server, number, round: algorithm.broadcast(server.base, number, round),
        server_update=server_update,
        predict=lambda server, client, x: algorithm.predict(server.base, client, x),
        personalise=keep if algorithm.personalise is keep else personalise,
        traits=traits_at(algorithm.traits, lambda server, client: (server.base, client)),
        choice=None if algorithm.choice is None else algorithm.choice._replace(score=score),
    )


def beside_client(algorithm: Algorithm, init: Callable[[Key, Server], PyTree]) -> Algorithm:
    """The same algorithm on clients that are `Beside`; a wrapper replaces what it changes.

    Args:
      algorithm: to be wrapped.
      init: ``(key, server) -> extra``, of one client, which stays as it is.
    """

    def client_update(
        key: Key, message: Message, client: Beside, data: Data, round: Round
    ) -> tuple[Upload, Beside]:
        upload, base = algorithm.client_update(key, message, client.base, data, round)
        return upload, client._replace(base=base)

    def personalise(key: Key, server: Server, client: Beside, data: Data) -> Beside:
        return client._replace(base=algorithm.personalise(key, server, client.base, data))

    return algorithm._replace(
        client_init=lambda key, server: Beside(
            algorithm.client_init(key, server), init(key, server)
        ),
        client_update=client_update,
        predict=lambda server, client, x: algorithm.predict(server, client.base, x),
        personalise=keep if algorithm.personalise is keep else personalise,
        traits=traits_at(algorithm.traits, lambda server, client: (server, client.base)),
    )


def traits_at(
    traits: Callable[[Server, Client], dict[str, Array]] | None,
    inside: Callable[[Server, Client], tuple[Server, Client]],
) -> Callable[[Server, Client], dict[str, Array]] | None:
    """The traits of an algorithm inside, of whose server and client a wrapper has its own."""
    return None if traits is None else lambda server, client: traits(*inside(server, client))


def wire_of(received: Message, upload: Upload) -> Wire:
    """The bytes of both messages, by their types where the algorithm does not count them.

    Example:
      >>> upload = Upload(jnp.zeros(3), jnp.ones(()), {})
      >>> wire_of(jnp.zeros(5), upload)
      Wire(up=12, down=20)
    """
    up, down = upload.wire
    return Wire(
        tree.num_bytes(upload.message) if up is None else up,
        tree.num_bytes(received) if down is None else down,
    )


def rule_of_each(algorithm: Algorithm, message: Message) -> PyTree:
    """The reducer of each array of a message, in a tree of its structure."""
    return jax.tree.map(
        lambda rule, part: jax.tree.map(lambda _: rule, part), algorithm.aggregate, message
    )


def staleness(round: Round) -> Float[Array, ""]:
    """Server steps since ONE client began; 0 if all begin together."""
    return jnp.zeros(()) if round.lag is None else round.lag.astype(jnp.float32)


def floats(message: Message) -> Message:
    """The entries that can be compressed or noised: floats; None in place of the others."""
    return jax.tree.map(lambda a: a if is_float(a) else None, message)


def is_float(array: Any) -> bool:
    """Whether an array, or what stands for one, holds floats."""
    return jnp.issubdtype(array.dtype, jnp.floating)
