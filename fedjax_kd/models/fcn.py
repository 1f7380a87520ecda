"""A small fully convolutional network: a label for every pixel."""

from __future__ import annotations

from itertools import pairwise

import jax
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.errors import InputError
from fedjax_kd.models.cnn import Build, image_shape
from fedjax_kd.nn import Conv
from fedjax_kd.options import checks_options


class FCN(nnx.Module):
    """3 x 3 convolutions, each with group normalisation and ReLU, and a linear head a pixel."""

    def __init__(
        self,
        image: tuple[int, int, int],
        num_classes: int,
        *,
        widths: tuple[int, ...],
        groups: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.image, init = image, nnx.initializers.he_normal()
        self.convs = nnx.List(
            Conv(before, after, (3, 3), padding="SAME", kernel_init=init, rngs=rngs)
            for before, after in pairwise((image[-1], *widths))
        )
        self.norms = nnx.List(
            nnx.GroupNorm(features, num_groups=groups, epsilon=1e-5, rngs=rngs)
            for features in widths
        )
        # A 1 x 1 convolution is a linear layer on the last axis.
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def features(self, x: Float[Array, "B ..."]) -> Float[Array, "B H W D"]:
        """The input of the head."""
        # Images without channels get their one; others may have any height and width.
        x = x.reshape(x.shape[0], *x.shape[1:3], self.image[-1])
        for number in range(len(self.convs) - 1):
            x = self._convolved(x, number)
        return self.last_block(x)

    def last_block(self, x: Float[Array, "B H W D"]) -> Float[Array, "B H W d"]:
        """The last convolution, normalised."""
        return self._convolved(x, len(self.convs) - 1)

    def _convolved(self, x: Float[Array, "B H W D"], number: int) -> Float[Array, "B H W d"]:
        return jax.nn.relu(self.norms[number](self.convs[number](x)))

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B H W L"]:
        return self.head(self.features(x))


@checks_options
def fcn(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    widths: tuple[int, ...] = (16, 32, 32),
    groups: int = 4,
) -> Build:
    """A fully convolutional network for segmentation: outputs of each pixel, images of any size.

    3 x 3 convolutions, each with group normalisation and ReLU, and a 1 x 1 head; He normal weights;
    14,274 parameters for one channel and two classes. Each layer looks one pixel further.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes of a pixel, >= 1.
      widths: features of each convolution, each >= 1.
      groups: of the normalisation, >= 1; they must divide each width.

    Raises:
      ValueError: if ``input_shape`` is no image, there is no convolution, or ``groups`` do not
        divide a width.

    Source: Long, Shelhamer, Darrell, Fully Convolutional Networks for Semantic Segmentation, 2015,
    arXiv 1411.4038, without its pools; group normalisation as in Wu and He, 2018, arXiv 1803.08494.

    Example:
      >>> build = fcn((8, 8, 1), 2, widths=(4,), groups=2)
      >>> build(nnx.Rngs(0))(jax.numpy.zeros((3, 8, 8, 1))).shape
      (3, 8, 8, 2)
    """
    image = image_shape(input_shape)
    if not widths or any(width % groups for width in widths):
        raise InputError(
            f"widths are {widths} and groups {groups}, but there must be a width for each of one "
            "or more convolutions, a multiple of groups >= 1: take 4 groups and widths (16, 32)."
        )
    return lambda rngs: FCN(image, num_classes, widths=widths, groups=groups, rngs=rngs)
