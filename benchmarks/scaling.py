"""What a round costs as a federation grows along one axis at a time.

    python -m benchmarks.scaling --axis cohort steps

- clients: of the population, at a cohort of 10 tiny clients. A round should not notice them.
- cohort: clients in a round. A line ``a + b * cohort`` is fitted to the times (least squares of the
  relative errors); memory should be bounded by the chunk and not grow with the cohort.
- steps: local steps of a client, fitted in the same way.
- width: units of both hidden layers of an MLP.
- devices: the cohort divided over them. On a CPU these are fake devices that share the same cores,
  each count in a process of its own: that shows the cost of dividing, and no gain can be expected.

"peak MiB" is the largest memory of the process so far (of the device, where it tells), so that only
its growth down the rows says something. The share of memory that is saved compares it at the two
largest cohorts: 1 if it did not grow, 0 if it grew by one model for each further client.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.cases import CASES, Case, make_algorithm, make_federation, measure, step_work
from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd import Federation, make_mesh, tree

LINEAR_GOAL, MEMORY_GOAL = 0.9, 0.9
MLP, COHORT = CASES["mlp"], 10
# Little data and a large model: what is seen of the memory is due to the clients' models.
HEAVY = Case("mlp", (8, 8), 10, 20, 3, options={"hidden": (512, 512)})


class Point(NamedTuple):
    """One round along an axis."""

    axis: str
    size: int
    seconds: float
    peak: int = 0  # bytes
    rate: float = 0.0  # operations a second


Scale = tuple[list[Point], dict[str, Ratio]]


def clients(args: argparse.Namespace) -> Scale:
    """Cost against the clients of the population."""
    case = dataclasses.replace(CASES["digits_mlp"], batch=4, steps=1)
    points = [
        timed("clients", n, case, make_federation(case, n), args, cohort_size=COHORT)
        for n in args.clients
    ]
    return points, {"clients, fewest / most": Ratio(points[0].seconds / points[-1].seconds)}


def cohort(args: argparse.Namespace) -> Scale:
    """Cost and memory against the clients in a round."""
    sizes = sorted(args.cohort)
    federation = make_federation(HEAVY, sizes[-1])
    points = [
        timed("cohort", n, HEAVY, federation, args, cohort_size=n)._replace(peak=peak_memory())
        for n in sizes
    ]
    ratios = linear("cohort", points)
    if len(points) > 1:
        server = jax.eval_shape(make_algorithm(HEAVY, federation).server_init, jax.random.key(0))
        before, last = points[-2:]
        stacked = (last.size - before.size) * tree.num_bytes(server.model)
        saved = 1 - (last.peak - before.peak) / stacked
        ratios["cohort, share of the memory of further clients that is saved"] = Ratio(
            saved, MEMORY_GOAL
        )
    return points, ratios


def steps(args: argparse.Namespace) -> Scale:
    """Cost against the local steps of a client."""
    points = []
    for n in args.steps:
        case = dataclasses.replace(MLP, steps=n)
        federation = make_federation(case, COHORT)
        points.append(timed("steps", n, case, federation, args, cohort_size=COHORT))
    return points, linear("steps", points)


def width(args: argparse.Namespace) -> Scale:
    """Cost against the size of the model."""
    points = []
    for n in args.width:
        case = dataclasses.replace(MLP, options={"hidden": (n, n)})
        federation = make_federation(case, COHORT)
        point = timed("width", n, case, federation, args, cohort_size=COHORT)
        operations = COHORT * case.steps * step_work(case, federation).operations
        points.append(point._replace(rate=operations / point.seconds))
    return points, {}


def devices(args: argparse.Namespace) -> Scale:
    """Cost against the devices that share a cohort."""
    on_cpu = jax.default_backend() == "cpu"
    counts = args.devices if on_cpu else [n for n in args.devices if n <= jax.device_count()]
    points = [on_fake_devices(n, args) if on_cpu else on_devices(n, args) for n in counts]
    one = points[0].seconds
    return points, {
        f"devices, {points[0].size} / {p.size}": Ratio(one / p.seconds) for p in points[1:]
    }


def on_devices(count: int, args: argparse.Namespace) -> Point:
    """A round of 32 clients on so many devices of this process."""
    federation = make_federation(MLP, 32)
    mesh = make_mesh(count)
    return timed("devices", count, MLP, federation, args, cohort_size=32, mesh=mesh)


def on_fake_devices(count: int, args: argparse.Namespace) -> Point:
    """The same in a process of its own, whose CPU pretends to be so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    command = [sys.executable, "-m", "benchmarks.scaling", "--here", str(count)]
    command += ["--seconds", str(args.seconds)]
    command += [] if args.chunk is None else ["--chunk", str(args.chunk)]
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return Point(*json.loads(done.stdout))


def timed(
    axis: str,
    size: int,
    case: Case,
    federation: Federation,
    args: argparse.Namespace,
    **options: Any,
) -> Point:
    """A point along an axis; options as of `fedjax_kd.simulate`."""
    algorithm = make_algorithm(case, federation)
    options |= {"chunk": args.chunk, "rounds": case.rounds, "budget": args.seconds}
    _, seconds = measure(algorithm, federation, **options)
    return Point(axis, size, seconds)


def peak_memory() -> int:
    """The most bytes that the device has held so far; of a CPU, the whole process."""
    stats = jax.devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    resident = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return stats.get("peak_bytes_in_use", resident)


def fit(points: Sequence[Point]) -> tuple[float, float]:
    """Seconds of an empty round and of each unit of size: least squares of the relative errors.

    Example:
      >>> start, slope = fit([Point("cohort", n, 0.5 + 0.1 * n) for n in (1, 10, 100)])
      >>> round(start, 6), round(slope, 6)
      (0.5, 0.1)
    """
    seconds = np.array([p.seconds for p in points])
    sizes = np.array([p.size for p in points], float)
    columns = np.stack([1 / seconds, sizes / seconds], axis=1)
    start, slope = np.linalg.lstsq(columns, np.ones(len(points)))[0]
    return float(start), float(slope)


def linear(axis: str, points: Sequence[Point]) -> dict[str, Ratio]:
    """1 less the largest relative distance of a time from the fitted line."""
    if len(points) < 3:
        return {}
    start, slope = fit(points)
    worst = max(abs(start + slope * p.size - p.seconds) / p.seconds for p in points)
    print(f"{axis}: {start:.3g} s + {slope:.3g} s each; at most {worst:.1%} off this line\n")
    return {f"{axis}, 1 - largest distance from a line": Ratio(1 - worst, LINEAR_GOAL)}


def row_of(point: Point) -> Row:
    """A line of the table."""
    row: dict[str, str | int | float] = {
        "axis": point.axis,
        "size": point.size,
        "s/round": point.seconds,
    }
    if point.axis in ("cohort", "steps"):
        row["ms each"] = 1e3 * point.seconds / point.size
    if point.peak:
        row["peak MiB"] = point.peak / 2**20
    if point.rate:
        row["GFLOP/s"] = point.rate / 1e9
    return row


AXES: dict[str, Callable[[argparse.Namespace], Scale]] = {
    "cohort": cohort,
    "clients": clients,
    "steps": steps,
    "width": width,
    "devices": devices,
}


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add("--axis", nargs="+", choices=AXES, default=list(AXES), help="(default: all)")
    for name, sizes in (
        ("clients", [100, 1000, 10_000, 100_000]),
        ("cohort", [1, 3, 10, 30, 100, 300, 1000]),
        ("steps", [1, 2, 5, 10, 20, 50]),
        ("width", [32, 64, 128, 256, 512, 1024]),
        ("devices", [1, 2, 4]),
    ):
        shown = " ".join(map(str, sizes))
        add(f"--{name}", nargs="+", type=int, default=sizes, help=f"sizes (default: {shown})")
    add("--chunk", type=int, help="clients at once (default: the engine's choice)")
    add("--seconds", type=float, default=4, help="spent on each point (default: %(default)s)")
    add("--here", type=int, metavar="N", help="only N devices, in this process, as JSON")
    return options


def main() -> None:
    """Prints all axes in one table."""
    args = make_options().parse_args()
    if args.here is not None:
        print(json.dumps(on_devices(args.here, args)))
        return
    # Memory only ever grows, so the axis that looks at it comes first.
    scales = [scale(args) for name, scale in AXES.items() if name in args.axis]
    points = [point for found, _ in scales for point in found]
    ratios = {name: ratio for _, found in scales for name, ratio in found.items()}
    publish("scaling", [row_of(point) for point in points], ratios, args.json)


if __name__ == "__main__":
    main()
