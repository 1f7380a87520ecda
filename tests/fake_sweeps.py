"""Folders of sweeps and runs made from a formula, for tests of reports."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_kd.report import table_files
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import provenance
from fedjax_kd.runs.config import Config, TrainingConfig, to_json
from fedjax_kd.runs.data_config import DataConfig

HALF_DECADES = (0.001, 0.01, 0.1, 1.0, 10.0)
# Of each method: the best client and server rate (log10), and how fast it gets worse beside it.
SHAPES = {
    "fedavg": (-1.0, 0.0, 0.16),
    "fedavgm": (-1.2, -0.3, 0.14),
    "fedadagrad": (-0.6, -1.0, 0.05),
    "fedadam": (-1.1, -2.0, 0.04),
}


def parameters(methods: Sequence[str], rates: Sequence[float]) -> list[dict[str, Any]]:
    """A grid of rates for each method, and tau for the adaptive ones."""
    return [
        {"method": m, "client_lr": c, "server_lr": s} | ({"tau": tau} if tau else {})
        for m in methods
        for c, s in itertools.product(rates, rates)
        for tau in ((1e-3, 1e-1) if m in ("fedadagrad", "fedadam") else (None,))
    ]


def final(setting: dict[str, Any], seed: int) -> float:
    """The accuracy that a setting comes to; NaN where it diverges."""
    best_client, best_server, slope = SHAPES[setting.get("method", "fedavg")]
    client = math.log10(setting.get("client_lr", 0.1)) - best_client
    server = math.log10(setting.get("server_lr", 1.0)) - best_server
    if client + server > 2.4:
        return math.nan
    tilt = 0.03 * abs(math.log10(setting.get("tau") or 1e-3) + 3)
    top = 0.93 - slope * (client**2 + server**2 + 0.6 * client * server) - tilt
    return max(top, 0.1) + 0.006 * math.sin(7 * seed + 3 * client)


def history(setting: dict[str, Any], seed: int, rounds: int, every: int) -> list[dict[str, float]]:
    """Rows of metrics.csv, of which each ``every``-th is evaluated."""
    top, rows = final(setting, seed), []
    draws = np.random.default_rng(seed).normal(size=rounds + 1)
    for n in range(rounds + 1):
        diverged = math.isnan(top) and n > rounds // 4
        rising = 1 - math.exp(-5 * n / rounds)
        at = 0.1 + ((0.5 if math.isnan(top) else top) - 0.1) * rising + 0.004 * draws[n] * rising
        row: dict[str, float] = {"round": n}
        if n:
            row["train_loss"] = math.nan if diverged else -math.log(at)
        if n % every == 0:
            row["test_accuracy"] = math.nan if diverged else at
            row["test_loss"] = math.nan if diverged else -math.log(at) * 1.1
        rows.append(row)
    return rows


def write(
    folder: Path,
    settings: Sequence[dict[str, Any]],
    *,
    seeds: int = 3,
    rounds: int = 50,
    halving: bool = False,
    target: float | None = 0.8,
    metric: str = "test_accuracy",
) -> Path:
    """A sweep folder; with ``halving``, configurations that end below 0.5 are stopped half-way."""
    folder.mkdir(parents=True)
    names = list(dict.fromkeys(name for setting in settings for name in setting))
    points, results, plan = [], [], []
    for number, (config, seed) in enumerate(itertools.product(range(len(settings)), range(seeds))):
        setting = settings[config]
        rows, top = history(setting, seed, rounds, 5), final(setting, seed)
        status = "diverged" if math.isnan(top) else "finished"
        if halving and top < 0.5:
            rows, status = rows[: rounds // 2 + 1], "stopped"
        about = {"point": number, "config": config, "seed": seed}
        plan.append(about | {"parameters": setting})
        score = None if math.isnan(top) else [r for r in rows if metric in r][-1][metric]
        row = {"status": status, "finished_rounds": len(rows) - 1, "score": score}
        points.append(about | setting | row)
        results += [about | setting | row for row in rows]
    methods = {s["method"] for s in settings if "method" in s} or {"fedavg"}
    run_folder.write_json(
        folder / "sweep.json",
        {
            "format": 1,
            "kind": "sweep",
            "parameters": names,
            "metric": metric,
            "goal": "max" if "accuracy" in metric else "min",
            "last": 1,
            "num_rounds": rounds,
            "seeds": list(range(seeds)),
            "points": plan,
            "halving": {"eta": 2} if halving else None,
            "target": target,
            "base": {method: to_json(Config(method)) for method in sorted(methods)},
            "environment": provenance.environment(),
        },
    )
    columns = ["point", "config", "seed", *names]
    table_files.write_table(
        folder / "points.csv", points, [*columns, "status", "finished_rounds", "score"]
    )
    for kind in ("csv", "parquet"):
        table_files.write_table(folder / f"results.{kind}", results)
    return folder


def write_run(folder: Path, config: Config, *, rounds: int = 20) -> Path:
    """The folder of a run that ended as `final` says."""
    folder.mkdir(parents=True)
    rows = history({"method": config.method}, config.training.seed, rounds, 5)
    run_folder.write_config(folder, config)
    run_folder.append_rows(folder, ("round", "train_loss", "test_accuracy", "test_loss"), rows)
    last = {f"final_{name}": rows[-1][name] for name in ("test_accuracy", "test_loss")}
    counts = {"bytes_down": 2_000_000, "bytes_up": 1_000_000, "rejected": 0}
    seconds = {"compile": 1.0, "train": 2.0, "evaluate": 0.5}
    about = {"status": "finished", "finished_rounds": rounds, "num_rounds": rounds}
    run_folder.write_json(folder / "summary.json", about | last | counts | {"seconds": seconds})
    return folder


def with_seed(method: str, seed: int, partition: str = "dirichlet") -> Config:
    """The configuration of a run whose split goes with its seed."""
    data, training = DataConfig(partition=partition, seed=seed), TrainingConfig(seed=seed)
    return Config(method, data=data, training=training)
