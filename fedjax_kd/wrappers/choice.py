"""Who takes part by the losses of those who were asked: power of choice, loss-based sampling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.batching import draw, over_rows
from fedjax_kd.core import (
    Algorithm,
    Batch,
    Choice,
    Client,
    Data,
    Key,
    Message,
    Plan,
    Round,
    Scalar,
    Server,
    Upload,
    Wire,
    stack,
)
from fedjax_kd.data.federation import Federation
from fedjax_kd.errors import InputError
from fedjax_kd.losses import batch_mean
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._beside import Beside, beside_server, wire_of

LossesOf = Literal["model", "batch", "last"]

_AT_ONCE = 50  # examples of a client
_BYTES = 4  # of a loss


class _How(NamedTuple):
    clients: int
    losses: LossesOf
    batch: int


@checks_options
def with_power_of_choice(
    algorithm: Algorithm,
    federation: Federation,
    *,
    clients: int = 5,
    losses: LossesOf = "model",
    choice_batch: int = 64,
) -> Algorithm:
    """Power of choice: of the clients that are asked the worst off take part (Cho et al., 2022).

    Against the algorithm inside: ``cohort_size`` clients are asked, ``clients`` of them train.
    Down: as before, to all that are asked; with ``losses="last"`` to those who train. Up: as
    before, with ``losses="last"`` and the training loss. Keeps: as before; on the server the last
    loss of each client, with ``losses="last"``.

        A = cohort_size clients, by the sampler;  S = the ``clients`` of A with the largest loss

    The sampler draws A on the host, ahead of a block of rounds, by seed and round number alone. S
    is chosen on the device as the round begins, by the server's state just before it: all rounds
    before are seen, those of the same block too, and nothing waits for the host. What is looked at
    lies in the state, so that a resumed run chooses the same clients.

    Equals the algorithm inside when ``clients == cohort_size``.

    The paper draws A by numbers of examples and averages uniformly: ``sampling="examples"`` and
    ``weighting="uniform"``. Equal losses are ordered at random. A client without examples is never
    chosen, and one whose loss is NaN comes last. The steps of a round's row are of all that are
    asked.

    Args:
      algorithm: of any kind; one whose clients report no loss only without ``losses="last"``.
      federation: the clients.
      clients: that take part in a round, >= 1, at most ``cohort_size``.
      losses: of the received "model" on all examples of a client (pow-d), on one "batch" (cpow-d),
        or the "last" one that it reported in training (rpow-d; before that it comes first).
      choice_batch: examples of ``losses="batch"``, >= 1.

    Raises:
      ValueError: if a number is out of its range, or there is no loss to look at.

    Departs from the paper: ties, which it leaves open. "model" and "batch" are of what a newcomer
    would predict with. The numbers that all who are asked send up are not counted as bytes.
    Source: Cho, Wang, Joshi, AISTATS 2022, arXiv:2010.01243.
    """

    def score(key: Key, loss: Array) -> Array:
        del key
        return loss

    return _choosing(algorithm, federation, _How(clients, losses, choice_batch), score)


@checks_options
def with_loss_sampling(
    algorithm: Algorithm,
    federation: Federation,
    *,
    clients: int = 5,
    losses: LossesOf = "last",
    choice_batch: int = 64,
    power: Scalar = 1.0,
) -> Algorithm:
    """Loss-based sampling: clients take part with odds by their losses (Goetz et al., 2019).

    Against the algorithm inside: ``cohort_size`` clients are asked, of whom ``clients`` are drawn,
    one after another, with odds ``loss^power``; ask all for the odds to be of the whole population.
    Down, Up, Keeps: as `with_power_of_choice`.

        S = the ``clients`` of A with the largest power log(loss) + Gumbel noise

    When losses are looked at, and why a resumed run draws the same: see `with_power_of_choice`.

    Equals the algorithm inside when ``clients == cohort_size``; and uniform draws when
    ``power == 0`` and all have a loss above 0.

    Args:
      algorithm: of any kind; one whose clients report no loss only without ``losses="last"``.
      federation: the clients.
      clients: that take part in a round, >= 1, at most ``cohort_size``.
      losses: see `with_power_of_choice`; clients without a last one come first.
      choice_batch: examples of ``losses="batch"``, >= 1.
      power: of the loss, >= 0.

    Raises:
      ValueError: if a number is out of its range, or there is no loss to look at.

    Departs from the paper: its odds are exp(value), of values loss times sqrt(examples), after the
    lowest values were left out. Drawing by noise is the Gumbel trick of Kool, van Hoof, Welling,
    ICML 2019, arXiv:1903.06059.
    Source: Goetz, Malik, Bui, Moon, Liu, Kumar, 2019, arXiv:1909.12641.
    """

    def score(key: Key, loss: Array) -> Array:
        logarithm = jnp.log(jnp.maximum(loss, jnp.finfo(loss.dtype).tiny))
        return jnp.where(
            jnp.isinf(loss), jnp.inf, power * logarithm + jax.random.gumbel(key, dtype=loss.dtype)
        )

    return _choosing(algorithm, federation, _How(clients, losses, choice_batch), score)


def _choosing(
    algorithm: Algorithm,
    federation: Federation,
    how: _How,
    score: Callable[[Key, Array], Array],
) -> Algorithm:
    """The algorithm with clients chosen by ``score(key, loss)``."""
    check_choice("losses", how.losses, LossesOf)
    if algorithm.choice is not None:
        raise InputError("Clients are chosen by two wrappers: leave one out.")

    def check(plan: Plan) -> None:
        if how.clients > plan.cohort_size:
            raise InputError(
                f"clients is {how.clients}, but cohort_size={plan.cohort_size} asks fewer, of whom "
                "they are to be chosen: ask more clients, or choose fewer."
            )
        algorithm.check(plan._replace(cohort_size=how.clients))

    if how.losses == "last":
        return _by_last_losses(algorithm, federation, how.clients, score)._replace(check=check)
    batch = 0 if how.losses == "model" else how.batch
    loss_of = _present_loss(algorithm, federation, batch)

    def scored(key: Key, server: Server, number: Array, data: Data, round: Round) -> Array:
        del number, round
        return score(jax.random.fold_in(key, 0), loss_of(jax.random.fold_in(key, 1), server, data))

    return algorithm._replace(choice=Choice(how.clients, scored), check=check)


def _present_loss(
    algorithm: Algorithm, federation: Federation, batch: int
) -> Callable[[Key, Server, Data], Array]:
    """The mean loss of a newcomer's model on a client's examples, or on ``batch`` of them."""
    value = algorithm.score or federation.problem.score
    if value is None:
        raise InputError(
            "Clients are to be chosen by their losses, but neither task nor problem says what a "
            "loss is: give the task one as `example_loss`."
        )

    def total_of(server: Server, newcomer: Client, rows: Batch) -> tuple[Array, Array]:
        values = value(algorithm.predict(server, newcomer, rows.x), rows.y)
        count = rows.mask.sum()
        return batch_mean(values, rows).astype(jnp.float32) * count, count

    def loss_of(key: Key, server: Server, data: Data) -> Array:
        newcomer = algorithm.client_init(key, server)
        if batch:
            seed = jax.random.bits(key, dtype=jnp.uint32)
            rows = data.take(*draw(seed, jnp.int32(0), data.size, batch, "partial"))
            total, count = total_of(server, newcomer, rows)
        else:
            zero = jnp.zeros(()), jnp.zeros(())
            total, count = over_rows(
                data,
                _AT_ONCE,
                lambda sums, b, _: tree.add(sums, total_of(server, newcomer, b)),
                zero,
            )
        return total / jnp.maximum(count, 1)

    return loss_of


def _by_last_losses(
    algorithm: Algorithm,
    federation: Federation,
    clients: int,
    score: Callable[[Key, Array], Array],
) -> Algorithm:
    """Chosen by the losses that clients reported, which the server keeps, ``[C]``."""
    population = federation.num_clients
    base = beside_server(algorithm, lambda key, server: jnp.full(population, jnp.inf))

    def scored(key: Key, server: Beside, number: Array, data: Data, round: Round) -> Array:
        del data, round
        return score(key, server.extra.at[number].get(mode="clip"))

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, message, client, data, round)
        if "loss" not in upload.metrics:
            raise InputError(
                "Clients of this method report no training loss by which they could be chosen: "
                "take losses='model' or 'batch'."
            )
        # Where clients that are not chosen receive nothing, types do not tell the bytes.
        up = None if upload.wire.up is None else upload.wire.up + _BYTES
        wire = Wire(up, wire_of(message, upload).down)
        both = Beside(upload.message, upload.metrics["loss"].astype(jnp.float32))
        return upload._replace(message=both, wire=wire), client

    def server_update(key: Key, server: Beside, update: Beside, round: Round) -> Beside:
        who = jnp.where(round.present > 0, round.cohort, population)
        known = server.extra.at[who].set(update.extra, mode="drop")
        return Beside(algorithm.server_update(key, server.base, update.base, round), known)

    return base._replace(
        client_update=client_update,
        aggregate=Beside(algorithm.aggregate, stack),
        server_update=server_update,
        choice=Choice(clients, scored),
    )
