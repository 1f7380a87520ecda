"""``fedjax-kd evaluate``: every client's results under the models of a run."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.commands._options import CHANGED_DATA
from fedjax_kd.commands._parser import Section, flag, folders, parse
from fedjax_kd.engine.evaluation import Evaluation, make_evaluation
from fedjax_kd.engine.membership import membership_inference
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.errors import InputError, collected_warnings
from fedjax_kd.metrics import Tally, traits_by_client
from fedjax_kd.report import tables
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import provenance
from fedjax_kd.runs.data_config import federation_of, source_of
from fedjax_kd.runs.fingerprint import fingerprint
from fedjax_kd.runs.saved import load_run
from fedjax_kd.train import evaluation_row

HELP = """Evaluates the newest or best checkpoint of a run on all test rows, and client by client.

Writes clients.csv into the run folder: a row a client, with its examples, loss and metrics under
the global model and, if the method has such, under its own, with what the client found out about
itself (its cluster, its share of each model, ...); of a run with --finetune also after steps of its
own.

A run that still goes on may be evaluated. Data that have changed since are refused.

Examples:
  fedjax-kd evaluate runs/20260101-120000-fedavg-digits
  fedjax-kd evaluate runs/20260101-120000-fedavg-digits --best
  fedjax-kd evaluate runs/20260101-120000-fedavg-digits --membership"""

_WHICH = Section(
    "which",
    "Which checkpoint",
    [
        flag(
            "best",
            type=bool,
            default=False,
            help="the best evaluation's, of a run with --keep-best; writes clients-best.csv",
        ),
        flag(
            "membership",
            type=bool,
            default=False,
            help="also attack the global model: tell training rows from test rows by their losses",
        ),
        CHANGED_DATA,
    ],
)


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    (parent,), rest = folders(args, "fedjax-kd evaluate", HELP, most=1)
    chosen = parse("fedjax-kd evaluate RUN", HELP, [_WHICH], rest)["which"]
    best = chosen["best"]
    for folder in run_folder.members(parent):
        config = run_folder.read_config(folder)
        _, federation = federation_of(config.data)
        record = run_folder.record_of(folder)
        if not chosen["changed_data"]:
            earlier, found = record.get("fingerprints", ()), fingerprint(federation)
            provenance.check_data(folder, earlier, found, source_of(config.data))
        provenance.warn_of_versions(folder, record)
        with collected_warnings():  # the run was warned of them
            _, simulation, state, finished = load_run(folder, best=best, federation=federation)
        table = folder / ("clients-best.csv" if best else "clients.csv")
        seen = make_evaluation(simulation, state)(state)
        write_clients(table, simulation, seen)
        tables.show(
            tables.pairs(evaluation_row(seen, simulation)),
            f"{folder} after {finished} rounds",
        )
        if chosen["membership"]:
            attacked = membership_inference(simulation, state, finished)
            tables.show(tables.pairs(attacked._asdict()), "Membership inference by loss")
        print(table)
    return 0


def write_clients(path: Path, simulation: Simulation, seen: Evaluation) -> None:
    """One row a client; cells are empty where a client has no test examples.

    Clients have numbers and, where the data set names them, its ids.

    Raises:
      ValueError: if no client has any, as where clients are streamed.
    """
    own = simulation.federation.client_test
    if own is None or seen.clients is None:
        raise InputError(
            "The clients of this run are streamed from a store, and have no test examples of their "
            "own: the test set's results are in metrics.csv."
        )
    ids = simulation.federation.client_ids
    columns: dict[str, NDArray] = {
        "client": np.arange(simulation.federation.num_clients),
        **({} if ids is None else {"id": np.array(ids)}),
        "train_examples": simulation.federation.sizes,
        "test_examples": np.asarray(own.sizes),
        **_results("", simulation, seen.clients),
        **({} if seen.personal is None else _results("personal_", simulation, seen.personal)),
        **traits_by_client(seen.traits),
        **({} if seen.finetuned is None else _results("finetuned_", simulation, seen.finetuned)),
    }
    text = io.StringIO(newline="")
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(columns)
    for row in zip(*(values.tolist() for values in columns.values()), strict=True):
        lines.writerow("" if isinstance(v, float) and np.isnan(v) else v for v in row)
    run_folder.replace_shared(path, text.getvalue().encode())


def _results(prefix: str, simulation: Simulation, sums: Tally) -> dict[str, NDArray]:
    """Each client's value of every metric."""
    measures, found = simulation.measures(simulation.groups[0]), jax.device_get(sums)
    return {f"{prefix}{name}": metric.value(found[name]) for name, metric in measures.items()}
