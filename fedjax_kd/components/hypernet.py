"""A hypernetwork: one network that makes the parameters of another for each of many clients.

An embedding of each client goes through a trunk of dense layers, and a linear head for every array
of parameters makes that array of the trunk's output.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.components.model_checks import check_population
from fedjax_kd.core import Key, PyTree, Round, Scalar
from fedjax_kd.local import Optimiser, Rate, made_optimiser, rate_at
from fedjax_kd.options import check_choice, checks_options

Start = Literal["random", "model"]


class Dense(NamedTuple):
    """A linear layer, or one for every array of a tree."""

    kernel: PyTree  # [in, *out]
    bias: PyTree  # [*out]


class Hypernet(NamedTuple):
    """The embeddings of all clients, and the layers that make parameters of one."""

    embeddings: Float[Array, "C E"]
    trunk: tuple[Dense, ...]
    heads: Dense


class HypernetState(NamedTuple):
    """A hypernetwork between two steps, and its optimiser's state."""

    net: Hypernet
    opt: Any


class HypernetLearner(NamedTuple):
    """A server's hypernetwork as three pure functions."""

    init: Callable[[Key, PyTree], HypernetState]  # (key, parameters of the shapes to be made)
    make: Callable[[HypernetState, Array], PyTree]  # (learning, client's number) -> its parameters
    learn: Callable[
        [HypernetState, PyTree, Round], HypernetState
    ]  # from the cohort's changes [K, ...]


@checks_options
def hypernet_learner(
    *,
    population: int,
    server_lr: Rate = 0.01,
    server_momentum: Scalar = 0.9,
    server_decay: Scalar = 1e-3,
    server_clip: Scalar = 50.0,
    embedding: int | None = None,
    hidden: int = 100,
    layers: int = 3,
    start: Start = "random",
    server_opt: Optimiser = optax.sgd,
) -> HypernetLearner:
    """A hypernetwork that learns from how clients change the models that it makes.

        g = clip(-1 / K sum_k (d theta_k / d net)^T change_k)
        net = net - server_lr * momentum(g + server_decay * net)

    Args:
      population: clients C, >= 1.
      server_lr: learning rate of the hypernetwork and the embeddings, > 0.
      server_momentum: their heavy-ball momentum, in [0, 1).
      server_decay: their L2 regularisation, >= 0; it moves all embeddings in every round.
      server_clip: largest norm of their gradient, >= 0.
      embedding: numbers that stand for a client, >= 1; ``1 + C // 4`` if not given.
      hidden: units of each layer of the hypernetwork, >= 0; without any, all get one model.
      layers: between the first and the heads, >= 0.
      start: whether the heads' biases are "random", or the task's initial "model".
      server_opt: a learning rate to the optimiser that follows clipping, decay and momentum.

    Raises:
      ValueError: if a number is out of its range, or ``population`` is not that of the federation.
    """
    check_choice("start", start, Start)
    sizes = {"population": population, "hidden": hidden, "layers": layers}
    sizes |= {} if embedding is None else {"embedding": embedding}
    made_optimiser("server_opt", server_opt, 1.0)

    def optimiser(number: Array | int) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(server_clip),
            optax.add_decayed_weights(server_decay),
            optax.trace(server_momentum),
            server_opt(rate_at(server_lr, number)),
        )

    def init(key: Key, model: PyTree) -> HypernetState:
        net = hypernet(key, model, start=start, **sizes)
        return HypernetState(net, optimiser(0).init(net))

    def make(learning: HypernetState, number: Array) -> PyTree:
        return jax.tree.map(lambda a: a[0], make_parameters(learning.net, number[None]))

    def learn(learning: HypernetState, changes: PyTree, round: Round) -> HypernetState:
        check_population(population, round, "how many embeddings there are")
        summed = pulled_back(learning.net, round.cohort, changes)
        grads = tree.scale(-1 / jnp.maximum(round.present.sum(), 1), summed)
        step, state = optimiser(round.number).update(grads, learning.opt, learning.net)
        return HypernetState(optax.apply_updates(learning.net, step), state)

    return HypernetLearner(init, make, learn)


@checks_options
def hypernet(
    key: Key,
    model: PyTree,
    *,
    population: int,
    embedding: int | None = None,
    hidden: int = 100,
    layers: int = 3,
    start: Start = "random",
) -> Hypernet:
    """A random hypernetwork, initialised as PyTorch initialises such layers.

    Embeddings are normal; kernels and biases are uniform within 1 / sqrt(in).

    Args:
      key: consumed.
      model: parameters of the shapes that are to be made.
      population: clients C, >= 1.
      embedding: numbers that stand for a client, >= 1; ``1 + C // 4`` if not given.
      hidden: units of each layer of the trunk, >= 0.
      layers: of the trunk, after the first, >= 0.
      start: "model" puts ``model`` in the place of the heads' biases.

    Example:
      >>> net = hypernet(jax.random.key(0), {"w": jnp.zeros((4, 3))}, population=8, hidden=5)
      >>> net.embeddings.shape, net.heads.kernel["w"].shape
      ((8, 3), (5, 4, 3))
    """
    width = 1 + population // 4 if embedding is None else embedding
    keys = iter(jax.random.split(key, 4 + layers))
    embeddings = jax.random.normal(next(keys), (population, width))
    sizes = (width, *[hidden] * layers)
    trunk = tuple(_dense(next(keys), size, jnp.zeros(hidden)) for size in sizes)
    heads = _dense(next(keys), hidden, model)
    return Hypernet(embeddings, trunk, heads._replace(bias=model) if start == "model" else heads)


def embeddings_of(net: Hypernet, numbers: Int[Array, " K"]) -> Float[Array, "K E"]:
    """The embeddings of these clients; number -1 stands for a newcomer: the mean of all.

    Example:
      >>> net = Hypernet(jnp.array([[1.0], [3.0]]), (), Dense((), ()))
      >>> embeddings_of(net, jnp.array([1, -1]))[:, 0]
      Array([3., 2.], dtype=float32)
    """
    own = net.embeddings.at[numbers].get(mode="clip")
    return jnp.where((numbers < 0)[:, None], net.embeddings.mean(0, keepdims=True), own)


def make_parameters(net: Hypernet, numbers: Int[Array, " K"]) -> PyTree:
    """The parameters of these clients' models, leaves ``[K, ...]``."""
    x = _through(net.trunk[0], embeddings_of(net, numbers))
    for layer in net.trunk[1:]:
        x = _through(layer, jax.nn.relu(x))
    return _through(net.heads, x)


def pulled_back(net: Hypernet, numbers: Int[Array, " K"], changes: PyTree) -> Hypernet:
    """``sum_k (d theta_k / d net)^T change_k``: the changes' pull-back.

    All clients together are one product a layer, in memory of the changes.
    """
    _, pull = jax.vjp(lambda net: make_parameters(net, numbers), net)
    return pull(changes)[0]


def _through(layer: Dense, x: Float[Array, "K I"]) -> PyTree:
    """The layer's outputs, leaves ``[K, ...]``."""
    # HIGHEST: parameters must not be rounded to the accelerator's short matrix formats.
    return jax.tree.map(
        lambda kernel, bias: (
            jnp.tensordot(x.astype(kernel.dtype), kernel, 1, precision=jax.lax.Precision.HIGHEST)
            + bias[None]
        ),
        layer.kernel,
        layer.bias,
    )


def _dense(key: Key, inputs: int, like: PyTree) -> Dense:
    """Random layers from ``inputs`` numbers to arrays like those of a tree."""
    leaves, structure = jax.tree.flatten(like)
    reach = max(inputs, 1) ** -0.5

    def uniform(number: int, shape: tuple[int, ...], dtype: jnp.dtype) -> Array:
        own = jax.random.fold_in(key, number)
        return jax.random.uniform(own, shape, dtype, minval=-reach, maxval=reach)

    kernels = [uniform(2 * i, (inputs, *a.shape), a.dtype) for i, a in enumerate(leaves)]
    biases = [uniform(2 * i + 1, a.shape, a.dtype) for i, a in enumerate(leaves)]
    return Dense(jax.tree.unflatten(structure, kernels), jax.tree.unflatten(structure, biases))
