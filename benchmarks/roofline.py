"""How near a round comes to what the machine can do, measured in the same run.

    python -m benchmarks.roofline --model cnn_emnist --cohort 10

The operations of the round are counted from the model (`benchmarks.operations`), never from the
program. Its floor is the larger of two times: operations at the rate of the best matrix product,
and bytes at the rate of a copy as large as what the clients that run together touch in one step.
Bytes of a round: in every local step each parameter read and written, the batch read, and every
hidden input of a product written and read once; then every upload read once. The fraction of the
floor is floor / measured. "own shapes" is the time of nothing but plain products of the model's own
shapes, one after another. The last columns compare with XLA's convolutions under ``vmap`` over the
cohort, inside the same loop over steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import NamedTuple

import jax

from benchmarks import machine
from benchmarks.cases import (
    CASES,
    Case,
    is_convolutional,
    make_algorithm,
    make_federation,
    make_task,
    measure,
    resized,
    step_work,
)
from benchmarks.machine import Shape
from benchmarks.operations import Product, Work
from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd import tree

# Of the matrix-product ceiling on a CPU, of the floor elsewhere, and against lax.
GOAL_CASE, CPU_GOAL, ACCELERATOR_GOAL, LAX_GOAL = "cnn_emnist", 0.6, 0.3, 20.0


class Floor(NamedTuple):
    """The least seconds that a round can take."""

    operations: float
    bytes: float
    own_shapes: float

    @property
    def binding(self) -> float:
        """The larger of operations and bytes."""
        return max(self.operations, self.bytes)


class Measured(NamedTuple):
    """One model's round."""

    name: str
    case: Case
    cohort: int
    operations: float
    ceiling: float  # operations a second
    floor: Floor
    seconds: float
    lax: float | None  # examples a second, of XLA's convolutions


def turned(product: Product) -> list[Shape]:
    """The shapes of a product, of its weights' gradient and, if there is one, of its input's."""
    m, k, n = product.shape
    return [(m, k, n), (k, m, n), (m, n, k)][: product.passes]


def find_floor(
    work: Work, steps: int, averaged: int, products: Mapping[Shape, float], bandwidth: float
) -> Floor:
    """The floor of a round.

    Args:
      work: of one local step.
      steps: local steps of all clients together.
      averaged: bytes of all uploads.
      products: operations a second of each shape of product that was measured.
      bandwidth: bytes a second.
    """
    own = sum(
        2 * product.multiplications / products[shape]
        for product in work.products
        for shape in turned(product)
    )
    return Floor(
        steps * work.operations / max(products.values()),
        (steps * work.bytes + averaged) / bandwidth,
        steps * own,
    )


def look_at(name: str, args: argparse.Namespace, copies: Mapping[int, float]) -> Measured:
    """Measures one model, and products of its shapes just before and after."""
    case, cohort = resized(CASES[name], args.batch, args.steps), args.cohort
    federation = make_federation(case, cohort)
    work = step_work(case, federation)
    own = [shape for product in work.products for shape in turned(product)]
    shapes = [*machine.square_shapes(), *own]
    before = machine.product_rates(shapes, args.ceiling_seconds)
    model = jax.eval_shape(make_task(case, federation).init, jax.random.key(0))
    together = args.chunk or (1 if jax.default_backend() == "cpu" else cohort)
    bandwidth = machine.bandwidth(copies, together * work.bytes)
    steps = cohort * case.steps
    _, seconds = measure(
        make_algorithm(case, federation),
        federation,
        budget=args.seconds,
        rounds=case.rounds,
        cohort_size=cohort,
        chunk=args.chunk,
    )
    # On a shared machine the ceiling moves: the better of before and after is the honest one.
    after = machine.product_rates(shapes, args.ceiling_seconds)
    products = {shape: max(rate, after[shape]) for shape, rate in before.items()}
    return Measured(
        name,
        case,
        cohort,
        steps * work.operations,
        max(products.values()),
        find_floor(work, steps, cohort * tree.num_bytes(model), products, bandwidth),
        seconds,
        lax_rate(case, cohort, args.lax_steps) if args.lax and is_convolutional(case) else None,
    )


def lax_rate(case: Case, cohort: int, steps: int | None) -> float:
    """Examples a second of the same round with ``vmap`` of ``lax``'s convolutions."""
    on_cpu = jax.default_backend() == "cpu"
    short = resized(case, steps=steps or (min(2, case.steps) if on_cpu else case.steps))
    federation = make_federation(short, cohort)
    algorithm = make_algorithm(short, federation, lax=True)
    _, seconds = measure(algorithm, federation, budget=0, least=1, cohort_size=cohort, chunk=cohort)
    return cohort * short.examples / seconds


def row_of(seen: Measured) -> Row:
    """A line of the table."""
    rate = seen.cohort * seen.case.examples / seen.seconds
    row: dict[str, str | int | float] = {
        "model": seen.name,
        "cohort": seen.cohort,
        "batch": seen.case.batch,
        "steps": seen.case.steps,
        "Gop/round": seen.operations / 1e9,
        "s/round": seen.seconds,
        "examples/s": rate,
        "GFLOP/s": seen.operations / seen.seconds / 1e9,
        "ceiling GFLOP/s": seen.ceiling / 1e9,
        "of ceiling": seen.floor.operations / seen.seconds,
        "operations s": seen.floor.operations,
        "bytes s": seen.floor.bytes,
        "binds": "operations" if seen.floor.binding == seen.floor.operations else "bytes",
        "of floor": seen.floor.binding / seen.seconds,
        "own shapes s": seen.floor.own_shapes,
    }
    return row if seen.lax is None else row | {"lax examples/s": seen.lax, "x lax": rate / seen.lax}


def ratios_of(seen: Measured) -> dict[str, Ratio]:
    """What may be compared with other runs, with the project's goals."""
    on_cpu, wanted = jax.default_backend() == "cpu", seen.name == GOAL_CASE
    ratios = {
        "of the product ceiling": Ratio(
            seen.floor.operations / seen.seconds, CPU_GOAL if wanted and on_cpu else None
        ),
        "of the floor": Ratio(
            seen.floor.binding / seen.seconds,
            ACCELERATOR_GOAL if wanted and not on_cpu else None,
        ),
    }
    if seen.lax is not None:
        rate = seen.cohort * seen.case.examples / seen.seconds
        ratios["against vmap of lax"] = Ratio(rate / seen.lax, LAX_GOAL if wanted else None)
    return {f"{seen.name}, {name}": ratio for name, ratio in ratios.items()}


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add(
        "--model",
        nargs="+",
        choices=CASES,
        default=["cnn_emnist"],
        metavar="MODEL",
        help=f"of {', '.join(CASES)} (default: cnn_emnist)",
    )
    add("--cohort", type=int, default=10, help="clients in a round (default: %(default)s)")
    add("--batch", type=int, help="examples of a local step (default: the model's own)")
    add("--steps", type=int, help="local steps of a client (default: the model's own)")
    add("--chunk", type=int, help="clients at once (default: the engine's choice)")
    add("--lax-steps", type=int, help="local steps of the slow comparison (default: 2 on a CPU)")
    add("--lax", action=argparse.BooleanOptionalAction, default=True, help="compare with lax")
    add("--seconds", type=float, default=10, help="spent on each model (default: %(default)s)")
    add(
        "--ceiling-seconds",
        type=float,
        default=0.1,
        help="length of each repeat of a ceiling (default: %(default)s)",
    )
    return options


def main() -> None:
    """Measures the ceilings, then the models, and prints the table."""
    args = make_options().parse_args()
    copies = machine.copy_rates(machine.COPIES, args.ceiling_seconds)
    seen = [look_at(name, args, copies) for name in args.model]
    ratios = {name: ratio for one in seen for name, ratio in ratios_of(one).items()}
    publish("roofline", [row_of(one) for one in seen], ratios, args.json)


if __name__ == "__main__":
    main()
