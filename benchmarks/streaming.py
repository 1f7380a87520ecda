"""Clients streamed from disk against clients in memory, and what a large population costs.

    python -m benchmarks.streaming --clients 10000 100000 1000000

Synthetic clients of about 10 pictures of 8 x 8, FedAvg of an MLP 64-200-200-10, cohorts of 100. The
same store is trained from twice: streamed, and, up to ``--most-in-memory`` clients, loaded whole;
each training in a process of its own. Stores go to ``--folder`` and stay there; a million clients
take 0.7 GB. What 10,000,000 clients would cost is read off the power law through all sizes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.reporting import Ratio, Row, parser, publish
from fedjax_kd import MODELS, Federation, fedavg, federate, from_arrays, from_nnx, local_training
from fedjax_kd.data import (
    ClientStore,
    is_store,
    open_store,
    synthetic_clients,
    synthetic_test,
    write_store,
)
from fedjax_kd.data.federation import streamed
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.train import blocks

COHORT, BLOCK, FAR = 100, 25, 10_000_000


class Measured(NamedTuple):
    """One training: time, and the memory that this process needs for itself."""

    seconds: float  # of a round, the median over blocks
    before: float  # MiB when it began
    after: float  # MiB when it ended


def own_memory() -> float:
    """MiB of this process that no file stands behind; NaN where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return int(lines[0].split()[1]) / 1024 if lines else float("nan")


def store_of(clients: int, folder: Path) -> tuple[ClientStore, float]:
    """A store of that many clients, and the seconds it took to write, or NaN if it was there."""
    place = folder / f"clients-{clients}"
    if is_store(place):
        return open_store(place), float("nan")
    began = time.perf_counter()
    people, test = synthetic_clients(clients), synthetic_test(1000)
    store = write_store(place, people, name="synthetic", num_classes=10, test=test)
    return store, time.perf_counter() - began


def in_memory(store: ClientStore) -> Federation:
    """The same clients, all of them on the device."""
    assert store.test is not None
    data = from_arrays(np.array(store.x), np.array(store.y), *map(np.array, store.test))
    ends = np.array(store.offsets)
    parts = [np.arange(a, b) for a, b in pairwise(ends)]
    return federate(data, lambda _: parts)


def alone(store: ClientStore, how: Callable[[ClientStore], Federation], rounds: int) -> Measured:
    """`measured`, in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measured, store.folder, how, rounds).result()


def measured(folder: Path, how: Callable[[ClientStore], Federation], rounds: int) -> Measured:
    """Trains ``rounds`` rounds after two blocks, which are not counted."""
    federation = how(open_store(folder))
    task = from_nnx(MODELS["mlp"](federation.input_shape, 10), prepare=federation.prepare)
    simulation = simulate(
        fedavg(task, local_training(client_lr=0.1, batch_size=10)),
        federation,
        num_rounds=rounds + 2 * BLOCK,
        cohort_size=COHORT,
        eval_every=rounds + 2 * BLOCK,
        rounds_per_dispatch=BLOCK,
        chunk=16,
    )
    spent, memory, last = [], [], 0.0
    for progress in blocks(simulation, initial_state(simulation)):
        spent.append((progress.seconds.train - last) / BLOCK)
        memory.append(own_memory())
        last = progress.seconds.train
    return Measured(float(np.median(spent[3:])), memory[2], memory[-1])


def rows_of(clients: int, folder: Path, options: argparse.Namespace) -> Row:
    """What a population of that size costs, one way and the other."""
    store, writing = store_of(clients, folder)
    stream = alone(store, streamed, options.rounds)
    row: dict[str, str | int | float] = {
        "clients": clients,
        "rows": store.num_rows,
        "writing, s": writing,
        "streamed, ms/round": 1e3 * stream.seconds,
        "MiB at the start": stream.before,
        "MiB at the end": stream.after,
    }
    if clients <= options.most_in_memory:
        resident = alone(store, in_memory, options.rounds)
        row |= {
            "in memory, ms/round": 1e3 * resident.seconds,
            "in memory / streamed": resident.seconds / stream.seconds,
            "in memory, MiB": resident.after,
        }
    return row


def main() -> None:
    """Prints the table."""
    wanted = parser(__doc__)
    wanted.add_argument("--clients", type=int, nargs="+", default=[10_000, 100_000])
    wanted.add_argument("--rounds", type=int, default=200, help="measured of each population")
    wanted.add_argument("--most-in-memory", type=int, default=100_000, metavar="CLIENTS")
    wanted.add_argument("--folder", type=Path, help="of the stores; a temporary one by default")
    options = wanted.parse_args()
    with tempfile.TemporaryDirectory() as passing:
        folder = options.folder or Path(passing)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [rows_of(clients, folder, options) for clients in sorted(options.clients)]
    if len(rows) > 1:
        rows.append(_extrapolated(rows))
    ratios = {
        f"throughput streamed / in memory, {row['clients']} clients": Ratio(
            float(row["in memory / streamed"])
        )
        for row in rows
        if "in memory / streamed" in row
    }
    publish("streaming", rows, ratios, options.json)


def _extrapolated(rows: Sequence[Row]) -> Row:
    """The power law through all rows, at ten million clients."""
    clients = np.log([float(row["clients"]) for row in rows])

    def far(name: str) -> float:
        slope, offset = np.polyfit(clients, np.log([float(row[name]) for row in rows]), 1)
        return float(np.exp(offset + slope * np.log(FAR)))

    names = ("rows", "streamed, ms/round", "MiB at the end")
    return {"clients": f"{FAR} (extrapolated)", **{name: far(name) for name in names}}


if __name__ == "__main__":
    main()
