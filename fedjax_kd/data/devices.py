"""The devices of simulated clients: how fast they are, and when they are online."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options

_TRAINING = 3  # times a forward pass: the backward pass takes about two more
_BYTES_PER_MBIT, _BYTES_PER_KBIT = 125_000, 125


@dataclass(frozen=True)
class Trace:
    """When ONE device is online: from ``on[k]`` to ``off[k]`` seconds, again after each ``period``.

    Raises:
      ValueError: if the times do not alternate, or go past the period.

    Example:
      >>> trace = Trace(on=(0.0, 50.0), off=(10.0, 60.0), period=100.0)
      >>> trace.is_on(155.0), trace.is_on(120.0), trace.next_on(120.0)
      (True, False, 150.0)
    """

    on: tuple[float, ...]
    off: tuple[float, ...]
    period: float

    def __post_init__(self) -> None:
        pairs = list(zip(self.on, self.off, strict=False))
        times = [time for pair in pairs for time in pair]
        if (
            not times
            or len(self.on) != len(self.off)
            or times != sorted(times)
            or times[0] < 0
            or not times[-1] <= self.period < math.inf
        ):
            raise InputError(
                f"A device is online from {list(self.on)} to {list(self.off)} seconds of a period "
                f"of {self.period}, but needs at least one interval, each must end before the next "
                "one begins, and all within the period."
            )

    def is_on(self, seconds: float) -> bool:
        """Whether the device is online at a time."""
        now = seconds % self.period
        return any(on <= now <= off for on, off in zip(self.on, self.off, strict=True))

    def next_on(self, seconds: float) -> float:
        """The first time from ``seconds`` on at which the device is online."""
        if self.is_on(seconds):
            return seconds
        begun = seconds - seconds % self.period
        later = [begun + on for on in self.on if begun + on > seconds]
        return later[0] if later else begun + self.period + self.on[0]


@dataclass(frozen=True)
class Devices:
    """The devices of a population of C clients.

    Attributes:
      forward_seconds: of one example's forward pass ``[C]``; a training step takes three times as
        long for each of its examples, since the backward pass takes about two forward passes.
      bytes_per_second: both ways ``[C]``.
      traces: when each of them is online, one a client; always if None.

    Raises:
      ValueError: if a speed is not positive, or there are not as many of each.
    """

    forward_seconds: NDArray[np.float64]
    bytes_per_second: NDArray[np.float64]
    traces: tuple[Trace, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.forward_seconds)
        lengths = {len(self.bytes_per_second), count if self.traces is None else len(self.traces)}
        if lengths != {count}:
            raise InputError(
                f"There are {count} speeds of computing, {len(self.bytes_per_second)} of "
                f"transmitting and {len(self.traces or ())} traces, but each device has one of "
                "each: give as many."
            )
        if not ((self.forward_seconds >= 0).all() and (self.bytes_per_second > 0).all()):
            raise InputError(
                "A device needs less than no time for an example, or transmits nothing in a "
                "second: give seconds >= 0 and speeds > 0."
            )

    def training_seconds(self, ids: NDArray[np.int64], examples: Any) -> NDArray[np.float64]:
        """How long clients ``[k]`` take to train on so many examples ``[k]``.

        Example:
          >>> constant(4, forward_ms=5).training_seconds(np.array([1, 3]), np.array([20, 40]))
          array([0.3, 0.6])
        """
        return _TRAINING * self.forward_seconds[ids] * np.asarray(examples, np.float64)

    def online(self, ids: NDArray[np.int64], seconds: Any) -> NDArray[np.bool_]:
        """Which of some clients ``[k]`` are online, at one time or each at its own ``[k]``."""
        if self.traces is None:
            return np.ones(len(ids), bool)
        times = np.broadcast_to(seconds, ids.shape).tolist()
        pairs = zip(ids.tolist(), times, strict=True)
        return np.array([self.traces[i].is_on(t) for i, t in pairs], bool)

    def next_online(self, ids: NDArray[np.int64], seconds: float) -> float:
        """The first time from ``seconds`` on at which any of some clients is online."""
        if self.traces is None:
            return seconds
        return min(self.traces[i].next_on(seconds) for i in ids.tolist())


@checks_options
def constant(population: int, *, forward_ms: float = 5.0, mbit: float = math.inf) -> Devices:
    """The same device for all clients.

    Args:
      population: clients C.
      forward_ms: milliseconds of one example's forward pass, >= 0.
      mbit: megabits per second both ways, > 0; transmission takes no time if infinite.

    Example:
      >>> constant(2, mbit=8).bytes_per_second
      array([1000000., 1000000.])
    """
    each = np.ones(population)
    return Devices(forward_ms / 1000 * each, mbit * _BYTES_PER_MBIT * each)


@checks_options
def log_normal(
    population: int,
    *,
    forward_ms: float = 5.0,
    sigma: float = 0.6,
    mbit: float = math.inf,
    mbit_sigma: float = 0.0,
    seed: int = 0,
) -> Devices:
    """Devices whose speeds are log-normal, each client's drawn once.

    Args:
      population: clients C.
      forward_ms: median milliseconds of one example's forward pass, >= 0.
      sigma: standard deviation of their logarithm, >= 0.
      mbit: median megabits per second both ways, > 0.
      mbit_sigma: standard deviation of their logarithm, >= 0.
      seed: of the draw, >= 0; it is not the run's, so that all seeds have the same devices.

    Source: FedScale (Lai et al., 2022, arXiv:2105.11367) draws 5 ms with a sigma of 0.6.

    Example:
      >>> fleet = log_normal(1000, forward_ms=5, sigma=0.6)
      >>> bool(0.0045 < np.median(fleet.forward_seconds) < 0.0055)
      True
    """
    drawn = np.random.default_rng(seed).normal(size=(2, population))
    seconds = forward_ms / 1000 * np.exp(sigma * drawn[0])
    return Devices(seconds, mbit * _BYTES_PER_MBIT * np.exp(mbit_sigma * drawn[1]))


DEVICES: dict[str, Callable[..., Devices]] = {"constant": constant, "lognormal": log_normal}
"""Kinds of devices by name; options from their signatures."""


def devices_in(text: str, population: int) -> Devices:
    """Devices from a file of FedScale's form, as JSON.

    Args:
      text: ``{"0": {"computation": milliseconds an example, "communication": kilobits a second}}``,
        by the client's number, from 0 or 1 on.
      population: clients C; further entries are left out.

    Raises:
      ValueError: if the form is another one, or a client has no device.

    Source: ``client_device_capacity`` of FedScale, arXiv:2105.11367.

    Example:
      >>> devices_in('{"1": {"computation": 20.0, "communication": 8000}}', 1).forward_seconds
      array([0.02])
    """
    form = '{"0": {"computation": MILLISECONDS, "communication": KILOBITS_PER_SECOND}, ...}'
    entries = _by_client(text, population, "devices", form)
    try:
        each = [(float(e["computation"]), float(e["communication"])) for e in entries]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"A device is not of the form {form} ({error!r}): give both.") from error
    milliseconds, kilobits = np.array(each, np.float64).reshape(-1, 2).T
    return Devices(milliseconds / 1000, kilobits * _BYTES_PER_KBIT)


def with_traces(devices: Devices, text: str) -> Devices:
    """Devices that are online as a file of FedScale's form says, as JSON.

    Args:
      devices: of C clients.
      text: ``{"0": {"active": [...], "inactive": [...], "finish_time": ...}}``, in seconds, by the
        client's number, from 0 or 1 on: online from ``active[k]`` to ``inactive[k]``, and again
        after each ``finish_time``.

    Raises:
      ValueError: if the form is another one, or a client has no trace.

    Source: ``client_behave_trace`` of FedScale, arXiv:2105.11367; asked at a time, the answer does
    not depend on what was asked before, as it does there.
    """
    form = '{"0": {"active": [SECONDS], "inactive": [SECONDS], "finish_time": SECONDS}, ...}'
    entries = _by_client(text, len(devices.forward_seconds), "traces", form)
    try:
        traces = tuple(
            Trace(
                tuple(map(float, e["active"])),
                tuple(map(float, e["inactive"])),
                float(e["finish_time"]),
            )
            for e in entries
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"A trace is not of the form {form} ({error!r}): give all.") from error
    return replace(devices, traces=traces)


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, words, lists and dicts, and runs no code."""

    def find_class(self, module: str, name: str) -> Any:
        raise InputError(
            f"The pickled file holds a {module}.{name}, but only numbers, words, lists and dicts "
            "are read: write it as JSON."
        )


def text_of(path: Path) -> str:
    """The JSON text of a file of devices or traces, or of FedScale's pickle of the same form.

    Raises:
      OSError: if it cannot be read.
      ValueError: if it is neither.
    """
    content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError:
        try:
            return json.dumps(_PlainUnpickler(io.BytesIO(content)).load())
        except (pickle.UnpicklingError, EOFError, TypeError) as error:
            raise InputError(f"{path} is neither JSON nor a pickle of dicts ({error}).") from error


def _by_client(text: str, population: int, kind: str, form: str) -> Sequence[Mapping[str, Any]]:
    """The entries of a file in the order of the clients."""
    try:
        found = {int(number): entry for number, entry in json.loads(text).items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"The {kind} are not of the form {form} ({error}).") from error
    first = min(found, default=0)
    lacking = [n for n in range(population) if n + first not in found]
    if lacking or first not in (0, 1):
        raise InputError(
            f"There are {kind} of {len(found)} clients, but the federation has {population}, and "
            f"that of client {lacking[0] if lacking else 0} is missing: give one for each, or "
            "fewer clients."
        )
    return [found[n + first] for n in range(population)]
