"""Feature and attention matching, and FRSKD's loss, which is made of it.

Features are examples first and channels last. Gradients reach both sides: a teacher that depends on
what is trained takes ``jax.lax.stop_gradient`` (`feature_refinement` does).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Scalar
from fedjax_kd.errors import InputError
from fedjax_kd.losses.distillation import check_pair, kl_divergence
from fedjax_kd.losses.supervised import NO_LABEL, cross_entropy
from fedjax_kd.losses.vectors import cosine_similarity, length, normalised
from fedjax_kd.options import check_choice, checks_options

FeatureNorm = Literal["norm", "mean"]


def feature_mse(
    student: Float[Array, "B ..."], teacher: Float[Array, "B ..."]
) -> Float[Array, " B"]:
    """The squared difference of features, averaged over all axes but the first (FitNets' hints).

    Raises:
      ValueError: if shapes differ.

    Example:
      >>> feature_mse(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]]))
      Array([2.], dtype=float32)

    Source: Romero, Ballas, Kahou, Chassang, Gatta, Bengio, ICLR 2015, arXiv:1412.6550.
    """
    check_pair(student, teacher)
    square = jnp.square(student - teacher.astype(student.dtype))
    return square.reshape(len(square), -1).mean(1)


def feature_cosine(
    student: Float[Array, "B *S D"], teacher: Float[Array, "B *S D"]
) -> Float[Array, " B"]:
    """One minus the cosine between features, averaged over places: 0 where they point one way.

    A vector of zeros has cosine 0 with every other, and no gradient.

    Raises:
      ValueError: if shapes differ.

    Example:
      >>> feature_cosine(jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([[2.0, 0.0], [0.0, 1.0]]))
      Array([0., 1.], dtype=float32)
    """
    check_pair(student, teacher)
    apart = 1 - cosine_similarity(student, teacher.astype(student.dtype))
    return apart.reshape(len(apart), -1).mean(1)


@checks_options
def attention_map(features: Float[Array, "B *S D"], power: int = 2) -> Float[Array, "B P"]:
    """Where features are large: the mean over channels of ``|f|^power``, of length 1 over places.

    Maps of zeros stay zero.

    Args:
      features: ``[B, ..., D]``, e.g. ``[B, H, W, D]``.
      power: >= 1; larger ones stress the peaks.

    Raises:
      ValueError: if ``power`` is less than 1.

    Example:
      >>> attention_map(jnp.array([[[3.0], [0.0]], [[0.0], [0.0]]]))
      Array([[1., 0.],
             [0., 0.]], dtype=float32)

    Source: Zagoruyko, Komodakis, ICLR 2017, arXiv:1612.03928.
    """
    pooled = (jnp.abs(features) ** power).mean(-1)
    return normalised(pooled.reshape(len(pooled), -1))


@checks_options
def attention_transfer(
    student: Float[Array, "B *S D"],
    teacher: Float[Array, "B *S E"],
    *,
    power: int = 2,
    measure: FeatureNorm = "norm",
) -> Float[Array, " B"]:
    """How far two attention maps lie apart; the numbers of channels may differ.

    Args:
      student: features ``[B, ..., D]``.
      teacher: features ``[B, ..., E]`` at the same places.
      power: see `attention_map`, >= 1.
      measure: "norm", the length of the difference, as the paper writes; or its squares' "mean"
        over places, as the authors' code has it.

    Raises:
      ValueError: if the places differ, ``power`` is less than 1, or the measure is unknown.

    Example:
      >>> x = jnp.array([[[3.0], [4.0]]])
      >>> attention_transfer(x, 10 * x)
      Array([0.], dtype=float32)

    Source: Zagoruyko, Komodakis, ICLR 2017, arXiv:1612.03928.
    """
    check_choice("measure", measure, FeatureNorm)
    check_pair(student[..., 0], teacher[..., 0])
    apart = attention_map(student, power) - attention_map(teacher, power).astype(student.dtype)
    return length(apart) if measure == "norm" else jnp.square(apart).mean(-1)


@checks_options
def refined_self_distillation(
    logits: Float[Array, "B L"],
    teacher: Float[Array, "B L"],
    labels: Int[Array, " B"],
    features: Sequence[Float[Array, "B *S D"]],
    teacher_features: Sequence[Float[Array, "B *S E"]],
    *,
    alpha: Scalar,
    beta: Scalar,
    tau: Scalar = 4.0,
    measure: FeatureNorm = "norm",
) -> Float[Array, " B"]:
    """FRSKD's loss: a self-teacher on top of the network refines its features and teaches it.

        CE(logits, y) + CE(teacher, y) + alpha tau^2 KL(teacher || logits)
          + beta sum_i distance of attention maps(features_i, teacher_features_i)

    The self-teacher learns from the labels alone: it is a constant in the last two terms. The value
    is 0 where the label is -1.

    Args:
      logits: of the network.
      teacher: logits of the self-teacher.
      labels: classes, or -1 for "no label".
      features: of the network, one array ``[B, ..., D_i]`` a level.
      teacher_features: the refined ones, at the same places.
      alpha: weight of the logits' distillation, >= 0.
      beta: weight of the features' distillation, >= 0.
      tau: temperature, > 0; larger ones soften the predictions, 1 leaves the logits as they are.
      measure: see `attention_transfer`. The authors' weights for CIFAR-100, ``alpha`` 2 and
        ``beta`` 100, belong to "mean", which is their code; their equation has the "norm".

    Raises:
      ValueError: if shapes or the numbers of levels differ, or ``tau`` is a number <= 0.

    Example:
      >>> logits, labels = jnp.zeros((1, 2)), jnp.array([0])
      >>> refined_self_distillation(logits, logits, labels, [], [], alpha=2.0, beta=100.0)
      Array([1.386], dtype=float32)

    Source: Ji, Shin, Hwang, Park, Moon, CVPR 2021, arXiv:2103.08273.
    """
    distilled = feature_refinement(
        logits,
        teacher,
        features,
        teacher_features,
        alpha=alpha,
        beta=beta,
        tau=tau,
        measure=measure,
    )
    values = cross_entropy(logits, labels) + cross_entropy(teacher, labels) + distilled
    return jnp.where(labels == NO_LABEL, 0, values)


@checks_options
def feature_refinement(
    logits: Float[Array, "B L"],
    teacher: Float[Array, "B L"],
    features: Sequence[Float[Array, "B *S D"]],
    teacher_features: Sequence[Float[Array, "B *S E"]],
    *,
    alpha: Scalar,
    beta: Scalar,
    tau: Scalar = 4.0,
    measure: FeatureNorm = "norm",
) -> Float[Array, " B"]:
    """FRSKD's terms of distillation, without its cross-entropies: the teacher is a constant.

        alpha tau^2 KL(teacher || logits)
          + beta sum_i distance of attention maps(features_i, teacher_features_i)

    Args:
      logits: of the network ``[B, L]``.
      teacher: logits of the self-teacher ``[B, L]``.
      features: the network's, of each level.
      teacher_features: the refined ones, of each level.
      alpha: weight of the logits' distillation, >= 0.
      beta: weight of the features' distillation, >= 0.
      tau: temperature, > 0; larger ones soften the predictions, 1 leaves the logits as they are.
      measure: see `attention_transfer`.

    Raises:
      ValueError: as `refined_self_distillation`.

    Example:
      >>> logits, maps = jnp.zeros((1, 2)), [jnp.ones((1, 3, 2))]
      >>> feature_refinement(logits, logits, maps, [2 * maps[0]], alpha=1.0, beta=1.0)
      Array([0.], dtype=float32)

    Source: Ji, Shin, Hwang, Park, Moon, CVPR 2021, arXiv:2103.08273.
    """
    if len(features) != len(teacher_features):
        raise InputError(
            f"The network has {len(features)} levels of features and the self-teacher "
            f"{len(teacher_features)}, but each level needs its refined one."
        )
    fixed = jax.lax.stop_gradient
    taught = kl_divergence(logits, fixed(teacher), tau)
    refined = [
        attention_transfer(own, fixed(better), measure=measure)
        for own, better in zip(features, teacher_features, strict=True)
    ]
    shift = jnp.zeros_like(taught) + sum(level.astype(taught.dtype) for level in refined)
    alpha, beta = (jnp.asarray(weight, taught.dtype) for weight in (alpha, beta))
    return alpha * taught + beta * shift
