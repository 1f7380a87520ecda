"""Prototypes that a server trains to lie apart, near what clients sent (FedTGP)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from fedjax_kd import losses
from fedjax_kd.components.class_means import ClassSums, class_means
from fedjax_kd.core import Key, Scalar
from fedjax_kd.local import stepped


class PrototypeTraining(NamedTuple):
    """How a server trains its prototypes."""

    steps: int
    lr: Scalar
    hidden: int  # units of the network that makes prototypes; 0 if they are parameters themselves
    largest: Scalar  # margin


def prototype_parameters(key: Key, classes: int, width: int, hidden: int) -> dict[str, Array]:
    """An embedding of the classes and, above it, two layers."""
    keys, draw = jax.random.split(key, 3), jax.nn.initializers.lecun_normal()
    embedding = {"embedding": jax.random.normal(keys[0], (classes, width))}
    if not hidden:
        return embedding
    return embedding | {
        "inner": draw(keys[1], (width, hidden)),
        "inner_bias": jnp.zeros(hidden),
        "outer": draw(keys[2], (hidden, width)),
        "outer_bias": jnp.zeros(width),
    }


def prototypes_of(params: dict[str, Array]) -> Float[Array, "L D"]:
    """The prototype of each class."""
    points = params["embedding"]
    if "inner" not in params:
        return points
    inner = jax.nn.relu(points @ params["inner"] + params["inner_bias"][None])
    return inner @ params["outer"] + params["outer_bias"][None]


def largest_gap(means: Float[Array, "L D"], known: Bool[Array, " L"]) -> Float[Array, ""]:
    """The largest of the distances from each known class's mean to the nearest other; 0 of one.

    Example:
      >>> largest_gap(jnp.array([[0.0], [1.0], [4.0]]), jnp.array([True, True, True])).item()
      3.0
    """
    squares = jnp.square(means[:, None] - means[None]).sum(-1)
    apart = known[:, None] & known[None] & ~jnp.eye(len(known), dtype=bool)
    nearest = jnp.sqrt(jnp.where(apart, squares, jnp.inf).min(1))
    return jnp.where(jnp.isfinite(nearest), nearest, 0).max()


def train_prototypes(
    how: PrototypeTraining, params: dict[str, Array], sent: ClassSums
) -> dict[str, Array]:
    """Steps of SGD on what all clients sent, leaves ``[K, L, ...]``, at once.

    Each mean is to be classified by its distances to the prototypes, of which that to its own
    counts as longer by the margin, `largest_gap` of the mean over clients.

    Args:
      how: steps.
      params: from `prototype_parameters`.
      sent: of each client its means, as sums of one; counts 0 where it has none.
    """
    of_class = ClassSums(sent.sums.sum(0), sent.counts.sum(0))
    margin = jnp.minimum(largest_gap(class_means(of_class), of_class.counts > 0), how.largest)
    clients, classes, width = sent.sums.shape
    points, weights = sent.sums.reshape(-1, width), sent.counts.reshape(-1)
    own = jnp.tile(jnp.arange(classes, dtype=jnp.int32), clients)
    opt = optax.sgd(how.lr)

    def loss(params: dict[str, Array]) -> Array:
        squares = jnp.square(points[:, None] - prototypes_of(params)[None]).sum(-1)
        # The gradient of a root at 0 is none.
        distances = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
        further = distances + margin * jax.nn.one_hot(own, classes, dtype=distances.dtype)
        return losses.masked_mean(losses.cross_entropy(-further, own), weights)

    def step(_: Any, carry: tuple) -> tuple:
        return stepped(opt, carry[0], jax.grad(loss)(carry[0]), carry[1])

    return jax.lax.fori_loop(0, how.steps, step, (params, opt.init(params)))[0]
