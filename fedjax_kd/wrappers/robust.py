"""Robust rules in place of the mean: coordinate-wise median, Krum and Multi-Krum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedjax_kd import tree
from fedjax_kd.components.sharp_edges import checked_too
from fedjax_kd.core import Algorithm, Key, Plan, PyTree, Reducer, Round, Server, stack, total
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._beside import is_float


class Robust(NamedTuple):
    """What a robust rule makes of the arrays of a cohort's uploads, each ``[K, ...]``."""

    centre: Sequence[Array]  # each [...], in place of the mean
    chosen: Float[Array, " K"] | None  # 1 where a client is trusted; None if none is preferred


Rule = Callable[[Sequence[Array], Float[Array, " K"]], Robust]
"""(arrays of floats of the uploads ``[K, ...]``, presence ``[K]``) -> what is made of them"""


def with_median(algorithm: Algorithm) -> Algorithm:
    """The median of each coordinate in place of the mean (Yin et al., 2018).

    Against the algorithm inside: the server keeps all uploads of a round and reduces them itself.
    Down, Up, Keeps: as before.

        u[j] = median_k u_k[j]                                 of those present, without votes

    Of an even number it is the mean of the two in the middle. Sums are medians times the number of
    clients. What the server looks at client by client is the median in each place. Whole numbers
    stay as they are.

    Equals the algorithm inside, with uniform votes, when all clients send the same, or one or two
    are in the cohort.

    Args:
      algorithm: whose means are replaced.

    Departs from the paper: nothing known.
    Source: Yin, Chen, Ramchandran, Bartlett, ICML 2018, arXiv:1803.01498.
    """

    def rule(uploads: Sequence[Array], present: Array) -> Robust:
        return Robust([medians(a, present) for a in uploads], None)

    def edge(plan: Plan) -> str | None:
        if plan.cohort_size > 2:
            return None
        return (
            f"cohort_size is {plan.cohort_size}, and the median of one or two uploads is their "
            "mean: ask more clients."
        )

    return _with_rule(algorithm, rule)._replace(check=checked_too(algorithm, edge))


@checks_options
def with_krum(algorithm: Algorithm, *, malicious: int = 0, select: int = 1) -> Algorithm:
    """Krum: the uploads that lie nearest to the others (Blanchard et al., 2017).

    Against the algorithm inside: the server keeps all uploads of a round and reduces them itself.
    Down, Up, Keeps: as before.

        score_k = sum of the n - malicious - 2 smallest ||u_k - u_j||^2, j != k, n present clients
        u = mean of the ``select`` uploads of least score             without votes

    Distances are over the whole upload; of equal scores the first counts. Sums are such means times
    the number of clients. What the server looks at client by client is zero, without a vote, for
    clients that are not selected.

    Equals the algorithm inside, with uniform votes, when all are selected.

    Args:
      algorithm: whose means are replaced.
      malicious: clients of a cohort that may lie, >= 0; the rule protects from them if n is above
        ``2 malicious + 2``. At least one neighbour is always looked at.
      select: uploads to average, >= 1; more is Multi-Krum.

    Raises:
      ValueError: if a number is out of its range.

    Departs from the paper: nothing known.
    Source: Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, arXiv:1703.02757.
    """

    def rule(uploads: Sequence[Array], present: Array) -> Robust:
        scores = krum_scores(squared_distances(uploads), present, malicious)
        ranks = jnp.argsort(jnp.argsort(scores, stable=True), stable=True)
        chosen = (ranks < select).astype(present.dtype) * present
        return Robust(tree.weighted_mean(uploads, chosen), chosen)

    def edge(plan: Plan) -> str | None:
        asked = plan.cohort_size
        if malicious and asked <= 2 * malicious + 2:
            return (
                f"Krum protects from {malicious} malicious clients in cohorts of more than "
                f"{2 * malicious + 2}, but cohort_size is {asked}: ask more clients."
            )
        if select >= asked:
            return (
                f"select is {select} and cohort_size {asked}: Krum selects everyone, and this is "
                "the plain mean. Select fewer."
            )
        return None

    return _with_rule(algorithm, rule)._replace(check=checked_too(algorithm, edge))


def medians(values: Float[Array, "K ..."], present: Array) -> Float[Array, ...]:
    """The median of each coordinate over the clients that are present.

    Example:
      >>> medians(jnp.array([[1.0], [2.0], [9.0], [0.0]]), jnp.array([1, 1, 1, 0]))
      Array([2.], dtype=float32)
    """
    there: Bool[Array, " K"] = present > 0
    shown = jnp.where(there.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.inf)
    ordered, count = jnp.sort(shown, axis=0), there.sum()
    middle = [
        ordered.at[jnp.maximum(n, 0)].get(mode="clip") for n in ((count - 1) // 2, count // 2)
    ]
    return jnp.where(count > 0, (middle[0] + middle[1]) / 2, 0)


def squared_distances(uploads: Sequence[Array]) -> Float[Array, "K K"]:
    """``||u_i - u_j||^2`` over all arrays ``[K, ...]`` together.

    The mean is taken off first: what is left of two large products would be rounding.

    Example:
      >>> squared_distances([jnp.array([[0.0, 0.0], [3.0, 4.0]])]).tolist()
      [[0.0, 25.0], [25.0, 0.0]]
    """
    products = []
    for array in uploads:
        wide = array.dtype if jnp.finfo(array.dtype).bits >= 32 else jnp.float32
        flat = array.reshape(len(array), -1).astype(wide)
        flat = flat - flat.mean(0, keepdims=True)
        products.append(jnp.matmul(flat, flat.T, precision=jax.lax.Precision.HIGHEST))
    gram = sum(products[1:], products[0])
    squares = jnp.diagonal(gram)
    return jnp.maximum(squares[:, None] + squares[None] - 2 * gram, 0)


def krum_scores(
    distances: Float[Array, "K K"], present: Array, malicious: int
) -> Float[Array, " K"]:
    """The sum of each client's smallest distances; infinite for whoever is not there."""
    there = present > 0
    others = there[:, None] & there[None] & ~jnp.eye(len(there), dtype=bool)
    nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    neighbours = jnp.maximum(there.sum() - malicious - 2, 1)
    counted = jnp.arange(len(there))[None] < neighbours
    sums = jnp.where(counted & jnp.isfinite(nearest), nearest, 0).sum(1)
    return jnp.where(there, sums, jnp.inf)


def _with_rule(algorithm: Algorithm, rule: Rule) -> Algorithm:
    """The algorithm whose server reduces all uploads by a rule."""

    def server_update(key: Key, server: Server, update: PyTree, round: Round) -> Server:
        leaves, structure = jax.tree.flatten(update)
        uploads = [a for a in leaves if is_float(a)]
        centre, chosen = rule(uploads, round.present) if uploads else Robust([], None)
        middles = iter(centre)
        reduced = [
            _reduced(reducer, a, next(middles), round, chosen)
            if is_float(a)
            else reducer.finalise(*reducer.accumulate(a, round.votes, round.present))
            for reducer, a in zip(_reducers(algorithm.aggregate, update), leaves, strict=True)
        ]
        if chosen is not None:
            round = round._replace(present=chosen, votes=round.votes * chosen)
        return algorithm.server_update(key, server, jax.tree.unflatten(structure, reduced), round)

    everything = jax.tree.map(lambda reducer: stack, algorithm.aggregate)
    return algorithm._replace(aggregate=everything, server_update=server_update)


def _reducers(aggregate: PyTree, update: PyTree) -> list[Reducer]:
    """The reducer of each leaf of an update."""
    each = jax.tree.map(lambda r, values: [r] * len(jax.tree.leaves(values)), aggregate, update)
    return jax.tree.leaves(each)


def _reduced(
    reducer: Reducer, values: Array, middle: Array, round: Round, chosen: Array | None
) -> Array:
    """One leaf of the uploads ``[K, ...]`` as the algorithm's server expects it."""
    if reducer.stacked:
        kept = jnp.broadcast_to(middle[None], values.shape) if chosen is None else values
        trusted = round.present if chosen is None else chosen
        return kept * trusted.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
    if reducer.name == total.name:
        return middle * round.present.sum().astype(middle.dtype)
    return middle
