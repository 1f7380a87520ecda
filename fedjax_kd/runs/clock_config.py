"""The clock of a run as plain data: devices by words or files, and how long the server waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from fedjax_kd.data.devices import DEVICES, Devices, devices_in, text_of, with_traces
from fedjax_kd.engine.clock import Clock, Late
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options
from fedjax_kd.runs.option_values import parse_named


@checks_options
@dataclass(frozen=True)
class ClockConfig:
    """Simulated time, if ``fleet`` says what devices the clients have.

    Args:
      fleet: what devices clients have, for simulated time: "constant:forward_ms=5,mbit=20",
        "lognormal:forward_ms=5,sigma=0.6,mbit=20", or a file in FedScale's form (JSON or its
        pickle); milliseconds are those of one example's forward pass. No time is told if not given.
      availability: file in FedScale's form of when each client is online; always if not given.
      deadline: simulated seconds after which a round ends, > 0; the slowest client is waited for if
        not given.
      late: what becomes of clients that are not done by then: "drop", or "partial" for the steps
        that they had time for.
      over_commitment: factor on the clients that are asked, >= 1; the first cohort_size that are
        done make the round.
      concurrency: clients at work at any time, >= 1, for asynchronous training, where each
        cohort_size uploads make a server step (see the wrappers fedbuff and fedasync).
      max_staleness: server steps, >= 0, after which an upload is thrown away; never if not given.
    """

    fleet: str | None = None
    availability: str | None = None
    deadline: float | None = None
    late: Late = "drop"
    over_commitment: float = 1.0
    concurrency: int | None = None
    max_staleness: int | None = None

    def __post_init__(self) -> None:
        given = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        if self.fleet is None and given:
            raise InputError(
                f"{', '.join(given)} needs simulated time, for which fleet says how fast clients "
                "are: give it, such as lognormal:forward_ms=5,mbit=20."
            )


def clock_of(
    config: ClockConfig, population: int, batch_size: Any, files: Mapping[str, str]
) -> Clock | None:
    """The clock that a configuration describes; None for no simulated time.

    Args:
      config: of the run.
      population: clients C.
      batch_size: examples in a local step.
      files: texts of files by their paths, which are not read again.

    Raises:
      ValueError: if there are no such devices, a file has another form, or a number is out of its
        range.

    Example:
      >>> clock_of(ClockConfig("constant:forward_ms=2"), 3, 20, {}).devices.forward_seconds
      array([0.002, 0.002, 0.002])
    """
    if config.fleet is None:
        return None
    devices = _devices(config.fleet, population, files)
    if config.availability is not None:
        devices = with_traces(devices, _text(config.availability, files))
    names = [f.name for f in fields(Clock) if f.name in {f.name for f in fields(config)}]
    return Clock(devices, batch_size, **{name: getattr(config, name) for name in names})


def with_clock_files(config: ClockConfig, files: dict[str, str]) -> ClockConfig:
    """The configuration with absolute paths of its files, whose texts are added to ``files``."""
    settled: dict[str, Any] = {}
    for name in ("fleet", "availability"):
        given = getattr(config, name)
        if given is not None and given not in files and Path(given).is_file():
            settled[name] = str(Path(given).absolute())
            files[settled[name]] = text_of(Path(given))
    return replace(config, **settled)


def _devices(given: str, population: int, files: Mapping[str, str]) -> Devices:
    if given.partition(":")[0] in DEVICES and given not in files:
        name, options = parse_named("fleet", given, DEVICES)
        return DEVICES[name](population, **options)
    return devices_in(_text(given, files), population)


def _text(path: str, files: Mapping[str, str]) -> str:
    """The text of a file that a configuration names."""
    if path in files:
        return files[path]
    try:
        return text_of(Path(path))
    except OSError as error:
        raise InputError(
            f"{path!r} is neither a file ({error.strerror}) nor one of "
            f"{', '.join(DEVICES)} with options, such as lognormal:forward_ms=5,mbit=20."
        ) from error
