"""Rounds a second of every model, at every cohort size, by every way to run the clients.

    python -m benchmarks.throughput --quick

Ways: one client after another (chunk 1), chunks of clients at once, the whole cohort at once, the
width that the engine chooses itself, and, for convolutional models at the smallest cohort, XLA's
own convolutions one client after another, one local step each. The federation is synthetic and
every client holds equally much, so that no time goes to raggedness. Compilation is counted apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.cases import (
    CASES,
    Case,
    is_convolutional,
    make_algorithm,
    make_federation,
    measure,
    resized,
)
from benchmarks.reporting import Ratio, Row, parser, publish

QUICK = ("logistic", "digits_mlp")


class Way(NamedTuple):
    """How the clients of a cohort are run."""

    name: str
    chunk: int | None  # the engine's choice if None
    lax: bool = False


class Cell(NamedTuple):
    """One place of the matrix, measured."""

    model: str
    case: Case
    cohort: int
    way: Way
    compile: float  # seconds
    seconds: float  # of a round

    @property
    def examples(self) -> float:
        """Examples a second."""
        return self.cohort * self.case.examples / self.seconds


def ways(case: Case, cohort: int, chunks: Sequence[int], *, lax: bool) -> Iterator[Way]:
    """Every way that makes sense for this model and cohort."""
    yield Way("one after another", 1)
    yield from (Way("chunks", width) for width in chunks if 1 < width < cohort)
    if cohort > 1:
        yield Way("all at once", cohort)
    yield Way("the engine's choice", None)
    if lax and is_convolutional(case):
        yield Way("one after another, lax", 1, lax=True)


def look_at(model: str, case: Case, cohort: int, way: Way, budget: float) -> Cell:
    """Measures one place of the matrix; with ``lax``, on one local step and one round only."""
    case = resized(case, steps=1) if way.lax else case
    federation = make_federation(case, cohort)
    compiled, seconds = measure(
        make_algorithm(case, federation, lax=way.lax),
        federation,
        budget=0 if way.lax else budget,
        least=1 if way.lax else 2,
        rounds=1 if way.lax else case.rounds,
        cohort_size=cohort,
        chunk=way.chunk,
    )
    return Cell(model, case, cohort, way, compiled, seconds)


def row_of(cell: Cell) -> Row:
    """A line of the table."""
    return {
        "model": cell.model,
        "cohort": cell.cohort,
        "way": cell.way.name,
        "chunk": "" if cell.way.chunk is None else cell.way.chunk,
        "steps": cell.case.steps,
        "rounds/s": 1 / cell.seconds,
        "client-updates/s": cell.cohort / cell.seconds,
        "examples/s": cell.examples,
        "compile s": cell.compile,
    }


def ratios_of(cells: Sequence[Cell]) -> dict[str, Ratio]:
    """Within each model and cohort: the engine's choice against the best, the best against lax."""
    ratios = {}
    for model, cohort in dict.fromkeys((cell.model, cell.cohort) for cell in cells):
        here = [cell for cell in cells if (cell.model, cell.cohort) == (model, cohort)]
        best = max(cell.examples for cell in here if not cell.way.lax)
        for cell in here:
            if cell.way.chunk is None:
                name = f"{model}, cohort {cohort}: the engine's choice against the best way"
                ratios[name] = Ratio(cell.examples / best)
            if cell.way.lax:
                name = f"{model}, cohort {cohort}: the best way against lax"
                ratios[name] = Ratio(best / cell.examples)
    return ratios


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add(
        "--model",
        nargs="+",
        choices=CASES,
        metavar="MODEL",
        default=list(CASES),
        help=f"of {', '.join(CASES)} (default: all)",
    )
    add("--cohort", nargs="+", type=int, default=[10, 100], help="clients (default: 10 100)")
    add("--chunk", nargs="+", type=int, default=[4, 32], help="widths (default: 4 32)")
    add("--lax", action=argparse.BooleanOptionalAction, default=True, help="measure lax too")
    add("--seconds", type=float, default=5, help="spent on each place (default: %(default)s)")
    add("--quick", action="store_true", help="two small models, one cohort, half a second each")
    return options


def main() -> None:
    """Prints the matrix."""
    args = make_options().parse_args()
    models = QUICK if args.quick else args.model
    cohorts = args.cohort[:1] if args.quick else args.cohort
    budget = min(args.seconds, 0.5) if args.quick else args.seconds
    cells = [
        look_at(model, CASES[model], cohort, way, budget)
        for model in models
        for cohort in cohorts
        for way in ways(CASES[model], cohort, args.chunk, lax=args.lax and cohort == min(cohorts))
    ]
    publish("throughput", [row_of(cell) for cell in cells], ratios_of(cells), args.json)


if __name__ == "__main__":
    main()
