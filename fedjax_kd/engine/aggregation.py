"""What the reducers that an algorithm declares do to the messages of many clients.

``aggregate`` is a tree prefix of the messages: one `Reducer` may stand for a whole subtree.
"""

from __future__ import annotations

from functools import reduce
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd.core import Message, PyTree, Reducer


class Sums(NamedTuple):
    """One array of the messages of many clients: summed with its votes, or kept with presence."""

    value: Array
    votes: Array


def accumulate(
    aggregate: PyTree, messages: Message, weights: Float[Array, " k"], present: Float[Array, " k"]
) -> PyTree:
    """The messages of ``k`` clients, leaves ``[k, ...]``, as a tree of `Sums`."""
    chex.assert_equal_shape([weights, present])
    chex.assert_tree_shape_prefix(messages, weights.shape)

    def entry(reducer: Reducer, values: PyTree) -> PyTree:
        return jax.tree.map(lambda v: Sums(*reducer.accumulate(v, weights, present)), values)

    return jax.tree.map(entry, aggregate, messages)


def select(aggregate: PyTree, sums: PyTree, *, stacked: bool) -> PyTree:
    """The entries that are (not) stacked; ``()`` stands for the others."""
    return jax.tree.map(lambda r, s: s if r.stacked == stacked else (), aggregate, sums)


def join(aggregate: PyTree, summed: PyTree, kept: PyTree) -> PyTree:
    """Undoes `select`."""
    return jax.tree.map(lambda r, s, k: k if r.stacked else s, aggregate, summed, kept)


def add_sums(aggregate: PyTree, a: PyTree, b: PyTree) -> PyTree:
    """The sums over two sets of clients; stacked entries are put one after the other."""

    def entry(reducer: Reducer, x: PyTree, y: PyTree) -> PyTree:
        together = (lambda p, q: jnp.concatenate([p, q])) if reducer.stacked else jnp.add
        return jax.tree.map(together, x, y)

    return jax.tree.map(entry, aggregate, a, b)


def finalise(aggregate: PyTree, sums: PyTree) -> PyTree:
    """What the server receives."""

    def entry(reducer: Reducer, s: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: reducer.finalise(leaf.value, leaf.votes), s, is_leaf=_is_sums
        )

    return jax.tree.map(entry, aggregate, sums)


def merge(aggregates: list[PyTree], sums: list[PyTree]) -> tuple[PyTree, PyTree]:
    """``(aggregate, sums)`` over groups of clients with different algorithms.

    Entries of the messages that groups share by name are reduced over all of them (FedMD's logits);
    an entry that one group alone sends arrives alone (the models of one architecture).
    """
    if len(sums) == 1:
        return aggregates[0], sums[0]
    named = [_by_name(a, s) for a, s in zip(aggregates, sums, strict=True)]

    def together(name: str) -> tuple[PyTree, PyTree]:
        sent = [entries[name] for entries in named if name in entries]
        rule = sent[0][0]
        return rule, reduce(lambda a, b: add_sums(rule, a, b), (s for _, s in sent))

    names = {n: together(n) for n in dict.fromkeys(n for entries in named for n in entries)}
    if names.keys() == {""}:
        return names[""]
    return {n: rule for n, (rule, _) in names.items()}, {n: s for n, (_, s) in names.items()}


def _by_name(aggregate: PyTree, sums: PyTree) -> dict[str, tuple[PyTree, PyTree]]:
    """A message as named entries: those of a dict, or one without a name."""
    if not isinstance(sums, dict):
        return {"": (aggregate, sums)}
    rule = aggregate if isinstance(aggregate, dict) else dict.fromkeys(sums, aggregate)
    return {name: (rule[name], sums[name]) for name in sums}


def _is_sums(x: object) -> bool:
    return isinstance(x, Sums)
