"""Every kind of problem: the same numbers however it is cut, resumed runs, sweeps and reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import command

import fedjax_kd as fk
from fedjax_kd.data.federation import Federation
from fedjax_kd.metrics import METRICS
from fedjax_kd.report.load import read_studies
from fedjax_kd.runs import folder as run_folder


class Case(NamedTuple):
    """A small data set of a problem, and the words of the command line for it."""

    problem: str
    args: str
    headline: str
    model: tuple[str, dict[str, Any]] = ("mlp", {"hidden": (8,)})


LOSS = "fedjax_kd.losses:squared_error"
CASES = [
    Case("regression", "--dataset diabetes --model logistic", "mae", ("logistic", {})),
    Case("multilabel", "--dataset digits_bits --model mlp --hidden 8", "map"),
    Case(
        "segmentation",
        "--dataset digits_strokes --model fcn --widths 4 --groups 2",
        "dice",
        ("fcn", {"widths": (4,), "groups": 2}),
    ),
    Case("retrieval", "--problem retrieval --model mlp --hidden 8", "rank_1"),
    Case(
        "reconstruction",
        "--target input --model autoencoder --hidden 8 --bottleneck 4",
        "loss",
        ("autoencoder", {"hidden": (8,), "bottleneck": 4}),
    ),
    Case(
        "none",
        f"--dataset digits_unlabelled --model autoencoder --hidden 8 --bottleneck 4 --loss {LOSS}",
        "loss",
        ("autoencoder", {"hidden": (8,), "bottleneck": 4}),
    ),
]
ROUNDS = "--partition iid --num-clients 8 --cohort-size 4 --eval-every 2 --client-lr 0.05 --quiet"


def each_problem(default: str) -> pytest.MarkDecorator:
    """All of them, but one in `thorough` alone."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(c, id=c.problem, marks=[pytest.mark.thorough] * (c.problem != default))
            for c in CASES
        ],
    )


def federation_of(case: Case) -> Federation:
    words = case.args.split()
    given = dict(zip(words[::2], words[1::2], strict=True))
    dataset = fk.load(given.get("--dataset", "digits"))
    if "--problem" in given:
        dataset = fk.from_arrays(*dataset.train[:2], *dataset.test[:2], problem=given["--problem"])
    target = given.get("--target", "label")
    return fk.federate(dataset, fk.IidPartitioner(num_partitions=8), target=target)


def algorithm_of(case: Case, federation: Federation) -> fk.Algorithm:
    name, options = case.model
    build = fk.MODELS[name](federation.input_shape, federation.num_classes, **options)
    score = federation.problem.score or fk.losses.squared_error
    task = fk.from_nnx(
        build, prepare=federation.prepare, example_loss=score, example_x=federation.train.x[:1]
    )
    return fk.fedavg(task, fk.local_training(client_lr=0.05))


@each_problem(default="multilabel")
def test_numbers_do_not_depend_on_how_it_runs(case: Case) -> None:
    data = federation_of(case)
    how = {"num_rounds": 2, "cohort_size": 4, "eval_every": 2}
    algorithm = algorithm_of(case, data)
    plain = fk.train(algorithm, data, chunk=4, **how).history
    assert {f"judged_{case.headline}", f"client_{case.headline}_worst_decile"} <= plain[0].keys()
    others = [{"chunk": 1, "mesh": fk.make_mesh(2)}, {"rounds_per_dispatch": 4}]
    for options in others:
        for row, expected in zip(
            fk.train(algorithm, data, **how, **options).history, plain, strict=True
        ):
            shared = {k: v for k, v in expected.items() if k != "steps_computed"}
            assert {k: row[k] for k in shared} == pytest.approx(
                shared, rel=2e-3, abs=1e-5, nan_ok=True
            )


@each_problem(default="regression")
def test_a_run_is_resumed_swept_and_reported(case: Case, tmp_path: Path) -> None:
    words = [*case.args.split(), *ROUNDS.split()]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert command("run", "fedavg", *words, "--num-rounds", "4", "--out", str(whole)) == 0
    assert command("run", "fedavg", *words, "--num-rounds", "2", "--out", str(parts)) == 0
    assert command("resume", str(parts), "--num-rounds", "4", "--quiet") == 0
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in run_folder.read_rows(whole)]
    resumed = run_folder.read_rows(parts)
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in resumed] == rows

    rising = case.headline != "loss" and METRICS[case.headline].larger_is_better
    judged = [row[f"judged_{case.headline}"] for row in rows if "test_loss" in row]
    best = (max if rising else min)(judged)
    summary = run_folder.read_summary(whole)
    assert summary[f"best_test_{case.headline}"] == best
    assert summary["best_round"] == 2 * judged.index(best)

    swept = tmp_path / "sweep"
    grid = ["--grid", "client-lr=0.0001,0.05", "--num-rounds", "4", "--out", str(swept)]
    rest = [word for word in words if word not in ("--client-lr", "0.05")]
    assert command("sweep", "fedavg", *rest, *grid) == 0
    plan = json.loads((swept / "sweep.json").read_text())
    assert (plan["metric"], plan["goal"]) == (f"judged_{case.headline}", "max" if rising else "min")
    study, run = read_studies([swept, whole])
    assert (run.goal, run.metric) == (study.goal, f"test_{case.headline}")
    page = tmp_path / "page.html"
    assert command("report", str(swept), str(whole), "--out", str(page)) == 0
    assert case.headline.replace("_", " ") in page.read_text()


def test_methods_that_need_classes_say_so() -> None:
    data = federation_of(CASES[0])
    build = fk.MODELS["logistic"](data.input_shape, data.num_classes)
    task = fk.from_nnx(build, prepare=data.prepare, example_loss=data.example_loss)
    with pytest.raises(ValueError, match=r"FedNTD distils .* are values to predict"):
        fk.simulate(fk.fedntd(task, fk.local_training()), data, num_rounds=1, cohort_size=2)


def test_a_linear_model_learns_what_least_squares_know() -> None:
    """On standardised features; the federation comes near the solution in closed form."""
    dataset = fk.load("diabetes")
    data = fk.federate(dataset, fk.IidPartitioner(num_partitions=8))
    build = fk.MODELS["logistic"](data.input_shape, data.num_classes)
    task = fk.from_nnx(build, prepare=data.prepare, example_loss=data.example_loss)
    algorithm = fk.fedavg(task, fk.local_training(client_lr=0.02))
    how = {"num_rounds": 50, "cohort_size": 8, "eval_every": 50}
    row = fk.train(algorithm, data, **how).history[-1]
    x, test = (
        np.column_stack([np.asarray(data.prepare(jnp.asarray(part.x))), np.ones(part.num_rows)])
        for part in (dataset.train, dataset.test)
    )
    weights = np.linalg.lstsq(x, dataset.train.y[:, 0], rcond=None)[0]
    left = dataset.test.y[:, 0] - test @ weights
    around = dataset.test.y[:, 0] - dataset.test.y.mean()
    assert row["test_r2"] == pytest.approx(1 - (left**2).sum() / (around**2).sum(), abs=0.03)
    assert row["test_mae"] == pytest.approx(np.abs(left).mean(), abs=0.03)


def test_validation_rows_are_what_a_run_is_judged_by(tmp_path: Path) -> None:
    words = f"--num-rounds 2 --validation-fraction 0.2 {ROUNDS}".split()
    assert command("run", "fedavg", *words, "--out", str(tmp_path / "run")) == 0
    rows = [row for row in run_folder.read_rows(tmp_path / "run") if "test_loss" in row]
    assert all(row["judged_accuracy"] == row["validation_accuracy"] for row in rows)
    assert any(row["validation_accuracy"] != row["test_accuracy"] for row in rows)
    summary = run_folder.read_summary(tmp_path / "run")
    assert summary["judged_on"] == "validation"
    assert summary["best_validation_accuracy"] == max(r["validation_accuracy"] for r in rows)


def test_trees_of_arrays_go_through_a_round() -> None:
    digits = fk.load("digits")
    x = {"image": digits.train.x, "ink": digits.train.x.sum((1, 2, 3)).astype(np.float32)[:, None]}
    y = {"digit": digits.train.y, "odd": digits.train.y % 2}
    some = [jax.tree.map(lambda a, rows=rows: a[rows], (x, y)) for rows in np.s_[:200, 200:260]]
    data = fk.federate(fk.from_arrays(*some[0], *some[1]), fk.IidPartitioner(num_partitions=4))
    assert data.problem.name == "none"
    assert data.input_shape == {"image": (8, 8, 1), "ink": (1,)}
    values = {leaf.dtype for leaf in jax.tree.leaves((data.train.x, data.train.y))}
    assert values == {jnp.dtype(kind) for kind in ("uint8", "float32", "int32")}


def test_the_tasks_loss_is_asked_for_where_a_problem_has_none() -> None:
    data = fk.federate(fk.load("digits_unlabelled"), fk.IidPartitioner(num_partitions=4))
    assert data.train.y is data.train.x
    with pytest.raises(ValueError, match=r"has no loss of its own.*--loss"):
        _ = data.example_loss
