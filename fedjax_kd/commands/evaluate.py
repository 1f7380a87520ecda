"""``fedjax-kd evaluate``: every client's results under the models of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from fedjax_kd import metrics
from fedjax_kd.commands._options import CHANGED_DATA
from fedjax_kd.commands._parser import Section, folders, parse
from fedjax_kd.engine.evaluation import Evaluation, make_evaluation
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.errors import InputError
from fedjax_kd.metrics import Tally
from fedjax_kd.report import tables
from fedjax_kd.runs import checkpoint, provenance
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.build import build
from fedjax_kd.runs.data_config import federation_of, source_of
from fedjax_kd.runs.fingerprint import fingerprint
from fedjax_kd.train import evaluation_row

HELP = """Evaluates the newest checkpoint of a run on the test set and on every client's test rows.

Writes clients.csv into the run folder: a row a client, with its examples, accuracy (if targets are
labels) and loss under the global model and, if the method has such, under its own.

A run that still goes on may be evaluated. Data that have changed since are refused.

Example:
  fedjax-kd evaluate runs/20260101-120000-fedavg-digits"""

_DATA = Section("data", "Data", [CHANGED_DATA])


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    (parent,), rest = folders(args, "fedjax-kd evaluate", HELP, most=1)
    chosen = parse("fedjax-kd evaluate RUN", HELP, [_DATA], rest)["data"]
    for folder in run_folder.members(parent):
        config = run_folder.read_config(folder)
        _, federation = federation_of(config.data)
        record = run_folder.record_of(folder)
        if not chosen["changed_data"]:
            earlier, found = record.get("fingerprints", ()), fingerprint(federation)
            provenance.check_data(folder, earlier, found, source_of(config.data))
        provenance.warn_of_versions(folder, record)
        simulation = build(config, federation)
        state, finished = checkpoint.restore(folder / "checkpoints", simulation)
        seen = make_evaluation(simulation, state)(state)
        write_clients(folder / "clients.csv", simulation, seen)
        tables.show(
            tables.pairs(evaluation_row(seen, simulation.judged_by)),
            f"{folder} after {finished} rounds",
        )
        print(folder / "clients.csv")
    return 0


def write_clients(path: Path, simulation: Simulation, seen: Evaluation) -> None:
    """One row a client; cells are empty where a client has no test examples.

    Raises:
      ValueError: if no client has any, as where clients are streamed.
    """
    own = simulation.federation.client_test
    if own is None or seen.clients is None:
        raise InputError(
            "The clients of this run are streamed from a store, and have no test examples of their "
            "own: the test set's results are in metrics.csv."
        )
    columns: dict[str, NDArray] = {
        "client": np.arange(simulation.federation.num_clients),
        "train_examples": simulation.federation.sizes,
        "test_examples": np.asarray(own.sizes),
        **_results("", seen.clients),
        **({} if seen.personal is None else _results("personal_", seen.personal)),
    }
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    for row in zip(*(values.tolist() for values in columns.values()), strict=True):
        lines.writerow("" if np.isnan(value) else value for value in row)
    run_folder.replace_shared(path, text.getvalue().encode())


def _results(prefix: str, sums: Tally) -> dict[str, NDArray]:
    sums = jax.device_get(sums)
    right = {} if sums.correct is None else {f"{prefix}accuracy": metrics.client_accuracy(sums)}
    return {**right, f"{prefix}loss": metrics.client_loss(sums)}
