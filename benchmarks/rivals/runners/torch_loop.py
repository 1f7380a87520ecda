"""FedAvg as a plain loop in PyTorch, without any framework: one model, one optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional

from benchmarks.rivals.runners import job as jobs
from benchmarks.rivals.runners import torch_models as models

Tensors = Sequence[torch.Tensor]


def main() -> None:
    """Runs the workload."""
    job = jobs.from_arguments()
    settings, arrays = job.settings, job.arrays
    torch.set_num_threads(settings.get("threads", 1))
    torch.manual_seed(settings["seed"])
    model = models.build(job)
    x, y = models.examples(job, job.standardised(arrays["train_x"]), arrays["train_y"])
    test = models.examples(job, *job.test())
    clients = torch.from_numpy(arrays["clients"]).to(x.device)
    params = list(model.parameters())
    optimiser = torch.optim.SGD(params, settings["client_lr"])
    server = [p.detach().clone() for p in params]

    def step(batch: torch.Tensor) -> None:
        optimiser.zero_grad()
        functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimiser.step()

    def one_round(number: int) -> None:
        cohort = arrays["cohorts"][number]
        sums = [torch.zeros_like(p) for p in server]
        for client in cohort:
            load(params, server)
            for batch in batches(clients[client], settings["epochs"], settings["batch_size"]):
                step(batch)
            add(sums, params)
        for value, total in zip(server, sums, strict=True):
            torch.div(total, len(cohort), out=value)
        load(params, server)
        models.synchronise()

    measured = jobs.loop(
        job, one_round, lambda: models.evaluate(model, *test, settings["eval_batch"])
    )
    models.report(measured, model, "torch", "numpy")


def batches(rows: torch.Tensor, epochs: int, size: int) -> Iterator[torch.Tensor]:
    """The rows of a client, shuffled anew in every epoch, in batches."""
    for _ in range(epochs):
        yield from rows[torch.randperm(len(rows), device=rows.device)].split(size)


@torch.no_grad()
def load(params: Tensors, values: Tensors) -> None:
    """Puts values in the place of parameters."""
    for parameter, value in zip(params, values, strict=True):
        parameter.copy_(value)


@torch.no_grad()
def add(sums: Tensors, params: Tensors) -> None:
    """Adds parameters to their sums."""
    for total, parameter in zip(sums, params, strict=True):
        total.add_(parameter)


if __name__ == "__main__":
    main()
