"""Networks over texts: the options that follow from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedjax_kd.data.federation import Federation
from fedjax_kd.errors import InputError
from fedjax_kd.models import MODELS
from fedjax_kd.options import named, options
from fedjax_kd.problems import TOKENS


def text_options(name: str, given: Mapping[str, Any], federation: Federation) -> Mapping[str, Any]:
    """A network's options, with the vocabulary and the kind of output that texts need.

    Added is ``output="pooled"`` where a text has one label, and the ``vocabulary`` where there are
    more symbols than classes. What was given stays. Other networks and data have no such options.

    Raises:
      ValueError: if there is no such network, symbols are negative, or the given vocabulary is too
        small for them.
    """
    known = {option.name for option in options(named("model", name, MODELS))}
    if (
        getattr(federation.train.x, "dtype", None) != np.int32
        or not {"vocabulary", "output"} <= known
    ):
        return given
    least, most = _symbols(federation)
    if least < 0:
        raise InputError(
            f"The inputs are int32 and hold {least}, but {name} reads symbols of a text, from 0 "
            "on: number them anew, padding too, or store features that are numbers as float32."
        )
    vocabulary = given.get("vocabulary") or federation.num_classes
    if "vocabulary" in given and vocabulary <= most:
        raise InputError(
            f"vocabulary is {given['vocabulary']}, but the texts hold the symbol {most}: give at "
            f"least {most + 1}, or leave it out."
        )
    added: dict[str, Any] = {} if vocabulary > most else {"vocabulary": most + 1}
    if federation.problem is not TOKENS and "output" not in given:
        added["output"] = "pooled"
    return {**given, **added}


def _symbols(federation: Federation) -> tuple[int, int]:
    """The smallest and the largest symbol of all texts."""
    store = federation.store
    parts = [federation.train.x if store is None else store.x, federation.test.x]
    kept = [np.asarray(part) for part in parts if part.size]
    return min(int(part.min()) for part in kept), max(int(part.max()) for part in kept)
