"""JAX's persistent compilation cache, so that a second run of the same shapes starts at once."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import jax

VARIABLE = "FEDJAX_KD_CACHE"
SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"  # JAX's own, which wins over ours


def folder() -> Path | None:
    """Where compiled programs are kept; None if FEDJAX_KD_CACHE is ``off``.

    ``fedjax_kd`` in $XDG_CACHE_HOME or ``~/.cache``; FEDJAX_KD_CACHE may name another folder.
    """
    chosen = os.environ.get(VARIABLE, "")
    if chosen.lower() == "off":
        return None
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedjax_kd"


def enable() -> Path | None:
    """Turns the cache on for this process, and says where it is; warns if it cannot be written.

    A run never fails for its cache.
    """
    place = folder()
    if place is None:
        return None
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        warnings.warn(
            f"no compiled programs are kept, since {place} cannot be written to ({error}); "
            f"set {VARIABLE} to another folder, or to off.",
            stacklevel=2,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(place))
    if SHORTEST not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return place
