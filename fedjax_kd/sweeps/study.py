"""A sweep as plain data: the content of ``sweep.json``, and the points that it stands for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options
from fedjax_kd.runs.config import Config, from_json, to_json
from fedjax_kd.runs.option_files import with_files
from fedjax_kd.runs.privacy_config import PrivacyConfig
from fedjax_kd.sweeps.axes import Setting
from fedjax_kd.sweeps.halving import Halving, Score, rungs
from fedjax_kd.sweeps.parameters import METHOD, applied, known_parameters, plain_with, value_in

FORMAT = 1


@checks_options
@dataclass(frozen=True)
class Search:
    """Configurations that a sampler proposes, batch by batch, from what it has seen before.

    Args:
      trials: configurations of each method, >= 1.
      batch: how many of them are proposed at a time, >= 1.
      axes: by method and parameter, the text of an axis, as `fedjax_kd.sweeps.axes.axis` reads it.
    """

    trials: int
    batch: int
    axes: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Study:
    """A sweep: configurations that are trained with each of some seeds.

    Points are numbered configuration by configuration, seed by seed.

    Attributes:
      bases: the configuration of each method without the sweep; where its data have no seed, they
        are divided by that of the point.
      settings: of each configuration, its method and the values of what is varied.
      seeds: of every configuration.
      how: the score of a point.
      halving: early stopping of hopeless configurations; none if None.
      target: of the metric, for the tables.
      shares: parts into which each group of points is cut, for workers.
      search: settings of the sampler that proposes configurations; None without one.
      batches: how many configurations were added at a time; all at once if empty.
    """

    bases: Mapping[str, Config]
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    how: Score = field(default_factory=lambda: Score("judged_accuracy"))
    halving: Halving | None = None
    target: float | None = None
    shares: int = 1
    search: Search | None = None
    batches: tuple[int, ...] = ()

    @property
    def parameters(self) -> list[str]:
        """The names of what is varied."""
        return list(dict.fromkeys(name for setting in self.settings for name in setting))

    @property
    def num_rounds(self) -> int:
        """The rounds of every point."""
        return next(iter(self.bases.values())).training.num_rounds

    @property
    def points(self) -> range:
        """The numbers of all points."""
        return range(len(self.settings) * len(self.seeds))

    def config_number(self, point: int) -> int:
        """Which configuration a point has."""
        return point // len(self.seeds)

    def seed(self, point: int) -> int:
        """Which seed a point has."""
        return self.seeds[point % len(self.seeds)]

    def points_of(self, configs: Collection[int]) -> list[int]:
        """The points of some configurations."""
        return [p for p in self.points if self.config_number(p) in configs]

    def config(self, number: int, seed: int) -> Config:
        """The configuration of a single run that equals a point.

        Raises:
          ValueError: if an option is unknown, or a value none that it can have.
        """
        setting = self.settings[number]
        base = applied(self.bases[str(setting[METHOD])], setting)
        data = replace(base.data, seed=seed if base.data.seed is None else base.data.seed)
        return replace(base, data=data, training=replace(base.training, seed=seed))

    def with_batch(self, settings: Sequence[Setting]) -> Study:
        """The study with further configurations."""
        whole = replace(self, settings=(*self.settings, *settings))
        return replace(whole, batches=(*self.batches, len(settings)))

    def rungs(self) -> list[int]:
        """The rounds after which points are chosen, and the last."""
        training = next(iter(self.bases.values())).training
        step = max(training.eval_every, training.rounds_per_dispatch or 1)
        return rungs(self.halving, training.num_rounds, step)


def hyper_parameters(study: Study, config: int) -> dict[str, float]:
    """The hyper-parameters of a configuration that its program takes as arguments."""
    setting = study.settings[config]
    parameters = known_parameters(study.config(config, study.seeds[0]))
    return {
        parameters[name].key: value
        for name, value in setting.items()
        if name != METHOD and parameters[name].traced and isinstance(value, float)
    }


def groups(study: Study) -> list[list[int]]:
    """Configurations that one program can train: they differ in its arguments alone."""
    ends = np.cumsum(study.batches or (len(study.settings),))
    found: dict[tuple[int, str], list[int]] = {}
    for number in range(len(study.settings)):
        traced = hyper_parameters(study, number)
        values = plain_with(study.config(number, study.seeds[0]), dict.fromkeys(traced, "*"))
        batch = int(np.searchsorted(ends, number, side="right"))
        found.setdefault((batch, json.dumps(values, sort_keys=True)), []).append(number)
    return list(found.values())


def checked(study: Study) -> Study:
    """The study with values of the options' own kinds.

    Raises:
      ValueError: if there is no point, one stands twice, or an option or a value is wrong.
    """
    if not study.seeds or not (study.settings or study.search):
        raise InputError("The sweep has no points: give it a grid, random draws or a table.")
    for method, config in study.bases.items():
        if config.training.patience is not None or config.training.keep_best:
            raise InputError(
                f"patience and keep_best are of single runs, but {method} is swept: --halving ends "
                "hopeless points early, and a run of the best one keeps its best state."
            )
        if config.privacy != PrivacyConfig():
            raise InputError(
                f"Privacy is accounted for in single runs, but {method} is swept: leave out delta, "
                "and sweep the noise of the wrapper."
            )
    settings, bases = [], dict(study.bases)
    for number, setting in enumerate(study.settings):
        config = with_files(study.config(number, study.seeds[0]))
        method, base = config.method, bases[config.method]
        bases[method] = replace(base, files={**base.files, **config.files})
        own = {k: v if k == METHOD else value_in(config, k) for k, v in setting.items()}
        if own in settings:
            raise InputError(f"The sweep names the configuration {own} twice: name it once.")
        settings.append(own)
    study.rungs()
    return replace(study, bases=bases, settings=tuple(settings))


def to_plain(study: Study) -> dict[str, Any]:
    """The study as a tree of plain values, with the points that it makes."""
    return {
        "format": FORMAT,
        "kind": "sweep",
        "parameters": study.parameters,
        "metric": study.how.metric,
        "goal": study.how.goal,
        "last": study.how.last,
        "num_rounds": study.num_rounds,
        "seeds": list(study.seeds),
        "halving": None if study.halving is None else asdict(study.halving),
        "target": study.target,
        "shares": study.shares,
        "search": None if study.search is None else asdict(study.search),
        "batches": list(study.batches),
        "points": [
            {
                "point": point,
                "config": study.config_number(point),
                "seed": study.seed(point),
                "parameters": study.settings[study.config_number(point)],
            }
            for point in study.points
        ],
        "base": {method: to_json(config) for method, config in study.bases.items()},
    }


def from_plain(values: Mapping[str, Any]) -> Study:
    """The study that `to_plain` wrote.

    Raises:
      ValueError: if the format is another one.
    """
    if values.get("format") != FORMAT or values.get("kind") != "sweep":
        raise InputError(
            f"The sweep has format {values.get('format')!r}, but this version of fedjax_kd reads "
            f"format {FORMAT}: use the version that wrote it, which it names."
        )
    count = len(values["seeds"])
    halving = values["halving"]
    return Study(
        bases={method: from_json(config) for method, config in values["base"].items()},
        settings=tuple(point["parameters"] for point in values["points"][::count]),
        seeds=tuple(values["seeds"]),
        how=Score(values["metric"], values["last"], values["goal"]),
        halving=None if halving is None else Halving(**halving),
        target=values["target"],
        shares=values["shares"],
        search=None if values["search"] is None else Search(**values["search"]),
        batches=tuple(values["batches"]),
    )
