"""What clients have found out about themselves: their cluster, the share of their own model, ..."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.metrics.columns import TRAIT

Traits = Mapping[str, Any]
"""By name: numbers ``[C]``, vectors ``[C, n]``, or choices of one of n, booleans ``[C, n]``."""


def traits_by_client(traits: Traits) -> dict[str, NDArray[np.generic]]:
    """Columns of a table with a row a client; a choice is told by its number.

    Example:
      >>> chosen = np.array([[True, False], [False, True]])
      >>> found = traits_by_client({"alpha": np.array([0.5, 1.0]), "cluster": chosen})
      >>> {name: column.tolist() for name, column in found.items()}
      {'alpha': [0.5, 1.0], 'cluster': [0, 1]}
    """
    found: dict[str, NDArray[np.generic]] = {}
    for name, values in _on_host(traits):
        if values.dtype == bool:
            found[name] = values.argmax(axis=1)
        else:
            found |= _numbers(name, values)
    return found


def traits_over_clients(traits: Traits) -> dict[str, float]:
    """Columns of an evaluation: mean and deviation over clients; of a choice, how many made it.

    Example:
      >>> chosen = np.array([[True, False], [False, True]])
      >>> traits_over_clients({"alpha": np.array([0.5, 1.0]), "cluster": chosen})
      {'trait_alpha_mean': 0.75, 'trait_alpha_std': 0.25, \
'trait_cluster_0_share': 0.5, 'trait_cluster_1_share': 0.5}
    """
    found: dict[str, float] = {}
    for name, values in _on_host(traits):
        for column, own in _numbers(f"{TRAIT}{name}", values).items():
            if values.dtype == bool:
                found[f"{column}_share"] = float(own.mean())
            else:
                found |= {f"{column}_mean": float(own.mean()), f"{column}_std": float(own.std())}
    return found


def _on_host(traits: Traits) -> list[tuple[str, NDArray[np.generic]]]:
    return [(name, np.asarray(values)) for name, values in traits.items()]


def _numbers(name: str, values: NDArray[np.generic]) -> dict[str, NDArray[np.floating]]:
    own = values.astype(np.float64)
    if own.ndim == 1:
        return {name: own}
    return {f"{name}_{i}": own[:, i] for i in range(own.shape[1])}
