"""FedBuff: uploads of clients that began from an older server count less."""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Client, Data, Key, Message, Round, Scalar, Upload
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._beside import floats, staleness

Counted = Literal["uploads", "weights"]


@checks_options
def with_fedbuff(
    algorithm: Algorithm,
    *,
    exponent: Scalar = 0.5,
    usual: Scalar = 0.0,
    normalise: Counted = "uploads",
) -> Algorithm:
    """Uploads count less the older the server is from which a client began (FedBuff).

    Against the algorithm inside: a client's upload shrinks by its staleness tau, in server steps.
    Down, Up, Keeps: as before.

        s_k = ((1 + usual) / (1 + tau_k)) ** exponent
        u_k = s_k u_k                    with ``normalise="uploads"``: the mean is over all uploads
        weight_k = s_k weight_k          with "weights": the shares of a step add up to 1

    In the paper all clients weigh alike: ``weighting="uniform"`` of the method inside. Who is stale
    is decided by the clock of the run (`fedjax_kd.engine.clock.Clock` with a ``concurrency``).

    Equals the algorithm inside when all begin together, or ``exponent == 0``.

    Args:
      algorithm: whose uploads count less.
      exponent: how fast they do, >= 0.
      usual: staleness at which an upload counts in full, >= 0; FLSim has 1.
      normalise: whether the mean is over "uploads", as in the paper, or over "weights", by which
        uploads that are all equally old count in full again, as in FedScale.

    Raises:
      ValueError: if a number is out of its range, or clients send values, which must not shrink.

    Departs from the paper: FedScale averages models in place of changes; here changes always.
    Source: Nguyen et al., AISTATS 2022, arXiv:2106.06639.
    """
    check_choice("normalise", normalise, Counted)
    if normalise == "uploads" and algorithm.uploads == "values":
        raise InputError(
            "Clients of this method send values, such as logits, and a part of one has another "
            "meaning: give normalise='weights'."
        )

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, message, client, data, round)
        share = ((1 + jnp.asarray(usual, jnp.float32)) / (1 + staleness(round))) ** exponent
        if normalise == "weights":
            return upload._replace(weight=upload.weight * share), client
        less = tree.scale(share, floats(upload.message))
        return upload._replace(message=combine(less, upload.message)), client

    return algorithm._replace(client_update=client_update)
