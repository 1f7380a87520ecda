"""Losses in which the model that a client received teaches the one that it trains.

Teachers are constants here: no gradient reaches them.
"""

from __future__ import annotations

from numbers import Real
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Scalar
from fedjax_kd.losses.distillation import (
    check_pair,
    check_temperature,
    cross,
    log_probabilities,
    relative_entropy,
)
from fedjax_kd.losses.supervised import NO_LABEL, check_labels, cross_entropy
from fedjax_kd.losses.vectors import cosine_similarity
from fedjax_kd.options import check_choice

Classes = Literal["all", "not_true"]
Form = Literal["kl", "cross_entropy"]


def not_true(
    logits: Float[Array, "*B L"],
    teacher: Float[Array, "*B L"],
    labels: Int[Array, "*B"],
    tau: Scalar = 1.0,
    *,
    scaled: bool = True,
) -> Float[Array, "*B"]:
    """FedNTD's second term: distillation among the classes that are not the label.

        p, q = softmax of teacher / tau, logits / tau over the L - 1 classes l != y
        tau^2 sum_{l != y} p_l log(p_l / q_l)

    FedNTD's loss is `cross_entropy` plus ``beta`` times this. It is 0 with two classes, and where
    the label is -1.

    Args:
      logits: of the model in training ``[B, ..., L]``.
      teacher: logits of the received model, of the same shape.
      labels: classes ``[B, ...]``, or -1 for "no label".
      tau: temperature, > 0; the paper uses 1 (and ``beta`` 1).
      scaled: with the factor ``tau^2``.

    Raises:
      ValueError: if shapes differ, or ``tau`` is a number <= 0.

    Example:
      >>> teacher = jnp.array([[5.0, 0.0, 2.0]])
      >>> not_true(teacher + jnp.array([[7.0, 0.0, 0.0]]), teacher, jnp.array([0]))
      Array([0.], dtype=float32)

    Source: Lee, Jeong, Shin, Bae, Yun, NeurIPS 2022, arXiv:2106.03097.
    """
    return _term(logits, teacher, labels, tau, classes="not_true", form="kl", scaled=scaled)


def self_distillation(
    logits: Float[Array, "*B L"],
    teacher: Float[Array, "*B L"],
    labels: Int[Array, "*B"],
    tau: Scalar = 1.0,
    beta: Scalar = 0.3,
    *,
    classes: Classes = "all",
    form: Form = "kl",
    scaled: bool = True,
) -> Float[Array, "*B"]:
    """FedLSD's loss: labels and the received model's predictions share the weight.

        (1 - beta) CE(logits, y) + beta tau^2 KL(softmax(teacher / tau) || softmax(logits / tau))

    Equals `cross_entropy` when ``beta == 0``; 0 where the label is -1.

    Args:
      logits: of the model in training ``[B, ..., L]``.
      teacher: logits of the received model, of the same shape.
      labels: classes ``[B, ...]``, or -1 for "no label".
      tau: temperature of the second term, > 0.
      beta: its share, in [0, 1].
      classes: "all", or "not_true" for FedLS-NTD, which distils as `not_true` does.
      form: "kl", or "cross_entropy", whose gradient is the same.
      scaled: with the factor ``tau^2``, which the paper's first version does not print.

    Raises:
      ValueError: if shapes differ, an option is unknown, or a number is out of its range.

    Example:
      >>> logits, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
      >>> self_distillation(logits, logits, labels, beta=0.5) * 2 == cross_entropy(logits, labels)
      Array([ True], dtype=bool)

    Source: Lee, Shin, Jeong, Yun, 2021, arXiv:2106.03097v1.
    """
    if isinstance(beta, Real) and not 0 <= beta <= 1:
        raise ValueError(
            f"beta is {beta}, but it is the teacher's share and must be in [0, 1]: 0 is training "
            "without a teacher."
        )
    values = cross_entropy(logits, labels)
    share = jnp.asarray(beta, values.dtype)
    term = _term(logits, teacher, labels, tau, classes=classes, form=form, scaled=scaled)
    return (1 - share) * values + share * term


def model_contrastive(
    features: Float[Array, "B D"],
    received: Float[Array, "B D"],
    previous: Float[Array, "*R B D"],
    tau: Scalar = 0.5,
) -> Float[Array, " B"]:
    """MOON's second term: features near the received model's, far from the client's own old ones.

        -log( e^{cos(z, z_glob) / tau} / (e^{cos(z, z_glob) / tau} + sum_r e^{cos(z, z_r) / tau}) )

    MOON's loss is `cross_entropy` plus ``mu`` times the mean of this. A vector of zeros has cosine
    0 with every other, and no gradient.

    Args:
      features: projected features of the model in training.
      received: those of the received model, on the same inputs.
      previous: those of the client's previous model, or of several, ``[R, B, D]``; with R = 0 the
        loss is 0.
      tau: temperature, > 0; the paper uses 0.5.

    Raises:
      ValueError: if shapes differ, or ``tau`` is a number <= 0.

    Example:
      >>> z = jnp.array([[1.0, 0.0]])
      >>> model_contrastive(z, z, z)
      Array([0.693], dtype=float32)

    Source: Li, He, Song, CVPR 2021, arXiv:2103.16257.
    """
    check_temperature(tau)
    previous = previous if previous.ndim > features.ndim else previous[None]
    others = jax.lax.stop_gradient(jnp.concatenate([received[None], previous]))
    check_pair(features, received)
    near = cosine_similarity(jnp.broadcast_to(features[None], others.shape), others)
    return -jax.nn.log_softmax(near / jnp.asarray(tau, near.dtype), axis=0)[0]


def _term(
    logits: Array,
    teacher: Array,
    labels: Array,
    tau: Scalar,
    *,
    classes: Classes,
    form: Form,
    scaled: bool,
) -> Array:
    """The divergence from the received model, over all classes or without the label's."""
    check_choice("classes", classes, Classes)
    check_choice("form", form, Form)
    check_pair(logits, teacher)
    check_labels(logits, labels)
    labels = labels.astype(jnp.int32)
    teacher = jax.lax.stop_gradient(teacher).astype(logits.dtype)
    if classes == "not_true":
        own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        logits, teacher = (jnp.where(own, -jnp.inf, z) for z in (logits, teacher))
    log_p, log_q = log_probabilities(teacher, tau), log_probabilities(logits, tau)
    values = (relative_entropy if form == "kl" else cross)(log_p, log_q)
    values = jnp.where(labels == NO_LABEL, 0, values)
    return values * jnp.square(jnp.asarray(tau, values.dtype)) if scaled else values
