"""How much memory a program needs, and how much the device has."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax

_SHARE = 0.9  # of the free memory may be planned with


class TooLargeError(MemoryError):
    """A program needs more memory than the device has."""


def free() -> int | None:
    """Bytes that programs may use on the first device; None if nobody knows."""
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
    """What comes of a function; a TooLargeError, returned, if the device lacks memory for it."""
    try:
        return function(*args)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        return TooLargeError(str(error))
