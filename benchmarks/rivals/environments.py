"""A virtual environment for every rival, made once with pip and used again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

_TORCH = "torch==2.13.0"

# One pip call after the other. Plain torch comes first: a rival that asks for more than it needs
# would else choose another build. FedJAX 0.0.17 breaks with newer releases of everything below it.
PINS: dict[str, tuple[tuple[str, ...], ...]] = {
    "pfl": ((_TORCH,), ("pfl[pytorch]==0.6.0",)),
    "fedjax": (
        (
            "fedjax==0.0.17",
            "jax==0.4.30",
            "jaxlib==0.4.30",
            "dm-haiku==0.0.12",
            "optax==0.2.2",
            "chex==0.1.86",
            "numpy<2",
            "scipy<1.14",
        ),
    ),
    "flower": ((_TORCH,), ("flwr[simulation]==1.41.0", "ray==2.55.1")),
    "torch": ((_TORCH, "numpy==2.4.6"),),
}

_MARK = "rival.txt"  # holds the pins of a finished installation


class Environment(NamedTuple):
    """A Python interpreter that can run a system, or the reason why there is none."""

    python: Path | None
    reason: str = ""


def default_folder() -> Path:
    """``fedjax_kd/rivals`` in $XDG_CACHE_HOME or ``~/.cache``."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "fedjax_kd" / "rivals"


def prepare(system: str, folder: Path) -> Environment:
    """The environment of a system, installed now if it is not there yet.

    Our own system, which has no pins, runs in the present interpreter.

    Args:
      system: a key of `PINS`, or "ours".
      folder: holds one environment a rival.
    """
    if system not in PINS:
        return Environment(Path(sys.executable))
    home, pins = folder / system, repr(PINS[system])
    mark, python = home / _MARK, _interpreter(home)
    if mark.is_file() and mark.read_text(encoding="utf-8") == pins and python.exists():
        return Environment(python)
    try:
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        for packages in PINS[system]:
            _pip_install(python, packages)
        mark.write_text(pins, encoding="utf-8")
    except (OSError, subprocess.SubprocessError) as error:
        return Environment(None, _reason(error))
    return Environment(python)


def _interpreter(home: Path) -> Path:
    """Where ``venv`` puts Python."""
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _pip_install(python: Path, packages: tuple[str, ...]) -> None:
    """Installs packages in one call of pip; raises CalledProcessError if that fails."""
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", *packages]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _reason(error: Exception) -> str:
    """The last line of what pip or the system said."""
    said = str(getattr(error, "stderr", "") or error).strip().splitlines()
    return said[-1] if said else type(error).__name__
