"""A network that learns its own input."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.options import checks_options


class Autoencoder(nnx.Module):
    """Dense layers down to a narrow linear one and up again; all others end in a sigmoid."""

    def __init__(
        self, shape: tuple[int, ...], *, hidden: Sequence[int], bottleneck: int, rngs: nnx.Rngs
    ) -> None:
        self.shape, self.narrowest = shape, len(hidden)
        inputs = math.prod(shape)
        sizes = [inputs, *hidden, bottleneck, *reversed(hidden)]
        init = nnx.initializers.glorot_normal()
        self.layers = nnx.List(
            nnx.Linear(before, after, kernel_init=init, rngs=rngs)
            for before, after in pairwise(sizes)
        )
        self.head = nnx.Linear(sizes[-1], inputs, kernel_init=init, rngs=rngs)

    def features(self, x: Float[Array, "B ..."]) -> Float[Array, "B D"]:
        """The input of the last layer."""
        x = x.reshape(x.shape[0], -1)
        for number, layer in enumerate(self.layers):
            x = layer(x) if number == self.narrowest else jax.nn.sigmoid(layer(x))
        return x

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        return jax.nn.sigmoid(self.head(self.features(x))).reshape(x.shape[0], *self.shape)


@checks_options
def autoencoder(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    hidden: tuple[int, ...] = (1000, 500, 250),
    bottleneck: int = 30,
) -> Callable[[nnx.Rngs], Autoencoder]:
    """The EMNIST autoencoder of Reddi et al. (2021): 784-1000-500-250-30-250-500-1000-784.

    Sigmoid everywhere but at the linear bottleneck, Glorot normal weights, biases zero; 2,837,314
    parameters for 28 x 28 pixels. Its outputs are in (0, 1) and of the shape of the inputs: train
    it with ``target="input"`` (`fedjax_kd.data.federate`).

    Args:
      input_shape: shape of one example, each >= 1: it is flattened.
      num_classes: not used, >= 1; every network takes it.
      hidden: units of the encoder's layers, each >= 1; the decoder has them in reverse.
      bottleneck: units of the narrowest layer, >= 1.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> build = autoencoder((8, 8, 1), 10, hidden=(32,), bottleneck=4)
      >>> build(nnx.Rngs(0))(jax.numpy.zeros((2, 8, 8, 1))).shape
      (2, 8, 8, 1)

    Source: Reddi et al., Adaptive Federated Optimization, 2021, arXiv 2003.00295; after Hinton and
    Salakhutdinov, Reducing the Dimensionality of Data with Neural Networks, 2006.
    """
    return lambda rngs: Autoencoder(input_shape, hidden=hidden, bottleneck=bottleneck, rngs=rngs)
