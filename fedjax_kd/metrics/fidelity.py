"""How well a student equals its teacher, and whether it finds the teacher from nearby.

Accuracy does not say whether distillation worked; these measures do (Stanton, Izmailov, Kirichenko,
Alemi, Wilson: Does Knowledge Distillation Really Work?, NeurIPS 2021, arXiv:2106.05945). A teacher
may be an ensemble: `fedjax_kd.losses.ensemble_logits` with averaged probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fedjax_kd import losses
from fedjax_kd.core import Key, PyTree, Variables
from fedjax_kd.metrics.of_classes import binned, calibration_error
from fedjax_kd.options import checks_options

_BINS = 10
LAMBDAS = (0.0, 0.25, 0.375, 0.5, 0.75, 1.0)


class Fidelity(NamedTuple):
    """Sums over examples; two of them are added leaf by leaf."""

    examples: Float[Array, ""]
    agreed: Float[Array, ""]
    kl: Float[Array, ""]
    labels: Float[Array, ""]  # how many examples had a label
    bins: Float[Array, "3 10"]  # of the student's confidence, see `metrics.binned`


def fidelity(
    student: Float[Array, "B L"],
    teacher: Float[Array, "B L"],
    labels: Int[Array, " B"],
    mask: Float[Array, " B"],
) -> Fidelity:
    """Sums of what compares two models on a batch; rows with mask 0 count nothing.

    Args:
      student: logits, in evaluation mode.
      teacher: logits for the very same inputs.
      labels: classes, or -1 where there is none: it matters to the calibration alone.
      mask: 1 for a real row, 0 for filling.

    Raises:
      ValueError: if shapes differ.

    Example:
      >>> logits = jnp.array([[2.0, 0.0], [0.0, 2.0]])
      >>> sums = fidelity(logits, -logits, jnp.array([0, 1]), jnp.array([1.0, 0.0]))
      >>> fidelity_summary(sums)["agreement"]
      0.0
    """
    count = mask.astype(jnp.float32)
    kl = losses.kl_divergence(student, teacher).astype(jnp.float32)
    confidence = jax.nn.softmax(student.astype(jnp.float32)).max(-1)
    labelled = losses.label_weights(labels, count)
    guess = student.argmax(-1).astype(jnp.int32)
    right = labelled * (guess == labels.astype(jnp.int32)).astype(jnp.float32)
    bins = binned(labelled[None], confidence[None], right[None], _BINS)[0]
    agreed = agreement(student, teacher).astype(jnp.float32)
    return Fidelity(count.sum(), (count * agreed).sum(), (count * kl).sum(), labelled.sum(), bins)


def agreement(student: Float[Array, "*B L"], teacher: Float[Array, "*B L"]) -> Float[Array, "*B"]:
    """1 where both models' first choices are the same class, else 0; ties go to the first class.

    Example:
      >>> agreement(jnp.array([[0.2, 0.1]]), jnp.array([[9.0, 1.0]]))
      Array([1.], dtype=float32)
    """
    return (student.argmax(-1) == teacher.argmax(-1)).astype(student.dtype)


def fidelity_summary(sums: Fidelity) -> dict[str, float]:
    """Top-1 agreement in [0, 1], average predictive KL (nats) and the student's calibration error.

    The KL divergence is that from the teacher, ``mean KL(p_teacher || p_student)``; the error has
    10 bins. All are NaN where nothing was counted.
    """
    examples = float(sums.examples) or float("nan")
    return {
        "agreement": float(sums.agreed) / examples,
        "kl": float(sums.kl) / examples,
        "ece": float(calibration_error(np.asarray(sums.bins))),
    }


def interpolated(
    teacher: Variables, fresh: Variables, share: Float[Array, ""] | float
) -> Variables:
    """A student's start: ``share`` of the teacher and the rest of a fresh model.

    Statistics are mixed, too, and need `refreshed`; counters stay the fresh model's.

    Args:
      teacher: a trained model.
      fresh: an initial one of the same structure.
      share: 0 is the fresh model, 1 the teacher. The authors' script takes 1 minus it.

    Example:
      >>> start = interpolated(Variables(jnp.array(4.0)), Variables(jnp.array(0.0)), 0.25)
      >>> start.params
      Array(1., dtype=float32)
    """

    def mix(known: Array, unknown: Array) -> Array:
        if not jnp.issubdtype(unknown.dtype, jnp.floating):
            return unknown
        weight = jnp.asarray(share, unknown.dtype)
        return weight * known + (1 - weight) * unknown

    return jax.tree.map(mix, teacher, fresh)


def refreshed(
    apply: Callable[..., tuple[Array, PyTree]], key: Key, model: Variables, x: PyTree
) -> Variables:
    """The same parameters, with the statistics of one pass over data in training mode.

    Args:
      apply: `fedjax_kd.task.Task.apply`.
      key: consumed.
      model: with statistics that are not those of its parameters.
      x: batches of inputs ``[S, B, ...]``.

    Example:
      >>> count = lambda model, x, key: (x, model.stats + x.sum())
      >>> model = Variables((), jnp.array(0.0))
      >>> refreshed(count, jax.random.key(0), model, jnp.ones((3, 2))).stats
      Array(6., dtype=float32)
    """

    def step(stats: PyTree, batch: tuple[PyTree, Key]) -> tuple[PyTree, None]:
        return apply(model._replace(stats=stats), batch[0], batch[1])[1], None

    keys = jax.random.split(key, len(jax.tree.leaves(x)[0]))
    return model._replace(stats=jax.lax.scan(step, model.stats, (x, keys))[0])


@checks_options
def interpolation_study(
    key: Key,
    teacher: Variables,
    fresh: Variables,
    distil: Callable[[Key, Variables], Variables],
    measure: Callable[[Variables], PyTree],
    *,
    lambdas: Sequence[float] = LAMBDAS,
) -> PyTree:
    """Distils students that start ever nearer to their teacher: do they find it?

    All students see the same data in the same order: ``distil`` gets the same key. They run side by
    side under `jax.vmap`. The paper finds that those with a share up to 0.25 end in another basin
    than the teacher's; its authors' script scales the learning rate with the distance, too.

    Args:
      key: consumed.
      teacher: a trained model.
      fresh: an initial one of the same structure.
      distil: from a student's start to the student after distillation; it begins with `refreshed`
        if the model has statistics.
      measure: what is to be known of a student, e.g. its final loss and its `fidelity`.
      lambdas: the teacher's shares, each in [0, 1]; 0 is a fresh student, 1 the teacher.

    Returns:
      What ``measure`` gives, with a leading axis over ``lambdas``.

    Raises:
      ValueError: if a share is out of [0, 1].

    Example:
      >>> teacher, fresh = Variables(jnp.array(4.0)), Variables(jnp.array(0.0))
      >>> halfway = lambda key, start: start._replace(params=(start.params + 4) / 2)
      >>> interpolation_study(
      ...     jax.random.key(0), teacher, fresh, halfway, lambda v: v.params, lambdas=(0, 0.5, 1)
      ... )
      Array([2., 3., 4.], dtype=float32)
    """

    def study(share: Float[Array, ""]) -> PyTree:
        return measure(distil(key, interpolated(teacher, fresh, share)))

    return jax.vmap(study)(jnp.asarray(lambdas, jnp.float32))
