"""`fedjax_kd` as its users run it: a registered model, FedAvg, blocks of rounds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

import fedjax_kd as fk
from benchmarks.rivals.runners import job as jobs
from fedjax_kd.train import Progress

_OPTIONS: dict[str, dict[str, Any]] = {"mlp": {"hidden": (64,)}}


def given_weights(task: fk.Task, weights: dict[str, Any]) -> fk.Task:
    """The same task, starting from weights by name, such as ``convs.0.kernel``."""

    def named(path: jax.tree_util.KeyPath, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        return jnp.asarray(weights[name]).reshape(leaf.shape)

    types = jax.eval_shape(task.init, jax.random.key(0))
    start = types._replace(params=jax.tree_util.tree_map_with_path(named, types.params))
    return task._replace(init=lambda key: start)


def main() -> None:
    """Runs the workload."""
    job = jobs.from_arguments()
    settings, arrays = job.settings, job.arrays
    dataset = fk.from_arrays(*(arrays[n] for n in ("train_x", "train_y", "test_x", "test_y")))
    federation = fk.federate(dataset, lambda dataset: list(arrays["clients"]))
    options = _OPTIONS.get(settings["model"], {})
    build = fk.MODELS[settings["model"]](federation.input_shape, settings["num_classes"], **options)
    task = given_weights(fk.from_nnx(build, prepare=federation.prepare), job.weights)
    fit = fk.local_training(
        client_lr=settings["client_lr"],
        batch_size=settings["batch_size"],
        epochs=settings["epochs"],
    )
    simulation = fk.simulate(
        fk.fedavg(task, fit, weighting="uniform"),
        federation,
        num_rounds=settings["rounds"],
        cohort_size=arrays["cohorts"].shape[1],
        eval_every=settings["eval_every"],
        sampler=fk.cohort.fixed(arrays["cohorts"].tolist()),
        seed=settings["seed"],
    )
    state = fk.initial_state(simulation)
    measured = jobs.Measured(0.0, [], [], [])
    last = None
    for progress in fk.blocks(simulation, state):
        if last is None:
            setup = jobs.since_start(job) - progress.seconds.evaluate
            measured = measured._replace(setup=setup)
        add(measured, progress, last)
        last = progress
    jobs.report(
        measured,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.server.model.params)),
        device=jax.devices()[0].device_kind,
        packages=("fedjax-kd", "jax", "flax"),
    )


def add(measured: jobs.Measured, progress: Progress, last: Progress | None) -> None:
    """Adds what a block of rounds took and learned; its rounds share its time alike."""
    spent = progress.seconds
    before = type(spent)() if last is None else last.seconds
    rounds = progress.finished - (0 if last is None else last.finished)
    measured.rounds.extend([(spent.train - before.train) / max(rounds, 1)] * rounds)
    row = progress.rows[-1]
    if "test_loss" in row:
        measured.evaluations.append(spent.evaluate - before.evaluate)
        measured.curve.append((progress.finished, row["test_loss"], row["test_accuracy"]))


if __name__ == "__main__":
    main()
