"""Robust rules in place of the mean, coordinate by coordinate, or of whole uploads."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.components import robust_rules as rules
from fedjax_kd.components.sharp_edges import checked_too
from fedjax_kd.core import Algorithm, Plan, Scalar
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._robust import Robust, with_rule


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

    Raises:
      ValueError: if the server pools what clients have different amounts of.

    Departs from the paper: nothing known.
    Source: Yin, Chen, Ramchandran, Bartlett, ICML 2018, arXiv:1803.01498.
    """

    def rule(uploads: Sequence[Array], present: Array) -> Robust:
        return Robust([rules.medians(a, present) for a in uploads], None)

    def edge(plan: Plan) -> str | None:
        if plan.cohort_size > 2:
            return None
        return (
            f"cohort_size is {plan.cohort_size}, and the median of one or two uploads is their "
            "mean: ask more clients."
        )

    return with_rule(algorithm, rule, coordinates=True)._replace(check=checked_too(algorithm, edge))


@checks_options
def with_trimmed_mean(algorithm: Algorithm, *, share: Scalar = 0.2) -> Algorithm:
    """The mean of each coordinate without its extremes (Yin et al., 2018).

    Against the algorithm inside: the server keeps all uploads of a round and reduces them itself.
    Down, Up, Keeps: as before.

        of the n values of a coordinate floor(share * n) are cut on each side     without votes

    Sums are such means times the number of clients. Whole numbers stay as they are.

    Equals the algorithm inside, with uniform votes, when ``share * n < 1``.

    Args:
      algorithm: whose means are replaced.
      share: of the uploads that are cut on each side, in [0, 0.5).

    Raises:
      ValueError: if ``share`` is out of its range, or the server pools what clients have different
        amounts of.

    Departs from the paper: nothing known.
    Source: Yin, Chen, Ramchandran, Bartlett, ICML 2018, arXiv:1803.01498.
    """

    def rule(uploads: Sequence[Array], present: Array) -> Robust:
        return Robust([rules.trimmed_means(a, present, share) for a in uploads], None)

    def edge(plan: Plan) -> str | None:
        if isinstance(share, float | int) and share * plan.cohort_size < 1:
            return (
                f"share is {share} and cohort_size {plan.cohort_size}: nothing is cut, and this is "
                "the plain mean. Cut more, or ask more clients."
            )
        return None

    made = with_rule(algorithm, rule, coordinates=True)
    return made._replace(check=checked_too(algorithm, edge))


@checks_options
def with_geometric_median(
    algorithm: Algorithm, *, steps: int = 4, smoothing: Scalar = 1e-6
) -> Algorithm:
    """RFA: the geometric median of whole uploads (Pillutla, Kakade, Harchaoui, 2022).

    Against the algorithm inside: the server keeps all uploads of a round and reduces them itself.
    Down, Up, Keeps: as before.

        z = mean_k u_k;  repeat: b_k = 1 / max(smoothing, ||u_k - z||), z = sum b_k u_k / sum b_k

    Distances are over the whole upload. Sums are such means times the number of clients. What the
    server looks at client by client is z in each place.

    Equals the algorithm inside, with uniform votes, as ``smoothing`` grows.

    Args:
      algorithm: whose means are replaced.
      steps: of Weiszfeld's iteration, >= 1; the paper finds 3 to be enough.
      smoothing: least distance that counts, > 0.

    Raises:
      ValueError: if a number is out of its range.

    Departs from the paper: clients vote alike, since a liar could claim many examples.
    Source: Pillutla, Kakade, Harchaoui, IEEE TSP 2022, arXiv:1912.13445.
    """

    def rule(uploads: Sequence[Array], present: Array) -> Robust:
        weights = rules.geometric_weights(uploads, present, steps, smoothing)
        return Robust(tree.weighted_mean(uploads, weights), None)

    return with_rule(algorithm, rule)
