"""What XLA makes of a block of rounds for GPUs and TPUs, compiled without having one.

    pip install -c constraints.txt -e '.[aot]'      # Python 3.12 or newer
    python -m benchmarks.accelerators --target v5e h100 --case digits_mlp cnn_emnist --chunk 1 10

Nothing runs, so no time is measured: *roofline* is the longer of operations and bytes at the rates
of the device's data sheet, summed over kernels, and *XLA* is the compiler's own estimate, which
leaves out the kernels counted as not in XLA's. Bytes are of whole tiles on TPUs. *Host waits*
are the times that a GPU's host has to ask the device before it can go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import jax

from benchmarks.accelerators.table import Cell, Result, look_at
from benchmarks.accelerators.targets import INSTALL, MOST_DEVICES, TARGETS, is_installed
from benchmarks.accelerators.workloads import OF_MODELS, WORKLOADS
from benchmarks.reporting import parser, publish
from fedjax_kd.algorithms import REGISTRY

_SMALL = "digits_mlp"  # the network of methods and meshes
_NEEDS = {"fedbn": "resnet8_batch"}  # methods that ask something of the network
_COHORTS = {"digits_mlp": 100, "cnn_cifar": 50}  # those of the rivals' benchmarks
_COHORT, _FEW, _WIDTH = 10, 4, 5  # of other networks, of every model, and clients at once


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add("--target", nargs="+", choices=TARGETS, default=["v5e", "h100"], help="kinds of devices")
    add(
        "--case",
        nargs="+",
        choices=WORKLOADS,
        metavar="CASE",
        help=f"FedAvg on {', '.join(WORKLOADS)} ({_SMALL} if nothing else is asked for)",
    )
    add("--cohort", type=int, help="clients of a case (default: as in benchmarks.rivals)")
    add("--chunk", nargs="+", type=int, help="clients at once (default: the engine's choice)")
    add("--graph", action="store_true", help="also with loops in GPUs' command buffers")
    add(
        "--methods",
        nargs="*",
        choices=REGISTRY,
        metavar="METHOD",
        help=f"also these methods on {_SMALL}; without names all of the registry",
    )
    add("--models", action="store_true", help="also every built-in model")
    add("--mesh", type=int, metavar="N", help=f"also {_SMALL} on a mesh of N <= {MOST_DEVICES}")
    return options


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """All that is asked for."""
    methods = list(REGISTRY) if args.methods == [] else args.methods or []
    others = methods or args.models or args.mesh
    for target in args.target:
        for case in args.case or ([] if others else [_SMALL]):
            yield from _of_case(args, target, case)
        for method in methods:
            yield Cell(target, _NEEDS.get(method, _SMALL), method, _COHORT, _WIDTH)
        for case in OF_MODELS if args.models else ():
            yield Cell(target, case, cohort=_FEW, chunk=_FEW // 2)
        if args.mesh:
            yield Cell(target, _SMALL, cohort=_FEW * args.mesh, chunk=_FEW // 2, devices=args.mesh)


def _of_case(args: argparse.Namespace, target: str, case: str) -> Iterator[Cell]:
    """A network at all widths that its cohort has clients for."""
    cohort = args.cohort or _COHORTS.get(case, _COHORT)
    graphs = [False, True] if args.graph and TARGETS[target].platform == "gpu" else [False]
    for chunk in args.chunk or [None]:
        if chunk is None or chunk <= cohort:
            for graph in graphs:
                yield Cell(target, case, cohort=cohort, chunk=chunk, graph=graph)


def _check(options: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Ends with 2 and what to do if something cannot be compiled from the start."""
    for name in args.target:
        if not is_installed(TARGETS[name]):
            options.error(
                f"To compile for {name} needs {' or '.join(TARGETS[name].packages)}: {INSTALL}"
            )
    numbers = {"--cohort": args.cohort, "--mesh": args.mesh}
    for name, number in [*numbers.items(), *(("--chunk", chunk) for chunk in args.chunk or ())]:
        if number is not None and number < 1:
            options.error(f"{name} is {number}, but must be 1 or more.")
    if args.mesh is not None and args.mesh > MOST_DEVICES:
        options.error(f"--mesh is {args.mesh}, but at most {MOST_DEVICES} devices are described.")


def main() -> None:
    """Prints the table; exits with 1 if something does not compile or is not as it must be."""
    options = make_options()
    args = options.parse_args()
    _check(options, args)
    jax.config.update("jax_platforms", "cpu")  # else the GPU's plugin looks for a driver, and fails
    jax.config.update("jax_num_cpu_devices", MOST_DEVICES)
    # Programs for devices that are not there cannot be read back.
    jax.config.update("jax_enable_compilation_cache", False)
    results: list[Result] = []
    for cell in cells(args):
        results.append(look_at(cell))
        print(f"{cell.name}: {results[-1].row['compiled']}", file=sys.stderr, flush=True)
        jax.clear_caches()  # or programs of all cells pile up
    ratios = {name: ratio for result in results for name, ratio in result.ratios.items()}
    publish("accelerators", [result.row for result in results], ratios, args.json)
    sys.exit(not all(result.is_good for result in results))


if __name__ == "__main__":
    main()
