"""Data that belong to no client: public inputs, and labelled rows of the server.

A source of inputs has one method, ``draw(key, count)``: the same key gives the same inputs to all
who ask. It is a tree of arrays, so that it lies on the device and may be an argument of a program.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd.batching import shuffled
from fedjax_kd.core import Data, Key, PyTree, Round
from fedjax_kd.errors import InputError


class MissingError(InputError):
    """A method needs something that this federation does not have."""


class Source(Protocol):
    """Unlabelled inputs, as they are stored."""

    def draw(self, key: Key, count: int) -> PyTree:
        """``count`` inputs ``[count, ...]``; the key is consumed."""
        ...


class Public(NamedTuple):
    """Data that belong to no client.

    ``inputs`` is a `Source` that server and clients may draw from; ``validation`` are labelled
    examples of the server's own. Either may be None.
    """

    inputs: PyTree = None
    validation: Data | None = None


class Stored(NamedTuple):
    """Inputs that are stored ``[P, ...]``; with labels ``[P, ...]`` where these are known."""

    x: PyTree
    y: PyTree = ()

    def draw(self, key: Key, count: int) -> PyTree:
        """Inputs in random order, none twice before all were drawn."""
        return self.examples(key, count)[0]

    def examples(self, key: Key, count: int) -> tuple[PyTree, PyTree]:
        """The same inputs as `draw`, and their labels."""
        size = len(jax.tree.leaves(self.x)[0])
        seed = jax.random.bits(key, dtype=jnp.uint32)
        place = jnp.arange(count, dtype=jnp.int32)
        rows = shuffled(seed + (place // size).astype(jnp.uint32), place % size, jnp.int32(size))
        return jax.tree.map(lambda pool: pool[rows], (self.x, self.y))


@partial(jax.tree_util.register_dataclass, data_fields=["low", "high"], meta_fields=["shape"])
@dataclass(frozen=True)
class Noise:
    """Gaussian noise, stretched so that a batch just fills ``[low, high]``.

    Source: the random data of Lin, Kong, Stich, Jaggi, NeurIPS 2020, arXiv:2006.07242.
    """

    low: Float[Array, ""]
    high: Float[Array, ""]
    shape: tuple[int, ...]

    def draw(self, key: Key, count: int) -> Float[Array, "P ..."]:
        """``count`` inputs of noise."""
        return stretched(jax.random.normal(key, (count, *self.shape)), self.low, self.high)


def stretched(
    values: Float[Array, "*shape"], low: Float[Array, ""], high: Float[Array, ""]
) -> Float[Array, "*shape"]:
    """Values moved and scaled so that the least is ``low`` and the largest ``high``.

    Example:
      >>> stretched(jnp.array([3.0, 4.0, 5.0]), jnp.float32(-1.0), jnp.float32(1.0))
      Array([-1., 0., 1.], dtype=float32)
    """
    least, spread = values.min(), values.max() - values.min()
    return low + (high - low) * (values - least) / jnp.where(spread > 0, spread, 1)


@partial(jax.tree_util.register_dataclass, data_fields=["params"], meta_fields=["apply", "latent"])
@dataclass(frozen=True)
class Generator:
    """A network that makes inputs of noise: one that is trained already, or is to be trained.

    ``apply(params, z)`` turns ``z`` ``[count, latent]`` into inputs as they are stored, as floats.
    """

    params: PyTree
    apply: Callable[[PyTree, Array], PyTree]
    latent: int

    def draw(self, key: Key, count: int) -> PyTree:
        """``count`` generated inputs."""
        return self.apply(self.params, jax.random.normal(key, (count, self.latent)))


def inputs_of(round: Round, method: str) -> Source:
    """The public inputs of a round.

    Raises:
      MissingError: if the federation has none.
    """
    if round.public is None or round.public.inputs is None:
        raise MissingError(
            f"{method} needs public inputs, but this federation has none: give `federate` some as "
            "`public`, or the command line --public holdout, noise, generator or a data set."
        )
    return round.public.inputs


def validation_of(round: Round, method: str) -> Data:
    """The server's labelled examples.

    Raises:
      MissingError: if the federation has none.
    """
    if round.public is None or round.public.validation is None:
        raise MissingError(
            f"{method} needs labelled examples of the server to validate with, but this federation "
            "has none: give `federate` some as `public`, or the command line "
            "--validation-fraction 0.1."
        )
    return round.public.validation
