"""Two models, or a model and a head, as one: what a single local training can train at once."""

from __future__ import annotations

from typing import Any, NamedTuple

from fedjax_kd.core import Variables


class Two(NamedTuple):
    """What travels and what is the client's own: models, or their parameters, or statistics."""

    shared: Any
    own: Any


def as_one(shared: Variables, own: Variables) -> Variables:
    """Both as the parameters and the statistics of one model."""
    return Variables(Two(shared.params, own.params), Two(shared.stats, own.stats))


def as_two(joint: Variables) -> Two:
    """Undoes `as_one`.

    Example:
      >>> both = as_one(Variables({"w": 1.0}), Variables({"w": 2.0}, stats=3))
      >>> as_two(both).own
      Variables(params={'w': 2.0}, stats=3)
    """
    params, stats = joint
    return Two(Variables(params.shared, stats.shared), Variables(params.own, stats.own))
