"""Flower: a `ClientApp` and a `ServerApp` with `FedAvg`, in its Ray simulation.

Each client is one of the simulated nodes, as in Flower's examples; the strategy differs from
`FedAvg` only in that it asks the nodes of the given cohort.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from torch.nn import functional

from benchmarks.rivals.runners import job as jobs
from benchmarks.rivals.runners import torch_models as models

GPU_SHARE = 0.1  # of one GPU, for each client, as in pfl-research's comparison


class GivenCohorts(FedAvg):
    """FedAvg on the cohorts of the workload; keeps the seconds of every round."""

    def __init__(self, job: jobs.Job) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.cohorts = job.arrays["cohorts"]
        self.job, self.began = job, 0.0
        self.measured = jobs.Measured(0.0, [], [], [])

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self.began = jobs.since_start(self.job)
        nodes = sorted(grid.get_node_ids())

        def message(client: int) -> Message:
            told = ConfigRecord({"client": client})
            record = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: told})
            return Message(record, dst_node_id=nodes[client], message_type=MessageType.TRAIN)

        return [message(client) for client in self.cohorts[server_round - 1].tolist()]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        lost = [reply.error.reason for reply in replies if reply.has_error()]
        if lost:
            raise RuntimeError(f"{len(lost)} clients failed; the first says: {lost[0]}")
        aggregated = super().aggregate_train(server_round, replies)
        self.measured.rounds.append(jobs.since_start(self.job) - self.began)
        return aggregated


def client_app(arrays: str, settings: str) -> ClientApp:
    """A client that trains on the rows of the client whose number it is told."""
    app = ClientApp()
    network: list[torch.nn.Module] = []  # made once in every worker process

    @app.train()
    def train(message: Message, context: Context) -> Message:
        job = jobs.read(arrays, settings)
        options = job.settings
        torch.set_num_threads(options.get("threads", 1))
        if not network:
            network.append(models.build(job))
        model = network[0].train()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        x, y = models.examples(job, *job.client(message.content["config"]["client"]))
        optimiser = torch.optim.SGD(model.parameters(), options["client_lr"])
        for _ in range(options["epochs"]):
            for rows in torch.randperm(len(y), device=y.device).split(options["batch_size"]):
                optimiser.zero_grad()
                functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
        answer = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(y)}),
        }
        return Message(content=RecordDict(answer), reply_to=message)

    return app


def server_app(job: jobs.Job, model: torch.nn.Module, strategy: GivenCohorts) -> ServerApp:
    """Trains, and evaluates the global model on the server."""
    app = ServerApp()
    x, y = models.examples(job, *job.test())

    def evaluate(finished: int, arrays: ArrayRecord) -> MetricRecord | None:
        if not job.evaluates(finished):
            return None
        model.load_state_dict(arrays.to_torch_state_dict())
        size = job.settings["eval_batch"]
        seen, spent = jobs.timed(models.evaluate, model, x, y, size)
        strategy.measured.evaluations.append(spent)
        strategy.measured.curve.append((finished, *seen))
        return MetricRecord({"loss": seen[0], "accuracy": seen[1]})

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.measured = strategy.measured._replace(setup=jobs.since_start(job))
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            num_rounds=job.settings["rounds"],
            evaluate_fn=evaluate,
        )

    return app


def main() -> None:
    """Runs the workload."""
    job = jobs.from_arguments()
    torch.manual_seed(job.settings["seed"])
    model, strategy = models.build(job), GivenCohorts(job)
    resources: dict[str, Any] = {"num_cpus": 1}
    resources["num_gpus"] = GPU_SHARE if torch.cuda.is_available() else 0.0
    run_simulation(
        server_app=server_app(job, model, strategy),
        client_app=client_app(sys.argv[1], sys.argv[2]),
        num_supernodes=len(job.arrays["clients"]),
        backend_config={"client_resources": resources},
    )
    models.report(strategy.measured, model, "flwr", "ray", "torch", "numpy")


if __name__ == "__main__":
    main()
