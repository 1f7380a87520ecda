"""Any method whose server and clients keep controls, by which local gradients are corrected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from fedjax_kd import tree
from fedjax_kd.components.model_parts import model_in
from fedjax_kd.core import Algorithm, Client, Key, PyTree, Reducer, Round, Server


class Controlled(NamedTuple):
    """A server, a client or a model with its control variate, a tree like the parameters."""

    base: Any
    control: PyTree


def with_controls(
    base: Algorithm,
    client_update: Callable[..., Any],
    reducer: Reducer,
    learnt: Callable[[PyTree, PyTree, Round], PyTree],
) -> Algorithm:
    """The method with a control of the server, 0 at first, which goes down beside the message.

    A client keeps its control, and what it keeps for the method itself, if that is anything.

    Args:
      base: the method itself.
      client_update: receives, and uploads, messages that are `Controlled`.
      reducer: of what clients upload for the control.
      learnt: ``(the server's control, the reduced one of the clients, round) -> the next one``.
    """

    def server_init(key: Key) -> Controlled:
        server = base.server_init(key)
        return Controlled(server, tree.zeros_like(model_in(server).params))

    def client_init(key: Key, server: Controlled) -> Client:
        own, control = base.client_init(key, server.base), tree.zeros_like(server.control)
        return Controlled(own, control) if jax.tree.leaves(own) else control

    def server_update(key: Key, server: Controlled, update: Controlled, round: Round) -> Controlled:
        moved: Server = base.server_update(key, server.base, update.base, round)
        return Controlled(moved, learnt(server.control, update.control, round))

    return base._replace(
        server_init=server_init,
        client_init=client_init,
        broadcast=lambda server, number, round: Controlled(
            base.broadcast(server.base, number, round), server.control
        ),
        client_update=client_update,
        aggregate=Controlled(base.aggregate, reducer),
        server_update=server_update,
        predict=lambda server, client, x: base.predict(server.base, (), x),
    )
