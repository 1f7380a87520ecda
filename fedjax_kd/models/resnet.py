"""Residual networks for 32 x 32 images, with group or batch normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.errors import InputError
from fedjax_kd.models.cnn import Build, image_shape
from fedjax_kd.nn import Conv, batch_norm
from fedjax_kd.nn.depth import StochasticDepth, decay
from fedjax_kd.options import check_choice, checks_options

ResNetNorm = Literal["group", "batch"]


@dataclass(frozen=True)
class ResNetShape:
    """Which residual network: stages of blocks, and what a block is made of."""

    widths: tuple[int, ...]  # features of each stage; every stage but the first halves the image
    blocks: int  # blocks a stage
    shortcut: Literal["pad", "project"]  # He et al.'s option A (zeros) or B (1 x 1 convolution)
    norm: ResNetNorm
    groups: int
    survival: float = 1.0  # probability of the last block to be kept in training

    def normalise(self, features: int, rngs: nnx.Rngs) -> nnx.GroupNorm | nnx.BatchNorm:
        """A normalisation layer."""
        if self.norm == "group":
            return nnx.GroupNorm(features, num_groups=self.groups, epsilon=1e-5, rngs=rngs)
        return batch_norm(features, rngs)


class ResidualBlock(nnx.Module):
    """Two 3 x 3 convolutions beside a shortcut; ReLU after the sum."""

    def __init__(
        self,
        before: int,
        after: int,
        stride: int,
        layout: ResNetShape,
        survival: float,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.stride = stride
        self.conv1 = _conv(before, after, 3, stride, rngs)
        self.norm1 = layout.normalise(after, rngs)
        self.conv2 = _conv(after, after, 3, 1, rngs)
        self.norm2 = layout.normalise(after, rngs)
        self.project = layout.shortcut == "project" and (stride > 1 or before != after)
        if self.project:
            self.conv3 = _conv(before, after, 1, stride, rngs)
            self.norm3 = layout.normalise(after, rngs)
        self.depth = StochasticDepth(survival, rngs=rngs) if survival < 1 else None

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w d"]:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = self.shortcut(x, y.shape[-1])
        return jax.nn.relu((y if self.depth is None else self.depth(y)) + shortcut)

    def shortcut(self, x: Float[Array, "B H W D"], features: int) -> Float[Array, "B h w d"]:
        """The input in the shape of the output."""
        if self.project:
            return self.norm3(self.conv3(x))
        kept = x[:, :: self.stride, :: self.stride]
        return jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (0, features - x.shape[-1])))


class ResNet(nnx.Module):
    """A 3 x 3 convolution, stages of blocks, the mean over places, and a linear head."""

    def __init__(
        self, image: tuple[int, int, int], num_classes: int, layout: ResNetShape, *, rngs: nnx.Rngs
    ) -> None:
        self.image, self.last = image, layout.blocks
        widths = layout.widths
        survival = iter(decay(layout.survival, layout.blocks * len(widths)))
        self.conv = _conv(image[-1], widths[0], 3, 1, rngs)
        self.norm = layout.normalise(widths[0], rngs)
        blocks = []
        for stage, (before, after) in enumerate(pairwise((widths[0], *widths))):
            for number in range(layout.blocks):
                first = number == 0
                stride = 2 if first and stage > 0 else 1
                inputs = before if first else after
                blocks.append(
                    ResidualBlock(inputs, after, stride, layout, next(survival), rngs=rngs)
                )
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def features(self, x: Float[Array, "B ..."]) -> Float[Array, "B D"]:
        """The last stage's outputs, averaged over places."""
        # Flat inputs are images of the declared size; those that are not may have any other.
        places = self.image[:2] if x.ndim == 2 else x.shape[1:3]
        x = x.reshape(x.shape[0], *places, self.image[-1])
        x = jax.nn.relu(self.norm(self.conv(x)))
        for block in list(self.blocks)[: -self.last]:
            x = block(x)
        return self.last_block(x).mean(axis=(1, 2))

    def last_block(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w d"]:
        """The last stage."""
        for block in list(self.blocks)[-self.last :]:
            x = block(x)
        return x

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B L"]:
        return self.head(self.features(x))


@checks_options
def resnet8(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    norm: ResNetNorm = "group",
    groups: int = 2,
    survival: float = 1.0,
) -> Build:
    """The CIFAR ResNet of He et al. (2016) with one block a stage; 16-32-64 features.

    75,290 parameters at 32 x 32 x 3 and 10 classes. The rest as in :func:`resnet20`.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes to tell apart, >= 1.
      norm: ``"group"`` or ``"batch"``; batch statistics of non-IID clients disagree.
      groups: groups of ``"group"``, >= 1; must divide 16.
      survival: with stochastic depth, the probability that training keeps the last block, in
        (0, 1].

    Raises:
      ValueError: if ``input_shape`` is no image, or an option is not allowed.

    Example:
      >>> resnet8((32, 32, 3), 10)(nnx.Rngs(0)).head.kernel.shape
      (64, 10)

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv 1512.03385.
    """
    return _build(
        input_shape, num_classes, ResNetShape((16, 32, 64), 1, "pad", norm, groups, survival)
    )


@checks_options
def resnet20(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    norm: ResNetNorm = "group",
    groups: int = 2,
    survival: float = 1.0,
) -> Build:
    """The CIFAR ResNet of He et al. (2016) with three blocks a stage; 16-32-64 features.

    269,722 parameters at 32 x 32 x 3 and 10 classes (the paper says 0.27 M): shortcuts are option
    A, subsampled inputs with zeros for the new features, as in the paper's CIFAR experiments.
    Convolutions have no bias and He normal weights. 2 groups are what Reddi et al. (2021) use.

    With ``survival < 1`` the residual branch of block l of L is left out of a whole batch with
    probability ``l / (L - 1) * (1 - survival)``, l counted from 0, and multiplied by its complement
    in evaluation (Huang et al., Deep Networks with Stochastic Depth, 2016, arXiv 1603.09382; 0.5 in
    the comparisons of FedAlign). Batch statistics of a branch that is left out still count, and its
    work is still done.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes to tell apart, >= 1.
      norm: ``"group"`` or ``"batch"``; batch statistics of non-IID clients disagree.
      groups: groups of ``"group"``, >= 1; must divide 16.
      survival: with stochastic depth, the probability that training keeps the last block, in
        (0, 1].

    Raises:
      ValueError: if ``input_shape`` is no image, or an option is not allowed.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv 1512.03385.
    """
    return _build(
        input_shape, num_classes, ResNetShape((16, 32, 64), 3, "pad", norm, groups, survival)
    )


@checks_options
def resnet18(
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    norm: ResNetNorm = "group",
    groups: int = 2,
    survival: float = 1.0,
) -> Build:
    """The ImageNet ResNet-18 with a 3 x 3 stem and no first pool, for 32 x 32 images.

    11,173,962 parameters at 32 x 32 x 3 and 10 classes. Shortcuts are option B, 1 x 1 convolutions.
    Convolutions have no bias and He normal weights.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``, each >= 1.
      num_classes: classes to tell apart, >= 1.
      norm: ``"group"`` or ``"batch"``; batch statistics of non-IID clients disagree.
      groups: groups of ``"group"``, >= 1; must divide 64.
      survival: with stochastic depth, the probability that training keeps the last block, in
        (0, 1].

    Raises:
      ValueError: if ``input_shape`` is no image, or an option is not allowed.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv 1512.03385; with
    groups: Hsieh et al., The Non-IID Data Quagmire of Decentralized Machine Learning, 2020, arXiv
    1910.00189.
    """
    layout = ResNetShape((64, 128, 256, 512), 2, "project", norm, groups, survival)
    return _build(input_shape, num_classes, layout)


def _conv(before: int, after: int, width: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """A convolution without bias, padded alike on both sides."""
    return Conv(
        before,
        after,
        (width, width),
        strides=stride,
        padding=width // 2,
        use_bias=False,
        kernel_init=nnx.initializers.he_normal(),
        rngs=rngs,
    )


def _build(input_shape: tuple[int, ...], num_classes: int, layout: ResNetShape) -> Build:
    """The build function of a layout, checked now and not when it is called."""
    image = image_shape(input_shape)
    check_choice("norm", layout.norm, ResNetNorm)
    if layout.widths[0] % layout.groups:
        raise InputError(
            f"groups is {layout.groups}, but must divide {layout.widths[0]}, the features of the "
            "first stage: take 1, 2, 4, 8 or 16."
        )
    return lambda rngs: ResNet(image, num_classes, layout, rngs=rngs)
