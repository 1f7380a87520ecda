"""Who of the clients that were asked takes part, decided on the device by the state of the round.

The host asks clients ahead of a block of rounds, by seed and round number alone. Of these the
largest scores stay; the slots of the others are emptied before anyone trains, so nothing waits for
the host, and a resumed run meets the same cohorts.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from fedjax_kd.core import Choice
from fedjax_kd.engine.clients import RoundInputs, specs_of
from fedjax_kd.engine.mesh import AXIS
from fedjax_kd.engine.schedule import Placement

_AT_ONCE = 50  # clients whose scores are computed together


def choose(
    choice: Choice,
    inputs: RoundInputs,
    placements: Sequence[Placement],
    widths: Sequence[Sequence[int]],
    mesh: Mesh | None,
) -> list[Placement]:
    """The placements, without the clients that do not take part.

    On one device those who stay move to the front of their group, and the chunks after them are
    left out: where loops have a known length, an empty slot costs as much as a client.

    Args:
      choice: of the first group's algorithm, by whose server all are scored.
      inputs: of the round, its cohort those who were asked.
      placements: of each group.
      widths: of each group's chunks.
      mesh: devices over which the slots are divided.
    """
    scores = _scores(choice, inputs, mesh)
    # An empty slot's number, which no client has, gives a key that no client uses.
    key = jax.random.fold_in(inputs.key, inputs.round.population)
    ties = jax.vmap(lambda number: jax.random.bits(jax.random.fold_in(key, number)))
    stays = of_largest(scores, ties(inputs.round.cohort), choice.clients)
    after, first = [], 0
    for g, placement in enumerate(placements):
        own = stays[first : first + len(placement.slots)]
        slots = jnp.where(own, placement.slots, jnp.int32(inputs.round.population))
        first += len(placement.slots)
        if mesh is None:
            slots = slots[jnp.argsort(~own, stable=True)]
            after.append(_cut(Placement(slots, placement.chunks), widths[g], choice.clients))
        else:
            after.append(placement._replace(slots=slots))
    return after


def _cut(placement: Placement, widths: Sequence[int], clients: int) -> Placement:
    """As many chunks as the first ``clients`` slots need, since the others are empty."""
    slots, chunks, _ = placement
    if len(widths) == 1:
        return Placement(slots[: -(-clients // widths[0]) * widths[0]], chunks)
    left, counts = jnp.int32(clients), []
    for n, width in enumerate(widths):
        counts.append(jnp.clip(-(-left // width), 0, chunks[n]))
        left -= counts[-1] * width
    return Placement(slots, jnp.stack(counts))


def of_largest(scores: Float[Array, " K"], ties: Array, count: int) -> Bool[Array, " K"]:
    """Which are the ``count`` largest scores; of equal ones those of the least ``ties``.

    NaN counts as -inf. What is -inf may stay if there is nothing better.

    Example:
      >>> of_largest(jnp.array([1.0, 3.0, 3.0, jnp.nan]), jnp.arange(4), 2)
      Array([False,  True,  True, False], dtype=bool)
    """
    order = jnp.lexsort((ties, -jnp.where(jnp.isnan(scores), -jnp.inf, scores)))
    ranks = jnp.zeros(len(scores), jnp.int32).at[order].set(jnp.arange(len(scores)))
    return ranks < count


def _scores(choice: Choice, inputs: RoundInputs, mesh: Mesh | None) -> Float[Array, " K"]:
    """The score of each slot; -inf where there is no client, or none with examples."""

    def scored(inputs: RoundInputs, slots: Int[Array, " K"]) -> Float[Array, " K"]:
        key = jax.random.fold_in(inputs.key, population)
        round = inputs.round._replace(population=population)

        def one(number: Array) -> Array:
            data = inputs.pool.of(number)._replace(sizes=inputs.sizes)
            own_key = jax.random.fold_in(key, number)
            score = choice.score(own_key, inputs.server, number, data, round)
            return jnp.where(data.size > 0, score, -jnp.inf)

        return jax.lax.map(one, slots, batch_size=min(_AT_ONCE, len(slots)))

    population, slots = inputs.round.population, inputs.round.cohort
    if mesh is None:
        return scored(inputs, slots)
    split = PartitionSpec(AXIS)
    return jax.shard_map(
        scored, mesh=mesh, in_specs=(specs_of(inputs), split), out_specs=split, check_vma=False
    )(inputs, slots)
