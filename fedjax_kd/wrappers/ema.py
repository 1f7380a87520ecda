"""Server EMA: evaluation by an average of the server's models over rounds."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.components.model_parts import Part, combine, partition
from fedjax_kd.core import Algorithm, Client, Data, Key, PyTree, Round, Scalar, Server, keep
from fedjax_kd.data.federation import Federation
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._beside import Beside, beside_server, is_float, traits_at

EmaStart = Literal["model", "zero"]


@checks_options
def with_ema(
    algorithm: Algorithm,
    federation: Federation,
    *,
    beta: Scalar = 0.9,
    ema_start: EmaStart = "model",
) -> Algorithm:
    """Evaluation by an exponential moving average of what the server predicts with.

    Against the algorithm inside: the server keeps an average, which evaluation uses; training does
    not see it.
    Down, Up, Keeps: as before.

        e = beta e + (1 - beta) w                              after each round

    Averaged is every float of the server's state that predictions read: the global model, or what
    makes the models of clients.

    Equals the algorithm inside when ``beta == 0``.

    Args:
      algorithm: whose server holds what predictions are made with.
      federation: the clients, by whose inputs it is found what predictions read.
      beta: share of the average that is kept, in [0, 1).
      ema_start: whether e starts as the initial "model", or as "zero" and is divided by
        ``1 - beta^t`` after t rounds.

    Raises:
      ValueError: if ``beta`` is a number out of its range, ``ema_start`` is unknown, or predictions
        read nothing of the server.

    Source: common practice; Polyak, Juditsky, SIAM J. Control Optim. 30(4), 1992, for the mean.
    """
    check_choice("ema_start", ema_start, EmaStart)
    part = read_by_predictions(algorithm, federation)

    def of(server: Server) -> PyTree:
        return partition(part, server)[1]

    def start(key: Key, server: Server) -> tuple[PyTree, Array]:
        own = of(server)
        own = own if ema_start == "model" else tree.zeros_like(own)
        return own, jnp.zeros((), jnp.int32)

    base = beside_server(algorithm, start)

    def averaged(server: Beside) -> Server:
        rest, _ = partition(part, server.base)
        average, rounds = server.extra
        if ema_start == "model":
            return combine(rest, average)
        whole = 1 - jnp.asarray(beta) ** rounds.astype(float)
        unbiased = tree.scale(1 / jnp.where(rounds > 0, whole, 1), average)
        return combine(rest, tree.where(rounds > 0, unbiased, of(server.base)))

    def server_update(key: Key, server: Beside, update: PyTree, round: Round) -> Beside:
        moved = algorithm.server_update(key, server.base, update, round)
        average, rounds = server.extra
        average = tree.add(tree.scale(beta, average), tree.scale(1 - beta, of(moved)))
        return Beside(moved, (average, rounds + 1))

    def personalise(key: Key, server: Beside, client: Client, data: Data) -> Client:
        return algorithm.personalise(key, averaged(server), client, data)

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
