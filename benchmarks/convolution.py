"""Local training of a CNN with this package's convolution against ``jax.lax``'s, in one run.

    python -m benchmarks.convolution

Forward, backward and SGD at batch 20, inside ``scan``: of one model, and of four stacked ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd import tree
from fedjax_kd.core import Batch, Key, Variables
from fedjax_kd.losses.objectives import gradient
from fedjax_kd.models import MODELS
from fedjax_kd.task import Task, from_nnx

BATCH, STACKED = 20, 4
CASES = {"cnn_emnist": (28, 28, 1), "cnn_mcmahan": (28, 28, 1), "cnn_small": (32, 32, 3)}


def with_lax(build: Callable[[nnx.Rngs], nnx.Module]) -> Callable[[nnx.Rngs], nnx.Module]:
    """The same module with XLA's convolution, which `from_nnx` would else replace."""

    def lax_convolution(*args: Any, **options: Any) -> jax.Array:
        return jax.lax.conv_general_dilated(*args, **options)

    def built(rngs: nnx.Rngs) -> nnx.Module:
        model = build(rngs)
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.Conv):
                module.conv_general_dilated = lax_convolution
        return model

    return built


def rate(task: Task, shape: tuple[int, ...], steps: int, *, stacked: bool) -> float:
    """Examples a second of ``steps`` SGD steps; the best of three, compilation left out."""

    def fit(model: Variables, x: jax.Array, key: Key) -> Variables:
        def step(model: Variables, i: jax.Array) -> tuple[Variables, None]:
            batch = Batch(x[i], jnp.zeros(BATCH, jnp.int32), jnp.ones(BATCH))
            _, stats, grads = gradient(task.loss, model, batch, jax.random.fold_in(key, i))
            return Variables(tree.add_scaled(model.params, -0.01, grads), stats), None

        return jax.lax.scan(step, model, jnp.arange(steps))[0]

    clients = STACKED if stacked else 1
    keys = jax.random.split(jax.random.key(0), clients)
    x = jnp.ones((clients, steps, BATCH, *shape))
    program = jax.vmap(fit) if stacked else lambda model, x, key: fit(model, x[0], key[0])
    model = jax.vmap(task.init)(keys) if stacked else task.init(keys[0])
    run = jax.jit(program).lower(model, x, keys).compile()
    jax.block_until_ready(run(model, x, keys))
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        jax.block_until_ready(run(model, x, keys))
        spent.append(time.perf_counter() - began)
    return clients * steps * BATCH / min(spent)


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument(
        "--model", nargs="+", choices=CASES, default=list(CASES), help="(default: all)"
    )
    args = options.parse_args()
    rows: list[Row] = []
    ratios = {}
    for name in args.model:
        shape = CASES[name]
        build = MODELS[name](shape, 10)
        for stacked in (False, True):
            ours = rate(from_nnx(build), shape, 8, stacked=stacked)
            lax = rate(from_nnx(with_lax(build)), shape, 2, stacked=stacked)
            clients = STACKED if stacked else 1
            rows.append(
                {
                    "model": name,
                    "clients": clients,
                    "ours, examples/s": ours,
                    "lax, examples/s": lax,
                    "ratio": ours / lax,
                }
            )
            ratios[f"{name}, clients at once {clients}: against lax"] = Ratio(ours / lax)
    publish("convolution", rows, ratios, args.json)


if __name__ == "__main__":
    main()
