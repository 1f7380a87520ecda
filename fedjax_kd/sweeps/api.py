"""Sweeps from Python: many settings and seeds of an algorithm, in as few programs as can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh

from fedjax_kd.core import Algorithm
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.simulation import Simulation, simulate
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_finite, checks_options
from fedjax_kd.sweeps import widths
from fedjax_kd.sweeps.axes import Setting
from fedjax_kd.sweeps.family import Family, Make, Member, family_of
from fedjax_kd.sweeps.halving import Halving, Score, rungs, scoring, selected, status
from fedjax_kd.sweeps.rounds import Step, train_points
from fedjax_kd.sweeps.tiles import Width
from fedjax_kd.train import Row, columns_of


class Trained(NamedTuple):
    """One point of a sweep.

    ``status`` is "finished", "stopped" (by halving) or "diverged". ``score`` is None if diverged.
    """

    setting: Setting
    seed: int
    status: str
    score: float | None
    history: list[Row]


@checks_options
def sweep(
    make: Callable[..., Algorithm],
    federation: Federation | Mapping[int, Federation],
    settings: Sequence[Setting],
    *,
    seeds: Sequence[int] = (0,),
    metric: str | None = None,
    last: int = 1,
    halving: Halving | None = None,
    width: Width | None = None,
    mesh: Mesh | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
    **options: Any,
) -> list[Trained]:
    """Trains an algorithm with many settings of its hyper-parameters, each with several seeds.

    Settings that differ in numbers (floats) alone run in one program, side by side; others (ints,
    words) are grouped, and each group is compiled once. A point's result is that of a single run
    with the same options, up to rounding.

    Args:
      make: ``make(**setting) -> Algorithm``; floats arrive as traced values.
      federation: the clients, or those of each seed, where the split depends on it.
      settings: from `fedjax_kd.grid`, `fedjax_kd.sample`, or written down.
      seeds: of the initial model, the cohorts and the batches, each in [0, 2**32); points of
        one seed share them.
      metric: the column of a history that makes a point good; whether large or small, its metric
        says. By default what a method is judged by, such as ``judged_accuracy``.
      last: rounds at the end over which it is averaged, >= 1.
      halving: early stopping of hopeless settings, within each group.
      width: how much runs at once; by default measured, or by rule where that does not pay.
      mesh: devices to divide the points over, from ``fedjax_kd.make_mesh(axis="points")``.
      on_step: called after every block of rounds.
      **options: see `fedjax_kd.simulate`; ``num_rounds`` is required.

    Returns:
      One entry a point, in the order of the settings, seed by seed.

    Raises:
      ValueError: if there is no setting or no seed, settings name different parameters, or the
        points cannot run in one program.

    Example:
      >>> import fedjax_kd as fk
      >>> federation = fk.federate(fk.load("digits"), fk.IidPartitioner(num_partitions=10))
      >>> build = fk.MODELS["logistic"](federation.input_shape, federation.num_classes)
      >>> task = fk.from_nnx(build, prepare=federation.prepare)
      >>> def make(client_lr):
      ...     return fk.fedavg(task, fk.local_training(client_lr=client_lr))
      >>> points = sweep(make, federation, fk.grid(client_lr=[0.001, 0.1]), num_rounds=3)
      >>> max(points, key=lambda point: point.score).setting
      {'client_lr': 0.1}
    """
    _check(settings, seeds)
    of_seed = federation if isinstance(federation, Mapping) else dict.fromkeys(seeds, federation)

    def simulation(setting: Setting, seed: int) -> Simulation:
        return simulate(make(**setting), of_seed[seed], seed=seed, chunk=1, **options)

    for number in _extremes(settings):  # here numbers are not traced yet, so that they are checked
        make(**settings[number])
    first = simulation(settings[0], seeds[0])
    how = scoring(metric or usual_metric(first), last, first.metrics)
    found: dict[int, list[Row]] = {}
    members = {
        c * len(seeds) + i: Member(c, seed, _floats(setting))
        for c, setting in enumerate(settings)
        for i, seed in enumerate(seeds)
    }
    for numbers in _groups(settings):
        setting = settings[numbers[0]]
        fixed: Setting = {k: v for k, v in setting.items() if not isinstance(v, float)}
        family = family_of(
            _bound(make, fixed),
            {p: m for p, m in members.items() if m.config in numbers},
            {seed: simulation(setting, seed) for seed in seeds},
            mesh,
        )
        found |= _trained(family, halving, how, width, on_step)

    def outcome(point: int) -> Trained:
        rows, (config, seed, _) = found[point], members[point]
        ended = status(rows, options["num_rounds"])
        return Trained(settings[config], seed, ended, how.of(rows), rows)

    return [outcome(point) for point in sorted(members)]


def usual_metric(s: Simulation) -> str:
    """The column that a method is judged by."""
    (name,) = (column for column in columns_of(s) if column.startswith("judged_"))
    return name


def _trained(
    family: Family,
    halving: Halving | None,
    how: Score,
    width: Width | None,
    on_step: Callable[[Step], None],
) -> dict[int, list[Row]]:
    """The rows of each point of a family, trained to the end or stopped before."""
    s = family.first
    config_of = {p: m.config for p, m in family.members.items()}
    rows: dict[int, list[Row]] = {p: [] for p in config_of}
    live, states, begin = sorted(rows), None, 0
    for rung in rungs(halving, s.num_rounds, max(s.block, s.eval_every)):
        wide = width or widths.choose_width(family, live, rung - begin)
        for step in train_points(family, live, wide, first=begin, until=rung, states=states):
            for point, new in step.rows.items():
                rows[point] += new
            on_step(step)
        states, begin = step.states(), rung
        live = sorted(states)
        if halving is not None and rung < s.num_rounds:
            live = selected(config_of, live, rows, how, halving.eta)
        if not live:
            break
    return rows


def _bound(make: Callable[..., Algorithm], fixed: Setting) -> Make:
    return lambda values: make(**fixed, **values)


def _groups(settings: Sequence[Setting]) -> list[list[int]]:
    """The numbers of settings that differ in floats alone."""
    groups: dict[Any, list[int]] = {}
    for number, setting in enumerate(settings):
        kind = tuple((k, "float" if isinstance(v, float) else v) for k, v in setting.items())
        groups.setdefault(kind, []).append(number)
    return list(groups.values())


def _extremes(settings: Sequence[Setting]) -> set[int]:
    """The settings with the smallest and the largest value of a number within their group.

    Ranges are intervals: what lies between two values that are allowed is allowed. So a large
    sweep need not make all of its algorithms twice.
    """
    found: set[int] = set()
    for numbers in _groups(settings):
        for name in _floats(settings[numbers[0]]):
            values = {number: _floats(settings[number])[name] for number in numbers}
            found |= {pick(numbers, key=values.__getitem__) for pick in (min, max)}
    return found


def _floats(setting: Setting) -> dict[str, float]:
    return {name: value for name, value in setting.items() if isinstance(value, float)}


def _check(settings: Sequence[Setting], seeds: Sequence[int]) -> None:
    if not settings or not seeds:
        raise InputError(
            f"The sweep has {len(settings)} settings and {len(seeds)} seeds, but needs one of each "
            "at least."
        )
    if len(set(seeds)) < len(seeds):
        raise InputError(f"The seeds {list(seeds)} name one twice: name each once.")
    for setting in settings:
        if set(setting) != set(settings[0]):
            raise InputError(
                f"The settings name {', '.join(settings[0])} and {', '.join(setting)}, but all "
                "must give the same parameters."
            )
        check_finite("a setting of the sweep", setting)
