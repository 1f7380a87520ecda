"""What this machine can do at most: matrix products and copies, each at several sizes.

    python -m benchmarks.machine

Products are ``jnp.matmul`` of float32 at full precision, copies are ``-x``, both repeated inside
one compiled loop, so that neither dispatch nor allocation is measured. A copy of n bytes counts as
2n: read and written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from benchmarks.reporting import Row, parser, publish

Shape = tuple[int, int, int]
"""Rows, contracted axis and columns of a matrix product."""

SQUARES: tuple[Shape, ...] = ((512,) * 3, (1024,) * 3, (2048,) * 3)
SQUARES_GPU: tuple[Shape, ...] = (*SQUARES, (4096,) * 3, (8192,) * 3)
COPIES = (1 << 20, 4 << 20, 32 << 20, 256 << 20)  # bytes


def best(function: Callable[[], Any], repeats: int = 3) -> float:
    """The fewest seconds of a call, complete on the device; the first call is not counted."""
    jax.block_until_ready(function())
    spent = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(function())
        spent.append(time.perf_counter() - began)
    return min(spent)


def product_rates(shapes: Sequence[Shape], seconds: float = 0.1) -> dict[Shape, float]:
    """Operations a second of a float32 product of each shape, a multiplication and sum being two.

    Args:
      shapes: matrix products to run.
      seconds: roughly how long each repeat may take.
    """
    return {shape: _product_rate(shape, seconds) for shape in dict.fromkeys(shapes)}


def copy_rates(sizes: Sequence[int], seconds: float = 0.1) -> dict[int, float]:
    """Bytes a second read and written by a copy of each size (bytes)."""
    return {size: _copy_rate(size, seconds) for size in sizes}


def square_shapes() -> tuple[Shape, ...]:
    """Sizes at which a square product is as fast as it gets, for this kind of device."""
    return SQUARES if jax.default_backend() == "cpu" else SQUARES_GPU


def bandwidth(rates: Mapping[int, float], size: float) -> float:
    """The rate of the smallest copy that is at least ``size`` bytes, else that of the largest.

    Example:
      >>> bandwidth({1000: 9.0, 2000: 5.0}, 1500), bandwidth({1000: 9.0, 2000: 5.0}, 1e6)
      (5.0, 5.0)
    """
    return rates[min((s for s in rates if s >= size), default=max(rates))]


@jax.jit
def _multiply(
    a: Float[Array, "m k"], b: Float[Array, "k n"], times: Int[Array, ""]
) -> Float[Array, "m n"]:
    """``a @ b`` again and again, each time with an ``a`` that depends on the last result."""

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        a, c = carry
        c = jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
        return a.at[0, 0].set(c[0, 0]), c

    start = (a, jnp.zeros((a.shape[0], b.shape[1]), a.dtype))
    return lax.fori_loop(0, times, body, start)[1]


@jax.jit
def _negate(x: Float[Array, " n"], times: Int[Array, ""]) -> Float[Array, " n"]:
    return lax.fori_loop(0, times, lambda i, x: -x, x)


def _product_rate(shape: Shape, seconds: float) -> float:
    m, k, n = shape
    # Columns that sum to one: the carried element stays finite however often it is fed back.
    a, b = jnp.ones((m, k)), jnp.full((k, n), 1.0 / k)
    return 2 * m * k * n / _seconds_each(partial(_multiply, a, b), seconds)


def _copy_rate(size: int, seconds: float) -> float:
    return 2 * size / _seconds_each(partial(_negate, jnp.ones(size // 4)), seconds)


def _seconds_each(repeat: Callable[[Array], Any], seconds: float) -> float:
    """Seconds of one iteration of a loop that takes its own number of iterations."""
    few = jnp.int32(2)
    once = best(lambda: repeat(few), repeats=1) / 2
    times = max(2, min(int(seconds / once), 1_000_000))
    return best(lambda: repeat(jnp.int32(times))) / times


def rows(products: Mapping[Shape, float], copies: Mapping[int, float]) -> list[Row]:
    """The table of measured ceilings."""
    made: list[Row] = [
        {"what": "product", "size": "x".join(map(str, shape)), "GFLOP/s": rate / 1e9}
        for shape, rate in products.items()
    ]
    return made + [
        {"what": "copy", "size": f"{size >> 20} MiB", "GB/s": rate / 1e9}
        for size, rate in copies.items()
    ]


def main() -> None:
    """Prints both ceilings."""
    options = parser(__doc__)
    options.add_argument(
        "--seconds", type=float, default=0.1, help="length of each repeat (default: %(default)s)"
    )
    args = options.parse_args()
    products = product_rates(square_shapes(), args.seconds)
    publish("machine", rows(products, copy_rates(COPIES, args.seconds)), {}, args.json)


if __name__ == "__main__":
    main()
