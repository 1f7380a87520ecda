"""The compiled code of this folder: found, checked and given to XLA, once a process.

It is looked for when a run is built, or when a convolution is lowered for CPUs, never on import. A
file that is there and cannot be used is a warning; then convolutions are matrix products, as they
are where there is no file at all.
"""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import jax

from fedjax_kd.errors import InputError, warn

TARGETS = ("fedjax_kd_conv_forward", "fedjax_kd_conv_input", "fedjax_kd_conv_kernel")
"""What XLA calls: the convolution, its gradient by the input, its gradient by the kernel."""
CONVOLUTION = "FEDJAX_KD_CONVOLUTION"
"""The environment variable that says how CPUs compute convolutions."""
PRODUCTS = "products"
INSTRUCTION_SETS = {"avx512": 4, "avx2": 2, "neon": 8, "plain": 1}
"""Bits in the interface of the compiled code, the best first."""

_INTERFACE = "1"  # of the compiled code, raised with what its functions take
_FUNCTIONS = (*TARGETS, "fedjax_kd_conv_build", "fedjax_kd_conv_sets", "fedjax_kd_conv_use")
_CHOICES = ("native", PRODUCTS, *INSTRUCTION_SETS)
_ANEW = "Build it anew, by `pip install --force-reinstall --no-deps .` where its source is."


class Outcome(NamedTuple):
    """What came of looking for compiled code."""

    instruction_set: str | None  # None: convolutions are matrix products
    reason: str = ""  # why they are
    warning: str = ""  # of a file that is there


class _UnusableError(Exception):
    """What is wrong with a file, and what to do."""


def is_available() -> bool:
    """Whether CPUs run compiled convolutions; warns, once, of a file that cannot be used.

    Raises:
      ValueError: if ``FEDJAX_KD_CONVOLUTION`` asks for what is not there.
    """
    found = _here()
    if found.warning:
        _warn_once(found.warning)
    return found.instruction_set is not None


def description() -> str:
    """How CPUs compute convolutions, e.g. ``native (avx2)`` or ``products``.

    Raises:
      ValueError: if ``FEDJAX_KD_CONVOLUTION`` asks for what is not there.
    """
    chosen = _here().instruction_set
    return f"native ({chosen})" if chosen else PRODUCTS


def reason() -> str:
    """Why they are products; empty where they are not."""
    return _here().reason


def fault() -> str:
    """The warning of a file that cannot be used; empty if there is none."""
    return _here().warning


def load_code(folder: Path, asked: str) -> Outcome:
    """Loads the compiled code of a folder and gives it to XLA.

    Args:
      folder: in which it lies.
      asked: what ``FEDJAX_KD_CONVOLUTION`` says; empty for the best that there is.

    Raises:
      ValueError: if that is no choice, or needs what is not there.
    """
    if asked and asked not in _CHOICES:
        raise InputError(
            f"{CONVOLUTION} is {asked!r}, but must be one of {', '.join(_CHOICES)}, or not be set."
        )
    if asked == PRODUCTS:
        return Outcome(None, f"{CONVOLUTION} says so")
    files = (folder / f"_convolution{suffix}" for suffix in EXTENSION_SUFFIXES)
    file = next((file for file in files if file.exists()), None)
    try:
        if file is None:
            raise _UnusableError(f"none was installed with fedjax_kd. {_ANEW}")
        code = _opened(file)
        chosen = _chosen_set(code, asked)
        _register(code, file)
    except _UnusableError as error:
        if asked:
            raise InputError(
                f"{CONVOLUTION} is {asked!r}, but there is no compiled convolution that can be "
                f"used: {error} Or unset {CONVOLUTION}."
            ) from error
        return _products(file, str(error))
    return Outcome(chosen)


@functools.cache
def _here() -> Outcome:
    return load_code(Path(__file__).parent, os.environ.get(CONVOLUTION, ""))


@functools.cache
def _warn_once(message: str) -> None:
    warn(message)


def _products(file: Path | None, fault: str) -> Outcome:
    """Products, since there is no file, or since it has a fault."""
    if file is None:
        return Outcome(None, "no compiled code was installed with fedjax_kd")
    return Outcome(
        None,
        f"{file.name} cannot be used",
        f"The compiled convolution cannot be used: {fault} Convolutions are matrix products "
        f"instead, which may take twice as long; {CONVOLUTION}={PRODUCTS} says that this is meant.",
    )


def _opened(file: Path) -> ctypes.CDLL:
    """The code in a file, if it has the functions that are needed."""
    # A file that is cut short ends the process that opens it, by a signal.
    trial = [sys.executable, "-I", "-S", "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])"]
    ended = subprocess.run([*trial, file], check=False, capture_output=True) if trial[0] else None
    if ended is not None and ended.returncode < 0:
        raise _UnusableError(f"{file} is damaged. {_ANEW}")
    try:
        code = ctypes.CDLL(str(file))
    except OSError as error:
        raise _UnusableError(
            f"{file} is damaged or of another system ({error}). {_ANEW}"
        ) from error
    if missing := [name for name in _FUNCTIONS if not hasattr(code, name)]:
        raise _UnusableError(f"{file} lacks {missing[0]}, so it is of another program. {_ANEW}")
    code.fedjax_kd_conv_build.restype = ctypes.c_char_p
    interface = _built_with(code).get("abi")
    if interface != _INTERFACE:
        raise _UnusableError(
            f"{file} has interface {interface}, but this version of fedjax_kd needs {_INTERFACE}. "
            f"{_ANEW}"
        )
    return code


def _built_with(code: ctypes.CDLL) -> dict[str, str]:
    """Its text ``abi=1;ffi=0.3`` as a dictionary."""
    text = (code.fedjax_kd_conv_build() or b"").decode(errors="replace")
    return dict(part.split("=", 1) for part in text.split(";") if "=" in part)


def _chosen_set(code: ctypes.CDLL, asked: str) -> str:
    """The instruction set that is asked for, or the best one, from now on in use."""
    available = [name for name, bit in INSTRUCTION_SETS.items() if code.fedjax_kd_conv_sets() & bit]
    if asked in INSTRUCTION_SETS and asked not in available:
        raise InputError(
            f"{CONVOLUTION} is {asked!r}, but the compiled convolution has {', '.join(available)} "
            f"on this processor: name one of these, or unset {CONVOLUTION}."
        )
    if not asked and not {*available} - {"plain"}:
        raise _UnusableError(
            f"this processor has neither AVX2 with FMA nor NEON. {CONVOLUTION}=plain tries code "
            "without them."
        )
    used = code.fedjax_kd_conv_use(INSTRUCTION_SETS.get(asked, 0))
    return next(name for name, bit in INSTRUCTION_SETS.items() if bit == used)


def _register(code: ctypes.CDLL, file: Path) -> None:
    """Gives the functions to XLA, by the names that programs call."""
    # Before there is a backend, refusals would end its initialisation instead of this function.
    jax.devices("cpu")
    for name in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(code, name))
        try:
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
        except RuntimeError as error:
            raise _UnusableError(
                f"jaxlib {jax.lib.__version__} refuses {file}, which was built for version "
                f"{_built_with(code).get('ffi')} of its interface ({error}). {_ANEW} If it is "
                "refused again, add --no-build-isolation: that takes the headers of this jaxlib."
            ) from error
