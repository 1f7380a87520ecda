"""Parts of a model: which values they are, and how to take a model apart and put it together.

A part is named by a tree of booleans like the model's `Variables`. Where a value belongs to the
other part, a tree holds None, which JAX takes for nothing at all: it has no bytes and no gradient.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.core import PyTree, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.task import LastBlock, Task

Part = Variables
"""Booleans, one a value of the model: whether it belongs to the part."""


def head(task: Task) -> Part:
    """The values that logits depend on and features do not: normally the last layer.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if these are no vectors, one a prediction, or the task does not know the shape of
        its examples.
    """
    check_example(task)
    model = jax.eval_shape(task.init, jax.random.key(0))
    used = tree.reads(lambda model, x: task.apply(model, x)[0], model, task.input_types)
    below = tree.reads(task.features, model, task.input_types)
    return jax.tree.map(lambda all_of_it, body: all_of_it and not body, used, below)


def personal_part(task: Task, personal: Callable[[Variables], Part] | None = None) -> Part:
    """The values that are a client's own: the `head`, or what a user says.

    Args:
      task: whose model is meant.
      personal: the model's shapes -> booleans, one a value.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if the task does not know the shape of its examples, or if by default all or none
        of the model would be the part.
    """
    if personal is not None:
        return personal(jax.eval_shape(task.init, jax.random.key(0)))
    part = head(task)
    if len(set(jax.tree.leaves(part))) == 1:
        which = "no value" if any(jax.tree.leaves(part)) else "every value"
        raise InputError(
            f"`features` uses {which} of the model, so that it has no body and head: take a "
            "network with a layer before the last one, or say what is `personal`."
        )
    return part


def other(part: Part) -> Part:
    """The values that do not belong to a part.

    Example:
      >>> other({"b": True, "w": False})
      {'b': False, 'w': True}
    """
    return jax.tree.map(operator.not_, part)


def everything(task: Task) -> Part:
    """All values of the model."""
    return jax.tree.map(lambda _: True, jax.eval_shape(task.init, jax.random.key(0)))


def nonempty_head(task: Task) -> Part:
    """The `head`, which some value belongs to.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if there is no such value, or the task does not know the shape of its examples.
    """
    part = head(task)
    if not any(jax.tree.leaves(part)):
        raise InputError(
            "`features` uses every value of the model, so that it has no head: let it return the "
            "input of the last layer."
        )
    return part


def head_types(task: Task) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """The types of what the head reads, ``[B, ..., D]``, and of what it makes, ``[B, ..., L]``.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if these are no vectors, one a prediction, or the task does not know the shape of
        its examples.
    """
    check_example(task)
    model = jax.eval_shape(task.init, jax.random.key(0))
    features = jax.eval_shape(task.features, model, task.input_types)
    logits = jax.eval_shape(classifier(task), model, features)
    if features.shape[:-1] != logits.shape[:-1]:
        raise InputError(
            f"`features` have the shape {features.shape} and their logits {logits.shape}, but this "
            "algorithm makes features one by one: let `features` return one vector a prediction."
        )
    return features, logits


def output_types(task: Task) -> jax.ShapeDtypeStruct:
    """The types of the model's outputs for two examples, ``[2, ...]``.

    Raises:
      ValueError: if the task does not know the shape of its examples.
    """
    check_example(task)
    model = jax.eval_shape(task.init, jax.random.key(0))
    return jax.eval_shape(lambda v, x: task.apply(v, x)[0], model, task.input_types)


def in_one_pass(task: Task, reader: str) -> Callable[..., tuple[Array, Array, PyTree]]:
    """A task's ``(model, x, key=None) -> features, logits, new stats``.

    Args:
      task: the model.
      reader: who needs it, for the message.

    Raises:
      ValueError: if the task has none.
    """
    if task.features_and_logits is None:
        raise InputError(
            f"This task does not give features and logits in one pass, as {reader} needs them: "
            "make it with `from_nnx` or `from_linen`, or give it `features_and_logits`."
        )
    return task.features_and_logits


def last_block(task: Task, reader: str) -> LastBlock:
    """The functions of a task's last block.

    Args:
      task: the model.
      reader: who needs it, for the message.

    Raises:
      ValueError: if the task has none.
    """
    if task.block is None:
        raise InputError(
            "This task does not say which the last block of its network is, whose input and output "
            f"{reader} compares: give the module a method `last_block(x)` that `__call__` uses "
            "once, and make the task with `from_nnx` or `from_linen`."
        )
    return task.block


def classifier(task: Task) -> Callable[[Variables, Array], Array]:
    """The head alone, ``(model, features) -> logits``.

    Raises:
      ValueError: if the task does not have it.
    """
    if task.classify is None:
        raise InputError(
            "This task does not give logits of features, which this algorithm makes without "
            "inputs: make it with `from_nnx` or `from_linen`, or give it `classify`."
        )
    return task.classify


def normalisation(task: Task, *kinds: str) -> Part:
    """The values of normalisation layers, parameters and statistics.

    Args:
      task: whose model is meant.
      kinds: of normalisation, from `fedjax_kd.nn.kinds.NORMS`; all of them if none is given.

    Raises:
      ValueError: if the model has no such layer, or the task cannot tell.
    """
    if task.norm_kinds is None:
        raise InputError(
            "This task does not know which values belong to normalisation layers: make it with "
            "`from_nnx` or `from_linen`, or give it `norm_kinds`."
        )
    part = jax.tree.map(lambda kind: bool(kind) and kind in (kinds or (kind,)), task.norm_kinds())
    if not any(jax.tree.leaves(part)):
        wanted = f"{' or '.join(kinds)} " if kinds else ""
        raise InputError(
            f"The model has no {wanted}normalisation layer with values of its own: take a model "
            "that has one, such as resnet8 with norm='batch'."
        )
    return part


def check_example(task: Task) -> None:
    """Raises ValueError if the task does not know the shape of its examples."""
    if task.input_types is None:
        raise InputError(
            "This task does not know the shape of its examples, without which the shapes within "
            "the model are unknown: give `from_nnx` an `example_x`, a batch of the data."
        )


def partition(part: Part, model: PyTree) -> tuple[PyTree, PyTree]:
    """``(the rest, the part)`` of a model, each with None in place of the other's values.

    Example:
      >>> partition({"b": True, "w": False}, {"b": 2.0, "w": 1.0})
      ({'b': None, 'w': 1.0}, {'b': 2.0, 'w': None})
    """
    rest = jax.tree.map(lambda here, value: None if here else value, part, model)
    return rest, jax.tree.map(lambda here, value: value if here else None, part, model)


def combine(a: PyTree, b: PyTree) -> PyTree:
    """The model of two trees from `partition`.

    Example:
      >>> combine({"b": None, "w": 1.0}, {"b": 2.0, "w": None})
      {'b': 2.0, 'w': 1.0}
    """
    return jax.tree.map(lambda x, y: y if x is None else x, a, b, is_leaf=lambda x: x is None)


def model_in(holder: Any) -> Variables:
    """The model of a message or of a server, which may be another method's with more beside it."""
    while not isinstance(holder, Variables):
        holder = holder.base if hasattr(holder, "base") else holder.model
    return holder


def models_like(
    model: Variables,
) -> tuple[Callable[[PyTree], list[Variables]], Callable[[PyTree, Variables], PyTree]]:
    """Functions that find, or replace, the models in a tree that are of one model's types.

    Example:
      >>> find, put = models_like(Variables(1.0))
      >>> put({"model": Variables(2.0), "other": 3.0}, Variables(0.0))
      {'model': Variables(params=0.0, stats=()), 'other': 3.0}
    """
    wanted = _types(model)

    def fits(x: PyTree) -> bool:
        return isinstance(x, Variables) and _types(x) == wanted

    def find(tree: PyTree) -> list[Variables]:
        return [x for x in jax.tree.leaves(tree, is_leaf=fits) if fits(x)]

    def put(tree: PyTree, model: Variables) -> PyTree:
        return jax.tree.map(lambda x: model if fits(x) else x, tree, is_leaf=fits)

    return find, put


def _types(tree: PyTree) -> tuple[PyTree, list[PyTree]]:
    """Structure, shapes and dtypes."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(a), jnp.result_type(a)) for a in leaves]
