"""Each way to compute a convolution and its two gradients, one against the other, in one run.

    python -m benchmarks.conv_ways

Patches x product, ``jax.lax``'s own convolution, and on CPUs the native code: each in a loop on the
device, by turns, of one client and of several with kernels of their own. The rules of
`fedjax_kd.nn.conv_lowering` come from here.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd.nn.conv_lowering import WAYS, Ways, is_native, natively, of_each_client
from fedjax_kd.nn.conv_primitive import forward_p, input_p
from fedjax_kd.nn.conv_products import Convolution, ConvWindow

_GRADIENTS = {forward_p: "forward", input_p: "by input"}


class Shape(NamedTuple):
    """A square convolution of some network."""

    batch: int
    side: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    pad: int = 0

    @property
    def window(self) -> ConvWindow:
        """Its window."""
        places = (self.side + 2 * self.pad - self.kernel) // self.stride + 1
        numbers = (self.side, self.kernel, places, self.stride, self.pad, 1)
        inputs, taps, outputs, strides, low, dilation = ((n, n) for n in numbers)
        return ConvWindow(inputs, taps, outputs, strides, low, dilation)

    @property
    def operations(self) -> int:
        """Of one of the three products; a multiplication and a sum are two."""
        return 2 * self.batch * self.window.outputs[0] ** 2 * self.kernel**2 * math.prod(self[2:4])


SHAPES = {
    "cnn_emnist, 1st": Shape(20, 28, 1, 32, 3),
    "cnn_emnist, 2nd": Shape(20, 26, 32, 64, 3),
    "cnn_cifar, 2nd": Shape(10, 30, 32, 64, 3),
    "cnn_mcmahan, 2nd": Shape(20, 14, 32, 64, 5, 1, 2),
    "resnet8, 1st": Shape(20, 32, 3, 16, 3, 1, 1),
    "resnet8, 16": Shape(20, 32, 16, 16, 3, 1, 1),
    "resnet8, 16 to 32": Shape(20, 32, 16, 32, 3, 2, 1),
    "resnet8, 64": Shape(20, 8, 64, 64, 3, 1, 1),
    "resnet18, 512": Shape(20, 4, 512, 512, 3, 1, 1),
}


def each(one: Convolution) -> Convolution:
    """The same for the operands of several clients."""
    of_all = of_each_client(one)
    return lambda a, b, window: of_all(a, b, window=window)


def ways_of(ways: Ways, shape: Shape, clients: int) -> dict[str, Convolution]:
    """The ways that there are here, by name."""
    found: dict[str, Convolution] = {"products": each(ways.products), "lax": each(ways.lax)}
    if jax.default_backend() != "cpu":
        return found
    found["products, for CPUs"] = each(ways.on_cpu)
    a, b = operands(ways, shape, clients)
    if is_native(ways.primitive, a, b, shape.window):
        found["native"] = lambda a, b, window: natively(ways, a, b, window)
    return found


def operands(ways: Ways, shape: Shape, clients: int) -> list[jax.Array]:
    """Random operands of one of the three."""
    window, rng = shape.window, np.random.default_rng(0)
    x = (clients, shape.batch, *window.inputs, shape.inputs)
    kernel = (clients, *window.taps, shape.inputs, shape.outputs)
    dy = (clients, shape.batch, *window.outputs, shape.outputs)
    chosen = {forward_p: (x, kernel), input_p: (dy, kernel)}.get(ways.primitive, (x, dy))
    return [jnp.asarray(rng.normal(size=size), jnp.float32) for size in chosen]


def looped(
    way: Convolution, given: list[jax.Array], window: ConvWindow, turns: int
) -> Callable[[], Any]:
    """A program that computes it some times, each from what the time before left."""

    def again(_: Any, a: jax.Array) -> jax.Array:
        y = lax.optimization_barrier(way(a, given[1], window))
        return a.at[(0,) * a.ndim].add(1e-30 * y[(0,) * y.ndim])

    run = jax.jit(lambda a: lax.fori_loop(0, turns, again, a)).lower(given[0]).compile()
    return lambda: jax.block_until_ready(run(given[0]))


def seconds(runs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The fewest seconds of each, run by turns."""
    best = dict.fromkeys(runs, math.inf)
    for turn in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if turn:
                best[name] = min(best[name], time.perf_counter() - began)
    return best


def measured(
    name: str, clients: int, ways: Ways, args: argparse.Namespace
) -> tuple[Row, dict[str, Ratio]]:
    """One product of one shape: its row, and the other ways against patches x product."""
    shape = SHAPES[name]
    work = shape.operations * clients
    turns = max(1, int(args.operations / work))
    found = ways_of(ways, shape, clients)
    if args.no_lax:
        del found["lax"]
    given = operands(ways, shape, clients)
    runs = {way: looped(run, given, shape.window, turns) for way, run in found.items()}
    spent = seconds(runs, args.repeats)
    product = _GRADIENTS.get(ways.primitive, "by kernel")
    rates = {f"{way}, GFLOP/s": turns * work / taken / 1e9 for way, taken in spent.items()}
    row: Row = {"shape": name, "clients": clients, "product": product, **rates}
    slow = spent.pop("products")
    return row, {
        f"{name}, {clients}, {product}: {way}": Ratio(slow / taken) for way, taken in spent.items()
    }


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    add = options.add_argument
    add("--shape", nargs="+", choices=SHAPES, default=list(SHAPES), help="(default: all)")
    add("--clients", nargs="+", type=int, default=[1, 4], help="(default: 1 4)")
    add("--repeats", type=int, default=5, help="(default: %(default)s)")
    add("--operations", type=float, default=2e9, help="of a repeat (default: %(default)g)")
    add("--no-lax", action="store_true", help="leave out lax, which crawls on CPUs")
    args = options.parse_args()
    rows: list[Row] = []
    ratios: dict[str, Ratio] = {}
    for name, clients, ways in itertools.product(args.shape, args.clients, WAYS):
        row, compared = measured(name, clients, ways, args)
        rows.append(row)
        ratios |= compared
    publish("conv_ways", rows, ratios, args.json)


if __name__ == "__main__":
    main()
