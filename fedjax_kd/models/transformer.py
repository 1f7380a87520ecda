"""A small transformer encoder over sequences of symbols."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options

Output = Literal["positions", "pooled"]


class Layer(nnx.Module):
    """Attention and a two-layer network, each normalised first and added to its input."""

    def __init__(self, width: int, heads: int, dropout: float, *, rngs: nnx.Rngs) -> None:
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.wide = nnx.Linear(width, 4 * width, rngs=rngs)
        self.narrow = nnx.Linear(4 * width, width, rngs=rngs)
        self.drop = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "B T D"], mask: Array | None) -> Float[Array, "B T D"]:
        x = x + self.drop(self.attention(self.norm1(x), mask=mask))
        return x + self.drop(self.narrow(jax.nn.gelu(self.wide(self.norm2(x)))))


class Transformer(nnx.Module):
    """Embeddings of symbols and places, layers, a last normalisation, and a linear head."""

    def __init__(
        self,
        length: int,
        vocabulary: int,
        num_classes: int,
        *,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        output: Output,
        rngs: nnx.Rngs,
    ) -> None:
        self.output = output
        self.symbols = nnx.Embed(vocabulary, width, rngs=rngs)
        self.places = nnx.Embed(length, width, rngs=rngs)
        self.layers = nnx.List(Layer(width, heads, dropout, rngs=rngs) for _ in range(layers))
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def features(self, x: Int[Array, "B T"]) -> Float[Array, "B ... D"]:
        """The input of the head: one vector a position, or their mean."""
        length = x.shape[1]
        y = self.symbols(x.astype(jnp.int32)) + self.places(jnp.arange(length))[None]
        # A position that is to name its successor must not look ahead.
        causal = jnp.tril(jnp.ones((1, 1, length, length), bool))
        mask = causal if self.output == "positions" else None
        for layer in self.layers:
            y = layer(y, mask)
        y = self.norm(y)
        return y if self.output == "positions" else y.mean(axis=1)

    def __call__(self, x: Int[Array, "B T"]) -> Float[Array, "B ... L"]:
        return self.head(self.features(x))


@checks_options
def transformer(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    vocabulary: int = 0,
    width: int = 64,
    layers: int = 2,
    heads: int = 4,
    dropout: float = 0.0,
    output: Output = "positions",
) -> Callable[[nnx.Rngs], Transformer]:
    """A small pre-normalised transformer (Vaswani et al., 2017) over sequences of symbols.

    Places are learned; dense weights are LeCun normal. Every position counts in the mean of
    ``"pooled"``, symbols for padding too.

    Args:
      input_shape: ``(T,)``, the longest sequence, >= 1.
      num_classes: outputs: symbols for ``"positions"``, classes for ``"pooled"``; >= 1.
      vocabulary: symbols of the input, >= 0; 0 means ``num_classes``.
      width: features of a position, >= 1; a multiple of ``heads``.
      layers: encoder layers, >= 1.
      heads: attention heads, >= 1.
      dropout: rate, in [0, 1).
      output: ``"positions"``: next-symbol logits ``[B, T, L]``, no position sees its future.
        ``"pooled"``: class logits ``[B, L]`` of the mean over positions.

    Raises:
      ValueError: if ``input_shape`` has more than one axis, or an option is not allowed.

    Example:
      >>> build = transformer((6,), 3, vocabulary=20, output="pooled")
      >>> build(nnx.Rngs(0))(jnp.zeros((2, 6), jnp.int32)).shape
      (2, 3)

    Source: Vaswani et al., Attention Is All You Need, 2017, arXiv 1706.03762; normalising first:
    Xiong et al., On Layer Normalization in the Transformer Architecture, 2020, arXiv 2002.04745.
    """
    if len(input_shape) != 1:
        raise InputError(
            f"input_shape is {input_shape}, but transformer reads sequences of symbols (T,): take "
            "an image network for images."
        )
    if width % heads:
        raise InputError(
            f"width is {width} and heads is {heads}, but width must be a multiple of heads: try 64 "
            "and 4."
        )
    check_choice("output", output, Output)
    return lambda rngs: Transformer(
        input_shape[0],
        vocabulary or num_classes,
        num_classes,
        width=width,
        layers=layers,
        heads=heads,
        dropout=dropout,
        output=output,
        rngs=rngs,
    )
