"""Means of vectors class by class, which clients send in place of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.components.class_statistics import memberships
from fedjax_kd.core import Batch, Data, Key, PyTree, Round, Variables
from fedjax_kd.local import Fit, Fitted

Phi = Literal["cross_entropy", "squared", "pfllib"]
"""How FD compares logits with those that teach them."""

_FAR = 1e6  # more than any distance, and finite in a loss


class ClassSums(NamedTuple):
    """Sums of vectors by class, and how many; of a server, those of all clients together."""

    sums: Any  # [L, D]
    counts: Any  # [L]


class WithMeans(NamedTuple):
    """A server, and the sums that the means of classes are made of."""

    base: Any
    of_classes: ClassSums


class _Seen(NamedTuple):
    """In place of a model's statistics while it trains: these, and the vectors so far."""

    stats: PyTree
    vectors: ClassSums


def no_vectors(classes: int, width: int, dtype: DTypeLike = jnp.float32) -> ClassSums:
    """The sums of nothing."""
    return ClassSums(jnp.zeros((classes, width), dtype), jnp.zeros(classes, dtype))


def class_sums(
    vectors: Float[Array, "B ... D"],
    y: Int[Array, "B ..."],
    mask: Float[Array, " B"],
    classes: int,
) -> ClassSums:
    """The sums of labelled vectors; those whose label is -1, or whose row is filling, are left out.

    Example:
      >>> z = jnp.array([[1.0], [3.0], [7.0]])
      >>> found = class_sums(z, jnp.array([0, 0, 1]), jnp.array([1.0, 1.0, 0.0]), 2)
      >>> found.sums.ravel().tolist(), found.counts.tolist()
      ([4.0, 0.0], [2.0, 0.0])
    """
    members = memberships(y, mask, classes, vectors.dtype)
    flat = vectors.reshape(-1, vectors.shape[-1])
    exact = jax.lax.Precision.HIGHEST
    return ClassSums(jnp.einsum("bl,bd->ld", members, flat, precision=exact), members.sum(0))


def class_means(of: ClassSums) -> Float[Array, "L D"]:
    """The mean of each class; 0 for a class without any."""
    return of.sums / jnp.where(of.counts == 0, 1, of.counts)[:, None]


def as_one_each(of: ClassSums) -> ClassSums:
    """The means as if each class that there is had one vector: how clients vote alike."""
    return ClassSums(class_means(of), (of.counts > 0).astype(of.counts.dtype))


def renew(key: Key, server: WithMeans, new: ClassSums, round: Round) -> WithMeans:
    """The server with the new sums, and the old ones of classes that nobody had."""
    here, old = new.counts > 0, server.of_classes
    sums = jnp.where(here[:, None], new.sums, old.sums)
    return server._replace(of_classes=ClassSums(sums, jnp.where(here, new.counts, old.counts)))


def nearness(
    vectors: Float[Array, "B ... D"], of: ClassSums, otherwise: Float[Array, "B ... L"]
) -> Float[Array, "B ... L"]:
    """Less the mean squared distance to each class's mean; far from classes without any.

    Args:
      vectors: such as features.
      of: the classes.
      otherwise: what counts while no class has any.
    """
    one_each = (1,) * (vectors.ndim - 1)
    means = class_means(of).reshape(*one_each, *of.sums.shape)
    known = (of.counts > 0).reshape(*one_each, -1)
    apart = jnp.square(vectors[..., None, :] - means).mean(-1)
    return jnp.where(known.any(), -jnp.where(known, apart, _FAR), otherwise)


def taught(
    phi: Phi,
    logits: Float[Array, "B ... L"],
    y: Int[Array, "B ..."],
    teachers: ClassSums,
) -> Float[Array, "B ..."]:
    """How far logits are from their label's mean, one value a label; 0 where there is none.

    Args:
      phi: see `fedjax_kd.algorithms.fd`.
      logits: of the student.
      y: labels.
      teachers: logits, summed.
    """
    target = of_label(class_means(teachers), y)
    known = of_label(teachers.counts, y) > 0
    if phi == "squared":
        return jnp.where(known, jnp.square(logits - target).mean(-1), 0)
    logarithms = jax.nn.log_softmax(logits)
    if phi == "cross_entropy":
        return jnp.where(known, -(jax.nn.softmax(target) * logarithms).sum(-1), 0)
    own = jax.lax.stop_gradient(logits)
    return -(jnp.where(known[..., None], target, own) * logarithms).sum(-1)


def fit_and_collect(
    fit: Fit,
    start: ClassSums,
    both: Callable[[Variables, Batch, Key], tuple[Array, Array, PyTree]],
) -> Callable[[Key, Variables, Data, Round], tuple[Fitted, ClassSums]]:
    """Local training that also adds up, by class, vectors of every step before it is taken.

    Args:
      fit: local training.
      start: nothing yet, of the shapes that are wanted.
      both: ``(model, batch, key) -> loss, vectors [B, ..., D], new stats``.

    Returns:
      ``(key, model, data, round) -> trained model, sums``.
    """
    classes = len(start.counts)

    def objective(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        seen = model.stats
        loss, vectors, stats = both(Variables(model.params, seen.stats), batch, key)
        vectors = jax.lax.stop_gradient(vectors).astype(start.sums.dtype)
        found = class_sums(vectors, batch.y, batch.mask, classes)
        return loss, _Seen(stats, tree.add(seen.vectors, found))

    def run(key: Key, model: Variables, data: Data, round: Round) -> tuple[Fitted, ClassSums]:
        begun = Variables(model.params, _Seen(model.stats, start))
        fitted = fit(key, begun, data, objective, round)
        seen = fitted.model.stats
        return fitted._replace(model=Variables(fitted.model.params, seen.stats)), seen.vectors

    return run


def of_label(table: Float[Array, "L ..."], y: Int[Array, "B ..."]) -> Array:
    """The row of each label; any, where it is -1."""
    return table.at[jnp.maximum(y, 0)].get(mode="clip")
