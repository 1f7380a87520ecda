"""Losses in which the model that a client received teaches the one that it trains.

Teachers are constants here: no gradient reaches them.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Scalar
from fedjax_kd.losses.distillation import check_pair, log_probabilities, relative_entropy
from fedjax_kd.losses.supervised import NO_LABEL, check_labels
from fedjax_kd.losses.vectors import cosine_similarity
from fedjax_kd.options import check_choice, checks_options

Classes = Literal["all", "not_true"]


@checks_options
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
    return received_divergence(logits, teacher, labels, tau, classes="not_true", scaled=scaled)


@checks_options
def received_divergence(
    logits: Float[Array, "*B L"],
    teacher: Float[Array, "*B L"],
    labels: Int[Array, "*B"],
    tau: Scalar = 1.0,
    *,
    classes: Classes = "all",
    scaled: bool = True,
) -> Float[Array, "*B"]:
    """FedLSD's second term: distillation from the received model; 0 where the label is -1.

        tau^2 KL(softmax(teacher / tau) || softmax(logits / tau))

    FedLSD's loss is ``1 - beta`` times `cross_entropy` plus ``beta`` times this.

    Args:
      logits: of the model in training ``[B, ..., L]``.
      teacher: logits of the received model, of the same shape.
      labels: classes ``[B, ...]``, or -1 for "no label".
      tau: temperature, > 0; larger ones soften the predictions, 1 leaves the logits as they are.
      classes: "all", or "not_true" for FedLS-NTD, which distils as `not_true` does.
      scaled: with the factor ``tau^2``, which the paper's first version does not print.

    Raises:
      ValueError: if shapes differ, ``classes`` is unknown, or ``tau`` is a number <= 0.

    Example:
      >>> logits = jnp.array([[1.0, 0.0], [3.0, 0.0]])
      >>> received_divergence(logits, jnp.zeros((2, 2)), jnp.array([0, -1]))
      Array([0.12, 0. ], dtype=float32)

    Source: Lee, Shin, Jeong, Yun, 2021, arXiv:2106.03097v1.
    """
    check_choice("classes", classes, Classes)
    check_pair(logits, teacher)
    check_labels(logits, labels)
    labels = labels.astype(jnp.int32)
    teacher = jax.lax.stop_gradient(teacher).astype(logits.dtype)
    if classes == "not_true":
        own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        logits, teacher = (jnp.where(own, -jnp.inf, z) for z in (logits, teacher))
    values = relative_entropy(log_probabilities(teacher, tau), log_probabilities(logits, tau))
    values = jnp.where(labels == NO_LABEL, 0, values)
    return values * jnp.square(jnp.asarray(tau, values.dtype)) if scaled else values


@checks_options
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
    previous = previous if previous.ndim > features.ndim else previous[None]
    others = jax.lax.stop_gradient(jnp.concatenate([received[None], previous]))
    check_pair(features, received)
    near = cosine_similarity(jnp.broadcast_to(features[None], others.shape), others)
    return -jax.nn.log_softmax(near / jnp.asarray(tau, near.dtype), axis=0)[0]
