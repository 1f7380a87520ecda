"""Differential privacy of a run as plain data: its budget, and what is accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from fedjax_kd.errors import InputError
from fedjax_kd.metrics.accounting import Accountant, Method, Sampling, noise_for
from fedjax_kd.options import checks_options

Assumed = Literal["as_sampled", "poisson"]

PRIVATE = ("privacy", "adaptive_clipping", "local_privacy")
"""The wrappers whose noise is accounted for."""
_CHOOSING = ("power_of_choice", "loss_sampling")


@checks_options
@dataclass(frozen=True)
class PrivacyConfig:
    """What is told of the privacy of a run with privacy, adaptive_clipping or local_privacy.

    Args:
      delta: probability, in (0, 1), that epsilon does not hold, below 1 / users; without it no
        epsilon is told.
      epsilon: budget of the whole run, > 0: the noise of the wrapper is the least that keeps it.
      users: in the population that is accounted for, >= 1; those of the federation if not given.
      noise_cohort: cohort, >= 1, whose noise the mean has, as in a large deployment; a smaller one
        is trained. That of the run if not given.
      assume: how users come into cohorts, for epsilon: "as_sampled", or "poisson" where the run
        draws cohorts of a fixed size, as pfl does.
      accountant: "pld" (tight) or "rdp" (larger, fast); cohorts of a fixed size need "rdp".
    """

    delta: float | None = None
    epsilon: float | None = None
    users: int | None = None
    noise_cohort: int | None = None
    assume: Assumed = "as_sampled"
    accountant: Method = "pld"

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if self.delta is None and given:
            raise InputError(
                f"{', '.join(given)} needs a delta, below one over the number of users: give it, "
                "such as 1e-6."
            )


def accountant_of(
    privacy: PrivacyConfig,
    wrappers: Mapping[str, Mapping[str, Any]],
    *,
    sampling: str,
    cohort_size: int,
    population: int,
) -> Accountant | None:
    """Who accounts for a run; None if nothing is to be told.

    Args:
      privacy: what is asked.
      wrappers: options by wrapper, of which one makes noise.
      sampling: who is asked to take part, as in the configuration of the run.
      cohort_size: clients in a round on average.
      population: clients of the federation.

    Raises:
      ValueError: if there is no private wrapper or no noise, or clients are chosen by their losses.
    """
    if privacy.delta is None:
        return None
    name = private_wrapper(wrappers)
    if chosen := [w for w in _CHOOSING if w in wrappers]:
        raise InputError(
            f"{chosen[0]} chooses clients by their losses, which tells of their data beside the "
            "noise: leave it out, or leave out delta."
        )
    known: dict[str, Sampling] = {"uniform": "fixed", "poisson": "poisson"}
    drawn = "poisson" if privacy.assume == "poisson" else known.get(sampling, "everyone")
    drawn = "local" if name == "local_privacy" else drawn
    noise = float(wrappers[name].get("noise", 1.0))
    if noise == 0:
        raise InputError(f"The noise of {name} is 0, so that epsilon is infinite: leave out delta.")
    return Accountant(
        noise,
        cohort=max(cohort_size, privacy.noise_cohort or 0),
        users=privacy.users or population,
        delta=privacy.delta,
        sampling=drawn,
        method=privacy.accountant,
    )


def check_budget(privacy: PrivacyConfig, wrappers: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ValueError if a budget has not been turned into noise, as by `private_options`."""
    if privacy.epsilon is not None and "noise" not in wrappers[private_wrapper(wrappers)]:
        raise InputError(
            f"epsilon is {privacy.epsilon:g}, but the noise that keeps it was not looked for: let "
            "`fedjax-kd run` do it, or give the wrapper the noise that "
            "`fedjax_kd.metrics.accounting.noise_for` finds."
        )


def private_wrapper(wrappers: Mapping[str, Any]) -> str:
    """The wrapper whose noise is accounted for.

    Raises:
      ValueError: if there is none, or two.
    """
    found = [name for name in PRIVATE if name in wrappers]
    if len(found) != 1:
        raise InputError(
            f"Privacy is accounted for with one of the wrappers {', '.join(PRIVATE)}, but the "
            f"run has {' and '.join(found) or 'none'}: give one, such as --with privacy:clip=0.5."
        )
    return found[0]


def private_options(
    privacy: PrivacyConfig,
    wrappers: Mapping[str, Mapping[str, Any]],
    *,
    sampling: str,
    cohort_size: int,
    population: int,
    num_rounds: int,
) -> dict[str, Any]:
    """The wrappers of a new run, with the noise that its budget asks for.

    Where cohorts vary, sums are divided by their expected size, which tells nothing about who took
    part. Of a larger ``noise_cohort`` the mean has the noise, and is labelled so by its ``scale``.

    Args:
      privacy: what is asked.
      wrappers: options by wrapper, as given.
      sampling: who is asked to take part.
      cohort_size: clients in a round on average.
      population: clients of the federation.
      num_rounds: that spend the budget.

    Raises:
      ValueError: if both noise and epsilon are given, or no noise keeps the budget.
    """
    if privacy.delta is None:
        return dict(wrappers)
    name = private_wrapper(wrappers)
    own = dict(wrappers[name])
    where: Any = {"sampling": sampling, "cohort_size": cohort_size, "population": population}
    if privacy.epsilon is not None:
        if "noise" in own:
            raise InputError(
                f"Both epsilon={privacy.epsilon:g} and the noise {own['noise']:g} of {name} are "
                "given, but one follows from the other: leave out either."
            )
        like = accountant_of(privacy, wrappers, **where)
        assert like is not None
        own["noise"] = noise_for(privacy.epsilon, num_rounds, like).noise
    if name == "local_privacy":
        if privacy.noise_cohort is not None:
            raise InputError(
                "noise_cohort is of noise on sums, but local_privacy has it on each upload: leave "
                "it out."
            )
        return {**wrappers, name: own}
    if sampling == "poisson" and "denominator" not in own:
        own["denominator"] = float(cohort_size)
    if privacy.noise_cohort is not None:
        own["scale"] = cohort_size / check_larger(privacy.noise_cohort, cohort_size)
    return {**wrappers, name: own}


def check_larger(noise_cohort: int, cohort_size: int) -> int:
    """The cohort whose noise the mean has, or ValueError if it is smaller than the run's."""
    if noise_cohort < cohort_size:
        raise InputError(
            f"noise_cohort is {noise_cohort}, but the run has cohorts of {cohort_size}, whose mean "
            "has less noise: give a larger one."
        )
    return noise_cohort


def privacy_told(accountant: Accountant, privacy: PrivacyConfig, rounds: int) -> dict[str, Any]:
    """What a summary says of a run's privacy after so many rounds."""
    told = {
        "epsilon": accountant.epsilon(rounds),
        "delta": accountant.delta,
        "noise_multiplier": accountant.noise,
        "relation": accountant.relation,
        "sampling": accountant.assumption,
        "accountant": accountant.by,
    }
    if privacy.assume == "poisson":
        told["assumed"] = "Poisson sampling, whatever the run draws"
    if privacy.noise_cohort is not None:
        told["holds_for"] = f"cohorts of {accountant.cohort}, not for the smaller simulated ones"
    return told
