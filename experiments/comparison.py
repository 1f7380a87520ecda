"""Methods compared on one federation: the same runs for every seed, a table and a picture.

What a study has to say of its own are its presets: options of ``fedjax-kd run``. A stopped study
goes on when it is started again, and trains nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from experiments import results
from fedjax_kd import compile_cache
from fedjax_kd.commands import resume, run
from fedjax_kd.runs import read_summary

Arguments = Mapping[str, str | int | float | bool | tuple[str, ...]]


@dataclass(frozen=True)
class Preset:
    """One federation, and who is compared on it.

    Attributes:
      shared: options of ``fedjax-kd run`` that all methods have.
      methods: options of each; a name like ``scaffold-I`` is a variant of the method before the
        dash.
      columns: of the table, from `experiments.results.COLUMNS`, or ``rounds to 80%``.
      picture: the metric that is drawn by round.
    """

    shared: Arguments
    methods: Mapping[str, Arguments]
    columns: Sequence[str] = ("test accuracy", "worst tenth of clients", "seconds")
    picture: str = "test_accuracy"


@dataclass(frozen=True)
class Choice:
    """What of a study is carried out, and where it is written.

    Attributes:
      out: folder of all runs, one for each method and seed.
      data_dir: where the data are.
      methods: only these.
      seeds: how many, from 0 on.
      smoke: two rounds each, to see that it works.
    """

    out: Path
    data_dir: str | None = None
    methods: Sequence[str] = ()
    seeds: int = 3
    smoke: bool = False


SMOKE: Arguments = {"num_rounds": 2, "eval_every": 1}


def command(preset: Preset, method: str, seed: int, choice: Choice) -> list[str]:
    """The words after ``fedjax-kd run``.

    Example:
      >>> digits = Preset({"dataset": "digits"}, {"fedprox-strong": {"mu": 1.0, "per_class": True}})
      >>> command(digits, "fedprox-strong", 1, Choice(Path("runs")))
      ['fedprox', '--dataset', 'digits', '--mu', '1.0', '--per-class', '--seed', '1']
    """
    where: Arguments = {} if choice.data_dir is None else {"data_dir": choice.data_dir}
    smoke: Arguments = SMOKE if choice.smoke else {}
    given = {**preset.shared, **preset.methods[method], **smoke, **where, "seed": seed}
    words = [word for name, value in given.items() for word in _words(name, value)]
    return [method.split("-", maxsplit=1)[0], *words]


def carry_out(name: str, preset: Preset, choice: Choice) -> str:
    """Trains every method with every seed; draws the picture.

    Args:
      name: of the federation, for folders and titles.
      preset: what is compared.
      choice: how much of it.

    Returns:
      The table as Markdown, and where the picture is.
    """
    compile_cache.enable()
    unknown = [method for method in choice.methods if method not in preset.methods]
    if unknown:
        raise ValueError(
            f"There is no method {', '.join(unknown)} in the study of {name}. There are: "
            f"{', '.join(preset.methods)}."
        )
    if choice.methods:
        preset = replace(preset, methods={m: preset.methods[m] for m in choice.methods})
    folders = {
        method: [_trained(name, preset, method, seed, choice) for seed in range(choice.seeds)]
        for method in preset.methods
    }
    path = results.picture(folders, choice.out / f"{name}.png", title=name, metric=preset.picture)
    return f"{results.table(folders, preset.columns)}\n\n{path}"


def _trained(name: str, preset: Preset, method: str, seed: int, choice: Choice) -> Path:
    """The folder of one run, which is finished."""
    folder = choice.out / name / method / str(seed)
    if not (folder / "config.json").exists():
        words = command(preset, method, seed, choice)
        run.main([*words, "--out", str(folder), "--quiet"])
    elif read_summary(folder).get("status") != "finished":
        resume.main([str(folder), "--quiet"])
    return folder


def _words(name: str, value: str | int | float | bool | tuple[str, ...]) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [flag] if value else []
    return [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
