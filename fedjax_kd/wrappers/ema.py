"""Server EMA: evaluation by an average of the server's models over rounds."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.core import Algorithm, PyTree, Round, Scalar
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._averages import RunningAverage, evaluated_by

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

    def start(own: PyTree) -> tuple[PyTree, Array]:
        own = own if ema_start == "model" else tree.zeros_like(own)
        return own, jnp.zeros((), jnp.int32)

    def step(kept: tuple[PyTree, Array], own: PyTree, round: Round) -> tuple[PyTree, Array]:
        average, rounds = kept
        return tree.add(tree.scale(beta, average), tree.scale(1 - beta, own)), rounds + 1

    def shown(kept: tuple[PyTree, Array], own: PyTree) -> PyTree:
        average, rounds = kept
        if ema_start == "model":
            return average
        whole = 1 - jnp.asarray(beta) ** rounds.astype(float)
        unbiased = tree.scale(1 / jnp.where(rounds > 0, whole, 1), average)
        return tree.where(rounds > 0, unbiased, own)

    return evaluated_by(algorithm, federation, RunningAverage(start, step, shown))
