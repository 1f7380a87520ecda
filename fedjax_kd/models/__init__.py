"""Networks by name: from the shape of one example to a build function for ``task.from_nnx``."""

from __future__ import annotations

from collections.abc import Callable

from flax import nnx

from fedjax_kd.models.cnn import cnn_cifar, cnn_emnist, cnn_mcmahan, cnn_small, lenet
from fedjax_kd.models.mlp import logistic, mlp

MODELS: dict[str, Callable[..., Callable[[nnx.Rngs], nnx.Module]]] = {
    "logistic": logistic,
    "mlp": mlp,
    "cnn_mcmahan": cnn_mcmahan,
    "cnn_emnist": cnn_emnist,
    "cnn_cifar": cnn_cifar,
    "cnn_small": cnn_small,
    "lenet": lenet,
}
