"""Evaluation by something else than the server's present model, such as a mean over rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from fedjax_kd import tree
from fedjax_kd.components.model_parts import Part, combine, partition
from fedjax_kd.core import Algorithm, Client, Data, Key, PyTree, Round, Server, keep
from fedjax_kd.data.federation import Federation
from fedjax_kd.errors import InputError
from fedjax_kd.wrappers._beside import Beside, beside_server, is_float, traits_at


class RunningAverage(NamedTuple):
    """What is kept of models over rounds; ``own`` is what predictions read of the server."""

    start: Callable[[PyTree], PyTree]  # own -> what is kept, before the first round
    step: Callable[[PyTree, PyTree, Round], PyTree]  # (kept, own, round) -> kept, after each
    shown: Callable[[PyTree, PyTree], PyTree]  # (kept, own) -> what evaluations see of the server


def evaluated_by(
    algorithm: Algorithm, federation: Federation, average: RunningAverage
) -> Algorithm:
    """The algorithm, whose server keeps an average that evaluation uses and training does not see.

    Args:
      algorithm: whose server holds what predictions are made with.
      federation: the clients, by whose inputs it is found what predictions read.
      average: of every float of the server's state that predictions read.

    Raises:
      ValueError: if predictions read nothing of the server.
    """
    part = read_by_predictions(algorithm, federation)

    def of(server: Server) -> PyTree:
        return partition(part, server)[1]

    def averaged(server: Beside) -> Server:
        rest, own = partition(part, server.base)
        return combine(rest, average.shown(server.extra, own))

    def server_update(key: Key, server: Beside, update: PyTree, round: Round) -> Beside:
        moved = algorithm.server_update(key, server.base, update, round)
        return Beside(moved, average.step(server.extra, of(moved), round))

    def personalise(key: Key, server: Beside, client: Client, data: Data) -> Client:
        return algorithm.personalise(key, averaged(server), client, data)

    base = beside_server(algorithm, lambda key, server: average.start(of(server)))
    return base._replace(
        server_update=server_update,
        predict=lambda server, client, x: algorithm.predict(averaged(server), client, x),
        personalise=keep if algorithm.personalise is keep else personalise,
        traits=traits_at(algorithm.traits, lambda server, client: (averaged(server), client)),
    )


def read_by_predictions(algorithm: Algorithm, federation: Federation) -> Part:
    """Which floats of the server's state predictions depend on, as booleans.

    Raises:
      ValueError: if there are none.
    """
    key = jax.random.key(0)
    server = jax.eval_shape(algorithm.server_init, key)
    client = jax.eval_shape(algorithm.client_init, key, server)
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), federation.train.x)
    used = tree.reads(lambda s, rest: algorithm.predict(s, *rest), server, (client, x))
    part = jax.tree.map(lambda read, a: read and is_float(a), used, server)
    if not any(jax.tree.leaves(part)):
        raise InputError(
            "Predictions of this method read nothing of the server, so there is nothing to "
            "average: take a method with a global model."
        )
    return part
