"""JAX's persistent compilation cache, so that a second run of the same shapes starts at once.

It is on from the first `fedjax_kd.simulate` of a process, which `train` and `sweep` call, or from
the start of a command. Importing the package changes no setting of JAX.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import jax

VARIABLE = "FEDJAX_KD_CACHE"
SHORTEST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"  # JAX's own, which wins over ours

_FOLDER, _SWITCH = "jax_compilation_cache_dir", "jax_enable_compilation_cache"
_JAX_SHORTEST = 1.0  # seconds of that setting, unless somebody changed it
_OURS: set[str] = set()  # folders that were chosen here, and not by the user


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

    Settings that JAX has by other means stay: another folder, or no cache at all. A run never fails
    for its cache.
    """
    place, current = folder(), _setting(_FOLDER)
    if not _setting(_SWITCH):
        return None
    if current is not None and current not in _OURS:
        return Path(current)
    if place is None or current == str(place):
        return place
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
    _OURS.add(str(place))
    jax.config.update(_FOLDER, str(place))
    if SHORTEST not in os.environ and _setting(SHORTEST.lower()) == _JAX_SHORTEST:
        jax.config.update(SHORTEST.lower(), 0.3)
    return place


def _setting(name: str) -> Any:
    """A setting of JAX, of which its types do not know all."""
    return getattr(jax.config, name)
