"""The results of one workload as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.rivals.measure import Measurement, Settings, figures
from benchmarks.rivals.same_work import LABEL

_HEAD = (
    "system",
    "version",
    "settings",
    "s/round, median",
    "fastest",
    "against ours",
    "client updates/s",
    "start, s",
    "accuracy",
    "remark",
)


def table(found: Mapping[str, Measurement], *, cohort_size: int, warmup: int) -> str:
    """One row a system; below it, what systems that failed printed last.

    Args:
      found: by system, as judged.
      cohort_size: clients that train in a round.
      warmup: rounds at the beginning of each run that do not count.
    """
    ours = found.get("ours")
    base = figures(ours, warmup).median if ours is not None and ours.reports else None
    rows = [_row(system, m, base, cohort_size, warmup) for system, m in found.items()]
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD)), *map(_line, rows)]
    for system, measurement in found.items():
        _, _, printed = measurement.problem.partition("\n")
        if printed:
            lines += ["", f"{system}:", "```", printed, "```"]
    return "\n".join(lines)


def _row(
    system: str, measurement: Measurement, base: float | None, cohort_size: int, warmup: int
) -> list[str]:
    """The cells of one system."""
    remarks = [measurement.problem.partition("\n")[0]]
    if measurement.fault:
        remarks.append(f"{LABEL}: {measurement.fault}")
    remark = "; ".join(filter(None, remarks)).replace("|", "/")
    if not measurement.reports:
        return [system, *[""] * (len(_HEAD) - 2), remark]
    seen = figures(measurement, warmup)
    version = next(iter(measurement.reports[0]["versions"].values()))
    return [
        system,
        version,
        settings(measurement.settings),
        f"{seen.median:.4g}",
        f"{seen.fastest:.4g}",
        "" if base is None else f"{seen.median / base:.2f}x",
        f"{cohort_size / seen.median:.4g}",
        f"{seen.start:.1f}",
        f"{seen.accuracy:.4f}",
        remark,
    ]


def settings(chosen: Settings) -> str:
    """Settings in words.

    Example:
      >>> settings({"threads": 1, "channels_last": True, "backend": "jit"})
      '1 thread, channels_last, jit'
    """

    def word(name: str, value: object) -> str:
        if value is True:
            return name
        if isinstance(value, int):
            return f"{value} {name.removesuffix('es' if name == 'processes' else 's')}" + (
                "" if value == 1 else "es" if name == "processes" else "s"
            )
        return str(value)

    return ", ".join(word(name, value) for name, value in chosen.items())


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"
