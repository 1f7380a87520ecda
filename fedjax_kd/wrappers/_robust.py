"""Rules in place of the means of a method's server: all uploads of a round are kept and reduced."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd.components.pooling import summed
from fedjax_kd.core import Algorithm, Key, PyTree, Reducer, Round, Server, stack, total
from fedjax_kd.errors import InputError
from fedjax_kd.wrappers._beside import is_float, rule_of_each


class Robust(NamedTuple):
    """What a robust rule makes of the arrays of a cohort's uploads, each ``[K, ...]``."""

    centre: Sequence[Array]  # each [...], in place of the mean
    chosen: Float[Array, " K"] | None  # 1 where a client is trusted; None if none is preferred


Rule = Callable[[Sequence[Array], Float[Array, " K"]], Robust]
"""(arrays of floats of the uploads ``[K, ...]``, presence ``[K]``) -> what is made of them"""


def with_rule(algorithm: Algorithm, rule: Rule, *, coordinates: bool = False) -> Algorithm:
    """The algorithm whose server reduces all uploads by a rule.

    Args:
      algorithm: whose means are replaced.
      rule: of the arrays of all uploads.
      coordinates: whether it looks at each coordinate alone, and may take the sum of one client and
        the count of another.

    Raises:
      ValueError: if it does, and the server pools sums and counts.
    """
    names = {reducer.name for reducer in jax.tree.leaves(algorithm.aggregate)}
    if coordinates and summed.name in names:
        raise InputError(
            "Clients of this method send sums with their counts, of which a rule for each "
            "coordinate alone makes no mean: use krum or geometric_median."
        )

    def server_update(key: Key, server: Server, update: PyTree, round: Round) -> Server:
        uploads = float_leaves(update)
        robust = rule(uploads, round.present) if uploads else Robust([], None)
        return algorithm.server_update(key, server, *by_rule(algorithm, robust, update, round))

    return algorithm._replace(aggregate=all_kept(algorithm), server_update=server_update)


def all_kept(algorithm: Algorithm) -> PyTree:
    """Reducers that keep all uploads."""
    return jax.tree.map(lambda reducer: stack, algorithm.aggregate)


def float_leaves(update: PyTree) -> list[Array]:
    """The arrays that a rule looks at, in the order of its answer."""
    return [leaf for leaf in jax.tree.leaves(update) if is_float(leaf)]


def with_floats(update: PyTree, floats: Sequence[Array]) -> PyTree:
    """The update with other arrays in place of its `float_leaves`."""
    leaves, structure = jax.tree.flatten(update)
    given = iter(floats)
    return jax.tree.unflatten(structure, [next(given) if is_float(a) else a for a in leaves])


def by_rule(
    algorithm: Algorithm, robust: Robust, update: PyTree, round: Round
) -> tuple[PyTree, Round]:
    """What the server of the algorithm inside receives of all uploads, and its round."""
    middles, chosen = iter(robust.centre), robust.chosen
    leaves, structure = jax.tree.flatten(update)
    reducers = jax.tree.leaves(rule_of_each(algorithm, update))
    reduced = [
        _reduced(reducer, a, next(middles), round, chosen)
        if is_float(a)
        else reducer.finalise(*reducer.accumulate(a, round.votes, round.present))
        for reducer, a in zip(reducers, leaves, strict=True)
    ]
    if chosen is not None:
        round = round._replace(present=chosen, votes=round.votes * chosen)
    return jax.tree.unflatten(structure, reduced), round


def _reduced(
    reducer: Reducer, values: Array, middle: Array, round: Round, chosen: Array | None
) -> Array:
    """One leaf of the uploads ``[K, ...]`` as the algorithm's server expects it."""
    if reducer.stacked:
        kept = jnp.broadcast_to(middle[None], values.shape) if chosen is None else values
        trusted = round.present if chosen is None else chosen
        return kept * trusted.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    if reducer.name in (total.name, summed.name):
        return middle * round.present.sum().astype(middle.dtype)
    return middle
