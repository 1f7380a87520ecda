"""pfl-research: `FederatedAveraging` on its `SimulatedBackend`, as in its own benchmarks.

Several processes share the work if PFL_WORKER_RANK and PFL_WORKER_ADDRESSES are set; the first one
writes the report. pfl does not shuffle a client's examples; they lie in a random order already.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator

import torch
from torch.nn import functional

from benchmarks.rivals.runners import job as jobs
from benchmarks.rivals.runners import torch_models as models

if "PFL_WORKER_ADDRESSES" in os.environ:
    # NCCL, pfl's choice, refuses processes that share one GPU; pfl connects when it is imported.
    _connect = torch.distributed.init_process_group
    torch.distributed.init_process_group = lambda backend, **options: _connect("gloo", **options)

from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByUser
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Network(torch.nn.Module):
    """A network with the two methods that pfl asks for."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.network.train()
        return functional.cross_entropy(self.network(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Weighted]:
        self.network.eval()
        logits = self.network(x)
        loss = functional.cross_entropy(logits, y, reduction="sum").item()
        right = (logits.argmax(1) == y).sum().item()
        return {"loss": Weighted(loss, len(y)), "accuracy": Weighted(right, len(y))}


class Watch(TrainingProcessCallback):
    """Times every round, and evaluates with pfl's own callback when it is due."""

    def __init__(self, job: jobs.Job, evaluation: CentralEvaluationCallback) -> None:
        self.job, self.evaluation = job, evaluation
        self.measured = jobs.Measured(0.0, [], [], [])
        self.began = 0.0

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self.measured = self.measured._replace(setup=jobs.since_start(self.job))
        seen, spent = jobs.timed(lambda: self.evaluation.on_train_begin(model=model))
        self._note(0, seen, spent)
        self.began = jobs.since_start(self.job)
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        models.synchronise()
        self.measured.rounds.append(jobs.since_start(self.job) - self.began)
        finished = central_iteration + 1
        if self.job.evaluates(finished):
            evaluate = self.evaluation.after_central_iteration
            now = functools.partial(evaluate, aggregate_metrics, model, central_iteration=finished)
            (_, seen), spent = jobs.timed(now)
            self._note(finished, seen, spent)
        self.began = jobs.since_start(self.job)
        return False, Metrics()

    def _note(self, finished: int, seen: Metrics, spent: float) -> None:
        values = seen.to_simple_dict()
        loss, accuracy = (float(values[f"Central val | {n}"]) for n in ("loss", "accuracy"))
        self.measured.evaluations.append(spent)
        self.measured.curve.append((finished, loss, accuracy))


def users(job: jobs.Job) -> FederatedDataset:
    """All clients, in the order of the given cohorts."""
    numbers = range(len(job.arrays["clients"]))
    held = [PyTorchTensorDataset(models.examples(job, *job.client(c))) for c in numbers]
    order: Iterator[int] = iter(job.arrays["cohorts"].ravel().tolist())
    return FederatedDataset(lambda number: held[number], lambda: next(order))


def train(job: jobs.Job, network: Network) -> jobs.Measured:
    """Runs the workload with pfl."""
    settings = job.settings
    model = PyTorchModel(
        model=network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    everyone = users(job)
    backend = SimulatedBackend(everyone, everyone, postprocessors=[WeightByUser()])
    evaluating = NNEvalHyperParams(local_batch_size=settings["eval_batch"])
    test = PyTorchTensorDataset(models.examples(job, *job.test()))
    watch = Watch(job, CentralEvaluationCallback(test, model_eval_params=evaluating))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=settings["rounds"],
            # This evaluation, on users, is not wanted; it cannot be left out of the first round.
            evaluation_frequency=settings["rounds"] + 1,
            train_cohort_size=job.arrays["cohorts"].shape[1],
            val_cohort_size=0,
        ),
        backend,
        model,
        NNTrainHyperParams(
            local_batch_size=settings["batch_size"],
            local_num_epochs=settings["epochs"],
            local_learning_rate=settings["client_lr"],
        ),
        evaluating,
        [watch],
        send_metrics_to_platform=False,
    )
    return watch.measured


def main() -> None:
    """Runs the workload."""
    job = jobs.from_arguments()
    torch.set_num_threads(job.settings.get("threads", 1))
    torch.manual_seed(job.settings["seed"])
    network = Network(models.build(job))
    measured = train(job, network)
    if os.environ.get("PFL_WORKER_RANK", "0") == "0":
        models.report(measured, network, "pfl", "torch", "numpy")


if __name__ == "__main__":
    main()
