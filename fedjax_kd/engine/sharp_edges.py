"""Settings of a simulation that run, and whose numbers are seldom those that were meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from fedjax_kd import tree
from fedjax_kd.core import Algorithm, JudgedBy
from fedjax_kd.data.federation import Federation
from fedjax_kd.data.sampling import Sampler, Weighted
from fedjax_kd.engine.validation import Types, abstract_round
from fedjax_kd.errors import warn


class Combination(NamedTuple):
    """What meets in a simulation."""

    groups: Sequence[Algorithm]
    types: Sequence[Types]
    federation: Federation
    sampler: Sampler
    cohort_size: int
    num_rounds: int
    judged_by: JudgedBy


def warn_of(s: Combination) -> None:
    """Warns of each sharp edge that such a simulation has."""
    for edge in (_examples_twice, _judged_by_newcomers, _never_asked):
        message = edge(s)
        if message:
            warn(message)


def _examples_twice(s: Combination) -> str | None:
    if not isinstance(s.sampler, Weighted):
        return None
    odds, sizes = np.asarray(s.sampler.odds, float), s.federation.sizes.astype(float)
    by_size = np.allclose(odds / odds.sum(), sizes / sizes.sum()) and np.ptp(sizes) > 0
    pairs = zip(s.groups, s.types, strict=True)
    if not (by_size and any(_votes_by_size(s, *pair) for pair in pairs)):
        return None
    return (
        "Clients are asked with odds by their examples, and vote by their examples: large clients "
        "count twice. Let them vote alike (weighting='uniform'), or ask them uniformly."
    )


def _votes_by_size(s: Combination, algorithm: Algorithm, types: Types) -> bool:
    """Whether the weight of an upload depends on how many examples a client has."""
    if not any(rule.name == "mean" for rule in jax.tree.leaves(algorithm.aggregate)):
        return False
    key, _, data, round, in_round = abstract_round(s.federation.train, s.federation.public)
    update: Any = in_round(algorithm.client_update)

    def weight(size: Any, rest: Any) -> Any:
        key, message, client, data, round = rest
        return update(key, message, client, data._replace(size=size), round)[0].weight

    return tree.reads(weight, data.size, (key, types.message, types.client, data, round))


def _judged_by_newcomers(s: Combination) -> str | None:
    if s.judged_by == "clients" or not all(a.judged_by == "clients" for a in s.groups):
        return None
    return (
        "This method is judged by its clients' own models, but no client has test rows, so that "
        "what is reported is a newcomer's model, whose own part is untrained: hold out rows of the "
        "clients (`client_test_fraction`), which clients of a store cannot."
    )


def _never_asked(s: Combination) -> str | None:
    keeps = any(jax.tree.leaves(t.client) for t in s.types)
    asked, clients = s.num_rounds * s.cohort_size, s.federation.num_clients
    if s.judged_by != "clients" or not keeps or asked >= clients:
        return None
    return (
        f"At least {clients - asked} of {clients} clients take part in none of {s.num_rounds} "
        "rounds; they are evaluated with what a newcomer has, and count in the mean over clients. "
        "Train longer, or ask more clients a round (`cohort_size`)."
    )
