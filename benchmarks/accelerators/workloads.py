"""What is compiled: a network for every kind of data, and federations of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from benchmarks.cases import CASES, Case, make_federation
from benchmarks.methods import BATCH_NORM, with_public
from fedjax_kd import MODELS, Federation, IidPartitioner, federate, from_arrays
from fedjax_kd.data.federation import Target

_TOKENS, _WORDS = 90, 500
_TEXT, _POSED = ("char_lstm", "transformer"), ("char_lstm", "transformer", "autoencoder", "fcn")
_PUBLIC = 256  # rows at least

# One for each of MODELS, whose name it then has; the others are further sizes of one of them.
WORKLOADS: Mapping[str, Case] = {
    **CASES,
    "cnn_mcmahan": Case("cnn_mcmahan", (28, 28, 1), 62, 10, 5),
    "lenet": Case("lenet", (32, 32, 3), 10, 20, 3),
    "resnet20": Case("resnet20", (32, 32, 3), 10, 20, 2),
    "resnet18": Case("resnet18", (32, 32, 3), 10, 20, 2),
    "char_lstm": Case("char_lstm", (80,), _TOKENS, 10, 2),
    "transformer": Case("transformer", (20,), _WORDS, 16, 2),
    "autoencoder": Case("autoencoder", (28, 28, 1), 10, 20, 2),
    "fcn": Case("fcn", (32, 32, 3), 5, 10, 2),
    "resnet8_batch": BATCH_NORM["resnet8"],
}
OF_MODELS = tuple(name for name in MODELS if name in WORKLOADS)


def federation_of(case: Case, clients: int) -> Federation:
    """Clients of random examples, as the network of a case expects them.

    Where these are images with a class, there are more that belong to no client, for methods that
    distil.
    """
    if case.model in _POSED:
        return _posed(case, clients)
    return with_public(make_federation(case, clients), max(_PUBLIC, case.examples))


def _posed(case: Case, clients: int) -> Federation:
    """Texts, or images of which something else than a class is asked."""
    rng = np.random.default_rng(0)
    x: np.ndarray
    rows = (clients * case.examples, *case.shape)
    if case.model in _TEXT:
        x = y = rng.integers(0, case.classes, rows, np.int32)
    else:
        x = rng.integers(0, 256, rows, np.uint8)
        y = rng.integers(0, case.classes, rows[:-1], np.int32)
        y = y if case.model == "fcn" else y[:, 0, 0]
    problem = {"fcn": "segmentation"}.get(case.model)
    data = from_arrays(x, y, x[:10], y[:10], num_classes=case.classes, problem=problem)
    asked: Target = "input" if case.model == "autoencoder" else "label"
    return federate(data, IidPartitioner(num_partitions=clients), target=asked)
