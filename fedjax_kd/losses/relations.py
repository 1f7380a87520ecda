"""Relation matching: distances, angles and similarities of examples or tokens.

Features of student and teacher may have different lengths. Gradients reach both sides. The value of
an example is its mean over all partners, so that ``masked_mean(values, mask)`` is the mean over all
pairs of real examples.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fedjax_kd.losses.distillation import check_pair
from fedjax_kd.losses.supervised import masked_mean
from fedjax_kd.losses.vectors import length, normalised


def relational_distances(
    student: Float[Array, "B ..."],
    teacher: Float[Array, "B ..."],
    mask: Float[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """RKD by distances: how far examples lie apart, in units of the mean distance.

    The value is the Huber loss (threshold 1) between both models' scaled distances. Memory grows
    with ``B^2 D``.

    Args:
      student: features, flattened from the second axis on.
      teacher: features of the same examples.
      mask: 1 for a real row, 0 for filling, with which no row is compared.

    Raises:
      ValueError: if the numbers of examples differ.

    Example:
      >>> x = jnp.array([[0.0], [1.0], [3.0]])
      >>> relational_distances(x, 10 * x)
      Array([0., 0., 0.], dtype=float32)

    Source: Park, Kim, Lu, Cho, CVPR 2019, arXiv:1904.05068.
    """
    mask = _mask(student, teacher, mask)
    apart = [_distances(x, mask) for x in (student, teacher)]
    return _over_partners(optax.losses.huber_loss(*apart), mask)


def relational_angles(
    student: Float[Array, "B ..."],
    teacher: Float[Array, "B ..."],
    mask: Float[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """RKD by angles: the cosine of the angle under which an example sees two others.

    The value is the Huber loss (threshold 1) between both models' cosines, the mean over all pairs
    that an example sees. Memory grows with ``B^2 D + B^3``. Arguments and errors are those of
    `relational_distances`.

    Example:
      >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> relational_angles(x, 2 * x + 1)
      Array([0., 0., 0.], dtype=float32)
    """
    mask = _mask(student, teacher, mask)
    angles = [_angles(x) for x in (student, teacher)]
    return _over_partners(_over_partners(optax.losses.huber_loss(*angles), mask), mask)


def similarity_preserving(
    student: Float[Array, "B ..."],
    teacher: Float[Array, "B ..."],
    mask: Float[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Similar examples stay similar: the squared difference of both models' similarity rows.

    A row is one example's inner products with all examples, scaled to length 1. Arguments and
    errors are those of `relational_distances`.

    Example:
      >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
      >>> similarity_preserving(x, jnp.array([[2.0], [2.0]]))
      Array([0.293, 0.293], dtype=float32)

    Source: Tung, Mori, ICCV 2019, arXiv:1907.09682.
    """
    mask = _mask(student, teacher, mask)
    rows = [_similarities(x, mask) for x in (student, teacher)]
    return _over_partners(jnp.square(rows[0] - rows[1]), mask)


def token_relations(
    queries: Float[Array, "*B T D"], keys: Float[Array, "*B T D"]
) -> Float[Array, "*B T T"]:
    """Scaled inner products of tokens, ``q k / sqrt(D)``: logits of an attention.

    Two models' relations are compared by `kl_divergence`, whatever their widths, as MiniLM and
    hybrid distillation do; the numbers of heads and tokens must agree.

    Example:
      >>> token_relations(jnp.ones((1, 2, 4)), jnp.ones((1, 2, 4)))[0]
      Array([[2., 2.],
             [2., 2.]], dtype=float32)

    Source: Wang, Wei, Dong, Bao, Yang, Zhou, NeurIPS 2020, arXiv:2002.10957.
    """
    scale = jnp.sqrt(jnp.asarray(queries.shape[-1], queries.dtype))
    return jnp.einsum("...id,...jd->...ij", queries, keys) / scale


def diversity(noise: Float[Array, "B E"], outputs: Float[Array, "B D"]) -> Float[Array, ""]:
    """FedGEN's diversity loss of a generator: outputs differ where their noise differs.

        exp( -mean_ij( mean_d |z_i - z_j| * mean_e (noise_i - noise_j)^2 ) )

    1 if all outputs are the same, smaller the more they differ.

    Example:
      >>> diversity(jnp.array([[0.0], [1.0]]), jnp.array([[5.0], [5.0]]))
      Array(1., dtype=float32)

    Source: Zhu, Hong, Zhou, ICML 2021, arXiv:2105.10056.
    """
    spread = jnp.abs(outputs[:, None] - outputs[None]).mean(-1)
    asked = jnp.square(noise[:, None] - noise[None]).mean(-1)
    return jnp.exp(-(spread * asked.astype(spread.dtype)).mean())


def _mask(student: Array, teacher: Array, mask: Array | None) -> Array:
    """Which rows are real; all of them by default."""
    check_pair(student.reshape(len(student), -1)[:, 0], teacher.reshape(len(teacher), -1)[:, 0])
    return jnp.ones(len(student), student.dtype) if mask is None else mask.astype(student.dtype)


def _over_partners(values: Float[Array, "*B J"], mask: Float[Array, " J"]) -> Float[Array, "*B"]:
    """The mean over the last axis, of real partners alone."""
    counted = jnp.where(jnp.broadcast_to(mask, values.shape) > 0, values, 0)
    return counted.sum(-1) / jnp.maximum(mask.sum(), 1)


def _differences(x: Array) -> Float[Array, "B B D"]:
    """The vector from each example to each other one."""
    flat = x.reshape(len(x), -1)
    return flat[None] - flat[:, None]


def _distances(x: Array, mask: Array) -> Float[Array, "B B"]:
    """Distances in units of the mean over pairs of real examples that differ."""
    apart = length(_differences(x))
    pairs = mask[:, None] * mask[None] * (apart > 0).astype(apart.dtype)
    unit = masked_mean(apart, pairs)
    return apart / jnp.where(unit > 0, unit, 1)


def _angles(x: Array) -> Float[Array, "B B B"]:
    """At ``[i, j, k]`` the cosine of the angle at i between j and k."""
    towards = normalised(_differences(x))
    return jnp.einsum("ijd,ikd->ijk", towards, towards)


def _similarities(x: Array, mask: Array) -> Float[Array, "B B"]:
    """Inner products with real examples, each row of length 1."""
    flat = x.reshape(len(x), -1)
    return normalised((flat @ flat.T) * mask[None])
