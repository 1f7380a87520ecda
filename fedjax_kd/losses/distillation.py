"""Distillation by outputs: a student's logits against those of one teacher or of many.

Gradients reach both sides: a teacher that depends on what is trained takes
``jax.lax.stop_gradient``, unless a generator is to learn through it.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd.core import Scalar
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options

Direction = Literal["forward", "reverse"]
Pooled = Literal["logits", "probabilities"]
Average = Literal["logits", "probabilities", "losses"]


@checks_options
def kl_divergence(
    student: Float[Array, "*B L"],
    teacher: Float[Array, "*B L"],
    tau: Scalar = 1.0,
    *,
    direction: Direction = "forward",
    scaled: bool = True,
) -> Float[Array, "*B"]:
    """Relative entropy of two predictions at a temperature, in nats, one value an example.

        p = softmax(teacher / tau), q = softmax(student / tau)
        forward: tau^2 sum_l p_l log(p_l / q_l)      reverse: tau^2 sum_l q_l log(q_l / p_l)

    The forward direction makes the student cover all that the teacher holds possible, the reverse
    one makes it pick. Logits of -inf are classes that a model excludes.

    Args:
      student: logits ``[B, ..., L]``.
      teacher: logits of the same shape.
      tau: temperature, > 0; larger ones soften the predictions, 1 leaves the logits as they are.
      direction: "forward" or "reverse".
      scaled: with the factor ``tau^2``, which keeps gradients at their size for every ``tau``.

    Raises:
      ValueError: if shapes differ, the direction is unknown, or ``tau`` is a number <= 0.

    Example:
      >>> kl_divergence(jnp.array([[0.0, 0.0]]), jnp.array([[9.0, -9.0]]))
      Array([0.693], dtype=float32)

    Source: Hinton, Vinyals, Dean, 2015, arXiv:1503.02531.
    """
    check_choice("direction", direction, Direction)
    check_pair(student, teacher)
    log_q, log_p = log_probabilities(student, tau), log_probabilities(teacher, tau)
    log_p = log_p.astype(log_q.dtype)
    values = relative_entropy(*((log_p, log_q) if direction == "forward" else (log_q, log_p)))
    return values * _factor(tau, scaled, values)


@checks_options
def soft_cross_entropy(
    student: Float[Array, "*B L"],
    teacher: Float[Array, "*B L"],
    tau: Scalar = 1.0,
    *,
    scaled: bool = True,
) -> Float[Array, "*B"]:
    """Cross-entropy of the student's predictions against the teacher's, in nats.

    That is the forward `kl_divergence` plus the teacher's entropy: the student's gradients are the
    same, the value is not 0 where both agree.

    Args:
      student: logits ``[..., L]``.
      teacher: logits of the same shape.
      tau: temperature, > 0; larger ones soften the predictions, 1 leaves the logits as they are.
      scaled: with the factor ``tau^2``.

    Raises:
      ValueError: if the shapes differ or ``tau`` is out of its range.

    Example:
      >>> soft_cross_entropy(jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 0.0]]))
      Array([0.693], dtype=float32)
    """
    check_pair(student, teacher)
    log_q, log_p = log_probabilities(student, tau), log_probabilities(teacher, tau)
    values = -(jnp.exp(log_p.astype(log_q.dtype)) * log_q).sum(-1)
    return values * _factor(tau, scaled, values)


def logit_mse(student: Float[Array, "*B L"], teacher: Float[Array, "*B L"]) -> Float[Array, "*B"]:
    """The squared difference of logits, averaged over classes, one value an example.

    Raises:
      ValueError: if shapes differ.

    Example:
      >>> logit_mse(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]]))
      Array([2.], dtype=float32)

    Source: Ba, Caruana, NeurIPS 2014, arXiv:1312.6184.
    """
    check_pair(student, teacher)
    return jnp.square(student - teacher.astype(student.dtype)).mean(-1)


def logit_mae(student: Float[Array, "*B L"], teacher: Float[Array, "*B L"]) -> Float[Array, "*B"]:
    """The absolute difference of logits, averaged over classes, one value an example.

    Raises:
      ValueError: if shapes differ.

    Example:
      >>> logit_mae(jnp.array([[1.0, 3.0]]), jnp.array([[1.0, 1.0]]))
      Array([1.], dtype=float32)

    Source: Li, Wang, 2019, arXiv:1910.03581, as its code digests a consensus.
    """
    check_pair(student, teacher)
    return jnp.abs(student - teacher.astype(student.dtype)).mean(-1)


@checks_options
def ensemble_logits(
    teachers: Float[Array, "K *B L"],
    weights: Float[Array, " K"] | None = None,
    *,
    average: Pooled = "logits",
    tau: Scalar = 1.0,
) -> Float[Array, "*B L"]:
    """The joint prediction of many teachers, as logits.

    Args:
      teachers: logits of each ``[K, B, ..., L]``.
      weights: votes >= 0; 0 leaves a teacher out. By default all count the same.
      average: "logits", or "probabilities": then the result is the logarithm of the mean softmax.
      tau: temperature of these probabilities, > 0.

    Raises:
      ValueError: if ``average`` is neither, or ``tau`` is a number <= 0.

    Example:
      >>> ensemble_logits(jnp.array([[[1.0, 3.0]], [[3.0, 1.0]]]))
      Array([[2., 2.]], dtype=float32)
    """
    check_choice("average", average, Pooled)
    shares, _ = _shares(teachers, weights)
    if average == "logits":
        return _voted(shares, teachers)
    votes = jnp.expand_dims(shares, tuple(range(1, teachers.ndim)))
    voted = jax.nn.logsumexp(log_probabilities(teachers, tau), axis=0, b=votes)
    return jnp.maximum(voted, _least(voted))


@checks_options
def ensemble_divergence(
    student: Float[Array, "*B L"],
    teachers: Float[Array, "K *B L"],
    tau: Scalar = 1.0,
    weights: Float[Array, " K"] | None = None,
    *,
    average: Average = "logits",
    teacher_tau: Scalar | None = None,
    scaled: bool = False,
) -> Float[Array, "*B"]:
    """Forward `kl_divergence` from an ensemble, as FedDF's server distils it.

    Args:
      student: logits ``[B, ..., L]``.
      teachers: logits of each ``[K, B, ..., L]``.
      tau: temperature, > 0; larger ones soften the predictions, 1 leaves the logits as they are.
      weights: votes >= 0 ``[K]``; 0 leaves a teacher out. By default all count the same, and if
        none is left the loss is 0.
      average: of the teachers' "logits" (the paper), their "probabilities", or the "losses".
      teacher_tau: temperature of averaged probabilities, > 0, by default ``tau``; in the authors'
        code 1 for every ``tau``.
      scaled: with the factor ``tau^2``, which the paper does not have.

    Raises:
      ValueError: if shapes differ, ``average`` is unknown, or ``tau`` is a number <= 0.

    Example:
      >>> teachers = jnp.array([[[9.0, -9.0]], [[-9.0, 9.0]]])
      >>> ensemble_divergence(jnp.zeros((1, 2)), teachers)
      Array([0.], dtype=float32)

    Source: Lin, Kong, Stich, Jaggi, NeurIPS 2020, arXiv:2006.07242.
    """
    check_choice("average", average, Average)
    check_pair(student, teachers[0])
    shares, total = _shares(teachers, weights)
    log_q = log_probabilities(student, tau)
    if average == "losses":
        log_p = log_probabilities(teachers, tau)
        each = relative_entropy(log_p, jnp.broadcast_to(log_q[None], log_p.shape))
        values = _voted(shares, each)
    elif average == "logits":
        together = ensemble_logits(teachers, weights)
        values = relative_entropy(log_probabilities(together, tau), log_q)
    else:
        at = tau if teacher_tau is None else teacher_tau
        log_p = ensemble_logits(teachers, weights, average=average, tau=at)
        values = relative_entropy(log_p, log_q)
    return jnp.where(total > 0, values, 0) * _factor(tau, scaled, values)


@checks_options
def log_probabilities(logits: Float[Array, "*B L"], tau: Scalar = 1.0) -> Float[Array, "*B L"]:
    """The logarithm of the softmax at a temperature; logits of -inf give something finite.

    Args:
      logits: ``[..., L]``.
      tau: temperature, > 0; larger ones soften the predictions, 1 leaves the logits as they are.

    Raises:
      ValueError: if ``tau`` is a number <= 0.

    Example:
      >>> jnp.exp(log_probabilities(jnp.array([0.0, 0.0, -jnp.inf])))
      Array([0.5, 0.5, 0. ], dtype=float32)
    """
    logits = logits / jnp.asarray(tau, logits.dtype)
    return jax.nn.log_softmax(jnp.maximum(logits, _least(logits)))


def relative_entropy(
    log_p: Float[Array, "*B L"], log_q: Float[Array, "*B L"]
) -> Float[Array, "*B"]:
    """``sum p log(p / q)`` of two distributions, given by their logarithms.

    Example:
      >>> relative_entropy(jnp.log(jnp.array([1.0, 0.0]) + 1e-30), jnp.log(jnp.array([0.5, 0.5])))
      Array(0.693, dtype=float32)
    """
    p, q, gap = jnp.exp(log_p), jnp.exp(log_q), log_p - log_q
    above = gap >= 0
    # q - p, which sums to 0: with it no term is negative and the rounding of the gaps cancels,
    # which the factor tau^2 would magnify.
    excess = jnp.where(above, p, -q) * jnp.expm1(jnp.where(above, -gap, gap))
    return (p * gap + excess).sum(-1)


def check_pair(student: Array, teacher: Array) -> None:
    """Raises ValueError if a student and a teacher do not have the same shape."""
    if student.shape != teacher.shape:
        raise InputError(
            f"The student gives {student.shape} and the teacher {teacher.shape}, but both must "
            "have the same shape, examples first and classes or features last: take models for "
            "the same classes, or project one side."
        )


def _shares(
    teachers: Array, weights: Float[Array, " K"] | None
) -> tuple[Float[Array, " K"], Float[Array, ""]]:
    """Votes that sum to 1, and the sum that they had."""
    votes = jnp.ones(len(teachers)) if weights is None else weights
    votes = votes.astype(teachers.dtype)
    total = votes.sum()
    return votes / jnp.where(total > 0, total, 1), total


def _voted(shares: Float[Array, " K"], values: Float[Array, "K ..."]) -> Array:
    """The weighted sum over teachers, not rounded to the accelerator's short matrix formats."""
    return jnp.tensordot(shares, values, axes=1, precision=jax.lax.Precision.HIGHEST)


def _least(logits: Array) -> float:
    """A logit whose softmax is 0, far from what overflows."""
    return float(jnp.finfo(logits.dtype).min) / 4


def _factor(tau: Scalar, scaled: bool, values: Array) -> Array | float:
    """``tau^2``, or 1."""
    return jnp.square(jnp.asarray(tau, values.dtype)) if scaled else 1.0
