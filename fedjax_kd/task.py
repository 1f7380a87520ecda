"""A task: what a client learns, as pure functions of variables, made from a Flax module.

An ordinary NNX or Linen module becomes a :class:`Task` without a changed line: dropout gets its
keys, BatchNorm's statistics travel in ``Variables.stats``, and convolutions become matrix products
(:mod:`fedjax_kd.nn.conv`), because the engine runs every model under ``vmap`` or inside a loop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen, nnx
from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.core import Batch, Key, PyTree, Variables
from fedjax_kd.losses import ExampleLoss
from fedjax_kd.nn.calls import both_of, flags_of, head_of, method_of, passed_of, set_mode
from fedjax_kd.nn.kinds import linen_norms, nnx_norms
from fedjax_kd.nn.linen_modules import with_faster_layers
from fedjax_kd.nn.modes import LayerCall, linen_layers, nnx_layers
from fedjax_kd.nn.narrow import as_wide
from fedjax_kd.nn.nnx_modules import seeded, use_faster_layers, variables_of
from fedjax_kd.nn.precision import Call, Precision, shorten_layers, with_precision
from fedjax_kd.prng import cheap

Prepare = Callable[[PyTree], PyTree]
Augment = Callable[[Key, PyTree], PyTree]

# In place of a method's name.
_BOTH, _HEAD, _PASSED = "features and outputs", "outputs of features", "block and outputs"
_SPECIAL: dict[str, Callable[..., Any]] = {_BOTH: both_of, _HEAD: head_of, _PASSED: passed_of}


class LastBlock(NamedTuple):
    """The last block of a network: its method ``last_block(x)``, which ``__call__`` uses once.

    It may be made of dense layers, convolutions and normalisation, each of which reads what others
    put out, so that all of them have a last axis of channels and nothing flattens in between.
    """

    # (variables, x, key=None) -> the block's input and output, logits, new stats, of one pass
    passed: Callable[..., tuple[Array, Array, Array, PyTree]]
    # (variables, the block's input, key=None) -> its output; both may have fewer channels, as in
    # `fedjax_kd.nn.narrow`. Running statistics stay as they are.
    alone: Callable[..., Array]


class Task(NamedTuple):
    """A model and its loss, as pure functions that JAX can trace, map and differentiate.

    With ``key=None`` a model runs in evaluation mode: no dropout, no augmentation, BatchNorm by its
    running statistics, and the statistics come back unchanged. With a key it runs in training mode;
    the key is consumed. A teacher in evaluation mode, which is to see what the model in training
    sees, gets ``augment(key, x)`` of the same key.
    """

    init: Callable[[Key], Variables]
    apply: Callable[..., tuple[Array, PyTree]]  # (variables, x, key=None) -> logits, new stats
    features: Callable[..., Array]  # (variables, x, key=None) -> input of the last layer [B, D]
    example_loss: ExampleLoss  # (logits, y) -> loss of every example or position [B, ...]
    loss: Callable[[Variables, Batch, Key | None], tuple[Array, PyTree]]  # masked mean, new stats
    augment: Augment = lambda key, x: x  # what `apply` makes of x first, given this key
    # (variables, x, key=None) -> features, logits, new stats, of one pass; if the task can.
    features_and_logits: Callable[..., tuple[Array, Array, PyTree]] | None = None
    classify: Callable[[Variables, Array], Array] | None = None  # (variables, features) -> logits
    input_types: PyTree = None  # shapes and dtypes of a batch as stored, if known
    # Of each value of a model, the kind of normalisation layer it is in, "" if none; if known.
    norm_kinds: Callable[[], Variables] | None = None
    # (types of a batch as stored, whether to train) -> the layers that a call meets of those which
    # tell training from evaluation; if known.
    layers: Callable[[PyTree, bool], list[LayerCall]] | None = None
    block: LastBlock | None = None  # the last one, if the network has a method for it
    unaugmented: Task | None = None  # for inputs that went through `augment`, if it does anything
    # For inputs that are made as the model sees them: without `augment` and `prepare`, if they do
    # anything.
    on_prepared: Task | None = None


def from_nnx(
    build: Callable[[nnx.Rngs], nnx.Module],
    *,
    prepare: Prepare | None = None,
    augment: Augment | None = None,
    example_loss: ExampleLoss = losses.cross_entropy,
    precision: Precision | None = None,
    example_x: PyTree = None,
) -> Task:
    """A task from a Flax NNX module.

    Its ``train()`` and ``eval()`` choose the mode, and flags by the names of
    `fedjax_kd.nn.calls.TRAIN_ARGUMENTS`, attributes or arguments of ``__call__``. Variables of type
    ``nnx.Param`` become ``params``, random streams are rebuilt from the key of each call, and
    whatever else the module holds becomes ``stats``; all are plain nested dicts.

    Args:
      build: makes the module from its random streams, e.g. ``lambda rngs: MLP(10, rngs=rngs)``.
      prepare: from stored to model input, e.g. uint8 pixels to floats; always applied.
      augment: ``(key, stored x) -> x``, in training only, before ``prepare``.
      example_loss: ``(logits, y) -> [B, ...]``, the loss of every example.
      precision: of the arithmetic, see :mod:`fedjax_kd.nn.precision`; by default as JAX is set.
      example_x: a batch as stored ``[B, ...]``, of which only shape and dtype matter, for methods
        that take the model apart (FedPer).

    Raises:
      ValueError: if ``precision`` is unknown.
      TypeError: if ``features`` is called and the module has no method of that name.

    Example:
      >>> task = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
      >>> variables = task.init(jax.random.key(0))
      >>> jax.tree.map(jnp.shape, variables.params)
      {'bias': (3,), 'kernel': (4, 3)}
      >>> logits, stats = task.apply(variables, jnp.ones((2, 4)))
      >>> logits.shape, stats
      ((2, 3), {})
    """
    model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    use_faster_layers(model)
    if precision == "bfloat16":
        shorten_layers(model)
    set_mode(model, train=True)
    graph_train = nnx.graphdef(model)
    set_mode(model, train=False)
    graph_eval, flags = nnx.graphdef(model), flags_of(model)
    streams = nnx.to_pure_dict(nnx.state(model, nnx.RngState))

    def init(key: Key) -> Variables:
        return variables_of(build(nnx.Rngs(key)))

    def call(variables: Variables, x: PyTree, key: Key | None, method: str) -> tuple[Array, PyTree]:
        graph = graph_eval if key is None else graph_train
        streams_now = seeded(streams, jax.random.key(0) if key is None else key)
        module = nnx.merge(graph, variables.params, streams_now, variables.stats)
        function = partial(_SPECIAL[method], module) if method in _SPECIAL else None
        named = method_of(module, "__call__" if function else method)
        outputs: Any = (function or named)(x, **flags(named, key is not None))
        if key is None:
            return outputs, variables.stats
        return outputs, variables_of(module).stats

    def layers(batch: PyTree, train: bool) -> list[LayerCall]:
        def called(module: nnx.Module) -> Any:
            return module(_zeros(batch, prepare), **flags(module, train))

        return nnx_layers(model, called, train=train)

    task = _task(
        init, with_precision(call, precision), prepare, augment, example_loss, module=model
    )
    return task._replace(
        input_types=_types(example_x),
        norm_kinds=lambda: nnx_norms(model, variables_of(model)),
        layers=layers,
    )


def from_linen(
    module: linen.Module,
    example_x: PyTree,
    *,
    prepare: Prepare | None = None,
    augment: Augment | None = None,
    example_loss: ExampleLoss = losses.cross_entropy,
    train_argument: str | None = None,
    precision: Precision | None = None,
) -> Task:
    """A task from a Flax Linen module; collections other than ``params`` become ``stats``.

    Args:
      module: called with ``x``, and with ``train_argument`` if it takes one.
      example_x: a batch as stored ``[B, ...]``; only its shape and dtype matter.
      prepare: from stored to model input, e.g. uint8 pixels to floats; always applied.
      augment: ``(key, stored x) -> x``, in training only, before ``prepare``.
      example_loss: ``(logits, y) -> [B, ...]``, the loss of every example.
      train_argument: the flag of ``__call__`` that chooses the mode, one of
        `fedjax_kd.nn.calls.TRAIN_ARGUMENTS`; by default the one that the module takes, if any.
      precision: of the arithmetic, see :mod:`fedjax_kd.nn.precision`; by default as JAX is set.

    Raises:
      ValueError: if ``train_argument`` is not one of those names, or ``precision`` unknown.
      TypeError: if the module does not take ``train_argument``, or if ``features`` is called and
        the module has no method of that name.

    Example:
      >>> task = from_linen(linen.Dense(3), jnp.ones((1, 4)))
      >>> variables = task.init(jax.random.key(0))
      >>> task.apply(variables, jnp.ones((2, 4)))[0].shape
      (2, 3)
    """
    flags = flags_of(module, train_argument)

    def init(key: Key) -> Variables:
        with linen.intercept_methods(with_faster_layers):
            x = _zeros(example_x, prepare)
            collections = dict(module.init(key, x, **flags(module, False)))
        collections.pop("intermediates", None)
        return Variables(collections.pop("params", {}), collections)

    def call(variables: Variables, x: PyTree, key: Key | None, method: str) -> tuple[Array, PyTree]:
        collections = {"params": variables.params, **variables.stats}
        named = method_of(module, "__call__" if method in _SPECIAL else method)
        with linen.intercept_methods(with_faster_layers), linen.intercept_methods(as_wide):
            # Streams that are not given fall back on "params": so every name has a key.
            outputs, stats = module.apply(
                collections,
                x,
                method=_SPECIAL.get(method, method),
                rngs={} if key is None else {"params": cheap(key)},
                mutable=[] if key is None else list(variables.stats),
                **flags(named, key is not None),
            )
        return outputs, variables.stats if key is None else stats

    def layers(batch: PyTree, train: bool) -> list[LayerCall]:
        key, model = (jax.random.key(0) if train else None), jax.eval_shape(init, jax.random.key(0))
        x = _zeros(batch, prepare)
        return linen_layers(lambda model: call(model, x, key, "__call__"), model)

    task = _task(
        init, with_precision(call, precision), prepare, augment, example_loss, module=module
    )
    return task._replace(
        input_types=_types(example_x), norm_kinds=lambda: linen_norms(init), layers=layers
    )


def _task(
    init: Callable[[Key], Variables],
    call: Call,
    prepare: Prepare | None,
    augment: Augment | None,
    example_loss: ExampleLoss,
    *,
    module: object,
) -> Task:
    """The functions of a task from how to make variables and how to call a method of the module."""

    def augmented(key: Key, x: PyTree) -> PyTree:
        return x if augment is None else augment(jax.random.split(key)[1], x)

    def run(variables: Variables, x: PyTree, key: Key | None, method: str) -> tuple[Array, PyTree]:
        if key is not None and augment is not None:
            x, key = augmented(key, x), jax.random.split(key)[0]
        return call(variables, x if prepare is None else prepare(x), key, method)

    def apply(variables: Variables, x: PyTree, key: Key | None = None) -> tuple[Array, PyTree]:
        return run(variables, x, key, "__call__")

    def features(variables: Variables, x: PyTree, key: Key | None = None) -> Array:
        return run(variables, x, key, "features")[0]

    def features_and_logits(
        variables: Variables, x: PyTree, key: Key | None = None
    ) -> tuple[Any, Array, PyTree]:
        (outputs, inputs), stats = run(variables, x, key, _BOTH)
        return inputs, outputs, stats

    def loss(variables: Variables, batch: Batch, key: Key | None = None) -> tuple[Array, PyTree]:
        logits, stats = apply(variables, batch.x, key)
        return losses.batch_mean(example_loss(logits, batch.y), batch), stats

    def classify(variables: Variables, features: Array) -> Array:
        return call(variables, features, None, _HEAD)[0]

    def passed(variables: Variables, x: PyTree, key: Key | None = None) -> tuple:
        (outputs, block), stats = run(variables, x, key, _PASSED)
        return *block, outputs, stats

    def alone(variables: Variables, x: Array, key: Key | None = None) -> Array:
        return call(variables, x, key, "last_block")[0]

    task = Task(init, apply, features, example_loss, loss, augmented, features_and_logits, classify)
    if callable(getattr(module, "last_block", None)):
        task = task._replace(block=LastBlock(passed, alone))
    if prepare is not None or augment is not None:
        bare = _task(init, call, None, None, example_loss, module=module)
        task = task._replace(on_prepared=bare)
    if augment is None:
        return task
    return task._replace(unaugmented=_task(init, call, prepare, None, example_loss, module=module))


def _zeros(batch: PyTree, prepare: Prepare | None) -> PyTree:
    """Inputs of a model of these types."""
    x = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), batch)
    return x if prepare is None else prepare(x)


def _types(batch: PyTree) -> PyTree:
    """The shapes and dtypes of a batch."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
