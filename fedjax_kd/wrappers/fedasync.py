"""FedAsync: the server's model moves towards that of one client after another."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

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
    Scalar,
    Server,
    Upload,
    mean,
)
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._beside import staleness

Decay = Literal["constant", "polynomial", "hinge"]


class ModelShare(NamedTuple):
    """What a client of FedAsync sends."""

    model: PyTree  # its model times the share of it that the server takes
    share: Any  # of it, a scalar


@checks_options
def with_fedasync(
    algorithm: Algorithm,
    federation: Federation,
    *,
    alpha: Scalar = 0.6,
    decay: Decay = "polynomial",
    a: Scalar = 0.5,
    b: int = 4,
) -> Algorithm:
    """The server's model moves towards a client's by a share that falls with its staleness.

    Against the algorithm inside: clients send their models, not how these changed.
    Down: as before. Up: the model, and its share. Keeps: as before.

        alpha_k = alpha s(tau_k)
        x = x + mean_k alpha_k (y_k - x)         with one upload (1 - alpha_k) x + alpha_k y_k
        s(tau): 1 | (1 + tau) ** -a | 1 if tau <= b else 1 / (a (tau - b) + 1)

    The difference is handed to the server inside. The paper's proximal term is the method
    `fedprox`, and its server steps are made of one upload each: ``cohort_size`` 1 and a clock with
    a ``concurrency``.

    Equals the algorithm inside when all begin together and ``alpha == 1``, up to rounding.

    Args:
      algorithm: whose clients receive a model and send its change.
      federation: the clients, by which the types of messages are known.
      alpha: share of a fresh upload, in (0, 1].
      decay: how it falls: "constant", "polynomial" or "hinge".
      a: how fast it falls, >= 0.
      b: server steps up to which the hinge does not fall, >= 0.

    Raises:
      ValueError: if a number is out of its range, or clients send no change of what they receive.

    Source: Xie, Koyejo, Gupta, 2019, arXiv:1903.03934.
    """
    check_choice("decay", decay, Decay)
    _check_changes(algorithm, federation)

    def share_of(lag: Float[Array, ""]) -> Scalar:
        if decay == "polynomial":
            return alpha * (1 + lag) ** -jnp.asarray(a, jnp.float32)
        late = a * jnp.maximum(lag - b, 0) if decay == "hinge" else 0 * lag
        return alpha / (late + 1)

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, message, client, data, round)
        share = jnp.asarray(share_of(staleness(round)))
        model = tree.scale(share, tree.add(message, upload.message))
        return upload._replace(message=ModelShare(model, share)), client

    def server_update(key: Key, server: Server, update: ModelShare, round: Round) -> Server:
        present = algorithm.broadcast(server, jnp.int32(0), round)
        change = tree.sub(update.model, tree.scale(update.share, present))
        return algorithm.server_update(key, server, change, round)

    return algorithm._replace(
        client_update=client_update,
        aggregate=ModelShare(mean, mean),
        server_update=server_update,
    )


def _check_changes(algorithm: Algorithm, federation: Federation) -> None:
    """Raises ValueError if clients do not send a change of just what they receive."""
    types = check_algorithm(algorithm, federation.train, federation.public)
    rules = set(jax.tree.leaves(algorithm.aggregate))
    received, sent = (_kinds(t) for t in (types.message, types.upload.message))
    if rules != {mean} or received != sent or algorithm.uploads == "values":
        raise InputError(
            "FedAsync mixes models, but clients of this method do not send one weighted change of "
            "the very model that they receive: take fedbuff, which goes around any method whose "
            "clients send changes."
        )


def _kinds(message: PyTree) -> Any:
    """Structure, shapes and types of a message."""
    return jax.tree.map(lambda a: (a.shape, str(a.dtype)), message)
