"""FedAvg as a plain loop in PyTorch, without any framework: one model, one optimiser."""

from __future__ import annotations

import torch
from torch.nn import functional

from benchmarks.rivals.runners import job as jobs
from benchmarks.rivals.runners import torch_models as models


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

    def train_client(rows: torch.Tensor) -> None:
        for _ in range(settings["epochs"]):
            order = rows[torch.randperm(len(rows), device=rows.device)]
            for batch in order.split(settings["batch_size"]):
                optimiser.zero_grad()
                functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimiser.step()

    def load(values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(params, values, strict=True):
                parameter.copy_(value)

    def one_round(number: int) -> None:
        cohort = arrays["cohorts"][number]
        sums = [torch.zeros_like(p) for p in server]
        for client in cohort:
            load(server)
            train_client(clients[client])
            with torch.no_grad():
                for total, parameter in zip(sums, params, strict=True):
                    total.add_(parameter)
        for value, total in zip(server, sums, strict=True):
            torch.div(total, len(cohort), out=value)
        load(server)
        models.synchronise()

    measured = jobs.loop(
        job, one_round, lambda: models.evaluate(model, *test, settings["eval_batch"])
    )
    jobs.report(
        measured,
        parameters=models.count(model),
        device=models.device_name(),
        packages=("torch", "numpy"),
    )


if __name__ == "__main__":
    main()
