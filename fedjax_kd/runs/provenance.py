"""What a run was made with: versions, device, convolution and data, stretch by stretch.

A stretch is what one process trains, from the start or from where ``resume`` goes on. A run may be
resumed with other versions or on another device: both are kept in ``environments``, each with the
place where it began. With other data it goes on only if that is asked for.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax

from fedjax_kd.engine import processes
from fedjax_kd.errors import InputError
from fedjax_kd.nn.native import library
from fedjax_kd.runs.fingerprint import Fingerprint, differing

_LIBRARIES = ("fedjax-kd", "jax", "jaxlib", "flax", "optax", "numpy")


def environment() -> dict[str, Any]:
    """Versions, device, on CPUs the convolution and, in a checkout, the commit."""
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        **{name.replace("-", "_"): version_of(name) for name in _LIBRARIES},
        "platform": device.platform,
        "device": device.device_kind,
        "num_devices": jax.device_count(),
        **convolution(),
        "git_commit": _commit(),
    }


def convolution() -> dict[str, str]:
    """How convolutions are computed, as an entry of what is recorded; only where CPUs compute.

    Raises:
      ValueError: if ``FEDJAX_KD_CONVOLUTION`` asks for what is not there.
    """
    return {"convolution": library.description()} if _on_cpus() else {}


def faults() -> list[str]:
    """What is wrong with the compiled convolution; only where CPUs compute."""
    fault = library.fault() if _on_cpus() else ""
    return [fault] if fault else []


def recorded(
    record: Mapping[str, Any], first_round: int, digests: Fingerprint | None = None
) -> dict[str, Any]:
    """What ``config.json`` says of versions and data when a stretch of a run begins.

    Args:
      record: what it says so far; empty if there is none.
      first_round: of the stretch, from 1; what was trained later before is trained again.
      digests: of its data, from `fedjax_kd.runs.fingerprint`.

    Returns:
      The entries that replace those of the file.
    """
    begins = {"first_round": first_round}
    older = {
        "environments": environments(record, {"first_round": 1}),
        "fingerprints": record.get("fingerprints", []),
    }
    kept = {k: [s for s in v if s["first_round"] < first_round] for k, v in older.items()}
    here = environment()
    return {
        "environment": here,
        "environments": with_stretch(kept["environments"], begins, here),
        "fingerprints": kept["fingerprints"]
        if digests is None
        else with_stretch(kept["fingerprints"], begins, {"digests": dict(digests)}),
    }


def with_stretch(
    earlier: Sequence[Mapping[str, Any]], begins: Mapping[str, int], what: Mapping[str, Any]
) -> list[Mapping[str, Any]]:
    """The stretches of a run with one more, unless the last one was like it.

    Example:
      >>> one = with_stretch([], {"first_round": 1}, {"jax": "0.10"})
      >>> with_stretch(one, {"first_round": 31}, {"jax": "0.12"})
      [{'first_round': 1, 'jax': '0.10'}, {'first_round': 31, 'jax': '0.12'}]
      >>> with_stretch(one, {"first_round": 31}, {"jax": "0.10"})
      [{'first_round': 1, 'jax': '0.10'}]
    """
    if earlier and {k: v for k, v in earlier[-1].items() if k not in begins} == what:
        return list(earlier)
    return [*earlier, {**begins, **what}]


def environments(
    record: Mapping[str, Any], start: Mapping[str, int]
) -> Sequence[Mapping[str, Any]]:
    """The environments of a run so far; where its file names one alone, as from its start on."""
    if "environments" in record or "environment" not in record:
        return record.get("environments", ())
    return [{**start, **record["environment"]}]


def warn_of_versions(folder: Path, record: Mapping[str, Any]) -> None:
    """Says, in one line, what is not as it was when this run was trained last."""
    before, here = record.get("environment", {}), environment()
    other = [name for name in here if name in before and before[name] != here[name]]
    if other:
        was, now = (", ".join(f"{n} {e[n]}" for n in other) for e in (before, here))
        print(
            f"Warning: {folder} was made with {was}, but here are {now}: numbers may differ from "
            "those of an undisturbed run.",
            file=sys.stderr,
        )


def check_data(
    folder: Path, earlier: Sequence[Mapping[str, Any]], found: Fingerprint, source: str
) -> None:
    """Raises ValueError if data are not those that a run was trained on last.

    Args:
      folder: of the run.
      earlier: the ``fingerprints`` that it keeps; older versions kept none.
      found: the digests of the data as they are now.
      source: where they come from.
    """
    changed = differing(earlier[-1]["digests"], found) if earlier else []
    if changed:
        raise InputError(
            f"The data of {folder}, {source}, have changed since it was trained: "
            f"{' and '.join(changed)} differ. Restore them, start a new run, or go on with other "
            "data all the same by --changed-data."
        )


def agreed(digests: Fingerprint) -> Fingerprint:
    """The digests of the data, which are the same in all processes.

    Raises:
      ValueError: if this process has other data than the first one.
    """
    first = processes.by_first(lambda: dict(digests))
    if changed := differing(first, digests):
        raise InputError(
            f"This process has other data than the first one: {' and '.join(changed)} differ. Give "
            "all processes the same files."
        )
    return first


def version_of(name: str) -> str | None:
    """The version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _on_cpus() -> bool:
    return jax.devices()[0].platform == "cpu"


def _commit() -> str | None:
    """The commit of this package's checkout, and whether it was changed; None if there is none."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    how = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    command = ["git", "-C", str(checkout), *how]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
