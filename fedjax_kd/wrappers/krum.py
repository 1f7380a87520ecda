"""Krum, Multi-Krum and Bulyan: uploads that lie near the others."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.components import robust_rules as rules
from fedjax_kd.components.sharp_edges import checked_too
from fedjax_kd.core import Algorithm, Plan
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._robust import Robust, with_rule


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
      ValueError: if a number is out of its range, or cohorts are too small for so many.

    Departs from the paper: nothing known.
    Source: Blanchard, El Mhamdi, Guerraoui, Stainer, NeurIPS 2017, arXiv:1703.02757.
    """

    def rule(uploads: Sequence[Array], present: Array) -> Robust:
        scores = rules.krum_scores(rules.squared_distances(uploads), present, malicious)
        ranks = jnp.argsort(jnp.argsort(scores, stable=True), stable=True)
        chosen = (ranks < select).astype(present.dtype) * present
        return Robust(tree.weighted_mean(uploads, chosen), chosen)

    def edge(plan: Plan) -> str | None:
        asked = plan.cohort_size
        if malicious and asked <= 2 * malicious + 2:
            raise InputError(
                f"Krum protects from {malicious} malicious clients in cohorts of more than "
                f"{2 * malicious + 2}, but cohort_size is {asked}: ask more clients."
            )
        if select >= asked:
            return (
                f"select is {select} and cohort_size {asked}: Krum selects everyone, and this is "
                "the plain mean. Select fewer."
            )
        return None

    return with_rule(algorithm, rule)._replace(check=checked_too(algorithm, edge))


@checks_options
def with_bulyan(algorithm: Algorithm, *, malicious: int = 1) -> Algorithm:
    """Bulyan: Krum's choice, then the middle of each coordinate (El Mhamdi et al., 2018).

    Against the algorithm inside: the server keeps all uploads of a round and reduces them itself.
    Down, Up, Keeps: as before.

        theta = n - 2 malicious uploads, one after the other by Krum's score among those left
        u[j] = mean of the theta - 2 malicious values nearest to the median of the chosen

    Sums are such means times the number of clients. What the server looks at client by client is
    zero, without a vote, for clients that are not chosen.

    Equals the algorithm inside, with uniform votes, when ``malicious == 0``.

    Args:
      algorithm: whose means are replaced.
      malicious: clients of a cohort that may lie, >= 0; the rule protects from them if n is at
        least ``4 malicious + 3``.

    Raises:
      ValueError: if ``malicious`` is out of its range, cohorts are too small for so many, or the
        server pools what clients have different amounts of.

    Departs from the paper: nothing known.
    Source: El Mhamdi, Guerraoui, Rouault, ICML 2018, arXiv:1802.07927.
    """

    def rule(uploads: Sequence[Array], present: Array) -> Robust:
        return Robust(*rules.bulyan(uploads, present, malicious))

    def check(plan: Plan) -> None:
        algorithm.check(plan)
        if plan.cohort_size >= 4 * malicious + 3:
            return
        raise InputError(
            f"Bulyan protects from {malicious} malicious clients in cohorts of at least "
            f"{4 * malicious + 3}, but cohort_size is {plan.cohort_size}: ask more clients."
        )

    made = with_rule(algorithm, rule, coordinates=True)
    return made._replace(check=check)
