"""Tables of a study: what is compared, how sure it is, how soon, and how wide the good region."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_kd.report import formatting
from fedjax_kd.report.bands import Seeds
from fedjax_kd.report.estimates import rounds_to
from fedjax_kd.report.figures import label_of
from fedjax_kd.report.studies import StudyPoints
from fedjax_kd.report.sweeps import (
    Configuration,
    best_by,
    by_value,
    configurations,
    difference,
    good_region,
    tolerance_of,
)
from fedjax_kd.report.table_files import CellValue

Chosen = Mapping[CellValue, Configuration | None]
"""The best configuration of each method, or each configuration of runs; None if it diverged."""

_MOST_ROWS, _TIME = 200, "simulated_seconds"
_INTERVAL = "95 % interval"
_HOW_SURE = (
    "Mean ± standard deviation over seeds. The interval of the mean is a percentile bootstrap over "
    "seeds; of three seeds or fewer it is their range, and covers too little."
)


class Table(NamedTuple):
    """A table of texts. ``texts`` columns at its left are words, the others are numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    texts: int = 1


def methods_compared(study: StudyPoints) -> Chosen:
    """What a report compares."""
    return best_by(study.points, study.by, study.goal)


def seeds_of(study: StudyPoints, chosen: Chosen) -> dict[str, Seeds]:
    """The rows of each seed of what is compared, by name."""
    of_config = by_value(study.rounds, "config")
    found: dict[str, Seeds] = {}
    for name, best in chosen.items():
        rows = of_config.get(best.config, []) if best is not None else []
        if rows:
            found[str(name)] = list(by_value(rows, "seed").values())
    return found


def best_table(study: StudyPoints, chosen: Chosen) -> Table:
    """The best configuration of each method of a sweep."""
    names = [p for p in study.parameters if p != study.by]
    head = [
        study.by,
        *map(label_of, names),
        label_of(study.metric) + formatting.unit_of(study.metric),
    ]
    rows = [
        [
            formatting.value(name),
            *(formatting.value(best.point.get(p) if best else None) for p in names),
            formatting.outcome(best, study.metric),
            formatting.interval(best.score, study.metric) if best else formatting.NOTHING,
            str(best.score.seeds if best else 0),
        ]
        for name, best in chosen.items()
    ]
    note = f"{_HOW_SURE} Chosen by these same scores, which therefore flatter a little."
    return Table(f"Best configuration of each {study.by}", [*head, _INTERVAL, "seeds"], rows, note)


def runs_table(study: StudyPoints) -> Table:
    """Every configuration of runs, with what it cost."""
    head = [
        "run",
        "status",
        label_of(study.metric) + formatting.unit_of(study.metric),
        _INTERVAL,
        "seeds",
    ]
    rows: list[list[str]] = []
    timed = any(summary and _TIME in summary for summary in study.summaries.values())
    for found in configurations(study.points):
        summaries = [
            study.summaries[int(str(p["point"]))]
            for p in study.points
            if p["config"] == found.config
        ]
        rows.append(
            [
                formatting.value(found.point["run"]),
                formatting.STATUS[found.status],
                formatting.spread(found.score, study.metric),
                formatting.interval(found.score, study.metric),
                str(len(summaries)),
                *_costs([summary for summary in summaries if summary], timed=timed),
            ]
        )
    costs = ["rounds", "MB down", "MB up", "rejected uploads", "seconds"]
    costs += ["simulated seconds"] if timed else []
    note = f"{_HOW_SURE} Rounds, traffic, rejected uploads and seconds are means over seeds."
    return Table("Runs", [*head, *costs], rows, note, texts=2)


def _costs(summaries: Sequence[Mapping[str, Any]], *, timed: bool) -> list[str]:
    """Rounds, megabytes, rejected uploads and seconds of a run, over its seeds."""
    if not summaries:
        return [formatting.NOTHING] * (6 if timed else 5)

    def mean(name: str) -> float:
        return float(np.mean([summary[name] for summary in summaries]))

    seconds = float(np.mean([sum(summary["seconds"].values()) for summary in summaries]))
    down, up = (f"{mean(name) / 1e6:.1f}" for name in ("bytes_down", "bytes_up"))
    told = [f"{mean('finished_rounds'):.0f}", down, up, f"{mean('rejected'):.4g}", f"{seconds:.1f}"]
    if not timed:
        return told
    known = all(_TIME in summary for summary in summaries)
    return [*told, f"{mean(_TIME):.4g}" if known else formatting.NOTHING]


def differences_table(study: StudyPoints, chosen: Chosen, baseline: CellValue) -> Table:
    """The difference of each method from the baseline, paired by seed."""
    base, rows = chosen[baseline], []
    for name, best in chosen.items():
        if name == baseline:
            continue
        if best is None or base is None:
            rows.append([formatting.value(name), *[formatting.NOTHING] * 2, "0"])
            continue
        found = difference(study.points, best.config, base.config)
        rows.append(
            [
                formatting.value(name),
                formatting.spread(found, study.metric, "+"),
                formatting.interval(found, study.metric, "+"),
                str(found.seeds),
            ]
        )
    points = " (points)" if formatting.unit_of(study.metric) else ""
    better = "above" if study.goal == "max" else "below"
    return Table(
        f"Differences to {baseline}, paired by seed",
        [study.by, f"difference in {label_of(study.metric)}{points}", _INTERVAL, "seeds"],
        rows,
        "Runs of one seed share the split, the initial model, the cohorts and the order of batches "
        f"as far as their options allow. What lies {better} zero is better than {baseline}.",
    )


def target_table(study: StudyPoints, chosen: Chosen, target: float) -> Table:
    """When each method was first seen at the target."""
    rows = []
    for name, best in chosen.items():
        of_config = [row for row in study.rounds if best and row["config"] == best.config]
        found = rounds_to(by_value(of_config, "seed"), study.metric, target, study.goal)
        each = ", ".join(formatting.value(n) for n in found.by_seed.values())
        reached = f"{found.seeds} of {len(found.by_seed)}"
        rows.append(
            [
                formatting.value(name),
                formatting.rounds_to_target(found),
                reached,
                each or formatting.NOTHING,
            ]
        )
    return Table(
        f"Rounds to {formatting.target(target, study.metric)}",
        [study.by, "rounds", "seeds that reach it", "round of each seed"],
        rows,
        "The first evaluation at the target or past it; "
        f"“{formatting.NOTHING}” if a seed never gets there.",
    )


def region_table(study: StudyPoints, axes: Sequence[str]) -> Table:
    """How much of what was tried is nearly as good as the best."""
    tolerance = tolerance_of(study.metric)
    rows = []
    for name, points in by_value(study.points, study.by).items():
        found = good_region(points, axes, study.goal, tolerance)
        spans = [found.spans.get(axis) for axis in axes]
        ranges = [" to ".join(map(formatting.value, s)) if s else formatting.NOTHING for s in spans]
        share = f"{100 * found.share:.0f} %"
        rows.append([formatting.value(name), str(found.good), str(found.tried), share, *ranges])
    within = "a tenth of its loss" if tolerance.relative else f"{100 * tolerance.amount:g} points"
    heads = [f"good {label_of(axis)}" for axis in axes]
    return Table(
        "Width of the good region",
        [study.by, "good settings", "tried", "share", *heads],
        rows,
        f"Settings of {' and '.join(map(label_of, axes))} whose mean score is within {within} of "
        "the method's best one. Diverged ones were tried; ones stopped early count as not good, so "
        "that with early stopping this is a lower bound.",
    )


def influence_tables(study: StudyPoints, axes: Sequence[str]) -> list[Table]:
    """The best score at each value of every further parameter."""
    rest = [p for p in study.parameters if p not in (*axes, study.by)]
    tables = []
    for parameter in rest:
        rows = []
        for name, points in by_value(study.points, study.by).items():
            at = {k: v for k, v in best_by(points, parameter, study.goal).items() if k is not None}
            for cell, best in at.items() if len(at) > 1 else ():
                where = [formatting.value(best.point.get(a) if best else None) for a in axes]
                texts = [
                    formatting.value(name),
                    formatting.value(cell),
                    formatting.outcome(best, study.metric),
                ]
                rows.append([*texts, *where])
        if rows:
            score = f"best {label_of(study.metric)}{formatting.unit_of(study.metric)}"
            heads = [study.by, label_of(parameter), score, *(f"at {label_of(a)}" for a in axes)]
            tables.append(Table(f"Influence of {label_of(parameter)}", heads, rows))
    return tables


def configurations_table(study: StudyPoints) -> Table:
    """All configurations of a sweep, the best first."""
    found = configurations(study.points)
    sign = -1 if study.goal == "max" else 1
    last = float("inf")
    found.sort(
        key=lambda c: (c.status != "finished", sign * c.score.mean if c.score.seeds else last)
    )
    rows = [
        [
            str(c.config),
            *(formatting.value(c.point.get(p)) for p in study.parameters),
            formatting.STATUS[c.status],
            formatting.spread(c.score, study.metric) if c.score.seeds else formatting.NOTHING,
            str(c.score.seeds),
        ]
        for c in found[:_MOST_ROWS]
    ]
    left = len(found) - len(rows)
    return Table(
        "All configurations",
        ["number", *map(label_of, study.parameters), "status", label_of(study.metric), "seeds"],
        rows,
        f"{left} more are in points.csv." if left > 0 else "",
    )


def facts(study: StudyPoints) -> dict[str, str]:
    """A summary of a study: its size, its score and the outcomes of its runs."""
    found = configurations(study.points)
    seeds = len({point["seed"] for point in study.points})
    counts = Counter(point["status"] for point in study.points)
    when = "in the last round" if study.last == 1 else f"mean over the last {study.last} rounds"
    better = "higher is better" if study.goal == "max" else "lower is better"
    return {
        "Compared": f"{_some(len(found), 'configuration')}, {_some(seeds, 'seed')}, "
        f"{_some(len(study.points), 'run')}",
        "Rounds": formatting.value(max(int(str(p["finished_rounds"] or 0)) for p in study.points)),
        "Score": f"{label_of(study.metric)}, {when}; {better}",
        "Outcome": ", ".join(
            f"{n} {formatting.STATUS[str(status)]}" for status, n in counts.items()
        ),
    }


def _some(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
