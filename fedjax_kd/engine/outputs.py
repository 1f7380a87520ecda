"""Checks of what models give against what a data set asks, before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fedjax_kd.core import Algorithm, PyTree
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.measuring import Measures, measures_of
from fedjax_kd.engine.validation import newcomers_outputs
from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.metrics import sums_of
from fedjax_kd.problems import trailing

_ROWS = 3  # a number that no usual axis has by chance


def check_problem(
    groups: Sequence[Algorithm],
    federation: Federation,
    extra: Measures,
    *,
    per_class: bool,
    tiers: bool,
) -> None:
    """Checks that algorithms fit the problem that a federation poses.

    Args:
      groups: one algorithm for each group of clients.
      federation: whose targets are asked for.
      extra: metrics beside those of the problem.
      per_class: whether classes are to be told apart.
      tiers: whether head, middle and tail are.

    Raises:
      TypeError: if a model gives no array of floats.
      ValueError: if a method, ``per_class`` or ``tiers`` needs classes which are not there, or
        outputs have another shape than the problem asks for or a metric can take.
    """
    problem = federation.problem
    if (per_class or tiers) and not (problem.one_class_each and "accuracy" in problem.measures):
        raise InputError(
            f"{'per_class' if per_class else 'tiers'} needs one class an example, but the targets "
            f"of {federation.name} are {problem.says}: leave it out."
        )
    for group in groups:
        _check_needs(group, federation)
        _check_outputs(group, federation, measures_of(group, federation, extra))


def _check_needs(algorithm: Algorithm, federation: Federation) -> None:
    """Raises ValueError if a method needs classes, but the targets are none."""
    problem = federation.problem
    if algorithm.needs_classes and not problem.are_classes:
        raise InputError(
            f"{algorithm.needs_classes}, but the targets of {federation.name} are {problem.says} "
            f"(problem {problem.name!r}): take another method, such as fedavg, fedprox or scaffold."
        )


def _check_outputs(algorithm: Algorithm, federation: Federation, measures: Measures) -> None:
    """Raises unless a model's outputs fit the targets, and can be measured."""
    x, y = (_some(part) for part in (federation.test.x, federation.test.y))
    outputs = newcomers_outputs(algorithm, x)
    if not hasattr(outputs, "shape"):
        raise InputTypeError(
            f"The model gives a {type(outputs).__name__}, but must give one array of outputs: "
            "return the logits alone."
        )
    if not jnp.issubdtype(outputs.dtype, jnp.floating):
        raise InputTypeError(
            f"The model gives {outputs.dtype} outputs, but must give floats: logits or values, not "
            "classes."
        )
    problem = federation.problem
    own_loss = algorithm.score is not None and algorithm.score is not problem.score
    if not (problem.free_outputs and own_loss):
        _check_shape(outputs, federation)
    for name, metric in measures.items():
        mask = jax.ShapeDtypeStruct((_ROWS,), jnp.float32)
        try:
            jax.eval_shape(partial(sums_of, {name: metric}), outputs, y, mask)
        except Exception as error:
            raise InputError(
                f"The metric {name} cannot be computed from outputs {_shown(outputs)} and targets "
                f"{_shown(y)}. {error}"
            ) from error


def _check_shape(outputs: Any, federation: Federation) -> None:
    """Raises ValueError if one example's outputs have a shape that its target does not allow."""
    problem, size = federation.problem, federation.num_classes
    wanted = problem.outputs(trailing(jax.tree.leaves(federation.test.y)[0]), size)
    given = tuple(outputs.shape[1:])
    enough = problem.are_classes and bool(given) and given[:-1] == wanted[:-1]
    if given == wanted or (enough and given[-1] > wanted[-1]):
        return
    raise InputError(
        f"The model gives outputs of shape {given} an example, but {federation.name} asks for "
        f"{wanted}: its targets are {problem.says} (problem {problem.name!r}"
        + (f", {size} classes" if problem.are_classes else "")
        + "). Take a model with outputs of that shape, such as one made with "
        "federation.input_shape and federation.num_classes; autoencoder gives back its inputs."
    )


def _some(pool: PyTree) -> PyTree:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((_ROWS, *a.shape[1:]), a.dtype), pool)


def _shown(types: PyTree) -> str:
    """Types in words, such as ``float32[3, 10]``."""
    each = [f"{a.dtype}{list(a.shape)}" for a in jax.tree.leaves(types)]
    return " and ".join(each) or "nothing"
