"""Several networks in one federation: which they are, and which clients have which."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.errors import InputError
from fedjax_kd.models import MODELS
from fedjax_kd.runs.option_values import parse_named

TURNS, BLOCKS = DEALS = ("turns", "blocks")


def parse_model(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a model from words like ``mlp:hidden=64x32``.

    Raises:
      ValueError: if there is no such model or option, or a value none that it can have.

    Example:
      >>> parse_model("resnet8:norm=batch")
      ('resnet8', {'norm': 'batch'})
      >>> parse_model("mlp:hidden=64x32")
      ('mlp', {'hidden': (64, 32)})
    """
    return parse_named("model", text, MODELS)


def model_of_clients(
    model_of: str,
    num_models: int,
    num_clients: int,
    files: Mapping[str, str] = MappingProxyType({}),
) -> NDArray[np.int64]:
    """The number of each client's model, ``[C]``.

    Args:
      model_of: "turns" (client c has model c modulo their number), "blocks" (equal runs of client
        numbers), or a JSON file with a list of C numbers from 0 on.
      num_models: how many there are.
      num_clients: C.
      files: texts of files by their paths, which are not read again.

    Raises:
      ValueError: if the file cannot be read, or says nothing of some client or model.

    Example:
      >>> model_of_clients("turns", 2, 5).tolist(), model_of_clients("blocks", 2, 5).tolist()
      ([0, 1, 0, 1, 0], [0, 0, 0, 1, 1])
    """
    clients = np.arange(num_clients)
    if num_models > num_clients:
        raise InputError(
            f"There are {num_models} models but {num_clients} clients: every model needs a client."
        )
    if model_of == TURNS:
        return clients % num_models
    if model_of == BLOCKS:
        return clients * num_models // num_clients
    if model_of not in files and not Path(model_of).is_file():
        raise InputError(
            f"model_of is {model_of!r}, but must be 'turns', 'blocks', or a JSON file with the "
            "number of each client's model: there is no such file."
        )
    try:
        text = files[model_of] if model_of in files else Path(model_of).read_text(encoding="utf-8")
        given = np.asarray(json.loads(text))
    except ValueError as error:
        raise InputError(f"{model_of} is no JSON file: {error}. Write a list of numbers.") from None
    if given.shape != (num_clients,) or set(given.tolist()) != set(range(num_models)):
        raise InputError(
            f"{model_of} holds an array of shape {given.shape}, but must list {num_clients} "
            f"numbers, one a client, from 0 to {num_models - 1}, each at least once."
        )
    return given.astype(np.int64)
