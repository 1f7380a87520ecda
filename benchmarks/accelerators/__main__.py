"""What XLA makes of a block of rounds for GPUs and TPUs, compiled without having one.

    pip install -c constraints.txt -e '.[aot]'      # Python 3.12 or newer
    python -m benchmarks.accelerators --target v5e h100 --case digits_mlp cnn_emnist --chunk 1 10

Nothing runs, so no time is measured: *roofline* is the longer of operations and bytes at the rates
of the device's data sheet, summed over kernels, and *XLA* is the compiler's own estimate, which
leaves out the kernels counted in the last columns. Bytes are of whole tiles on TPUs. *Host waits*
are the times that a GPU's host has to ask the device before it can go on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import jax

from benchmarks.accelerators.table import Cell, Result, look_at
from benchmarks.accelerators.targets import MOST_DEVICES, TARGETS
from benchmarks.accelerators.workloads import OF_MODELS, WORKLOADS
from benchmarks.reporting import parser, publish
from fedjax_kd.algorithms import REGISTRY

_SMALL = "digits_mlp"  # the case of methods and meshes, unless another is asked for
_NEEDS = {"fedbn": "resnet8_batch"}  # methods that ask something of the network


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
        default=[_SMALL],
        help=f"networks: {', '.join(WORKLOADS)} (default: {_SMALL})",
    )
    add("--cohort", type=int, default=10, help="clients (default: %(default)s)")
    add("--chunk", nargs="+", type=int, help="clients at once (default: the engine's choice)")
    add(
        "--methods",
        nargs="*",
        choices=REGISTRY,
        metavar="METHOD",
        help="these methods on each case; without names all of the registry",
    )
    add("--models", action="store_true", help="every built-in model, beside the cases")
    add("--mesh", type=int, default=1, metavar="N", help="devices to divide the cohort over")
    add("--graph", action="store_true", help="ask GPUs to take loops into command buffers")
    return options


def cells(args: argparse.Namespace) -> Iterator[Cell]:
    """All that is asked for."""
    methods = ["fedavg"] if args.methods is None else args.methods or list(REGISTRY)
    cases = [*args.case, *(name for name in OF_MODELS if args.models and name not in args.case)]
    how = {"cohort": args.cohort, "devices": args.mesh, "graph": args.graph}
    for target in args.target:
        for method in methods:
            of_method = [_NEEDS[method]] if method in _NEEDS else cases
            for case in of_method:
                for chunk in args.chunk or [None]:
                    yield Cell(target, case, method, chunk=chunk, **how)


def main() -> None:
    """Prints the table; exits with 1 if something does not compile or is not as it must be."""
    args = make_options().parse_args()
    jax.config.update("jax_platforms", "cpu")  # else the GPU's plugin looks for a driver, and fails
    jax.config.update("jax_num_cpu_devices", MOST_DEVICES)
    # Programs for devices that are not there cannot be read back.
    jax.config.update("jax_enable_compilation_cache", False)
    results: list[Result] = []
    for cell in cells(args):
        results.append(look_at(cell))
        print(f"{cell.name}: {results[-1].row['compiled']}", file=sys.stderr, flush=True)
    ratios = {name: ratio for result in results for name, ratio in result.ratios.items()}
    publish("accelerators", [result.row for result in results], ratios, args.json)
    sys.exit(not all(result.is_good for result in results))


if __name__ == "__main__":
    main()
