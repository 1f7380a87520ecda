"""Losses of models that teach each other: FedKD's mentor and mentee, FedGKT's edge and server."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from fedjax_kd.core import Scalar
from fedjax_kd.losses.distillation import check_pair, kl_divergence, log_probabilities
from fedjax_kd.losses.supervised import NO_LABEL, cross_entropy, masked_mean
from fedjax_kd.options import check_choice, checks_options

MutualVariant = Literal["paper", "code"]
Intensity = Literal["batch", "example"]

_CODE_FLOOR = 1e-7  # what FedGKT's code adds to the teacher's probabilities


class Mutual(NamedTuple):
    """The losses of two models that learn from each other, one value an example each."""

    teacher: Float[Array, "*B"]
    student: Float[Array, "*B"]


@checks_options
def adaptive_mutual(
    teacher: Float[Array, "*B L"],
    student: Float[Array, "*B L"],
    labels: Int[Array, "*B"],
    hidden: Float[Array, "*B"] | ArrayLike = 0.0,
    mask: Float[Array, "*B"] | None = None,
    *,
    variant: MutualVariant = "paper",
    intensity: Intensity = "batch",
    floor: float = 1e-6,
) -> Mutual:
    """FedKD's adaptive mutual distillation: weak as long as both models are bad at their task.

        c = 1 / (CE(teacher, y) + CE(student, y))
        teacher's loss: CE(teacher, y) + c (KL(student || teacher) + hidden)
        student's loss: CE(student, y) + c (KL(teacher || student) + hidden)

    Both values are 0 where the label is -1.

    Args:
      teacher: logits of the mentor, which stays with its client ``[B, ..., L]``.
      student: logits of the mentee, which travels, of the same shape.
      labels: classes ``[B, ...]``, or -1 for "no label".
      hidden: how far hidden states and attentions lie apart, one value an example or one for all,
        e.g. a sum of `feature_mse`.
      mask: 1 for a real row, 0 for filling; only real rows count in ``c``.
      variant: "paper" takes ``c`` and the other's predictions as constants; "code" lets gradients
        into both, and averages the divergences over classes, where the paper adds them up.
      intensity: ``c`` from the "batch" means of the cross-entropies, as the authors' code has it,
        or from those of each "example".
      floor: the least denominator of ``c``, > 0.

    Raises:
      ValueError: if shapes differ, an option is unknown, or ``floor`` is not > 0.

    Example:
      >>> sure, unsure = jnp.array([[2.0, 0.0]]), jnp.array([[0.0, 0.0]])
      >>> losses = adaptive_mutual(sure, unsure, jnp.array([0]))
      >>> bool(losses.student[0] > cross_entropy(unsure, jnp.array([0]))[0])
      True

    Source: Wu, Wu, Lyu, Huang, Xie, Nature Communications 2022, arXiv:2108.13323.
    """
    check_choice("variant", variant, MutualVariant)
    check_choice("intensity", intensity, Intensity)
    check_pair(student, teacher)
    known = (labels.astype(jnp.int32) != NO_LABEL).astype(student.dtype)
    counted = known if mask is None else known * mask.astype(student.dtype)
    constant = jax.lax.stop_gradient if variant == "paper" else lambda x: x
    per_class = 1 if variant == "paper" else student.shape[-1]
    tasks = Mutual(cross_entropy(teacher, labels), cross_entropy(student, labels))
    both = tasks.teacher + tasks.student
    if intensity == "batch":
        both = masked_mean(both, counted)
    strength = known / constant(jnp.maximum(both, floor))
    apart = Mutual(
        kl_divergence(teacher, constant(student)), kl_divergence(student, constant(teacher))
    )
    hidden = jnp.asarray(hidden, student.dtype)
    return Mutual(
        *(
            task + strength * (kl / per_class + hidden)
            for task, kl in zip(tasks, apart, strict=True)
        )
    )


@checks_options
def group_transfer(
    student: Float[Array, "*B L"],
    teacher: Float[Array, "*B L"],
    tau: Scalar = 3.0,
    *,
    variant: MutualVariant = "paper",
) -> Float[Array, "*B"]:
    """FedGKT's distillation, between an edge network and the server's, one value an example.

    The paper's is the forward `kl_divergence` with the factor ``tau^2``. The authors' "code" adds
    1e-7 to the teacher's probabilities, which then do not sum to 1: ``tau^2 sum_l (p_l + 1e-7)
    log((p_l + 1e-7) / q_l)``.

    Args:
      student: logits ``[..., L]``.
      teacher: logits of the same shape, which come from the wire and are a constant.
      tau: temperature, > 0; larger ones soften the predictions, 1 leaves the logits as they are.
      variant: "paper" or "code".

    Raises:
      ValueError: if shapes differ, the variant is unknown, or ``tau`` is a number <= 0.

    Example:
      >>> group_transfer(jnp.zeros((1, 2)), jnp.zeros((1, 2)))
      Array([0.], dtype=float32)

    Source: He, Annavaram, Avestimehr, NeurIPS 2020, arXiv:2007.14513.
    """
    check_choice("variant", variant, MutualVariant)
    teacher = jax.lax.stop_gradient(teacher)
    if variant == "paper":
        return kl_divergence(student, teacher, tau)
    check_pair(student, teacher)
    p = jnp.exp(log_probabilities(teacher.astype(student.dtype), tau)) + _CODE_FLOOR
    values = (p * (jnp.log(p) - log_probabilities(student, tau))).sum(-1)
    return values * jnp.square(jnp.asarray(tau, values.dtype))
