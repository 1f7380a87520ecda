"""A federation ready to be trained: what is checked and decided before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from fedjax_kd import losses, tree
from fedjax_kd.core import Algorithm, JudgedBy, Key, State
from fedjax_kd.data import sampling
from fedjax_kd.data.federation import Federation
from fedjax_kd.data.sampling import Ids
from fedjax_kd.engine import chunk_width, memory, schedule
from fedjax_kd.engine.chunk_width import Workload
from fedjax_kd.engine.mesh import AXIS, replicate
from fedjax_kd.engine.schedule import Chunks, Layout
from fedjax_kd.engine.validation import Types, check_groups
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options

Engine = Literal["jit", "python"]

_BLOCK = 25  # rounds in one dispatch, at most, unless another number is asked for
_COPIES = 3  # of what clients keep: the caller's, the first block's, and its result
_SAMPLED = 8  # rounds whose cohorts decide how chunks are cut


@dataclass(frozen=True)
class Simulation:
    """A federation ready to be trained; built and checked by `simulate`."""

    groups: tuple[Algorithm, ...]
    federation: Federation
    layout: Layout
    sampler: sampling.Sampler
    types: tuple[Types, ...]
    num_rounds: int
    eval_every: int
    seed: int
    dropout_rate: float
    mesh: Mesh | None
    engine: Engine
    block: int  # rounds in one dispatch
    per_class: bool = False

    def cohort(self, number: int) -> sampling.Cohort:
        """Who takes part in a round; the same whenever it is asked."""
        population = self.layout.population
        return sampling.participants(self.sampler, population, self.seed, number, self.dropout_rate)

    @cached_property
    def facts(self) -> tuple[str, ...]:
        """The names of what the sampler tells of each round, which become columns."""
        return tuple(self.cohort(0).facts)

    @property
    def judged_by(self) -> JudgedBy:
        """Whose models tell how good the method is; the server's if no client has test rows."""
        by_clients = all(a.judged_by == "clients" for a in self.groups)
        return "clients" if by_clients and self.federation.client_test is not None else "server"

    @property
    def chunk(self) -> tuple[tuple[int, ...], ...]:
        """The widths of each group's chunks."""
        return tuple(chunks.widths for chunks in self.layout.chunks)

    def key(self, purpose: Literal["init", "clients", "rounds", "evaluate"]) -> Key:
        """The random key for one purpose; the same for every algorithm, so that runs are paired."""
        number = ("init", "clients", "rounds", "evaluate").index(purpose)
        return jax.random.fold_in(jax.random.key(self.seed), number)


@checks_options
def simulate(
    algorithm: Algorithm | Sequence[Algorithm],
    federation: Federation,
    *,
    num_rounds: int,
    cohort_size: int = 10,
    seed: int = 0,
    eval_every: int = 10,
    sampler: sampling.Sampler | None = None,
    dropout_rate: float = 0.0,
    group_of: NDArray[np.int64] | None = None,
    chunk: int | Sequence[int] | None = None,
    rounds_per_dispatch: int | None = None,
    mesh: Mesh | None = None,
    engine: Engine = "jit",
    per_class: bool = False,
) -> Simulation:
    """Checks that an algorithm fits a federation, and decides how it will run.

    Args:
      algorithm: one `Algorithm`, or one for each group of clients (see ``group_of``).
      federation: clients and data, from `fedjax_kd.data.federate`.
      num_rounds: rounds to train, >= 1.
      cohort_size: clients asked in each round, >= 1, at most C.
      seed: of the initial model, the cohorts, the batches and everything else that is random, in
        [0, 2**32).
      eval_every: rounds between two evaluations, >= 1; the last round is always evaluated.
      sampler: who is asked, from `fedjax_kd.data.sampling`; by default uniform without replacement.
      dropout_rate: probability in [0, 1) that a client which was asked does not answer.
      group_of: the group of each client ``[C]``, for more than one algorithm.
      chunk: clients trained at the same time on one device, >= 1, one width of chunks or several
        that ascend; if None, chosen by measuring, or by rule where a run is short
        (see `fedjax_kd.engine.chunk_width`). It changes rounding errors alone.
      rounds_per_dispatch: rounds that run in one program on the device, >= 1; the host writes rows
        and checkpoints in between. A divisor or a multiple of ``eval_every``: with a multiple,
        evaluation too runs inside. By default the largest divisor up to 25.
      mesh: devices to divide each cohort over, from `fedjax_kd.engine.mesh.make_mesh`.
      engine: "jit", or "python" to find mistakes on one device (see `fedjax_kd.engine.debug`).
      per_class: whether evaluation tells the accuracy of each class, too.

    Raises:
      ValueError: if a number is out of its range.
      TypeError: if the algorithm breaks the contract; the message names the function.
    """
    groups = (algorithm,) if isinstance(algorithm, Algorithm) else tuple(algorithm)
    check_choice("engine", engine, Engine)
    if per_class and not (losses.are_labels(federation.test.y) and federation.test.y.ndim == 1):
        raise InputError(
            "per_class needs one label an example, but these targets are sequences or values: "
            "leave it out."
        )
    mesh = None if engine == "python" else mesh
    population = federation.num_clients
    sampling.check_cohort(population, cohort_size)
    types = check_groups(groups, federation.train, federation.public)
    members = _members(group_of, len(groups), population)
    _check_memory(types, members)
    uncut = Simulation(
        groups=groups,
        federation=_placed(federation, mesh),
        layout=schedule.lay_out(
            members,
            population,
            cohort_size,
            (),
            work=[a.work for a in groups],
            devices=1 if mesh is None else mesh.shape[AXIS],
        ),
        sampler=sampler or sampling.uniform(population, cohort_size),
        types=types,
        num_rounds=num_rounds,
        eval_every=eval_every,
        seed=seed,
        dropout_rate=dropout_rate,
        mesh=mesh,
        engine=engine,
        block=_block(rounds_per_dispatch, eval_every),
        per_class=per_class,
    )
    return with_chunks(uncut, _chunks_of(uncut, chunk))


def with_chunks(simulation: Simulation, chunks: Sequence[Chunks]) -> Simulation:
    """The same simulation, its cohorts cut into other chunks."""
    return replace(simulation, layout=simulation.layout.cut(chunks))


def _chunks_of(s: Simulation, chunk: int | Sequence[int] | None) -> tuple[Chunks, ...]:
    """The chunks of each group: as asked for, or chosen."""
    if chunk is not None:
        widths = (chunk,) if isinstance(chunk, int) else tuple(chunk)
        return tuple(chunk_width.requested_chunks(widths, clients) for clients in s.layout.capacity)
    numbers = range(min(_SAMPLED, s.num_rounds))
    cohorts = [s.cohort(n).ids for n in numbers]
    sizes = [s.federation.sizes_of(ids) for ids in cohorts]

    def workload(group: int) -> Workload:
        rounds = zip(cohorts, sizes, numbers, strict=True)
        dealt = [s.layout.deal_group(group, *who) for who in rounds]
        return Workload(
            s.groups[group],
            s.types[group],
            s.federation.train,
            s.federation.public,
            [work.tolist() for (_, work), *_ in dealt],
            s.num_rounds,
        )

    return tuple(chunk_width.choose_chunks(workload(group)) for group in range(len(s.groups)))


def _block(asked: int | None, eval_every: int) -> int:
    """Rounds in one dispatch."""
    if asked is None:
        return max(n for n in range(1, _BLOCK + 1) if eval_every % n == 0)
    if asked % eval_every and eval_every % asked:
        raise InputError(
            f"rounds_per_dispatch is {asked}, but must divide eval_every={eval_every}, or be a "
            "multiple of it, to evaluate inside the dispatch."
        )
    return asked


def initial_state(simulation: Simulation) -> State:
    """The federation before its first round."""
    server = simulation.groups[0].server_init(simulation.key("init"))
    key = simulation.key("clients")

    def init(algorithm: Algorithm, types: Types, numbers: Ids | range) -> Any:
        if not jax.tree.leaves(types.client):  # however many they are, they keep nothing
            return types.client
        keys = jax.vmap(lambda c: jax.random.fold_in(key, c))(jnp.asarray(numbers, jnp.int32))
        return jax.vmap(lambda k: algorithm.client_init(k, server))(keys)

    groups = zip(simulation.groups, simulation.types, simulation.layout.members, strict=True)
    return State(server, tuple(init(*group) for group in groups))


def _placed(federation: Federation, mesh: Mesh | None) -> Federation:
    """The same federation, its examples on every device of the mesh."""
    f = federation
    train, test, own, public = replicate((f.train, f.test, f.client_test, f.public), mesh)
    return replace(f, train=train, test=test, client_test=own, public=public)


def _check_memory(types: Sequence[Types], members: Sequence[Ids | range]) -> None:
    """Raises ValueError if what all clients keep cannot lie on the device."""
    kept = [tree.num_bytes(t.client) * len(m) for t, m in zip(types, members, strict=True)]
    room = memory.free()
    if room is not None and _COPIES * sum(kept) > room:
        raise InputError(
            f"The {sum(map(len, members))} clients keep {sum(kept) / 2**30:.1f} GiB between rounds "
            f"with this method, of which {_COPIES} copies are needed for a moment, but "
            f"{room / 2**30:.1f} GiB are free on the device: take fewer clients, a smaller model, "
            "or a method whose clients keep nothing."
        )


def _members(
    group_of: NDArray[np.int64] | None, num_groups: int, population: int
) -> tuple[Ids | range, ...]:
    """The clients of each group; all in one if there is only one algorithm."""
    if group_of is None and num_groups == 1:
        return (range(population),)
    given = np.asarray([] if group_of is None else group_of)
    if given.shape != (population,) or set(given.tolist()) != set(range(num_groups)):
        raise InputError(
            f"group_of has shape {given.shape} and values {sorted(set(given.tolist()))}, but with "
            f"{num_groups} algorithms it must give each of the {population} clients a number from "
            f"0 to {num_groups - 1}, each at least once."
        )
    return tuple(np.flatnonzero(given == g) for g in range(num_groups))
