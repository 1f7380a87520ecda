"""Methods compared on one federation: the same runs for every seed, a table and a picture.

A study of its own has only presets: options of ``fedjax-kd run``. A stopped study
goes on when it is started again, and trains nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from experiments import results
from fedjax_kd.commands import resume, run
from fedjax_kd.engine import compile_cache
from fedjax_kd.report.axes import Along
from fedjax_kd.runs.folder import read_summary

Value = str | int | float | bool | tuple[str | float, ...] | None
Arguments = Mapping[str, Value]
"""Options by name; None leaves one out."""


@dataclass(frozen=True)
class Preset:
    """One federation, and who is compared on it.

    Attributes:
      shared: options of ``fedjax-kd run`` that all methods have.
      methods: options of each; a name like ``scaffold-I`` is a variant of the method before the
        dash.
      columns: of the table, from `experiments.results.COLUMNS`, or ``rounds to 80%``.
      picture: the metric that is drawn.
      along: the axis of the picture.
    """

    shared: Arguments
    methods: Mapping[str, Arguments]
    columns: Sequence[str] = ("test accuracy", "worst tenth of clients", "seconds")
    picture: str = "test_accuracy"
    along: Along = "round"


@dataclass(frozen=True)
class Choice:
    """What of a study is carried out, and where it is written.

    Attributes:
      out: folder of all runs, one for each federation, method and seed.
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


Chosen = Annotated[Choice, tyro.conf.arg(name="")]
"""A choice that a command line takes, its options named without a prefix."""

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
    return [method.split("-", maxsplit=1)[0], *words(given)]


def words(options: Arguments) -> list[str]:
    """Options as words of a command line.

    Example:
      >>> words({"hidden": (256, 128), "per_class": True, "epochs": None, "data_dir": "DIR"})
      ['--hidden', '256', '128', '--per-class', '--data-dir', 'DIR']
    """
    return [word for name, value in options.items() for word in _words(name, value)]


def carry_out(name: str, preset: Preset, choice: Choice) -> str:
    """Trains every method with every seed; draws the picture.

    Args:
      name: of the federation, for folders and titles.
      preset: what is compared.
      choice: how much of it.

    Returns:
      The table as Markdown, and where the picture is.
    """
    return _shown(name, preset, trained(name, preset, choice), choice)


def carry_out_all(title: str, presets: Mapping[str, Preset], choice: Choice) -> Iterator[str]:
    """Carries out one federation after another, and compares them.

    Args:
      title: of the comparison, for its picture.
      presets: by name of the federation; all have the same methods.
      choice: how much of it.

    Yields:
      What `carry_out` returns for each; if there are several, at last a table of each column that
      all of them have, and where their picture is.
    """
    cells = {}
    for name, preset in presets.items():
        cells[name] = trained(name, preset, choice)
        yield f"{name}\n\n{_shown(name, preset, cells[name], choice)}\n"
    if len(cells) > 1:
        first, *others = (preset.columns for preset in presets.values())
        columns = [c for c in first if c != "seconds" and all(c in own for own in others)]
        for column in columns:
            yield f"{column}\n\n{results.across(cells, column)}\n"
        shown = [column for column in columns if column in results.NUMBERS]
        yield str(results.picture_across(cells, choice.out / f"{title}.png", shown, title=title))


def trained(name: str, preset: Preset, choice: Choice) -> results.Folders:
    """Trains what is not trained yet.

    Returns:
      The finished folders, one a seed, of each method.

    Raises:
      ValueError: if a chosen method is not compared in the preset, or there is no seed.
    """
    compile_cache.enable()
    if choice.seeds < 1:
        raise ValueError(f"seeds is {choice.seeds}, but must be >= 1: each is a run of its own.")
    unknown = [method for method in choice.methods if method not in preset.methods]
    if unknown:
        raise ValueError(
            f"There is no method {', '.join(unknown)} in the study of {name}. There are: "
            f"{', '.join(preset.methods)}."
        )
    return {
        method: [_trained(name, preset, method, seed, choice) for seed in range(choice.seeds)]
        for method in choice.methods or preset.methods
    }


def _shown(name: str, preset: Preset, folders: results.Folders, choice: Choice) -> str:
    """The table of finished runs, and where their picture is, which is drawn."""
    path = results.picture(
        folders,
        choice.out / f"{name}.png",
        title=name,
        metric=preset.picture,
        along=preset.along,
    )
    return f"{results.table(folders, preset.columns)}\n\n{path}"


def _trained(name: str, preset: Preset, method: str, seed: int, choice: Choice) -> Path:
    """The folder of one run, which is finished."""
    folder = choice.out / name / method / str(seed)
    ended = 0
    if not (folder / "config.json").exists():
        ended = run.main([*command(preset, method, seed, choice), "--out", str(folder), "--quiet"])
    elif read_summary(folder).get("status") != "finished":
        ended = resume.main([str(folder), "--quiet"])
    if ended:
        raise SystemExit(ended)
    return folder


def _words(name: str, value: Value) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None or isinstance(value, bool):
        return [flag] if value else []
    return [flag, *(map(str, value) if isinstance(value, tuple) else [str(value)])]
