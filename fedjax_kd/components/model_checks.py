"""Whether a federation suits a model and a method: its batches, and how many clients it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedjax_kd.core import Plan, PyTree, Round
from fedjax_kd.data.public_inputs import MissingError
from fedjax_kd.errors import InputError, warn
from fedjax_kd.losses.objectives import MICROBATCH
from fedjax_kd.nn.modes import Kind, one_example
from fedjax_kd.task import Task

_REMEDY = "or a network with norm='group'"
_SHOWN = 5  # clients or layers that a message names


def check_population(population: int, round: Round, why: str) -> None:
    """Raises MissingError if a federation has another number of clients than a method was told.

    Args:
      population: clients, as the method was told.
      round: of the federation.
      why: the end of the advice to give the right number.
    """
    if round.population != population:
        raise MissingError(
            f"population is {population}, but the federation has {round.population} clients: give "
            f"that number, which is {why}."
        )


def check_batches(task: Task, name: str, size: int, examples: PyTree = None) -> None:
    """Raises ValueError, or warns, if batches of one example are to be normalised.

    A layer that normalises a channel over one number makes the same of all inputs. Over the places
    of an image there are more, and their statistics are noisy, no more.

    Args:
      task: of the model.
      name: of the option that says how large batches are.
      size: of a batch.
      examples: types of inputs, by default those that the task knows. Without either a network
        with convolutions passes here, and is looked at when the simulation is built.
    """
    if size != 1 or not _normalises_batches(task):
        return
    least = _least_numbers(task, examples)
    if least == 1:
        raise InputError(
            f"{name} is 1, but the network has batch normalisation, which makes all batches of one "
            f"the same: take at least 2, {_REMEDY}."
        )
    if least is not None:
        warn(
            f"{name} is 1, but the network has batch normalisation: its statistics are those of "
            f"one example at a time, and noisy. Take larger batches, {_REMEDY}."
        )


def model_check(task: Task, fit: Any) -> Callable[[Plan], None]:
    """The `fedjax_kd.core.Algorithm.check` of methods whose clients train this task's model."""

    def check(plan: Plan) -> None:
        check_batches(task, "batch_size", getattr(fit, "batch_size", 0), plan.examples)
        _check_lone_examples(task, plan)
        _warn_of_pieces(task, fit, plan)
        _warn_of_modes(task, plan.examples)

    return check


def _check_lone_examples(task: Task, plan: Plan) -> None:
    """Raises ValueError, or warns, if a client's only example is to be normalised."""
    lone = np.asarray(plan.clients)[plan.sizes == 1]
    if not len(lone) or not _normalises_batches(task):
        return
    who = f"{len(lone)} of {len(plan.sizes)} clients ({_some(lone)}) have one training example each"
    remedy = (
        "give each client at least 2 (`min_partition_size=2`, or a smaller fraction held out), "
        f"{_REMEDY}"
    )
    least = _least_numbers(task, plan.examples)
    if least is None:
        return
    if least == 1:
        raise InputError(
            f"{who}, but the network has batch normalisation, which makes all batches of one the "
            f"same and takes the variance for 0: {remedy}."
        )
    warn(
        f"{who}, and the network has batch normalisation: what these clients send are the "
        f"statistics of a single example, and noisy. Better {remedy}."
    )


def _warn_of_pieces(task: Task, fit: Any, plan: Plan) -> None:
    whole = getattr(fit, "batch_size", None) == 0 and plan.sizes.max(initial=0) > MICROBATCH
    if whole and _normalises_batches(task):
        warn(
            f"batch_size is 0, one step on all examples of a client, but batch normalisation sees "
            f"pieces of {MICROBATCH} examples one after the other, and its gradient is that of the "
            f"pieces: give a batch_size, {_REMEDY}."
        )


def _warn_of_modes(task: Task, examples: PyTree) -> None:
    """Warns of layers that do the same in training as in evaluation."""
    if task.layers is None:
        return
    one = one_example(examples)
    for train in (True, False):
        wrong = [layer for layer in task.layers(one, train) if layer.acts != train]
        for kind in dict.fromkeys(layer.kind for layer in wrong):
            places = list(dict.fromkeys(layer.place for layer in wrong if layer.kind == kind))
            warn(
                f"The {kind} at {_some(places)} {_WRONG[kind, train]}: nothing tells it which mode "
                "the model is in. Let `__call__` take a flag `train` and pass it on, or in NNX "
                "leave it to `train()` and `eval()`."
            )


_WRONG: Mapping[tuple[Kind, bool], str] = {
    ("dropout", True): "drops nothing in training",
    ("dropout", False): "drops values in evaluation, too",
    ("batch normalisation", True): "uses its running statistics in training, and keeps them",
    ("batch normalisation", False): "uses the batch's statistics in evaluation, too",
}


def _some(things: Sequence[Any]) -> str:
    return ", ".join(map(str, things[:_SHOWN])) + (", ..." if len(things) > _SHOWN else "")


def _normalises_batches(task: Task) -> bool:
    return task.norm_kinds is not None and "batch" in jax.tree.leaves(task.norm_kinds())


def _least_numbers(task: Task, examples: PyTree) -> int | None:
    """The fewest numbers of a channel over which a batch of one is normalised.

    None if it is not, or the shape of examples is not known yet.
    """
    types = task.input_types if examples is None else examples
    if task.layers is None or types is None:
        params = jax.eval_shape(task.init, jax.random.key(0)).params
        may_have_places = any(len(a.shape) > 2 for a in jax.tree.leaves(params))
        return None if may_have_places else 1
    normalising = [
        layer.positions
        for layer in task.layers(one_example(types), True)
        if layer.kind == "batch normalisation" and layer.acts
    ]
    return min(normalising, default=None)
