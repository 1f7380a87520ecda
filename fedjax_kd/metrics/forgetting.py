"""Forgetting, class by class, and the distance between models."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import tree
from fedjax_kd.core import PyTree
from fedjax_kd.errors import InputError


class ClassTally(NamedTuple):
    """Sums over predictions, class by class; two tallies are added leaf by leaf."""

    counted: Float[Array, " L"]  # how many of each class were counted
    correct: Float[Array, " L"]


def class_accuracy(sums: ClassTally) -> Float[Array, "*R L"]:
    """Accuracy of each class in [0, 1]; NaN where nothing of a class was counted."""
    counted = sums.counted > 0
    return jnp.where(counted, sums.correct / jnp.where(counted, sums.counted, 1), jnp.nan)


def forgetting(accuracy: Float[Array, "R L"]) -> Float[Array, ""]:
    """FedNTD's F: how much of each class's best accuracy the last round has lost.

        F = mean_l max_{r < R - 1} (accuracy[r, l] - accuracy[R - 1, l])

    Args:
      accuracy: of each class after each round, by the server's model, see `class_accuracy`. A class
        that is NaN in any round is left out.

    Raises:
      ValueError: if there are fewer than two rounds.

    Example:
      >>> forgetting(jnp.array([[0.9, 0.2], [0.5, 0.4], [0.6, 0.3]]))
      Array(0.2, dtype=float32)

    Source: Lee, Jeong, Shin, Bae, Yun, NeurIPS 2022, arXiv:2106.03097.
    """
    if len(accuracy) < 2:
        raise InputError(
            f"There are {len(accuracy)} rounds, but only what a round before the last has known "
            "can be forgotten: give the accuracies of at least 2."
        )
    lost = accuracy[:-1].max(0) - accuracy[-1]
    known = ~jnp.isnan(lost)
    return jnp.where(known, lost, 0).sum() / known.sum().astype(lost.dtype)


def weight_divergence(model: PyTree, reference: PyTree) -> Float[Array, ""]:
    """How far two models lie apart, in units of the second: ``||w - v|| / ||v||``.

    The reference is a model that was trained on all data at once, from the same initial one, for as
    many steps. ``jax.tree.map(weight_divergence, model, reference)`` compares parameter by
    parameter. Infinite if only the reference is zero, 0 if both are.

    Example:
      >>> weight_divergence({"w": jnp.array([3.0, 8.0])}, {"w": jnp.array([3.0, 4.0])})
      Array(0.8, dtype=float32)

    Source: Zhao, Li, Lai, Suda, Civin, Chandra, 2018, arXiv:1806.00582.
    """
    apart = jnp.sqrt(tree.sq_norm(tree.sub(model, reference)))
    size = jnp.sqrt(tree.sq_norm(reference))
    against_zero = jnp.where(apart > 0, jnp.inf, 0).astype(apart.dtype)
    return jnp.where(size > 0, apart / jnp.where(size > 0, size, 1), against_zero)
