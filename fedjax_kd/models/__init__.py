"""Networks by name: from the shape of one example to a build function for ``task.from_nnx``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx
from numpy.typing import DTypeLike

from fedjax_kd.errors import InputError
from fedjax_kd.models.autoencoder import autoencoder
from fedjax_kd.models.cnn import cnn_cifar, cnn_emnist, cnn_mcmahan, cnn_small, lenet
from fedjax_kd.models.fcn import fcn
from fedjax_kd.models.lstm import char_lstm
from fedjax_kd.models.mlp import logistic, mlp
from fedjax_kd.models.resnet import resnet8, resnet18, resnet20
from fedjax_kd.models.transformer import transformer
from fedjax_kd.nn.images import check_channels_last

MODELS: dict[str, Callable[..., Callable[[nnx.Rngs], nnx.Module]]] = {
    "logistic": logistic,
    "mlp": mlp,
    "cnn_mcmahan": cnn_mcmahan,
    "cnn_emnist": cnn_emnist,
    "cnn_cifar": cnn_cifar,
    "cnn_small": cnn_small,
    "lenet": lenet,
    "resnet8": resnet8,
    "resnet20": resnet20,
    "resnet18": resnet18,
    "char_lstm": char_lstm,
    "transformer": transformer,
    "autoencoder": autoencoder,
    "fcn": fcn,
}


def default_model(
    input_shape: Any, dtype: DTypeLike | None, problem: str | None = None
) -> tuple[str, dict[str, Any]]:
    """A network that suits the data and learns in minutes on a CPU: its name and its options.

    Args:
      input_shape: shape of one example; a tree of shapes for several arrays.
      dtype: of the examples as stored: int32 along one axis are symbols of a text, uint8 pixels.
      problem: the name of what is asked of it, by default a class, or the next symbol of a text;
        for values and several labels it gives as many outputs as
        `fedjax_kd.data.Dataset.num_classes` says, as for classes.

    Raises:
      ValueError: if an example is several arrays, for which there is no built-in network, or images
        have their channels first.

    Example:
      >>> default_model((8, 8), np.uint8)
      ('mlp', {'hidden': (64,)})
      >>> default_model((32, 32, 3), np.uint8)
      ('cnn_small', {})
      >>> default_model((80,), np.int32)
      ('char_lstm', {})
    """
    if not all(isinstance(length, int) for length in input_shape):
        raise InputError(
            f"An example is several arrays, {input_shape}, but the networks by name take one: make "
            "a task of a network of your own, by `from_nnx` or `from_linen`."
        )
    if problem == "reconstruction":
        return "autoencoder", {}
    if problem == "segmentation":
        return "fcn", {}
    if len(input_shape) == 1 and np.dtype(dtype) == np.int32:
        positions = problem in (None, "tokens")
        return ("char_lstm", {}) if positions else ("transformer", {"output": "pooled"})
    check_channels_last(input_shape)
    if len(input_shape) not in (2, 3) or max(input_shape[:2]) <= 12:
        return "mlp", {"hidden": (64,)}
    return ("cnn_emnist" if input_shape[:2] == (28, 28) else "cnn_small"), {}


__all__ = ["MODELS", "default_model"]
