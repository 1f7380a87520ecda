"""A federation ready to be trained: what is checked and decided before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from fedjax_kd import cohort
from fedjax_kd.core import Algorithm, Key, State
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine import AXIS, replicate
from fedjax_kd.validate import Types, check_groups, step_flops

Engine = Literal["jit", "python"]

_BLOCK = 25  # rounds in one dispatch, at most

# benchmarks/chunk_width.py, 2 CPU cores: width 32 against 1 gave 1.24 times the examples/s at 1e6
# operations a step (logistic regression), 1.05 at 2e7 (MLP 200-200) and 0.52 at 3e8 (a small CNN).
_MANY, _SOME, _TINY_STEP = 256, 32, 1e7


@dataclass(frozen=True)
class Simulation:
    """A federation ready to be trained; built and checked by `simulate`."""

    groups: tuple[Algorithm, ...]
    federation: Federation
    layout: cohort.Layout
    sampler: cohort.Sampler
    types: tuple[Types, ...]
    num_rounds: int
    eval_every: int
    seed: int
    dropout_rate: float
    mesh: Mesh | None
    engine: Engine

    @property
    def block(self) -> int:
        """Rounds in one dispatch: as many as possible that divide ``eval_every``."""
        return max(n for n in range(1, _BLOCK + 1) if self.eval_every % n == 0)

    def key(self, purpose: Literal["init", "clients", "rounds", "evaluate"]) -> Key:
        """The random key for one purpose; the same for every algorithm, so that runs are paired."""
        number = ("init", "clients", "rounds", "evaluate").index(purpose)
        return jax.random.fold_in(jax.random.key(self.seed), number)


def simulate(
    algorithm: Algorithm | Sequence[Algorithm],
    federation: Federation,
    *,
    num_rounds: int,
    cohort_size: int = 10,
    seed: int = 0,
    eval_every: int = 10,
    sampler: cohort.Sampler | None = None,
    dropout_rate: float = 0.0,
    group_of: NDArray[np.int64] | None = None,
    chunk: int | None = None,
    mesh: Mesh | None = None,
    engine: Engine = "jit",
) -> Simulation:
    """Checks that an algorithm fits a federation, and decides how it will run.

    Args:
      algorithm: one `Algorithm`, or one for each group of clients (see ``group_of``).
      federation: clients and data, from `fedjax_kd.data.federate`.
      num_rounds: rounds to train, >= 1.
      cohort_size: clients asked in each round, 1 to C.
      seed: of the initial model, the cohorts, the batches and everything else that is random.
      eval_every: rounds between two evaluations, >= 1; the last round is always evaluated.
      sampler: who is asked, from `fedjax_kd.cohort`; by default uniform without replacement.
      dropout_rate: probability in [0, 1) that a client which was asked does not answer.
      group_of: the group of each client ``[C]``, for more than one algorithm.
      chunk: clients trained at the same time on one device; chosen by size if None.
      mesh: devices to divide each cohort over, from `fedjax_kd.engine.make_mesh`.
      engine: "jit", or "python" to find mistakes (see `fedjax_kd.debug`).

    Raises:
      ValueError: if a number is out of its range.
      TypeError: if the algorithm breaks the contract; the message names the function.
    """
    groups = (algorithm,) if isinstance(algorithm, Algorithm) else tuple(algorithm)
    _check_numbers(num_rounds=num_rounds, eval_every=eval_every)
    if not 0 <= dropout_rate < 1:
        raise ValueError(f"dropout_rate is {dropout_rate}, but must be in [0, 1).")
    if engine not in get_args(Engine):
        raise ValueError(f"engine is {engine!r}, but must be one of {', '.join(get_args(Engine))}.")
    population = federation.num_clients
    cohort.check_cohort(population, cohort_size)
    types = check_groups(groups, federation.train, federation.public)
    width = default_chunk(groups, types, federation) if chunk is None else chunk
    devices = 1 if mesh is None else mesh.shape[AXIS]
    return Simulation(
        groups=groups,
        federation=_placed(federation, mesh),
        layout=cohort.lay_out(
            _check_group_of(group_of, len(groups), population), cohort_size, width, devices
        ),
        sampler=sampler or cohort.uniform(population, cohort_size),
        types=types,
        num_rounds=num_rounds,
        eval_every=eval_every,
        seed=seed,
        dropout_rate=dropout_rate,
        mesh=mesh,
        engine=engine,
    )


def default_chunk(
    groups: Sequence[Algorithm], types: Sequence[Types], federation: Federation
) -> int:
    """Clients trained at once on one device, if nobody says otherwise.

    An accelerator is filled. On a CPU, clients whose local step is tiny gain from company (the
    overhead of an operation is shared); larger ones lose more by leaving the cache than they win.
    """
    if jax.default_backend() != "cpu":
        return _MANY
    pool, public = federation.train, federation.public
    flops = max(step_flops(a, t, pool, public) for a, t in zip(groups, types, strict=True))
    return _SOME if flops < _TINY_STEP else 1


def initial_state(simulation: Simulation) -> State:
    """The federation before its first round."""
    server = simulation.groups[0].server_init(simulation.key("init"))
    key = simulation.key("clients")

    def init(algorithm: Algorithm, numbers: NDArray[np.int64]) -> Any:
        keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(jnp.asarray(numbers, jnp.int32))
        return jax.vmap(lambda k: algorithm.client_init(k, server))(keys)

    pairs = zip(simulation.groups, simulation.layout.members, strict=True)
    return State(server, tuple(init(algorithm, numbers) for algorithm, numbers in pairs))


def _placed(federation: Federation, mesh: Mesh | None) -> Federation:
    """The same federation, its examples on every device of the mesh."""
    f = federation
    train, test, own, public = replicate((f.train, f.test, f.client_test, f.public), mesh)
    return replace(f, train=train, test=test, client_test=own, public=public)


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} is {value}, but must be at least 1.")


def _check_group_of(
    group_of: NDArray[np.int64] | None, num_groups: int, population: int
) -> NDArray[np.int64]:
    """The group of each client; all in one if there is only one algorithm."""
    if group_of is None and num_groups == 1:
        return np.zeros(population, np.int64)
    given = np.asarray([] if group_of is None else group_of)
    if given.shape != (population,) or set(given.tolist()) != set(range(num_groups)):
        raise ValueError(
            f"group_of has shape {given.shape} and values {sorted(set(given.tolist()))}, but with "
            f"{num_groups} algorithms it must give each of the {population} clients a number from "
            f"0 to {num_groups - 1}, each at least once."
        )
    return given
