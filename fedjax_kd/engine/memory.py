"""How much memory a program needs, and how much the device has."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax

from fedjax_kd.errors import UserError

_Width = TypeVar("_Width")
_Result = TypeVar("_Result")

_SHARE = 0.9  # of the free memory may be planned with


class TooLargeError(UserError, MemoryError):
    """A program needs more memory than the device has."""


class NoRetryError(TooLargeError):
    """A program ran out of memory, and no narrower one can be tried in its place."""


def free() -> int | None:
    """Bytes that programs may use on the first device; None if the backend does not tell."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    if device.platform == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def needed(program: Any) -> int:
    """Bytes that a compiled program takes on each device beside its arguments."""
    plan = program.memory_analysis()
    if plan is None:
        return 0
    return int(plan.temp_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes)


def check_fits(program: Any) -> None:
    """Raises TooLargeError if a compiled program cannot fit."""
    room = free()
    if room is not None and needed(program) > _SHARE * room:
        raise TooLargeError(
            f"The program needs {needed(program) / 2**20:.0f} MiB, but {room / 2**20:.0f} MiB are "
            "free on the device."
        )


def ran_out(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left."""
    out_of_memory = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError)
        and any(m in str(error) for m in out_of_memory)
    )


def if_it_fits(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function, or a TooLargeError, returned, if the device lacks memory for it."""
    try:
        return function(*args)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if isinstance(error, NoRetryError) or not ran_out(error):
            raise
        # A new error: the traceback of this one keeps the arrays of the failed attempt alive.
        return TooLargeError(str(error))


def narrow_until_it_fits(
    attempt: Callable[[_Width], _Result],
    width: _Width,
    halved: Callable[[_Width], _Width],
    *,
    lanes: Callable[[_Width], int],
    named: str,
    hint: str = "",
) -> _Result:
    """The result of an attempt at the first width, of those that are halved, that fits the device.

    Args:
      attempt: may run out of memory. It must leave its inputs as they are: a program that fails
        may already have consumed what it was given over.
      width: the first one to try; each narrower one is a warning.
      halved: the next width.
      lanes: local trainings at once; at 1 there is nothing left to halve.
      named: what runs at once, with ``{}`` for their number, for the warning.
      hint: a sentence at its end.

    Raises:
      TooLargeError: if a single lane does not fit.
    """
    while True:
        result = if_it_fits(attempt, width)
        if not isinstance(result, TooLargeError):
            return result
        if lanes(width) == 1:
            raise TooLargeError(
                "The device has no memory to train one client at a time: take a smaller model or "
                f"batch_size, or put fewer examples on the device. ({result})"
            )
        narrow = halved(width)
        warnings.warn(
            f"The device has no memory for {named.format(lanes(width))}: going on with "
            f"{lanes(narrow)}.{hint}",
            stacklevel=2,
        )
        width = narrow
