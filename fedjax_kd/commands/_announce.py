"""What is said before training starts: the data of a run, its convolution, the cost of a sweep."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine import autotune
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.metrics import JUDGED
from fedjax_kd.nn.native import library
from fedjax_kd.runs import provenance
from fedjax_kd.runs.config import Config
from fedjax_kd.runs.privacy_config import privacy_told
from fedjax_kd.runs.progress import stderr
from fedjax_kd.sweeps.family import Family
from fedjax_kd.sweeps.study import Study
from fedjax_kd.sweeps.widths import operations

MANY = 200  # points; a larger sweep is announced by a warning

_SIDE, _REPEATS = 1024, 3
_NAMED = 10  # classes whose names are shown


def announce_data(federation: Federation, *, quiet: bool) -> None:
    """Prints what the data are, what is asked of models, and what is done with inputs."""
    if quiet:
        return
    f = federation
    told = [
        f"{f.name}: {f.num_clients:,} clients, problem {f.problem.name}",
        f"inputs: {f.inputs or 'as prepared'}",
    ]
    if f.class_names:
        shown = [f"{name} is {number}" for number, name in enumerate(f.class_names[:_NAMED])]
        more = ", ..." if len(f.class_names) > _NAMED else ""
        told.append(f"classes: {', '.join(shown)}{more}")
    stderr().print("\n".join(told), markup=False, soft_wrap=True)


def announce_convolution(*, quiet: bool) -> None:
    """Prints how convolutions are computed, where CPUs compute them.

    Raises:
      ValueError: if ``FEDJAX_KD_CONVOLUTION`` asks for what is not there.
    """
    for told in provenance.convolution().values():
        why = library.reason()
        if not quiet:
            line = f"convolutions: {told}{f', since {why}' if why else ''}"
            stderr().print(line, markup=False, soft_wrap=True)


def announce_clock(simulation: Simulation, *, quiet: bool) -> None:
    """Prints what an asynchronous run keeps of the past, if it is one."""
    if not quiet and simulation.places:
        count = simulation.places
        size = count * tree.num_bytes(simulation.types[0].server) / 1e6
        line = f"asynchronous: {count} servers of the past are kept, {size:.3g} MB"
        stderr().print(line, markup=False, soft_wrap=True)


def announce_privacy(config: Config, simulation: Simulation, *, quiet: bool) -> None:
    """Prints what is accounted for, and what the whole run will spend, if anything is."""
    if quiet or simulation.accountant is None:
        return
    told = privacy_told(simulation.accountant, config.privacy, simulation.num_rounds)
    words = ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{value}"
        for name, value in told.items()
    )
    stderr().print(f"privacy: {words}", markup=False, soft_wrap=True)


def announce(study: Study, families: Sequence[Family], *, quiet: bool) -> None:
    """Prints the size of a sweep; of a large one a warning, with an estimate of its duration."""
    points, programs = len(study.points), len(families)
    many = points > MANY
    if quiet and not many:
        return
    configs = len(study.settings)
    told = (
        f"{configs} configurations x {len(study.seeds)} seeds = {points} points of "
        f"{study.num_rounds} rounds, in {programs} program{'s' if programs > 1 else ''}"
    )
    console = stderr()
    if not quiet:
        console.print(_chosen_by(study, families), markup=False)
    if not many:
        console.print(told, markup=False)
        return
    whole = sum(operations(f, list(f.members), study.num_rounds) for f in families)
    seconds = whole / _speed()
    console.print(
        f"Warning: {told}: about {whole:.1e} operations, at least {_duration(seconds)} on this "
        "device. If that is more than you meant, stop it with Ctrl-C and give a smaller grid, "
        "--samples or --halving.",
        markup=False,
    )


def _chosen_by(study: Study, families: Sequence[Family]) -> str:
    """What points are chosen by, and on which rows."""
    words = {
        "personal": "the clients' own models on their own test rows",
        "validation": "the server's validation rows",
        "test": "the test set (--validation-fraction 0.1 keeps rows apart to choose by)",
    }
    column = study.how.metric
    goal = "largest" if study.how.goal == "max" else "smallest"
    where = dict.fromkeys(words[family.first.judged_on] for family in families)
    on = f", on {' and '.join(where)}" if column.startswith(JUDGED) else ""
    return f"The best point has the {goal} {column.replace('_', ' ')}{on}."


def _duration(seconds: float) -> str:
    """
    Example:
      >>> _duration(90), _duration(7200)
      ('2 minutes', '2 hours')
    """
    for name, length in (("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length:
            count = round(seconds / length)
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{max(round(seconds), 1)} seconds"


def _speed() -> float:
    """Operations a second of a large matrix product, which no training exceeds."""
    square = jnp.ones((_SIDE, _SIDE), jnp.float32)
    product = jax.jit(jnp.matmul).lower(square, square).compile()
    seconds = autotune.least_seconds(product, lambda: (square, square), _REPEATS)
    return 2 * _SIDE**3 / seconds
