"""Weights, learnt by a client: how much of the received model it takes, number by number."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.batching import draw, turns
from fedjax_kd.components.model_parts import combine, partition
from fedjax_kd.core import Batch, Data, Key, PyTree, Scalar, Variables
from fedjax_kd.losses.objectives import MICROBATCH, Objective, gradient


class Learning(NamedTuple):
    """How weights are learnt; the names are those of FedALA's options."""

    eta: Scalar
    share: Scalar
    threshold: Scalar
    window: int
    most_epochs: int
    batch_size: int  # 0 for pieces of `MICROBATCH` examples


class Merged(NamedTuple):
    """A client's model, and its weights of the received one; None where that is taken whole."""

    model: Variables
    weights: PyTree
    started: Array  # whether weights have been learnt until they converged


class _Search(NamedTuple):
    weights: PyTree
    losses: Array  # of the last epochs' last batches, the newest at the end
    epochs: Array


def blend(part: PyTree, received: PyTree, own: PyTree, weights: PyTree) -> PyTree:
    """Parameters that are ``own + weights * (received - own)`` in the part, else received."""
    lower, _ = partition(part, received)
    old = partition(part, own)[1]
    gap = tree.sub(partition(part, received)[1], old)
    return combine(lower, jax.tree.map(lambda a, w, g: a + w * g, old, weights, gap))


def mean_weight(client: Merged) -> Array:
    """How much of the received model a client takes, on average."""
    leaves = jax.tree.leaves(client.weights)
    return jnp.stack([leaf.sum() for leaf in leaves]).sum() / sum(leaf.size for leaf in leaves)


def weights_learner(
    how: Learning, part: PyTree, loss: Objective
) -> Callable[[Key, Variables, Merged, Data], tuple[PyTree, Array]]:
    """How a client learns its weights.

    Nothing is learnt where its model is the received one, or there are no examples.

    Args:
      how: the options.
      part: booleans like the parameters: which values are merged.
      loss: of the merged model; the statistics that it measures are thrown away.

    Returns:
      ``(key, received, client, data) -> weights, whether they have been learnt until they
      converged``. Of the data a random share is used, the same in each epoch.
    """

    def learn(key: Key, received: Variables, client: Merged, data: Data) -> tuple[PyTree, Array]:
        own, new = client.model.params, received.params
        gap = partition(part, tree.sub(new, own))[1]
        differs = (tree.sq_norm(gap) > 0) & (data.size > 0)
        batches = _batches(how, key, data)

        def step(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            weights, last = carry
            batch, key_step = batches.at(i)
            model = Variables(blend(part, new, own, weights), received.stats)
            value, _, slope = gradient(loss, model, batch, key_step)
            move = jax.tree.map(jnp.multiply, partition(part, slope)[1], gap)
            moved = tree.add_scaled(weights, -how.eta, move)
            moved = jax.tree.map(lambda w: jnp.clip(w, 0, 1), moved)
            used = batch.mask.sum() > 0
            return tree.where(used, moved, weights), jnp.where(used, value.astype(last.dtype), last)

        def epoch(search: _Search) -> _Search:
            first = search.weights, search.losses[-1]
            weights, last = jax.lax.fori_loop(0, batches.number, step, first)
            losses = jnp.roll(search.losses, -1).at[-1].set(last)
            return _Search(weights, losses, search.epochs + 1)

        def goes_on(search: _Search) -> Array:
            settled = (search.epochs > how.window) & (jnp.std(search.losses) < how.threshold)
            starts = ~client.started & ~settled & (search.epochs < how.most_epochs)
            return differs & ((search.epochs == 0) | starts)

        begin = _Search(client.weights, jnp.zeros(how.window, float), jnp.int32(0))
        return jax.lax.while_loop(goes_on, epoch, begin).weights, client.started | differs

    return learn


class _Batches(NamedTuple):
    """An epoch over a random share of a client's examples."""

    at: Callable[[Array], tuple[Batch, Key]]
    number: Array | int


def _batches(how: Learning, key: Key, data: Data) -> _Batches:
    at_once = how.batch_size or MICROBATCH
    key_order, key_steps = jax.random.split(key)
    seed = jax.random.bits(key_order, dtype=jnp.uint32)
    share = jnp.asarray(how.share, jnp.float32)
    kept = jnp.maximum(jnp.floor(share * data.size.astype(jnp.float32)), 1)

    def at(i: Array) -> tuple[Batch, Key]:
        positions, mask = draw(seed, i, data.size, at_once, "partial")
        place = jnp.asarray(i, jnp.int32) * at_once + jnp.arange(at_once, dtype=jnp.int32)
        among = (place.astype(jnp.float32) < kept).astype(mask.dtype)
        return data.take(positions, mask * among), jax.random.fold_in(key_steps, i)

    # The share is a number that may be traced, so that batches beyond it are empty, not left out.
    return _Batches(at, turns(lambda size: -(-size // at_once), data))
