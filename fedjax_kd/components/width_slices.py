"""Slices of a model: the first channels of every hidden layer, as masks of the model's own shape.

What lies outside of a slice is zero, so that a network whose activations keep zero at zero computes
what the narrow network would. Which values a slice holds is found by gradients: those from which
the narrow network's logits still learn. So a dense layer's inputs after an image is flattened, sums
of branches and concatenated channels need no rule of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from fedjax_kd import losses
from fedjax_kd.components.model_parts import Part, head, output_types, partition
from fedjax_kd.core import Batch, Key, PyTree, Variables
from fedjax_kd.errors import InputError
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.nn.narrow import check_separate
from fedjax_kd.options import checks_options
from fedjax_kd.task import Task

EXAMPLES = 2  # of the probe, to tell what depends on them
PROBED = 0.25  # a rate at which a network that cannot be cut shows it


def channels_at(rate: float, channels: int) -> int:
    """How many of a layer's channels a slice has: the first ``ceil(rate * channels)``.

    Example:
      >>> channels_at(0.25, 5), channels_at(0.1, 30), channels_at(0.01, 8)
      (2, 3, 1)
    """
    return math.ceil(rate * channels - 1e-9 * channels)


class SliceChange(NamedTuple):
    """A client's change of its slice, zero elsewhere, and what tells who holds which values."""

    change: Variables
    clients: Float[Array, " R"]  # 1 at its rate: in a sum, how many there are of each
    classes: Float[Array, "R L"]  # there, 1 at classes whose rows of the head it holds


class Slices(NamedTuple):
    """The slices of R rates: a value is held if its layer's input and output are.

    Both are trees like the model, of booleans that broadcast to its values, known before anything
    is traced.
    """

    inputs: Variables  # [R, ..., I, 1]
    outputs: Variables  # [R, ..., 1, O]

    def at(self, index: Int[Array, ""] | int) -> Variables:
        """Which values of the model one of the slices holds, a tree of booleans of its shapes."""
        return jax.tree.map(lambda i, o: jnp.asarray(i)[index] & jnp.asarray(o)[index], *self)


@checks_options
def slices(task: Task, rates: Sequence[float]) -> Slices:
    """The slices of a model whose hidden layers have a share of their channels.

    The last axis of a value is that of its layer's outputs, of which the head keeps all.

    Args:
      task: a network with ``features``, of layers whose last axis is that of the channels.
      rates: these shares, each in (0, 1].

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if there is no rate, the head is more than a layer, channels that are zero would
        count, or nothing reaches a layer of a slice.

    Example:
      >>> from fedjax_kd.models import mlp
      >>> from fedjax_kd.task import from_nnx
      >>> task = from_nnx(mlp((4,), 3, hidden=(8,)), example_x=jnp.zeros((1, 4)))
      >>> held = slices(task, [0.5]).at(0).params
      >>> jax.tree.map(lambda mask: mask.sum().item(), held["head"])
      {'bias': 3, 'kernel': 12}
    """
    check_separate(task.norm_kinds)
    if not rates:
        raise InputError("There are no rates: give the share of the channels of some slice.")
    last, model = head(task), jax.eval_shape(task.init, jax.random.key(0))
    _check_head(last, model, output_types(task).shape[-1])
    watched = _watching(task)
    _check_silent(watched(jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), model.params))[1])
    usual, probed, *found = (
        watched(_positive(model.params, _outputs(model, last, rate).params, rate))[0]
        for rate in (1.0, PROBED, *rates)
    )
    _check_alive(usual, probed)
    # Not even the whole network reads an embedding's rows of other symbols, or a kernel's places
    # beyond the edge of a small image: these are nobody's channels.
    read = [jax.tree.map(lambda whole, own: own | ~whole, usual, own) for own in found]
    inputs = [Variables(own, jax.tree.map(_reads_nothing, model.stats)) for own in read]
    outputs = [_outputs(model, last, rate) for rate in rates]
    return Slices(_stacked(inputs), _stacked(outputs))


def hidden_layers(task: Task) -> Part:
    """The parameters of all layers but the head and normalisation, whose outputs may be scaled."""
    last = head(task)
    if task.norm_kinds is None:
        return jax.tree.map(lambda of_head: not of_head, last)
    return jax.tree.map(lambda of_head, norm: not (of_head or norm), last, task.norm_kinds())


def slice_bytes(of: Slices, task: Task) -> Int[Array, " R"]:
    """Bytes of each slice of a task's model."""
    model = jax.eval_shape(task.init, jax.random.key(0))

    def size(a: jax.ShapeDtypeStruct, inputs: NDArray, outputs: NDArray) -> NDArray[np.int64]:
        return (inputs & outputs).reshape(len(inputs), -1).sum(axis=1) * a.dtype.itemsize

    return jnp.array(sum(jax.tree.leaves(jax.tree.map(size, model, *of))), jnp.int32)


def loss_of_slice(
    task: Task, held: Variables, scaled: Part, rate: Array, by: losses.Adjustment
) -> Objective:
    """A classifier's loss in training, of which a client has a slice.

    Args:
      task: the whole network and its loss.
      held: the client's slice.
      scaled: the layers whose outputs are divided by the rate, from `hidden_layers`.
      rate: of the slice; 1 to leave outputs as they are.
      by: what becomes of the logits.
    """

    def divided(here: bool, a: Array) -> Array:
        return a / rate.astype(a.dtype) if here else a

    def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
        own = within(held, model)
        # A layer of scaled parameters has scaled outputs, whatever module it is.
        used = own._replace(params=jax.tree.map(divided, scaled.params, own.params))
        logits, stats = task.apply(used, batch.x, key)
        values = task.example_loss(losses.adjusted(logits, by), batch.y)
        return losses.batch_mean(values, batch), stats

    return loss


def within(held: PyTree, values: PyTree) -> PyTree:
    """The values that are held, and zeros in place of the others."""
    return jax.tree.map(lambda mask, a: jnp.where(mask, a, jnp.zeros_like(a)), held, values)


def of_classes(held: Variables, last: Part, present: Bool[Array, " L"]) -> Variables:
    """What is held of a slice, and of its head only for the classes that are present."""

    def of_present(in_head: bool, mask: Array) -> Array:
        return mask & jnp.expand_dims(present, range(mask.ndim - 1)) if in_head else mask

    return jax.tree.map(of_present, last, held)


def mean_of_holders(summed: SliceChange, of: Slices, last: Part) -> Variables:
    """The mean change of each value over the clients that hold it; 0 where nobody does.

    Args:
      summed: the sum of the clients' messages.
      of: the slices.
      last: the head, whose rows are held by class.
    """

    def mean(change: Array, in_head: bool, inputs: NDArray, outputs: NDArray) -> Array:
        clients = summed.clients
        if change.ndim:
            clients = summed.classes if in_head else clients[:, None]
            clients = clients.reshape(len(clients), *[1] * (change.ndim - 1), -1)
        holders = jnp.where(inputs & outputs, clients, 0).sum(0)
        return change / jnp.maximum(holders, 1).astype(change.dtype)

    return jax.tree.map(mean, summed.change, last, *of)


def _outputs(model: Variables, last: Part, rate: float) -> Variables:
    """Which outputs of its layer a slice has, for each value ``[..., 1, O]``."""

    def first(all_of_it: bool, a: Array) -> NDArray[np.bool_]:
        if not a.ndim:
            return np.ones((), bool)
        count = a.shape[-1] if all_of_it else channels_at(rate, a.shape[-1])
        return (np.arange(a.shape[-1]) < count).reshape(*[1] * (a.ndim - 1), -1)

    return jax.tree.map(first, last, model)


def _stacked(trees: Sequence[Variables]) -> Variables:
    return jax.tree.map(lambda *masks: np.stack(masks), *trees)


def _reads_nothing(a: Array) -> NDArray[np.bool_]:
    """Inputs of a value that stands for itself, such as a bias: there is nothing to miss."""
    return np.ones([1] * a.ndim, bool)


def _live_inputs(gradient: Array) -> Array:
    """Of a kernel ``[..., I, O]`` the inputs that some output learns from, ``[..., I, 1]``."""
    if gradient.ndim < 2:
        return jnp.asarray(_reads_nothing(gradient))
    return (gradient != 0).any(axis=-1, keepdims=True)


def _watching(task: Task) -> Callable[[PyTree], tuple[PyTree, NDArray[np.bool_]]]:
    """Parameters to the live inputs of each, and to whether a feature is other than zero for all x.

    It is compiled at once, so that it may be called while something else is traced.
    """

    def watch(params: PyTree) -> tuple[PyTree, Array]:
        model = Variables(params, task.init(jax.random.key(0)).stats)
        x = _examples(task.input_types)
        gradient = jax.grad(lambda p: task.apply(model._replace(params=p), x)[0].sum())(params)
        one, other = task.features(model, x)
        constant = ((one != 0) & (one == other)).any()
        return jax.tree.map(_live_inputs, gradient), constant

    types = jax.eval_shape(task.init, jax.random.key(0)).params
    compiled = jax.jit(watch).lower(types).compile()
    return lambda params: jax.tree.map(np.asarray, compiled(params))


def _positive(params: PyTree, outputs: PyTree, rate: float) -> PyTree:
    """Parameters of a slice with which all its channels are alive, and features keep their size."""
    rng = np.random.default_rng(0)

    def drawn(a: jax.ShapeDtypeStruct, mask: NDArray[np.bool_]) -> NDArray:
        inputs = math.prod((*a.shape[:-2], channels_at(rate, a.shape[-2]))) if a.ndim > 1 else 1
        return (rng.uniform(0.5, 1.5, a.shape) / inputs * mask).astype(a.dtype)

    return jax.tree.map(drawn, params, outputs)


def _examples(types: PyTree) -> PyTree:
    """Positive inputs for the probe, no two alike."""
    rng = np.random.default_rng(0)

    def drawn(t: jax.ShapeDtypeStruct) -> Array:
        brightest = 255 if t.dtype == np.uint8 else 1
        x = rng.uniform(0.5, 1.0, (EXAMPLES, *t.shape[1:])) * brightest
        return jnp.asarray(x).astype(t.dtype)

    return jax.tree.map(drawn, types)


def _check_head(last: Part, model: Variables, classes: int) -> None:
    """Raises ValueError if the head has values that are not one a class."""
    held = jax.tree.leaves(partition(last, model)[1])
    others = [a.shape for a in held if a.shape[-1:] != (classes,)]
    if others:
        raise InputError(
            f"The head, which `features` leaves out, has values of the shapes {others}, but rows "
            f"of {classes} classes are held one by one: let `features` return the input of the "
            "last layer."
        )


def _check_silent(constant: NDArray[np.bool_]) -> None:
    """Raises ValueError if a network whose parameters are zero has a feature that is not."""
    if constant:
        raise InputError(
            "Channels whose parameters are zero do not put out zero in this network, so that a "
            "slice of it is no network of its own: take activations that keep zero at zero, such "
            "as ReLU, GELU or tanh."
        )


def _check_alive(usual: PyTree, narrow: PyTree) -> None:
    """Raises ValueError if a layer that learns in the whole network has nothing to learn from."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(usual), jax.tree.leaves(narrow), strict=True)
    dead = [jax.tree_util.keystr(at) for (at, whole), own in pairs if whole.any() > own.any()]
    if dead:
        raise InputError(
            f"With {PROBED:g} of the channels of each layer, nothing reaches {', '.join(dead)}: "
            "the first channels of every layer must make a network. Dense layers, convolutions, "
            "attention and batch normalisation can be cut; LSTM cells, whose last axis is that of "
            "all gates, cannot."
        )
