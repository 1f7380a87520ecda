"""How results spread over clients."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def over_clients(
    values: NDArray[np.floating], *, larger_is_better: bool = True
) -> dict[str, float]:
    """The spread of a metric over clients that have test examples.

    Mean, deviation and variance (over clients, each counted once), quantiles, the mean of the worst
    tenth of the clients (at least one), and Jain's index, from 1 / C where one client has all to 1
    where all have the same, be it nothing.

    Args:
      values: of each client ``[C]``; NaN where a client has no test examples.
      larger_is_better: decides which clients are the worst.

    Example:
      >>> seen = over_clients(np.array([0.2, 0.4, 0.6, 0.8]))
      >>> {k: round(v, 2) for k, v in seen.items() if k in ("mean", "worst_decile")}
      {'mean': 0.5, 'worst_decile': 0.2}

    Source: variance and worst tenth as in Li, Sanjabi, Beirami, Smith, ICLR 2020, arXiv:1905.10497;
    Jain, Chiu, Hawe, DEC Research Report TR-301, 1984.
    """
    known = np.sort(values[~np.isnan(values)])
    if len(known) == 0:
        known = np.array([np.nan])
    worst_first = known if larger_is_better else known[::-1]
    quantiles = {f"q{q:02d}": float(np.quantile(known, q / 100)) for q in (5, 25, 50, 75, 95)}
    return {
        "mean": float(known.mean()),
        "std": float(known.std()),
        "variance": float(known.var()),
        **quantiles,
        "worst_decile": float(worst_first[: max(len(known) // 10, 1)].mean()),
        "jain": _jain(known),
    }


def _jain(values: NDArray[np.floating]) -> float:
    """``(sum a)^2 / (C sum a^2)``."""
    squares = len(values) * float(np.square(values).sum())
    return float(values.sum()) ** 2 / squares if squares else 1.0
