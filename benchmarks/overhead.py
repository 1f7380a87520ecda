"""The engine against a loop written by hand, on the same local steps.

    python -m benchmarks.overhead

By hand: a ``scan`` over rounds and chunks, ``vmap`` over the clients of a chunk, a ``fori_loop``
over steps; batches are gathered by row numbers made beforehand, SGD is one line, the average is a
sum. No shuffling on the device, no reducers, no groups, no check for values that are not finite, no
report. The two run by turns, and the fastest round of each counts. The engine's time is the
wall-clock time between two blocks of rounds, the host's part included, evaluation left out.

The last line of each case compares the engine at the width that it chooses with the loop at its
best width.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from benchmarks.cases import CASES, Case, make_algorithm, make_federation, make_task, start
from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd import Batch, Federation, Task, Variables, tree
from fedjax_kd.core import PyTree

GOAL = 1 / 1.05
SETTINGS = {"digits_mlp": (100, (1, 25, 50, 100)), "cnn_emnist": (10, (1,))}
"""Clients in a round, and widths to compare at; each must divide the cohort."""


class Pair(NamedTuple):
    """Seconds of a round, of the engine and by hand."""

    engine: float
    hand: float


class Examples(NamedTuple):
    """What the loop by hand trains on."""

    x: Array  # [M, ...]
    y: Array  # [M]
    rows: Int[Array, "R K S B"]  # of every batch of every round


def train_client(
    model: Variables, rows: Array, key: Array, *, task: Task, case: Case, examples: Examples
) -> tuple[Variables, Array]:
    """What SGD on the batches ``rows`` ``[S, B]`` adds to a model, and the mean loss."""

    def step(i: Array, carry: tuple[Variables, Array]) -> tuple[Variables, Array]:
        fitted, total = carry
        batch = Batch(examples.x[rows[i]], examples.y[rows[i]], jnp.ones(case.batch))

        def loss_of(params: PyTree) -> tuple[Array, PyTree]:
            return task.loss(Variables(params, fitted.stats), batch, jax.random.fold_in(key, i))

        (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(fitted.params)
        params = jax.tree.map(lambda p, g: p - case.lr * g, fitted.params, grads)
        return Variables(params, stats), total + loss

    fitted, loss = jax.lax.fori_loop(0, case.steps, step, (model, jnp.zeros(())))
    return tree.sub(fitted, model), loss / case.steps


def by_hand(
    task: Task, case: Case, width: int
) -> Callable[[Variables, Examples, Array], tuple[Variables, Array]]:
    """FedAvg over the rounds that ``examples.rows`` holds, as one would write it for one task.

    Args:
      task: the model and its loss.
      case: batch, steps and learning rate.
      width: clients at once; divides the cohort.

    Returns:
      ``(model, examples, keys [R, K]) -> (model, loss of each round [R])``.
    """

    def one_round(
        examples: Examples, model: Variables, now: tuple[Array, Array]
    ) -> tuple[Variables, Array]:
        train = partial(train_client, model, task=task, case=case, examples=examples)
        cohort = len(now[1])

        def chunk(total: Variables, part: tuple[Array, Array]) -> tuple[Variables, Array]:
            if width == 1:
                delta, loss = train(part[0][0], part[1][0])
                return tree.add(total, delta), loss
            deltas, losses = jax.vmap(train)(*part)
            return tree.add(total, jax.tree.map(lambda d: d.sum(0), deltas)), losses.mean()

        chunks = jax.tree.map(lambda a: a.reshape(cohort // width, width, *a.shape[1:]), now)
        total, losses = jax.lax.scan(chunk, tree.zeros_like(model), chunks)
        return tree.add_scaled(model, 1 / cohort, total), losses.mean()

    return lambda model, examples, keys: jax.lax.scan(
        partial(one_round, examples), model, (examples.rows, keys)
    )


def make_examples(case: Case, federation: Federation, cohort: int) -> Examples:
    """Row numbers of every batch of one dispatch: a permutation of each client's own rows."""
    rng = np.random.default_rng(1)
    shape = (cohort, case.steps, case.batch)
    drawn = [
        np.stack([rng.permutation(part) for part in federation.parts[:cohort]]).reshape(shape)
        for _ in range(case.rounds)
    ]
    pool = federation.train
    return Examples(pool.x, pool.y, jnp.asarray(np.stack(drawn), jnp.int32))


def hand_seconds(case: Case, federation: Federation, cohort: int, width: int) -> Iterator[float]:
    """Seconds of a round by hand, again and again; compiled before the first."""
    task = make_task(case, federation)
    examples = make_examples(case, federation, cohort)
    keys = jax.random.split(jax.random.key(0), (case.rounds, cohort))
    model = task.init(jax.random.key(1))
    program = jax.jit(by_hand(task, case, width), donate_argnums=0)
    run = program.lower(model, examples, keys).compile()
    while True:
        began = time.perf_counter()
        model, _ = jax.block_until_ready(run(model, examples, keys))
        yield (time.perf_counter() - began) / case.rounds


def engine_seconds(
    case: Case, federation: Federation, cohort: int, chunk: int | None
) -> Iterator[float]:
    """Seconds of a round of the engine, again and again."""
    algorithm = make_algorithm(case, federation)
    return start(algorithm, federation, rounds=case.rounds, cohort_size=cohort, chunk=chunk).seconds


def by_turns(engine: Iterator[float], hand: Iterator[float], seconds: float, least: int) -> Pair:
    """The fastest round of each, the two measured in alternation."""
    end = time.perf_counter() + seconds
    pairs: list[Pair] = []
    while len(pairs) < least or time.perf_counter() < end:
        pairs.append(Pair(next(engine), next(hand)))
    return Pair(min(p.engine for p in pairs), min(p.hand for p in pairs))


def look_at(name: str, args: argparse.Namespace) -> tuple[list[Row], dict[str, Ratio]]:
    """One case at every width, and at the engine's own."""
    case = CASES[name]
    cohort, widths = args.cohort or SETTINGS[name][0], args.chunk or SETTINGS[name][1]
    federation = make_federation(case, cohort)

    def pair(chunk: int | None, width: int) -> Pair:
        engine = engine_seconds(case, federation, cohort, chunk)
        hand = hand_seconds(case, federation, cohort, width)
        return by_turns(engine, hand, args.seconds, args.least)

    pairs = {width: pair(width, width) for width in widths}
    best = min(pairs, key=lambda width: pairs[width].hand)
    chosen = pair(None, best)
    named = {f"chunk {width}": found for width, found in pairs.items()}
    named[f"engine's choice, by hand chunk {best}"] = chosen
    rows: list[Row] = [
        {
            "model": name,
            "cohort": cohort,
            "way": way,
            "engine ms/round": 1e3 * found.engine,
            "by hand ms/round": 1e3 * found.hand,
            "engine / by hand": found.engine / found.hand,
        }
        for way, found in named.items()
    ]
    both = pairs[best].hand / pairs[best].engine
    return rows, {
        f"{name}: by hand / engine, both at the loop's best chunk": Ratio(both, GOAL),
        f"{name}: by hand / engine at its own choice": Ratio(chosen.hand / chosen.engine, GOAL),
    }


def make_options() -> argparse.ArgumentParser:
    """The command line's options."""
    options = parser(__doc__)
    add = options.add_argument
    add("--model", nargs="+", choices=SETTINGS, default=list(SETTINGS), help="(default: all)")
    add("--cohort", type=int, help="clients in a round (default: the case's own)")
    add("--chunk", nargs="+", type=int, help="widths, each divides the cohort")
    add("--seconds", type=float, default=15, help="spent on each pair (default: %(default)s)")
    add("--least", type=int, default=3, help="turns at least (default: %(default)s)")
    return options


def main() -> None:
    """Prints a line for each case and width."""
    args = make_options().parse_args()
    seen = [look_at(name, args) for name in args.model]
    rows = [row for found, _ in seen for row in found]
    publish("overhead", rows, {k: v for _, found in seen for k, v in found.items()}, args.json)


if __name__ == "__main__":
    main()
