"""A federation ready to be trained: what is checked and decided before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from fedjax_kd.backends import Backend, backend_here
from fedjax_kd.core import Algorithm, JudgedBy, Key, Pool, SizeRange
from fedjax_kd.data import sampling
from fedjax_kd.data.backdoor import triggered
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine import chunk_width, compile_cache, schedule, sharp_edges
from fedjax_kd.engine.chunk_width import Workload
from fedjax_kd.engine.client_checks import check_clients, class_tiers, members_of
from fedjax_kd.engine.clock import Clock, Draw
from fedjax_kd.engine.measuring import Measures, measures_of, most_rows, own_metrics
from fedjax_kd.engine.mesh import AXIS, replicate
from fedjax_kd.engine.outputs import check_problem
from fedjax_kd.engine.schedule import Chunks, Layout
from fedjax_kd.engine.sharp_edges import Combination
from fedjax_kd.engine.timing import Timed, Workers, timed
from fedjax_kd.engine.validation import Types, check_groups
from fedjax_kd.errors import InputError
from fedjax_kd.metrics import Metric
from fedjax_kd.metrics.accounting import Accountant
from fedjax_kd.metrics.metric import RowValues
from fedjax_kd.nn.native import library
from fedjax_kd.options import check_choice, checks_options

Engine = Literal["jit", "python"]
JudgedOn = Literal["personal", "validation", "test"]

_BLOCK = 25  # rounds in one dispatch, at most, unless another number is asked for
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
    backend: Backend
    sizes: SizeRange | None  # of clients' training examples, if loops are to be of known length
    per_class: bool = False
    tiers: Mapping[str, Sequence[int]] = field(default_factory=dict)  # classes of head to tail
    metrics: Measures = field(default_factory=dict)  # beside those of the problem
    test_capacity: int = 0  # test rows of the client that has the most
    time: Timed | None = None  # what a clock decides, if there is one
    accountant: Accountant | None = None  # of privacy

    def measures(self, algorithm: Algorithm) -> Measures:
        """What an evaluation of these clients tells: the loss, and the metrics of the problem."""
        return measures_of(algorithm, self.federation, self.metrics)

    @property
    def tells_classes(self) -> bool:
        """Whether evaluation tells classes apart."""
        return self.per_class or bool(self.tiers)

    def cohort(self, number: int) -> sampling.Cohort:
        """Who takes part in a round; the same whenever it is asked."""
        if self.time is not None:
            return self.time.timetable.cohort(number)
        population = self.layout.population
        return sampling.participants(self.sampler, population, self.seed, number, self.dropout_rate)

    @property
    def places(self) -> int:
        """For servers from which clients still work."""
        return 0 if self.time is None else self.time.places

    @cached_property
    def triggered(self) -> Pool | None:
        """Test rows with the pattern of a backdoor, if there is one."""
        backdoor = self.groups[0].backdoor
        return None if backdoor is None else triggered(self.federation.test, backdoor)

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
    def judged_on(self) -> JudgedOn:
        """On which rows: clients' own test rows, else the server's validation or test rows."""
        if self.judged_by == "clients":
            return "personal"
        public = self.federation.public
        return "test" if public is None or public.validation is None else "validation"

    @property
    def judged_column(self) -> str:
        """The column whose values the method is judged by."""
        headline = self.federation.problem.headline
        own = self.judged_on == "personal"
        return f"personal_{headline}_mean" if own else f"{self.judged_on}_{headline}"

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
    clock: Clock | None = None,
    group_of: NDArray[np.int64] | None = None,
    chunk: int | Sequence[int] | None = None,
    rounds_per_dispatch: int | None = None,
    mesh: Mesh | None = None,
    engine: Engine = "jit",
    per_class: bool = False,
    tiers: bool = False,
    metrics: Mapping[str, Metric | RowValues] | None = None,
    accountant: Accountant | None = None,
) -> Simulation:
    """Checks that an algorithm fits a federation, and decides how it will run.

    Programs that are compiled from here on are kept on disk, unless JAX's own settings or
    ``FEDJAX_KD_CACHE=off`` say otherwise (see `fedjax_kd.engine.compile_cache`).

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
      clock: how fast the clients are and how long the server waits, for simulated time.
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
      tiers: whether it tells that of head, middle and tail classes (`fedjax_kd.data.long_tail`).
      metrics: what evaluation tells beside the metrics of the problem, by name: functions
        ``(outputs, targets) -> a number an example``, or `fedjax_kd.metrics.Metric`.
      accountant: of the privacy of a wrapper inside, which fills the column ``epsilon``.

    Raises:
      ValueError: if a number is out of its range.
      TypeError: if the algorithm breaks the contract; the message names the function.

    Warns of a `fedjax_kd.errors.SharpEdge` where numbers would seldom be those that were meant.
    """
    compile_cache.enable()
    groups = (algorithm,) if isinstance(algorithm, Algorithm) else tuple(algorithm)
    check_choice("engine", engine, Engine)
    extra = own_metrics(metrics or {}, federation)
    check_problem(groups, federation, extra, per_class=per_class, tiers=tiers)
    mesh = None if engine == "python" else mesh
    backend, devices = backend_here(mesh), 1 if mesh is None else mesh.shape[AXIS]
    population = federation.num_clients
    sampling.check_cohort(population, cohort_size)
    asked = cohort_size if clock is None else clock.asked(cohort_size, population)
    most = max(cohort_size, getattr(sampler, "most", 0))
    types = check_groups(groups, federation.train, federation.public)
    members = members_of(group_of, len(groups), population)
    check_clients(groups, types, federation, members, (cohort_size, num_rounds))
    uncut = Simulation(
        groups=groups,
        federation=_placed(federation, mesh),
        layout=schedule.lay_out(
            members, population, most, (), work=[a.work for a in groups], devices=devices
        ),
        sampler=sampler or sampling.uniform(population, asked),
        types=types,
        num_rounds=num_rounds,
        eval_every=eval_every,
        seed=seed,
        dropout_rate=dropout_rate,
        mesh=mesh,
        engine=engine,
        block=_block(rounds_per_dispatch, eval_every),
        backend=backend,
        sizes=SizeRange.of(federation.sizes) if backend.fixed_loops else None,
        per_class=per_class,
        tiers=class_tiers(federation) if tiers else {},
        metrics=extra,
        accountant=accountant,
        test_capacity=most_rows(federation.client_test),
    )
    uncut = uncut if clock is None else _timed(uncut, clock, cohort_size)
    _warn(uncut, cohort_size)
    return with_chunks(uncut, _chunks_of(uncut, chunk))


def _timed(s: Simulation, clock: Clock, cohort_size: int) -> Simulation:
    """The same simulation in simulated time."""
    workers = Workers(s.groups, s.types, s.layout.members, s.federation)
    draw = Draw(s.sampler, s.layout.population, s.seed, s.dropout_rate)
    time = timed(clock, workers, draw, cohort_size, s.num_rounds)
    return replace(s, time=time, layout=s.layout.limited(time.most_steps))


def with_chunks(simulation: Simulation, chunks: Sequence[Chunks]) -> Simulation:
    """The same simulation, its cohorts cut into other chunks."""
    return replace(simulation, layout=simulation.layout.cut(chunks))


def _chunks_of(s: Simulation, chunk: int | Sequence[int] | None) -> tuple[Chunks, ...]:
    """The chunks of each group: as asked for, or chosen."""
    if chunk is not None:
        widths = (chunk,) if isinstance(chunk, int) else tuple(chunk)
        return tuple(
            chunk_width.requested_chunks(s.backend, widths, clients)
            for clients in s.layout.capacity
        )
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
            s.backend,
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


def _placed(f: Federation, mesh: Mesh | None) -> Federation:
    """The same federation, its examples on every device of the mesh."""
    train, test, own, public = replicate((f.train, f.test, f.client_test, f.public), mesh)
    return replace(f, train=train, test=test, client_test=own, public=public)


def _warn(s: Simulation, cohort_size: int) -> None:
    """Warns of what runs and is seldom meant."""
    meeting = s.groups, s.types, s.federation, s.sampler, cohort_size, s.num_rounds, s.judged_by
    sharp_edges.warn_of(Combination(*meeting))
    if s.backend.platform == "cpu":
        library.is_available()  # warns, or raises
