"""A recurrent network over characters, for language models and for labels of texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from fedjax_kd.errors import InputError
from fedjax_kd.models.transformer import Output
from fedjax_kd.nn.decompositions import one_by_one
from fedjax_kd.options import check_choice, checks_options


class LSTM(nnx.Module):
    """A layer of long short-term memory over time, its four gates in one matrix product."""

    def __init__(self, inputs: int, units: int, *, rngs: nnx.Rngs) -> None:
        glorot, orthogonal = nnx.initializers.glorot_uniform(), nnx.initializers.orthogonal()
        zeros, ones = jnp.zeros(units), jnp.ones(units)
        self.kernel = nnx.Param(glorot(rngs.params(), (inputs, 4 * units)))
        recurrent = one_by_one(partial(orthogonal, shape=(units, 4 * units)))
        self.recurrent = nnx.Param(recurrent(rngs.params()))
        # A forget gate that starts open: its bias is 1.
        self.bias = nnx.Param(jnp.concatenate([zeros, ones, zeros, zeros]))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H"]:
        recurrent = self.recurrent[...]
        # The inputs of all times in one product: only the recurrence has to wait.
        driven = x @ self.kernel[...] + self.bias[...].reshape(1, 1, -1)
        start = jnp.zeros((x.shape[0], recurrent.shape[0]), driven.dtype)

        def step(state: tuple[Array, Array], now: Array) -> tuple[tuple[Array, Array], Array]:
            hidden, cell = state
            enter, forget, new, leave = jnp.split(now + hidden @ recurrent, 4, axis=-1)
            cell = jax.nn.sigmoid(forget) * cell + jax.nn.sigmoid(enter) * jnp.tanh(new)
            hidden = jax.nn.sigmoid(leave) * jnp.tanh(cell)
            return (hidden, cell), hidden

        _, outputs = jax.lax.scan(step, (start, start), driven.swapaxes(0, 1))
        return outputs.swapaxes(0, 1)


class CharLSTM(nnx.Module):
    """An embedding, layers of LSTM, and a head for every position or for the last one."""

    def __init__(
        self,
        vocabulary: int,
        num_classes: int,
        *,
        embedding: int,
        units: int,
        layers: int,
        output: Output,
        rngs: nnx.Rngs,
    ) -> None:
        self.output = output
        uniform = nnx.initializers.uniform(0.1)
        self.embed = nnx.Embed(
            vocabulary,
            embedding,
            embedding_init=lambda *arguments: uniform(*arguments) - 0.05,
            rngs=rngs,
        )
        sizes = [embedding] + [units] * (layers - 1)
        self.layers = nnx.List(LSTM(size, units, rngs=rngs) for size in sizes)
        init = nnx.initializers.glorot_uniform()
        self.head = nnx.Linear(units, num_classes, kernel_init=init, rngs=rngs)

    def features(self, x: Int[Array, "B T"]) -> Float[Array, "B ... D"]:
        """The last layer's outputs at every position, or their mean."""
        y = self.embed(x.astype(jnp.int32))
        for layer in self.layers:
            y = layer(y)
        return y if self.output == "positions" else y.mean(axis=1)

    def __call__(self, x: Int[Array, "B T"]) -> Float[Array, "B ... L"]:
        return self.head(self.features(x))


@checks_options
def char_lstm(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    vocabulary: int = 0,
    embedding: int = 8,
    units: int = 256,
    layers: int = 2,
    output: Output = "positions",
) -> Callable[[nnx.Rngs], CharLSTM]:
    """The Shakespeare network: embedding 8, two LSTM of 256, next-symbol logits ``[B, T, L]``.

    820,522 parameters for 90 symbols, one bias a gate as Keras and TFF count (libraries that keep
    two biases a gate count 2,048 more). Initialised as Keras does: Glorot uniform for inputs,
    orthogonal for the recurrence, embeddings in +-0.05, forget bias 1.

    Args:
      input_shape: ``(T,)``, the length of a sequence, >= 1; any length works.
      num_classes: outputs, >= 1: symbols for ``"positions"``, classes for ``"pooled"``.
      vocabulary: symbols of the input, >= 0; 0 means ``num_classes``.
      embedding: size of a symbol's embedding, >= 1.
      units: units of each LSTM layer, >= 1.
      layers: LSTM layers, >= 1.
      output: ``"positions"``: next-symbol logits ``[B, T, L]``. ``"pooled"``: class logits
        ``[B, L]`` of the mean over positions.

    Raises:
      ValueError: if ``input_shape`` has more than one axis, or an option is not allowed.

    Example:
      >>> build = char_lstm((4,), 90, units=16)
      >>> build(nnx.Rngs(0))(jnp.zeros((2, 4), jnp.int32)).shape
      (2, 4, 90)

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data, 2017, arXiv 1602.05629; sizes: Reddi et al., Adaptive Federated Optimization, 2021, arXiv
    2003.00295.
    """
    if len(input_shape) != 1:
        raise InputError(
            f"input_shape is {input_shape}, but char_lstm reads sequences of symbols (T,): take an "
            "image network for images."
        )
    check_choice("output", output, Output)
    return lambda rngs: CharLSTM(
        vocabulary or num_classes,
        num_classes,
        embedding=embedding,
        units=units,
        layers=layers,
        output=output,
        rngs=rngs,
    )
