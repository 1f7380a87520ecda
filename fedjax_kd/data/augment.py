"""Random changes of training images: from the shape of one example to pure functions of a batch.

They work on images as stored, so that bytes stay bytes until the model wants floats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Int, Num

from fedjax_kd.core import Key
from fedjax_kd.errors import InputError
from fedjax_kd.nn.images import check_channels_last
from fedjax_kd.options import checks_options
from fedjax_kd.prng import cheap

Images = Num[Array, "B H W C"]


class Augmentation(NamedTuple):
    """The changes of images before a model sees them.

    ``augment`` is for training, the key is consumed; ``centre`` follows it there and stands alone
    in evaluation, and leaves what ``augment`` returned as it is.
    """

    augment: Callable[[Key, Images], Images]
    centre: Callable[[Images], Images]
    shape: tuple[int, int, int]  # of one image afterwards

    def then(self, prepare: Callable[[Any], Array]) -> Callable[[Any], Array]:
        """``prepare`` on what ``centre`` gives."""
        return lambda x: prepare(self.centre(x))


@checks_options
def crop_flip(input_shape: tuple[int, ...], *, pad: int = 4) -> Augmentation:
    """The usual recipe for CIFAR: zeros around the image, a random crop of its size, a random flip.

    Evaluation sees the image as it is.

    Args:
      input_shape: ``(height, width, channels)``, each >= 1.
      pad: pixels of zeros on each side, >= 0.

    Raises:
      ValueError: if ``input_shape`` is no image with channels.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016, arXiv 1512.03385.

    Example:
      >>> crop = crop_flip((32, 32, 3))
      >>> crop.augment(jax.random.key(0), jnp.ones((2, 32, 32, 3), jnp.uint8)).shape
      (2, 32, 32, 3)
    """
    height, width, channels = _image(input_shape, 1)

    def augment(key: Key, x: Images) -> Images:
        padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        return _crop_and_flip(key, padded, height, width)

    return Augmentation(augment, jnp.asarray, (height, width, channels))


@checks_options
def crop24_flip(input_shape: tuple[int, ...], *, size: int = 24) -> Augmentation:
    """A random crop of 24 x 24 pixels and a random flip; evaluation sees the central crop.

    Args:
      input_shape: ``(height, width, channels)``, each >= 1.
      size: of the crop, >= 1, at most that of the image.

    Raises:
      ValueError: if ``input_shape`` is no image with channels, or smaller than the crop.

    Source: Reddi et al., Adaptive Federated Optimization, 2021, arXiv 2003.00295, for CIFAR.

    Example:
      >>> crop = crop24_flip((32, 32, 3))
      >>> crop.shape, crop.centre(jnp.ones((2, 32, 32, 3), jnp.uint8)).shape
      ((24, 24, 3), (2, 24, 24, 3))
    """
    *_, channels = _image(input_shape, size)

    def augment(key: Key, x: Images) -> Images:
        return _crop_and_flip(key, x, size, size)

    def centre(x: ArrayLike) -> Images:
        images = jnp.asarray(x)
        top, left = ((side - size) // 2 for side in images.shape[1:3])
        return images[:, top : top + size, left : left + size]

    return Augmentation(augment, centre, (size, size, channels))


AUGMENTATIONS: dict[str, Callable[..., Augmentation]] = {
    "crop_flip": crop_flip,
    "crop24_flip": crop24_flip,
}


def _crop_and_flip(key: Key, x: Images, height: int, width: int) -> Images:
    """Each image cut out at a place of its own, and every other one mirrored."""
    count, rows, columns, channels = x.shape
    places = jnp.array([rows - height + 1, columns - width + 1, 2], jnp.int32)
    drawn = jax.random.randint(cheap(key), (count, 3), 0, places[None])

    def one(image: Num[Array, "H W C"], draw: Int[Array, " 3"]) -> Num[Array, "h w C"]:
        cut = jax.lax.dynamic_slice(image, (draw[0], draw[1], 0), (height, width, channels))
        return jnp.where(draw[2] == 1, cut[:, ::-1], cut)

    return jax.vmap(one)(x, drawn)


def _image(input_shape: Sequence[int], least: int) -> tuple[int, int, int]:
    """Height, width and channels of an image that is large enough to be cropped."""
    check_channels_last(input_shape)
    match tuple(input_shape):
        case (height, width, channels) if min(height, width) >= least:
            return height, width, channels
    raise InputError(
        f"One example has shape {tuple(input_shape)}, but this augmentation needs images (height, "
        f"width, channels) of at least {least} x {least} pixels: train without it."
    )
