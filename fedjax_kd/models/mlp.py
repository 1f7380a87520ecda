"""Fully connected networks on flattened inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.options import checks_options


class MLP(nnx.Module):
    """Dense layers with ReLU on the flattened input, and a linear head."""

    def __init__(
        self, inputs: int, num_classes: int, *, hidden: Sequence[int], rngs: nnx.Rngs
    ) -> None:
        sizes = [inputs, *hidden]
        init = nnx.initializers.glorot_uniform()
        self.hidden = nnx.List(
            nnx.Linear(before, after, kernel_init=init, rngs=rngs)
            for before, after in pairwise(sizes)
        )
        self.head = nnx.Linear(sizes[-1], num_classes, kernel_init=init, rngs=rngs)

    def features(self, x: Float[Array, "B ..."]) -> Float[Array, "B D"]:
        """The input of the head."""
        x = x.reshape(x.shape[0], -1)
        if not self.hidden:
            return x
        for layer in list(self.hidden)[:-1]:
            x = jax.nn.relu(layer(x))
        return self.last_block(x)

    def last_block(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """The last hidden layer."""
        return jax.nn.relu(self.hidden[-1](x))

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B L"]:
        return self.head(self.features(x))


@checks_options
def logistic(input_shape: tuple[int, ...], num_classes: int) -> Callable[[nnx.Rngs], MLP]:
    """Multinomial logistic regression: one linear layer on the flattened input.

    Args:
      input_shape: shape of one example, each >= 1.
      num_classes: classes to tell apart, >= 1.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> logistic((28, 28, 1), 10)(nnx.Rngs(0)).head.kernel.shape
      (784, 10)
    """
    return mlp(input_shape, num_classes, hidden=())


@checks_options
def mlp(
    input_shape: tuple[int, ...], num_classes: int, *, hidden: tuple[int, ...] = (200, 200)
) -> Callable[[nnx.Rngs], MLP]:
    """Fully connected network with ReLU; 2 x 200 units are the "2NN" of McMahan et al. (2017).

    Weights are Glorot uniform and biases zero, as in TFF's models; 199,210 parameters for 28 x 28
    pixels and 10 classes.

    Args:
      input_shape: shape of one example, each >= 1: it is flattened.
      num_classes: classes to tell apart, >= 1.
      hidden: units of each hidden layer, each >= 1; () for none.

    Raises:
      ValueError: if a size is not positive.

    Example:
      >>> mlp((8, 8), 10, hidden=(64,))(nnx.Rngs(0)).head.kernel.shape
      (64, 10)

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data, 2017, arXiv 1602.05629.
    """
    return lambda rngs: MLP(math.prod(input_shape), num_classes, hidden=hidden, rngs=rngs)
