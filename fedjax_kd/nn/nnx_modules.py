"""NNX modules as a task holds them: faster layers, plain nested dicts, random streams by key."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from fedjax_kd.core import Key, PyTree, Variables
from fedjax_kd.nn.conv import conv_general_dilated
from fedjax_kd.nn.dense import dot_general
from fedjax_kd.nn.norm import GroupNorm
from fedjax_kd.prng import cheap


def use_faster_layers(model: nnx.Module) -> None:
    """Puts functions of this package in the place of those of Flax that are slow in a simulator."""
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.Conv) and (
            module.conv_general_dilated is jax.lax.conv_general_dilated
        ):
            module.conv_general_dilated = conv_general_dilated
        elif isinstance(module, nnx.Linear) and module.dot_general is jax.lax.dot_general:
            module.dot_general = dot_general
        elif type(module) is nnx.GroupNorm:
            module.__class__ = GroupNorm  # of the same attributes


def variables_of(module: nnx.Module) -> Variables:
    """The parameters and the statistics of a module, as nested dicts."""
    # What a module sows for inspection exists only after a call: it is no state.
    other = nnx.Not(nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate))
    params, stats = nnx.state(module, nnx.Param), nnx.state(module, other)
    return Variables(nnx.to_pure_dict(params), nnx.to_pure_dict(stats))


def seeded(streams: PyTree, key: Key) -> PyTree:
    """Random streams like ``streams``, each with a key of its own and its count at zero."""
    leaves, structure = jax.tree.flatten(streams)

    def one(number: int, leaf: jax.ShapeDtypeStruct) -> Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jnp.zeros(leaf.shape, leaf.dtype)
        own = cheap(jax.random.fold_in(key, number))
        return jax.random.split(own, leaf.shape) if leaf.shape else own

    return jax.tree.unflatten(structure, [one(*numbered) for numbered in enumerate(leaves)])
