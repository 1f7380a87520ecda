"""Logits in training that know which classes a client holds, and how many examples of each.

Every method is an `Adjustment` of the logits, class by class, made of the client's own counts. The
loss is what it was, and predictions use the logits as they are.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from fedjax_kd.core import Scalar
from fedjax_kd.options import check_choice, checks_options

Restriction = Literal["paper", "code"]
AbsentLogits = Literal["excluded", "zero", "kept"]


class Adjustment(NamedTuple):
    """What a client's logits become in training: ``scale * z + shift``; -inf leaves a class out."""

    scale: Float[Array, " L"]
    shift: Float[Array, " L"]


@checks_options
def class_margins(counts: Float[Array, " L"], tau: Scalar = 1.0) -> Adjustment:
    """FedLC's margins ``tau * n_c^(-1/4)``, which logits lose: rare classes the most.

    A class without examples has an infinite margin and is left out, unless ``tau`` is 0.

    Args:
      counts: examples of each class.
      tau: strength, >= 0.

    Example:
      >>> class_margins(jnp.array([16.0, 1.0, 0.0])).shift
      Array([-0.5, -1. , -inf], dtype=float32)

    Source: Zhang, Li, Li, Xu, Wu, Ding, Wu, ICML 2022, arXiv:2209.00189.
    """
    margins = -jnp.asarray(tau, counts.dtype) * jnp.maximum(counts, 1) ** -0.25
    return Adjustment(jnp.ones_like(counts), _without_absent(margins, counts, tau))


@checks_options
def class_priors(counts: Float[Array, " L"], gamma: Scalar = 1.0) -> Adjustment:
    """The balanced softmax: logits gain ``gamma * log n_c``, so that they need not learn it.

    A class without examples is left out, unless ``gamma`` is 0.

    Args:
      counts: examples of each class.
      gamma: strength, >= 0.

    Example:
      >>> class_priors(jnp.array([1.0, 2.0, 0.0])).shift
      Array([0.   , 0.693,  -inf], dtype=float32)

    Source: Ren, Yu, Sheng, Ma, Zhao, Yi, Li, NeurIPS 2020, arXiv:2007.10740.
    """
    priors = jnp.asarray(gamma, counts.dtype) * jnp.log(jnp.maximum(counts, 1))
    return Adjustment(jnp.ones_like(counts), _without_absent(priors, counts, gamma))


@checks_options
def class_restrictions(
    counts: Float[Array, " L"], alpha: Scalar = 0.5, variant: Restriction = "paper"
) -> Adjustment:
    """FedRS's restricted softmax: logits of classes that the client lacks are ``alpha`` times.

    Args:
      counts: examples of each class.
      alpha: factor on the logits of absent classes, in [0, 1].
      variant: "code" has the factor ``alpha + (1 - alpha) n_c / max n``, so that it restricts rare
        classes, too.

    Raises:
      ValueError: if ``alpha`` is out of its range, or ``variant`` unknown.

    Example:
      >>> class_restrictions(jnp.array([30.0, 3.0, 0.0])).scale
      Array([1. , 1. , 0.5], dtype=float32)

    Source: Li, Zhan, KDD 2021.
    """
    check_choice("variant", variant, Restriction)
    share = jnp.minimum(counts, 1)
    if variant == "code":
        share = counts / jnp.maximum(counts.max(), 1)
    alpha = jnp.asarray(alpha, counts.dtype)
    return Adjustment(alpha + (1 - alpha) * share, jnp.zeros_like(counts))


def absent_classes(counts: Float[Array, " L"], absent: AbsentLogits = "excluded") -> Adjustment:
    """What becomes of the logits of classes that a client lacks.

    Args:
      counts: examples of each class.
      absent: they are left out of the softmax ("excluded"), are 0 in it ("zero"), or stay ("kept").

    Raises:
      ValueError: if ``absent`` is unknown.

    Example:
      >>> absent_classes(jnp.array([2.0, 0.0])).shift
      Array([  0., -inf], dtype=float32)
    """
    check_choice("absent", absent, AbsentLogits)
    if absent == "excluded":
        return Adjustment(
            jnp.ones_like(counts), _without_absent(jnp.zeros_like(counts), counts, 1.0)
        )
    return class_restrictions(counts, alpha=0.0 if absent == "zero" else 1.0)


def among(present: Bool[Array, " L"], logits: Float[Array, "*B L"]) -> Float[Array, "*B L"]:
    """Logits of the classes that are present; those of others are far below any.

    Example:
      >>> among(jnp.array([True, False]), jnp.array([1.0, 50.0])).argmax().item()
      0
    """
    return adjusted(logits, absent_classes(present.astype(logits.dtype)))


def adjusted(logits: Float[Array, "*B L"], by: Adjustment) -> Float[Array, "*B L"]:
    """The logits that enter the loss, finite where these are.

    Example:
      >>> adjusted(jnp.array([2.0, 4.0]), Adjustment(jnp.array([1.0, 0.5]), jnp.array([3.0, 0.0])))
      Array([5., 2.], dtype=float32)
    """
    # Of a class that is left out: far below any logit, while sums over a batch stay finite.
    least = -(float(jnp.finfo(logits.dtype).max) ** 0.5)
    along_classes = tuple(range(logits.ndim - 1))
    scale, shift = (jnp.expand_dims(a.astype(logits.dtype), along_classes) for a in by)
    return scale * logits + jnp.maximum(shift, least)


def _without_absent(shift: Array, counts: Array, strength: Scalar) -> Array:
    left_out = (counts == 0) & (jnp.asarray(strength) != 0)
    return jnp.where(left_out, -jnp.inf, shift)
