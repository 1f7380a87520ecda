"""Two models interpolated: how much of either, as a number or one for each array."""

from __future__ import annotations

from typing import NamedTuple

import jax

from fedjax_kd import tree
from fedjax_kd.core import PyTree


class OwnStats(NamedTuple):
    """What is measured of a client's own model: no optimiser steps its share."""

    stats: PyTree  # running statistics of the interpolated model
    share: PyTree  # of the own model in it: a number, or one for each of its arrays


def blended(shared: PyTree, own: PyTree, share: PyTree) -> PyTree:
    """The parameters ``share * own + (1 - share) * shared``.

    Example:
      >>> blended({"w": jax.numpy.zeros(2)}, {"w": jax.numpy.full(2, 4.0)}, 0.25)
      {'w': Array([1., 1.], dtype=float32)}
    """
    return tree.add(shared, times(share, tree.sub(own, shared)))


def times(share: PyTree, model: PyTree) -> PyTree:
    """All arrays times a number, or each times its own."""
    return jax.tree.map(tree.scale, share, model)
