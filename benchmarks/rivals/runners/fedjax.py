"""FedJAX: `fedjax.algorithms.fed_avg` with a Haiku model, as in its examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fedjax
import haiku as hk
import jax

from benchmarks.rivals.runners import job as jobs

Forward = Callable[..., Any]


def mlp(batch: dict[str, Any], num_classes: int, is_train: bool) -> Any:
    """64 hidden units; nothing differs in training."""
    del is_train
    x = jax.nn.relu(hk.Linear(64, name="hidden_0")(hk.Flatten()(batch["x"])))
    return hk.Linear(num_classes, name="head")(x)


def cnn_cifar(batch: dict[str, Any], num_classes: int, is_train: bool) -> Any:
    """The network of pfl-research's CIFAR-10 benchmark."""

    def drop(x: Any, rate: float) -> Any:
        return hk.dropout(hk.next_rng_key(), rate, x) if is_train else x

    x = jax.nn.relu(hk.Conv2D(32, 3, padding="VALID", name="convs_0")(batch["x"]))
    x = jax.nn.relu(hk.Conv2D(64, 3, padding="VALID", name="convs_1")(x))
    x = hk.MaxPool((1, 2, 2, 1), (1, 2, 2, 1), padding="VALID")(x)
    x = hk.Flatten()(drop(x, 0.25))
    x = drop(jax.nn.relu(hk.Linear(128, name="dense_0")(x)), 0.5)
    return hk.Linear(num_classes, name="head")(x)


NETWORKS: dict[str, Forward] = {"mlp": mlp, "cnn_cifar": cnn_cifar}


def make_model(job: jobs.Job) -> fedjax.Model:
    """The workload's network as a FedJAX model."""
    network, classes = NETWORKS[job.settings["model"]], job.settings["num_classes"]
    x, y = job.client(0)
    return fedjax.create_model_from_haiku(
        transformed_forward_pass=hk.transform(
            lambda batch, is_train: network(batch, classes, is_train)
        ),
        sample_batch={"x": x[:1], "y": y[:1]},
        train_loss=lambda batch, logits: fedjax.metrics.unreduced_cross_entropy_loss(
            batch["y"], logits
        ),
        eval_metrics={
            "loss": fedjax.metrics.CrossEntropyLoss(),
            "accuracy": fedjax.metrics.Accuracy(),
        },
        train_kwargs={"is_train": True},
        eval_kwargs={"is_train": False},
    )


def make_algorithm(job: jobs.Job, model: fedjax.Model) -> fedjax.FederatedAlgorithm:
    """FedAvg; it weights clients by their examples, of which all have the same number."""
    settings = job.settings
    return fedjax.algorithms.fed_avg.federated_averaging(
        fedjax.model_grad(model),
        fedjax.optimizers.sgd(settings["client_lr"]),
        fedjax.optimizers.sgd(1.0),
        fedjax.ShuffleRepeatBatchHParams(
            batch_size=settings["batch_size"], num_epochs=settings["epochs"]
        ),
    )


def parameters(job: jobs.Job) -> dict[str, dict[str, Any]]:
    """The initial weights under Haiku's names."""
    found: dict[str, dict[str, Any]] = {}
    for name, weight in job.weights.items():
        layer, kind = name.rsplit(".", 1)
        module = found.setdefault(layer.replace(".", "_"), {})
        module["w" if kind == "kernel" else "b"] = jax.numpy.asarray(weight)
    return found


def main() -> None:
    """Runs the workload."""
    job = jobs.from_arguments()
    settings, cohorts = job.settings, job.arrays["cohorts"]
    fedjax.set_for_each_client_backend(settings.get("backend", "jit"))
    model = make_model(job)
    algorithm = make_algorithm(job, model)
    held = [
        fedjax.ClientDataset(dict(zip("xy", job.client(c), strict=True)))
        for c in range(len(job.arrays["clients"]))
    ]
    test = fedjax.ClientDataset(dict(zip("xy", job.test(), strict=True)))
    batches = list(test.padded_batch(batch_size=settings["eval_batch"]))
    key = jax.random.PRNGKey(settings["seed"])
    state = algorithm.init(parameters(job))

    def one_round(number: int) -> None:
        nonlocal state
        keys = jax.random.split(jax.random.fold_in(key, number), len(cohorts[number]))
        members = [(c, held[c], k) for c, k in zip(cohorts[number].tolist(), keys, strict=True)]
        state, _ = algorithm.apply(state, members)
        jax.block_until_ready(state.params)

    def evaluate() -> jobs.Evaluation:
        seen = fedjax.evaluate_model(model, state.params, batches)
        return float(seen["loss"]), float(seen["accuracy"])

    measured = jobs.loop(job, one_round, evaluate)
    jobs.report(
        measured,
        parameters=sum(leaf.size for leaf in jax.tree_util.tree_leaves(state.params)),
        device=jax.devices()[0].device_kind,
        packages=("fedjax", "jax", "dm-haiku", "numpy"),
    )


if __name__ == "__main__":
    main()
