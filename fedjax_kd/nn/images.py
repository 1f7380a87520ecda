"""The shape of images: ``[H, W, C]``, channels last."""

from __future__ import annotations

from collections.abc import Sequence

from fedjax_kd.errors import InputError

_CHANNELS = (1, 3, 4)
_LEAST_SIDE, _LARGEST_RATIO = 8, 3


def check_channels_last(input_shape: Sequence[int]) -> None:
    """Raises ValueError if the shape of one example looks like ``(channels, height, width)``.

    That is: one, three or four channels first, two sides of at least 8 pixels of like length, and
    last no number that channels usually have. Series ``(1, times, features)`` are left alone.

    Example:
      >>> check_channels_last((32, 32, 3))
      >>> check_channels_last((3, 32, 32))
      Traceback (most recent call last):
      ...
      fedjax_kd.errors.InputError: One example has shape (3, 32, 32), channels first, but images are
      (height, width, channels): transpose them, x.transpose(0, 2, 3, 1), or take a network for
      which places do not matter, such as mlp.
    """
    if len(input_shape) != 3 or input_shape[0] not in _CHANNELS or input_shape[-1] in _CHANNELS:
        return
    shorter, longer = sorted(input_shape[1:])
    if shorter >= _LEAST_SIDE and longer <= _LARGEST_RATIO * shorter:
        raise InputError(
            f"One example has shape {tuple(input_shape)}, channels first, but images are (height, "
            "width, channels): transpose them, x.transpose(0, 2, 3, 1), or take a network for "
            "which places do not matter, such as mlp."
        )
