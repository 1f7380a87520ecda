"""Configurations that Optuna proposes, from the scores of those that were tried before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from fedjax_kd.errors import InputError
from fedjax_kd.options import Option
from fedjax_kd.runs.config import Config
from fedjax_kd.runs.option_values import parse_value
from fedjax_kd.sweeps import runner as sweep_runner
from fedjax_kd.sweeps.axes import Range, Setting, axis
from fedjax_kd.sweeps.parameters import METHOD, known_parameters
from fedjax_kd.sweeps.shard import shard_rows
from fedjax_kd.sweeps.study import Search, Study, checked


def check_proposals(study: Study) -> None:
    """Raises ValueError if proposals are asked for that cannot be made."""
    search = study.search
    if search is None:
        return
    if find_spec("optuna") is None:
        raise InputError(
            "Trials need Optuna: pip install 'fedjax-kd[optuna]', or draw by --samples instead."
        )
    for method, base in study.bases.items():
        _distributions(base, search.axes[method])


def remain(study: Study) -> bool:
    """Whether further configurations are to be proposed."""
    return study.search is not None and len(study.settings) < study.search.trials * len(study.bases)


def extended(folder: Path, study: Study) -> Study:
    """The study with the next batch of configurations of each method.

    Args:
      folder: of the sweep, where the scores of the earlier ones are found.
      study: all whose configurations so far are finished.
    """
    search = study.search
    if search is None:
        return study
    parts = [part for group in sweep_runner.shards(folder, study) for part in group]
    rows = {p: own for part in parts for p, own in shard_rows(part).items()}
    scores = {p: study.how.of(own) for p, own in rows.items()}
    new = [s for m in study.bases for s in _next(study, search, m, scores)]
    return checked(study.with_batch(new))


def _next(
    study: Study, search: Search, method: str, scores: Mapping[int, float | None]
) -> list[Setting]:
    """The next batch of one method; the same whenever it is asked for."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tried = [n for n, s in enumerate(study.settings) if s[METHOD] == method]
    count = min(search.batch, search.trials - len(tried))
    seed = np.random.SeedSequence([study.seeds[0], len(tried)]).generate_state(1)
    sampler = optuna.samplers.TPESampler(seed=int(seed[0]), constant_liar=True)
    direction: Any = "maximize" if study.how.goal == "max" else "minimize"
    optuna_study = optuna.create_study(sampler=sampler, direction=direction)
    distributions = _distributions(study.bases[method], search.axes[method])
    for number in tried:
        optuna_study.add_trial(_trial(study, number, distributions, scores))
    trials = [optuna_study.ask(distributions) for _ in range(count)]
    return [{METHOD: method, **trial.params} for trial in trials]


def _trial(
    study: Study, number: int, distributions: Any, scores: Mapping[int, float | None]
) -> Any:
    """A configuration that was tried: its mean score over seeds, or that it failed."""
    import optuna

    setting = study.settings[number]
    params = {name: setting[name] for name in distributions}
    own = [scores.get(p) for p in study.points_of([number])]
    values = [value for value in own if value is not None]
    if len(values) < len(own):
        state = optuna.trial.TrialState.FAIL
        return optuna.trial.create_trial(state=state, params=params, distributions=distributions)
    return optuna.trial.create_trial(
        params=params, distributions=distributions, value=float(np.mean(values))
    )


def _distributions(base: Config, axes: Mapping[str, str]) -> dict[str, Any]:
    """The search space as Optuna sees it."""
    return {
        name: _distribution(known_parameters(base)[name].option, name, text)
        for name, text in axes.items()
    }


def _distribution(option: Option, name: str, text: str) -> Any:
    from optuna import distributions

    values: Range | Sequence[Any] = axis(text)
    if not isinstance(values, Range):
        choices: list[Any] = [parse_value(option, value, name) for value in values]
        return distributions.CategoricalDistribution(choices)
    low, high = (parse_value(option, end, name) for end in (values.low, values.high))
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log=values.log)
    return distributions.FloatDistribution(values.low, values.high, log=values.log)
