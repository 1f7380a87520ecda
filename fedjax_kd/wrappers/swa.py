"""Server SWA: evaluation by the plain mean of the server's models of late rounds."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.components.sharp_edges import checked_too
from fedjax_kd.core import Algorithm, Plan, PyTree, Round
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._averages import RunningAverage, evaluated_by


@checks_options
def with_swa(
    algorithm: Algorithm, federation: Federation, *, start: int = 0, every: int = 1
) -> Algorithm:
    """Evaluation by the mean of what the server predicted with after some of the rounds.

    Against the algorithm inside: the server keeps a mean, which evaluation uses; training does not
    see it.
    Down, Up, Keeps: as before.

        e = (n e + w) / (n + 1)             after rounds start, start + every, start + 2 every, ...

    where n models are in the mean already; rounds are counted from 0. Before the first of these
    rounds e is the present w. Averaged is every float of the server's state that predictions read.

    Equals the algorithm inside when ``start`` is not below the number of rounds.

    Args:
      algorithm: whose server holds what predictions are made with.
      federation: the clients, by whose inputs it is found what predictions read.
      start: the first round whose model counts, >= 0; Caldarola and others begin after three
        quarters of all rounds.
      every: rounds from one model that counts to the next, >= 1.

    Raises:
      ValueError: if a number is out of its range, or predictions read nothing of the server.

    Departs from the paper: learning rates are as they were; cycles of theirs are the schedules of
    local training. Statistics of normalisation are averaged, not measured anew.
    Source: Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, UAI 2018, arXiv:1803.05407; on the
    server Caldarola, Caputo, Ciccone, ECCV 2022, arXiv:2203.11834.
    """

    def before(own: PyTree) -> tuple[PyTree, Array]:
        return own, jnp.zeros((), jnp.int32)

    def step(kept: tuple[PyTree, Array], own: PyTree, round: Round) -> tuple[PyTree, Array]:
        mean, models = kept
        due = (round.number >= start) & ((round.number - start) % every == 0)
        share = 1 / (models + 1).astype(float)
        moved = tree.add_scaled(mean, share, tree.sub(own, mean))
        return tree.where(due, (moved, models + 1), kept)

    def shown(kept: tuple[PyTree, Array], own: PyTree) -> PyTree:
        mean, models = kept
        return tree.where(models > 0, mean, own)

    def edge(plan: Plan) -> str | None:
        if plan.num_rounds > start:
            return None
        return (
            f"swa averages models from round {start} on, counted from 0, but there are "
            f"{plan.num_rounds} rounds: nothing is averaged. Give a smaller start."
        )

    averaged = evaluated_by(algorithm, federation, RunningAverage(before, step, shown))
    return averaged._replace(check=checked_too(algorithm, edge))
