"""Cameras and queries of rows that are to be found again, from the columns of a data set."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from fedjax_kd.core import Pool
from fedjax_kd.data.dataset import Examples
from fedjax_kd.errors import InputError
from fedjax_kd.metrics.metric import Sighting
from fedjax_kd.problems import RETRIEVAL, Problem

_SEEN = ("camera", "query")


def sighted(pool: Pool, examples: Examples, problem: Problem) -> Pool:
    """The test rows of a retrieval, with their columns ``camera`` and ``query``, if there are such.

    Cameras may be numbers or words; ``query`` is 1 where a row is looked for, 0 where it may be
    found.

    Raises:
      ValueError: if ``query`` is something else, or leaves nothing to look for or to find.
    """
    known = {name: examples.columns[name] for name in _SEEN if name in examples.columns}
    if problem is not RETRIEVAL or not known:
        return pool
    if "camera" in known:
        known["camera"] = np.unique(known["camera"], return_inverse=True)[1].reshape(-1)
    if "query" in known:
        kinds = np.unique(known["query"]).tolist()
        if kinds != [0, 1]:
            raise InputError(
                f"The column query has the values {kinds[:5]}, but must be 1 for rows that are "
                "looked for and 0 for those among which they may be found, with rows of both."
            )
    columns = {name: jnp.asarray(values.astype(np.int32)) for name, values in known.items()}
    return pool._replace(y=Sighting(pool.y, **columns))
