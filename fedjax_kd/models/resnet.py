"""Residual networks for 32 x 32 images, with group or batch normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from fedjax_kd.models.cnn import image_shape
from fedjax_kd.nn import Conv

Norm = Literal["group", "batch"]
Build = Callable[[nnx.Rngs], nnx.Module]


@dataclass(frozen=True)
class Layout:
    """Which residual network: stages of blocks, and what a block is made of."""

    widths: tuple[int, ...]  # features of each stage; every stage but the first halves the image
    blocks: int  # blocks a stage
    shortcut: Literal["pad", "project"]  # He et al.'s option A (zeros) or B (1 x 1 convolution)
    norm: Norm
    groups: int

    def normalise(self, features: int, rngs: nnx.Rngs) -> nnx.GroupNorm | nnx.BatchNorm:
        """A normalisation layer."""
        if self.norm == "group":
            return nnx.GroupNorm(features, num_groups=self.groups, epsilon=1e-5, rngs=rngs)
        return nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=rngs)


class Block(nnx.Module):
    """Two 3 x 3 convolutions beside a shortcut; ReLU after the sum."""

    def __init__(
        self, before: int, after: int, stride: int, layout: Layout, *, rngs: nnx.Rngs
    ) -> None:
        self.stride, self.grown = stride, after - before
        self.conv1 = _conv(before, after, 3, stride, rngs)
        self.norm1 = layout.normalise(after, rngs)
        self.conv2 = _conv(after, after, 3, 1, rngs)
        self.norm2 = layout.normalise(after, rngs)
        self.project = layout.shortcut == "project" and (stride > 1 or before != after)
        if self.project:
            self.conv3 = _conv(before, after, 1, stride, rngs)
            self.norm3 = layout.normalise(after, rngs)

    def __call__(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w d"]:
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        return jax.nn.relu(self.norm2(self.conv2(y)) + self.shortcut(x))

    def shortcut(self, x: Float[Array, "B H W D"]) -> Float[Array, "B h w d"]:
        """The input in the shape of the output."""
        if self.project:
            return self.norm3(self.conv3(x))
        kept = x[:, :: self.stride, :: self.stride]
        return jnp.pad(kept, ((0, 0), (0, 0), (0, 0), (0, self.grown)))


class ResNet(nnx.Module):
    """A 3 x 3 convolution, stages of blocks, the mean over places, and a linear head."""

    def __init__(
        self, image: tuple[int, int, int], num_classes: int, layout: Layout, *, rngs: nnx.Rngs
    ) -> None:
        self.image = image
        widths = layout.widths
        self.conv = _conv(image[-1], widths[0], 3, 1, rngs)
        self.norm = layout.normalise(widths[0], rngs)
        blocks = []
        for stage, (before, after) in enumerate(pairwise((widths[0], *widths))):
            for number in range(layout.blocks):
                first = number == 0
                stride = 2 if first and stage > 0 else 1
                block = Block(before if first else after, after, stride, layout, rngs=rngs)
                blocks.append(block)
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def features(self, x: Float[Array, "B ..."]) -> Float[Array, "B D"]:
        """The last stage's outputs, averaged over places."""
        x = x.reshape(x.shape[0], *self.image)
        x = jax.nn.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = block(x)
        return x.mean(axis=(1, 2))

    def __call__(self, x: Float[Array, "B ..."]) -> Float[Array, "B L"]:
        return self.head(self.features(x))


def resnet8(
    input_shape: tuple[int, ...], num_classes: int, *, norm: Norm = "group", groups: int = 2
) -> Build:
    """The CIFAR ResNet of He et al. (2016) with one block a stage; 16-32-64 features.

    75,290 parameters at 32 x 32 x 3 and 10 classes. The rest as in :func:`resnet20`.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``.
      num_classes: classes to tell apart.
      norm: ``"group"`` or ``"batch"``; batch statistics of non-IID clients disagree.
      groups: groups of ``"group"``; must divide 16.

    Raises:
      ValueError: if ``input_shape`` is no image, or ``norm`` or ``groups`` is not allowed.

    Example:
      >>> resnet8((32, 32, 3), 10)(nnx.Rngs(0)).head.kernel.shape
      (64, 10)

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv 1512.03385.
    """
    return _build(input_shape, num_classes, Layout((16, 32, 64), 1, "pad", norm, groups))


def resnet20(
    input_shape: tuple[int, ...], num_classes: int, *, norm: Norm = "group", groups: int = 2
) -> Build:
    """The CIFAR ResNet of He et al. (2016) with three blocks a stage; 16-32-64 features.

    269,722 parameters at 32 x 32 x 3 and 10 classes (the paper says 0.27 M): shortcuts are option
    A, subsampled inputs with zeros for the new features, as in the paper's CIFAR experiments.
    Convolutions have no bias and He normal weights. 2 groups are what Reddi et al. (2021) use.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``.
      num_classes: classes to tell apart.
      norm: ``"group"`` or ``"batch"``; batch statistics of non-IID clients disagree.
      groups: groups of ``"group"``; must divide 16.

    Raises:
      ValueError: if ``input_shape`` is no image, or ``norm`` or ``groups`` is not allowed.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv 1512.03385.
    """
    return _build(input_shape, num_classes, Layout((16, 32, 64), 3, "pad", norm, groups))


def resnet18(
    input_shape: tuple[int, ...], num_classes: int, *, norm: Norm = "group", groups: int = 2
) -> Build:
    """The ImageNet ResNet-18 with a 3 x 3 stem and no first pool, for 32 x 32 images.

    11,173,962 parameters at 32 x 32 x 3 and 10 classes. Shortcuts are option B, 1 x 1 convolutions.
    Convolutions have no bias and He normal weights.

    Args:
      input_shape: ``(height, width)`` or ``(height, width, channels)``.
      num_classes: classes to tell apart.
      norm: ``"group"`` or ``"batch"``; batch statistics of non-IID clients disagree.
      groups: groups of ``"group"``; must divide 64.

    Raises:
      ValueError: if ``input_shape`` is no image, or ``norm`` or ``groups`` is not allowed.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv 1512.03385; with
    groups: Hsieh et al., The Non-IID Data Quagmire of Decentralized Machine Learning, 2020, arXiv
    1910.00189.
    """
    layout = Layout((64, 128, 256, 512), 2, "project", norm, groups)
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


def _build(input_shape: tuple[int, ...], num_classes: int, layout: Layout) -> Build:
    """The build function of a layout, checked now and not when it is called."""
    image = image_shape(input_shape)
    if layout.norm not in ("group", "batch"):
        raise ValueError(f"norm is {layout.norm!r}, but must be 'group' or 'batch': take one.")
    if layout.groups < 1 or layout.widths[0] % layout.groups:
        raise ValueError(
            f"groups is {layout.groups}, but must divide {layout.widths[0]}, the features of the "
            "first stage: take 1, 2, 4, 8 or 16."
        )
    return lambda rngs: ResNet(image, num_classes, layout, rngs=rngs)
