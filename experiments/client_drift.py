"""Client drift: quadratic losses whose optimum is known, and MNIST by writer.

Claims looked at: with several local steps on clients that differ, FedAvg and FedProx end beside the
optimum; control variates and dual variables end in it (SCAFFOLD: Karimireddy et al., 2020; FedDyn:
Acar et al., 2021; FedDC: Gao et al., 2022), as does Mime's gradient at the server's model
(Karimireddy et al., 2021); where clients take different numbers of steps, FedAvg's end moves, and
FedNova's does not (Wang et al., 2020).

    python -m experiments.client_drift quadratic
    python -m experiments.client_drift mnist --data-dir DIR

The quadratic federation is linear regression: ten clients with slopes and spreads of their own,
which take 20 local steps each or, "uneven", 5 to 50. ``DIR`` holds ``mnist.npz``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import tyro

import fedjax_kd as fk
from experiments.comparison import Choice, Chosen, Preset, carry_out
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.report import bands, figures

Task = Literal["quadratic", "mnist"]

CLIENTS, ROWS, INPUTS = 10, 40, 5
ABOVE = "loss above the optimum"
FLOOR = 1e-6  # of losses in float32, which cannot tell less apart


class Case(NamedTuple):
    """How clients train on `regression`."""

    steps: tuple[int, ...]  # of each client in a round
    client_lr: float
    rounds: int


_UNEVEN = tuple(range(5, 55, 5))
CASES = {
    "even": Case((20,) * CLIENTS, 0.01, 400),
    "uneven": Case(_UNEVEN, 0.01, 400),
    "uneven, short steps": Case(_UNEVEN, 0.002, 1500),
}

QUADRATIC: Mapping[str, Mapping[str, Any]] = {
    "fedavg": {},
    "fedprox": {"mu": 0.1},
    "fednova": {},
    "scaffold": {},
    "feddyn": {"alpha": 0.3},
    "feddc": {"alpha": 0.3},
    "mime": {"momentum": 0.0},
}

MNIST = Preset(
    {
        "dataset": "mnist",
        "partition": "natural",
        "model": "lenet",
        "cohort_size": 10,
        "num_rounds": 100,
        "batch_size": 20,
        "epochs": 2,
        "client_lr": 0.05,
        "eval_every": 10,
    },
    {
        "fedavg": {},
        "fedprox": {"mu": 0.01},
        "fednova": {},
        "scaffold": {"client_lr": 0.02},
        "feddyn": {"alpha": 0.1, "clip_norm": 10.0},
        "feddc": {"client_lr": 0.02},
        "mimelite": {"client_lr": 0.01},
        "fedexp": {},
    },
    ("test accuracy", "worst tenth of clients", "rounds to 95%", "seconds"),
)


def regression(seed: int) -> tuple[fk.Federation, float]:
    """Clients that fit lines of their own, and the least mean squared error of one for all."""
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.normal(size=(CLIENTS, 1, INPUTS)))
    slopes = rng.normal(size=INPUTS) + rng.normal(size=(CLIENTS, INPUTS))
    x = spread * rng.normal(size=(CLIENTS, ROWS, INPUTS)) / np.sqrt(INPUTS)
    y = np.einsum("cri,ci->cr", x, slopes) + 0.1 * rng.normal(size=(CLIENTS, ROWS))
    flat, target = x.reshape(-1, INPUTS).astype(np.float32), y.reshape(-1, 1).astype(np.float32)
    known = np.concatenate([flat, np.ones((len(flat), 1))], axis=1)
    best = np.linalg.lstsq(known, target, rcond=None)[0]
    data = fk.from_arrays(
        flat,
        target,
        flat,
        target,
        problem="regression",
        train_columns={"client": np.repeat(np.arange(CLIENTS), ROWS)},
    )
    federation = fk.federate(data, fk.NaturalIdPartitioner())
    return federation, float(np.mean(np.square(known @ best - target)))


def quadratic(method: str, case: Case, seed: int) -> list[dict[str, float]]:
    """The rows of a run on `regression`, with `ABOVE`."""
    federation, least = regression(seed)
    build = fk.MODELS["logistic"](federation.input_shape, 1)
    task = fk.from_nnx(build, prepare=federation.prepare, example_loss=federation.example_loss)
    own = np.array(case.steps, np.int32)

    def of_client(client: Any, round: Any) -> Any:
        return own[client] if isinstance(client, np.ndarray) else jnp.asarray(own)[client]

    fit = fk.local_training(client_lr=case.client_lr, batch_size=ROWS, steps=of_client)
    per_round = 2 if method == "mime" else 1  # of which one asks for gradients
    rounds = per_round * case.rounds
    result = fk.train(
        REGISTRY[method](task, fit, **QUADRATIC[method]),
        federation,
        num_rounds=rounds,
        cohort_size=CLIENTS,
        eval_every=rounds // 20,
        seed=seed,
    )
    return [
        {"round": row["round"] / per_round, ABOVE: max(row["test_loss"] - least, FLOOR)}
        for row in result.history
        if "test_loss" in row
    ]


def quadratics(choice: Choice) -> str:
    """Trains all methods; a table of what is left above the optimum, and where the picture is."""
    methods = choice.methods or list(QUADRATIC)
    lines = [f"| method | {' | '.join(CASES)} |", f"|{'---|' * (1 + len(CASES))}"]
    panels: dict[str, dict[str, list[list[dict[str, float]]]]] = {}
    for name, case in CASES.items():
        panels[name] = {m: [quadratic(m, case, s) for s in range(choice.seeds)] for m in methods}
    for method in methods:
        ends = [[rows[-1][ABOVE] for rows in panels[name][method]] for name in CASES]
        lines.append(f"| {method} | {' | '.join(f'{np.median(e):.1e}' for e in ends)} |")
    paths = []
    for name, found in panels.items():
        figure = bands.draw_curves(found, [ABOVE], title=f"Local steps: {name}")
        figure.axes[0].set_yscale("log")
        path = choice.out / f"quadratic-{'-'.join(name.replace(',', '').split())}.png"
        paths.append(str(figures.save_figure(figure, path)))
    return "\n".join([*lines, "", *paths])


def main(
    task: Annotated[Task, tyro.conf.Positional],
    *,
    choice: Chosen = Choice(Path("runs/client_drift")),
) -> None:
    """Trains every method with every seed, and writes a table and a picture.

    Args:
      task: the federation.
      choice: which of its runs, on which data, and where they are written.
    """
    if task == "quadratic":
        choice.out.mkdir(parents=True, exist_ok=True)
        print(quadratics(choice))
    else:
        print(carry_out("mnist-drift", MNIST, choice))


if __name__ == "__main__":
    tyro.cli(main)
