"""Convolutional networks for small images, as the federated-learning literature uses them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.errors import InputError
from fedjax_kd.nn import Conv, batch_norm, max_pool
from fedjax_kd.nn.images import check_channels_last
from fedjax_kd.options import check_choice, checks_options

Build = Callable[[nnx.Rngs], nnx.Module]
CNNNorm = Literal["none", "batch"]


@dataclass(frozen=True)
class CNNShape:
    """A network of convolutions with ReLU, dense layers with ReLU, and a linear head."""

    kernel: int  # width of the square kernels
    convs: tuple[int, ...]  # features of each convolution
    pooled: tuple[int, ...]  # numbers, from 0, of the convolutions that a 2 x 2 maximum follows
    dense: tuple[int, ...] = ()  # units of each dense layer
    padding: str = "SAME"
    dropout: tuple[float, float] = (0.0, 0.0)  # rates after the convolutions, after each dense
    init: Callable[[], nnx.Initializer] = nnx.initializers.glorot_uniform
    projected: bool = False  # whether the last dense layer is linear, a projection
    norm: CNNNorm = "none"  # after each convolution

    def flat(self, image: tuple[int, int, int]) -> int:
        """Features that leave the convolutions, flattened; raises if the image is too small."""
        sides: tuple[int, ...] = image[:2]
        for number in range(len(self.convs)):
            if self.padding == "VALID":
                sides = tuple(side - self.kernel + 1 for side in sides)
            if number in self.pooled:
                sides = tuple(side // 2 for side in sides)
        if min(sides) < 1:
            raise InputError(
                f"images are {image[0]} x {image[1]}, but this network needs larger ones: its "
                "convolutions and pools leave no pixel; take mlp for tiny images."
            )
        return math.prod(sides) * self.convs[-1]


class CNN(nnx.Module):
    """The network that a :class:`CNNShape` describes."""

    def __init__(
        self, image: tuple[int, int, int], num_classes: int, layout: CNNShape, *, rngs: nnx.Rngs
    ) -> None:
        self.image, self.pooled = image, layout.pooled
        self.linear = len(layout.dense) - 1 if layout.projected else None
        init, shape = layout.init(), (layout.kernel, layout.kernel)
        depths = [image[-1], *layout.convs]
        self.convs = nnx.List(
            Conv(before, after, shape, padding=layout.padding, kernel_init=init, rngs=rngs)
            for before, after in pairwise(depths)
        )
        self.normalised = layout.norm == "batch"
        if self.normalised:
            self.norms = nnx.List(batch_norm(features, rngs) for features in layout.convs)
        units = [layout.flat(image), *layout.dense]
        self.dense = nnx.List(
            nnx.Linear(before, after, kernel_init=init, rngs=rngs)
            for before, after in pairwise(units)
        )
        self.drop_convs = nnx.Dropout(layout.dropout[0], rngs=rngs)
        self.drop_dense = nnx.Dropout(layout.dropout[1], rngs=rngs)
        self.head = nnx.Linear(units[-1], num_classes, kernel_init=init, rngs=rngs)

    def features(self, x: Float[Array, "B ..."]) -> Float[Array, "B D"]:
        """The input of the head: the last dense layer's output, after its dropout."""
        x = x.reshape(x.shape[0], *self.image)
        for number in range(len(self.convs) - 1):
            x = self._convolved(x, number)
        x = self.last_block(x)
        x = self.drop_convs(x.reshape(x.shape[0], -1))
        for number, layer in enumerate(self.dense):
            x = layer(x) if number == self.linear else jax.nn.relu(layer(x))
            x = self.drop_dense(x)
        return x

    def last_block(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w d"]:
        """The last convolution, with its pool."""
        return self._convolved(x, len(self.convs) - 1)

    def _convolved(self, x: Float[Array, "B H W D"], number: int) -> Float[Array, "B h w d"]:
        """One convolution, normalised if the layout says so, a pool if it says so, and ReLU."""
        x = self.convs[number](x)
        x = self.norms[number](x) if self.normalised else x
        # The same as ReLU before the pool, at a quarter of the numbers.
        return jax.nn.relu(max_pool(x, (2, 2), (2, 2)) if number in self.pooled else x)

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B L"]:
        return self.head(self.features(x))


@checks_options
def cnn_mcmahan(input_shape: tuple[int, ...], num_classes: int) -> Build:
    """The MNIST network of McMahan et al. (2017): two 5 x 5 convolutions and a layer of 512.

    5 x 5 convolution to 32 - pool - 5 x 5 convolution to 64 - pool - dense 512 - head, SAME padding
    and Glorot uniform weights (TFF); 1,663,370 parameters at 28 x 28 x 1 and 10 classes.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes to tell apart, >= 1.

    Raises:
      ValueError: if ``input_shape`` is no image, or too small.

    Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized
    Data, 2017, arXiv 1602.05629.
    """
    return _build(input_shape, num_classes, CNNShape(5, (32, 64), pooled=(0, 1), dense=(512,)))


@checks_options
def cnn_emnist(
    input_shape: tuple[int, ...], num_classes: int, *, dropout: tuple[float, float] = (0.25, 0.5)
) -> Build:
    """The EMNIST network of Reddi et al. (2021), also FedJAX's: 3 x 3 convolutions and dropout.

    3 x 3 convolution to 32 - 3 x 3 convolution to 64 - pool - dropout - dense 128 - dropout - head,
    VALID padding and Glorot uniform weights (TFF); at 28 x 28 x 1 1,206,590 parameters for 62
    classes and 1,199,882 for 10.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes to tell apart, >= 1.
      dropout: rates after the convolutions and after the dense layer, each in [0, 1].

    Raises:
      ValueError: if ``input_shape`` is no image, or too small.

    Source: Reddi et al., Adaptive Federated Optimization, 2021, arXiv 2003.00295.
    """
    layout = CNNShape(3, (32, 64), (1,), dense=(128,), padding="VALID", dropout=dropout)
    return _build(input_shape, num_classes, layout)


@checks_options
def cnn_cifar(
    input_shape: tuple[int, ...], num_classes: int, *, dropout: tuple[float, float] = (0.25, 0.5)
) -> Build:
    """The CIFAR-10 network of the pfl-research benchmarks: the EMNIST network on colour images.

    Xavier uniform weights, biases zero; 1,626,442 parameters at 32 x 32 x 3 and 10 classes.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes to tell apart, >= 1.
      dropout: rates after the convolutions and after the dense layer, each in [0, 1].

    Raises:
      ValueError: if ``input_shape`` is no image, or too small.

    Source: Granqvist et al., pfl-research: simulation framework for accelerating research in
    Private Federated Learning, 2024, arXiv 2404.06430.
    """
    return cnn_emnist(input_shape, num_classes, dropout=dropout)


@checks_options
def lenet(input_shape: tuple[int, ...], num_classes: int, *, projection: int = 0) -> Build:
    """LeNet-5 with ReLU and maximum pooling, as federated-learning papers use it.

    5 x 5 convolution to 6 - pool - 5 x 5 convolution to 16 - pool - dense 120 - dense 84 - head,
    VALID padding; LeCun normal weights. 62,006 parameters at 32 x 32 x 3 and 10 classes, 44,426 at
    28 x 28 x 1.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes to tell apart, >= 1.
      projection: units, >= 0; if not 0, dense 84 and a linear layer of so many before the head: the
        projection head whose outputs MOON (Li et al., 2021) contrasts, of 256 units in the paper.

    Raises:
      ValueError: if ``input_shape`` is no image, or too small, or ``projection`` is negative.

    Source: LeCun et al., Gradient-Based Learning Applied to Document Recognition, 1998.
    """
    init = nnx.initializers.lecun_normal
    dense = (120, 84, 84, projection) if projection else (120, 84)
    layout = CNNShape(
        5, (6, 16), (0, 1), dense, padding="VALID", init=init, projected=bool(projection)
    )
    return _build(input_shape, num_classes, layout)


@checks_options
def cnn_small(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    widths: tuple[int, ...] = (16, 32, 64),
    norm: CNNNorm = "none",
) -> Build:
    """A cheap network for studies on a CPU: 3 x 3 convolutions, each with a pool, and a head.

    ``features`` are the last convolution's outputs, flattened (1024 at 32 x 32). He normal weights;
    33,834 parameters at 32 x 32 x 3 and 10 classes.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes to tell apart, >= 1.
      widths: features of each convolution, each >= 1; every one halves the image.
      norm: ``"none"``, or ``"batch"`` after every convolution, as in the network of FedBN.

    Raises:
      ValueError: if ``input_shape`` is no image, or too small, or ``norm`` is unknown.

    Example:
      >>> cnn_small((32, 32, 3), 10)(nnx.Rngs(0)).head.kernel.shape
      (1024, 10)
    """
    check_choice("norm", norm, CNNNorm)
    pooled, init = tuple(range(len(widths))), nnx.initializers.he_normal
    return _build(input_shape, num_classes, CNNShape(3, widths, pooled, init=init, norm=norm))


def image_shape(input_shape: Sequence[int]) -> tuple[int, int, int]:
    """``(height, width, channels)`` from the shape of one example, which may lack channels."""
    check_channels_last(input_shape)
    match tuple(input_shape):
        case (height, width):
            return height, width, 1
        case (height, width, channels):
            return height, width, channels
    raise InputError(
        f"input_shape is {tuple(input_shape)}, but an image has (height, width) or (height, width, "
        "channels): take mlp for other inputs."
    )


def _build(input_shape: Sequence[int], num_classes: int, layout: CNNShape) -> Build:
    """The build function of a layout, checked now and not when it is called."""
    image = image_shape(input_shape)
    layout.flat(image)
    return lambda rngs: CNN(image, num_classes, layout, rngs=rngs)
