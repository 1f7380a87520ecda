"""How much privacy the rounds of a run have spent, by Google's dp-accounting."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options

Sampling = Literal["poisson", "fixed", "everyone", "local"]
Method = Literal["pld", "rdp"]

_CLOSE = 1e-3  # of a noise multiplier that is looked for, relatively
_LARGEST = 1e4  # multiplier that is tried


@checks_options
@dataclass(frozen=True)
class Accountant:
    """The Gaussian mechanism on sums over cohorts, round after round.

    Args:
      noise: multiplier, > 0: standard deviation of the noise on a sum over the clipping norm.
      cohort: users in a round on average, >= 1.
      users: from whom they are drawn, >= 1.
      delta: probability, in (0, 1), that the bound does not hold; below 1 / users.
      sampling: "poisson": each user takes part with probability ``cohort / users``, and epsilon is
        about adding or removing a user; "fixed": cohorts of a fixed size without replacement, about
        replacing one, which moves a clipped sum twice as far; "everyone": each user may be in every
        round, about adding or removing one; "local": the noise is on each upload, of which a user
        sends one a round, about replacing all of its data.
      method: "pld" (privacy loss distributions, tight), or "rdp" (Renyi, larger, fast). Fixed
        cohorts are always accounted for by "rdp".

    Raises:
      ValueError: if a number is out of its range.

    Source: dp-accounting (Google); Doroshenko et al., 2022, arXiv:2207.04380; Mironov, Talwar,
    Zhang, 2019, arXiv:1908.10530; Wang, Balle, Kasiviswanathan, 2019, arXiv:1808.00087.

    Example:
      >>> round(Accountant(1.0, cohort=10, users=1000, delta=1e-5).epsilon(100), 2)
      0.72
    """

    noise: float
    cohort: int
    users: int
    delta: float
    sampling: Sampling = "poisson"
    method: Method = "pld"

    def __post_init__(self) -> None:
        check_choice("sampling", self.sampling, Sampling)
        check_choice("method", self.method, Method)
        if self.cohort > self.users:
            raise InputError(
                f"A cohort has {self.cohort} users, but there are {self.users}: account for more."
            )

    @property
    def relation(self) -> str:
        """What two sets of users differ by."""
        if self.sampling == "local":
            return "replace all data of a user"
        return "replace one user" if self._is_fixed else "add or remove one user"

    @property
    def assumption(self) -> str:
        """How users are taken to come into a cohort."""
        if self.sampling in ("everyone", "local") or self.cohort == self.users:
            return "a user may take part in every round"
        if self.sampling == "fixed":
            return f"cohorts of {self.cohort} of {self.users} users without replacement"
        return f"each of {self.users} users takes part with probability {self._rate:g}"

    @property
    def by(self) -> Method:
        """Which accountant bounds epsilon."""
        return "rdp" if self._is_fixed else self.method

    def epsilon(self, rounds: int) -> float:
        """The bound after so many rounds; 0 before the first one."""
        if rounds not in self._known:
            self._known[rounds] = self._epsilon(rounds)
        return self._known[rounds]

    @cached_property
    def _known(self) -> dict[int, float]:
        return {0: 0.0}

    @property
    def _rate(self) -> float:
        return self.cohort / self.users

    @property
    def _is_fixed(self) -> bool:
        return self.sampling == "fixed" and self.cohort < self.users

    def _epsilon(self, rounds: int) -> float:
        dp = accounting_library()
        # Orders that do not converge are left out; that is said once for each of them.
        logging.getLogger("absl").setLevel(logging.ERROR)
        event: Any = dp.GaussianDpEvent(self.noise / 2 if self.sampling == "local" else self.noise)
        relation = dp.NeighboringRelation.ADD_OR_REMOVE_ONE
        if self._is_fixed:
            # Multipliers are relative to how far a clipped sum moves: a user that is replaced moves
            # it twice as far as one that is added.
            relation = dp.NeighboringRelation.REPLACE_ONE
            event = dp.SampledWithoutReplacementDpEvent(
                self.users, self.cohort, dp.GaussianDpEvent(self.noise / 2)
            )
        elif self.sampling == "poisson" and self.cohort < self.users:
            event = dp.PoissonSampledDpEvent(self._rate, event)
        of: dict[str, Callable[..., Any]] = {
            "pld": dp.pld.PLDAccountant,
            "rdp": dp.rdp.RdpAccountant,
        }
        accountant = of[self.by](neighboring_relation=relation)
        accountant.compose(dp.SelfComposedDpEvent(event, rounds))
        return float(accountant.get_epsilon(self.delta))


def noise_for(epsilon: float, rounds: int, like: Accountant) -> Accountant:
    """The accountant with the least noise whose epsilon after so many rounds is no larger.

    Args:
      epsilon: the budget, above 0.
      rounds: that spend it.
      like: everything but the noise.

    Raises:
      ValueError: if no noise is large enough.

    Example:
      >>> few = Accountant(1.0, cohort=50, users=50, delta=1e-5, method="rdp")
      >>> round(noise_for(2.0, 1, few).noise, 1)
      2.2
    """
    # Renyi bounds are fast and never smaller: they say where to look.
    rough = _searched(epsilon, rounds, replace(like, method="rdp"), 0.0, _LARGEST)
    if like.by == "rdp":
        return replace(like, noise=rough)
    return replace(like, noise=_searched(epsilon, rounds, like, rough / 2, rough))


def _searched(epsilon: float, rounds: int, like: Accountant, low: float, high: float) -> float:
    """The least multiplier between two, up to a thousandth."""

    def spent(noise: float) -> float:
        return replace(like, noise=noise).epsilon(rounds)

    if high == _LARGEST:
        high = next((n for n in _doubling() if spent(n) <= epsilon), 0.0)
        low = high / 2
        if not high:
            raise InputError(
                f"No noise gives an epsilon of {epsilon:g} at a delta of {like.delta:g} after "
                f"{rounds} rounds with {like.assumption}: at a multiplier of {_LARGEST:g} it is "
                f"{spent(_LARGEST):.3g}. Ask for a larger epsilon or delta, or for fewer rounds."
            )
    while high - low > _CLOSE * high:
        middle = (low + high) / 2
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


def _doubling() -> list[float]:
    return [2.0**n for n in range(-3, 14)]


def accounting_library() -> Any:
    """The accounting library.

    Raises:
      ValueError: if it is not installed.
    """
    try:
        import dp_accounting
        import dp_accounting.pld
        import dp_accounting.rdp
    except ImportError as error:
        raise InputError(
            f"Privacy is accounted for by dp-accounting, which is not installed ({error}): "
            "pip install 'fedjax-kd[dp]'."
        ) from error
    return dp_accounting
