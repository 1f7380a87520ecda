"""Robust rules against liars: main accuracy, and how often a backdoor succeeds.

A fifth of the clients lies in each of the usual ways; each rule meets each attack.

    python -m experiments.robustness --data-dir DIR

``DIR`` holds ``mnist.npz``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tyro

from experiments.comparison import Arguments, Choice, Chosen, Preset, carry_out_all

ATTACKS: Mapping[str, str] = {
    "none": "attack:share=0",
    "sign_flip": "attack:attack=sign_flip,share=0.2,strength=5",
    "gaussian": "attack:attack=gaussian,share=0.2,strength=0.1",
    "label_flip": "attack:attack=label_flip,share=0.2",
    "backdoor": "attack:attack=backdoor,share=0.2",
    "alie": "attack:attack=alie,share=0.2,strength=1.5",
    "ipm": "attack:attack=ipm,share=0.2,strength=2",
}
RULES: Mapping[str, str | None] = {
    "mean": None,
    "median": "median",
    "trimmed": "trimmed_mean:share=0.25",
    "krum": "krum:malicious=4,select=1",
    "multikrum": "krum:malicious=4,select=10",
    "bulyan": "bulyan:malicious=4",
    "geometric": "geometric_median",
    "bound": "norm_bound:bound=1",
    "centred": "centred_clipping:bound=1,steps=3",
    "fltrust": "fltrust",
    "foolsgold": "foolsgold",
}
SHARED: Arguments = {
    "dataset": "mnist",
    "partition": "dirichlet",
    "alpha": 1.0,
    "num_clients": 100,
    "cohort_size": 20,
    "num_rounds": 30,
    "eval_every": 5,
    "model": "mlp",
    "hidden": (100,),
    "client_lr": 0.05,
    "batch_size": 20,
    "steps": 10,
    "validation_fraction": 0.01,
}


def preset(attack: str) -> Preset:
    """The federation under one attack, and the rules that meet it.

    Example:
      >>> preset("alie").methods["fedavg-median"]["with"]
      ('median', 'attack:attack=alie,share=0.2,strength=1.5')
    """
    lie = ATTACKS[attack]
    methods: dict[str, Arguments] = {
        f"fedavg-{name}": {"with": (lie,) if rule is None else (rule, lie)}
        for name, rule in RULES.items()
    }
    told = ("attack success",) if attack == "backdoor" else ()
    return Preset(SHARED, methods, ("test accuracy", *told, "seconds"))


def main(
    *,
    attacks: Sequence[str] = tuple(ATTACKS),
    choice: Chosen = Choice(Path("runs/robustness")),
) -> None:
    """Trains with every rule under every attack with every seed; writes tables and pictures.

    Args:
      attacks: names of `ATTACKS`.
      choice: which of its runs, on which data, and where they are written.
    """
    presets = {f"robustness-{attack}": preset(attack) for attack in attacks}
    for text in carry_out_all("robustness", presets, choice):
        print(text, flush=True)


if __name__ == "__main__":
    tyro.cli(main)
