"""How good the models are: the global one on the test set, and each client's on its own rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from numpy.typing import NDArray

from fedjax_kd import tree
from fedjax_kd.core import Algorithm, Client, Key, Pool, PyTree, Server, SizeRange, State, keep
from fedjax_kd.engine.finetuning import tuned
from fedjax_kd.engine.measuring import (
    Measures,
    Predict,
    measure_all,
    measure_clients,
    measure_own,
    measure_rows,
    targets_at,
)
from fedjax_kd.engine.mesh import everywhere
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.engine.validation import check_state
from fedjax_kd.metrics import ClassTally, Tally, identities_of

_Tree = TypeVar("_Tree", Tally, ClassTally)

Members = Sequence[NDArray[np.int64] | range]
"""The numbers of each group's clients."""

_CLIENTS_AT_ONCE = 50  # at most


class Pools(NamedTuple):
    """Every example that an evaluation may need."""

    train: Pool
    test: Pool
    client_test: Pool | None
    validation: Pool | None = None
    triggered: Pool | None = None  # test rows with the pattern of a backdoor


class Evaluation(NamedTuple):
    """Sums of metrics over the test set, and over each client's own test rows ``[C, ...]``."""

    test: Tally  # of several groups the mean, weighed by their clients
    validation: Tally | None  # the same over the server's validation rows, if it has any
    clients: Tally | None  # under the model of a newcomer; None if clients have no test rows
    personal: Tally | None  # under each client's own model, if it can differ
    traits: dict[str, Array]  # of each client ``[C, ...]``; empty if the method has none
    finetuned: Tally | None  # the same after steps of its own, if the method asks for them
    groups: Tally | None  # of the test set, ``[G, ...]``; None if there is one group
    classes: ClassTally | None  # of the test set, leaves ``[L]``; None if not asked for
    triggered: Tally | None = None  # of test rows with a backdoor's pattern, if there is one


def shared_model(algorithm: Algorithm, key: Key, server: Server) -> Predict:
    """The model that a client new to the federation would use."""
    newcomer = algorithm.client_init(key, server)
    return lambda x: algorithm.predict(server, newcomer, x)


def by_class(rows: Tally, pool: Pool, num_classes: int) -> ClassTally:
    """Labels and right answers of a pool's entries, one label each, added up class by class."""
    own = jax.nn.one_hot(identities_of(targets_at(pool, pool.rows)), num_classes, dtype=jnp.float32)
    right, counted = rows["accuracy"]
    return ClassTally(counted @ own, right @ own)


def mean_of_groups(sums: Sequence[_Tree], members: Members) -> _Tree:
    """The mean of the groups' sums over the same rows, each weighed by its clients."""
    population = sum(map(len, members))
    return reduce(
        tree.add,
        (tree.scale(len(m) / population, t) for t, m in zip(sums, members, strict=True)),
    )


def each_of_its_group(sums: Sequence[Tally], members: Members) -> Tally:
    """Of the sums of all clients under each group's model, those under the own group's one."""
    pairs = zip(sums, map(np.asarray, members), strict=True)
    own = [jax.tree.map(lambda a, m=m: a[m], of_group) for of_group, m in pairs]
    return _by_number(own, members)


def _by_number(parts: Sequence[Any], members: Members) -> Any:
    """The results of each group's own clients, in the order of the clients' numbers."""
    order = np.argsort(np.concatenate(list(members)))
    return jax.tree.map(lambda *of: jnp.concatenate(of)[order], *parts)


class Personal(NamedTuple):
    """What clients' own models reach, and what their clients tell of themselves, ``[C, ...]``."""

    sums: Tally
    traits: dict[str, Array]


def evaluate_clients(
    algorithm: Algorithm,
    key: Key,
    state: tuple[Server, Client],
    numbers: Int[Array, " C"],
    pools: tuple[Pool, Pool],
    *,
    measures: Measures,
    capacity: int,
    at_once: int,
    sizes: SizeRange | None = None,
) -> Personal:
    """Each client's test rows under its own model, leaves ``[C, ...]``.

    Args:
      algorithm: of these clients.
      key: consumed.
      state: the server's, and that of each client, leaves ``[C, ...]``, before ``personalise``.
      numbers: the clients' numbers.
      pools: training and test rows of the whole population.
      measures: what is measured.
      capacity: the most test rows of a client.
      at_once: clients that are evaluated together; as many as in training are fastest here too.
      sizes: how many training rows a client has, if loops are to be of known length.
    """
    server, clients = state
    train, test = pools

    def one(who: tuple[Client, Array]) -> Personal:
        client, number = who
        own_key = jax.random.fold_in(key, number)
        data = train.of(number)._replace(sizes=sizes)
        client = algorithm.personalise(own_key, server, client, data)
        predict = partial(algorithm.predict, server, client)
        traits = {} if algorithm.traits is None else algorithm.traits(server, client)
        return Personal(measure_own(predict, measures, test.of(number), capacity), traits)

    return jax.lax.map(one, (clients, numbers), batch_size=min(at_once, _CLIENTS_AT_ONCE))


def has_personal_model(algorithm: Algorithm, server: Server, client: Client, x: PyTree) -> bool:
    """Whether a client's model can differ from a newcomer's; the arguments may be abstract."""
    if algorithm.personalise is not keep:
        return True
    given = (server, x)
    read = tree.reads(lambda c, given: algorithm.predict(given[0], c, given[1]), client, given)
    return any(jax.tree.leaves(read))


def evaluate_personal(
    s: Simulation,
    groups: Sequence[Algorithm],
    key: Key,
    state: State,
    pools: tuple[Pool, Pool],
) -> Personal:
    """`evaluate_clients` of all groups, in the order of the clients' numbers."""
    members = s.layout.members
    each = zip(groups, state.clients, members, map(max, s.chunk), strict=True)
    parts = [
        evaluate_clients(
            group,
            key,
            (state.server, clients),
            jnp.asarray(own, jnp.int32),
            pools,
            measures=s.measures(group),
            capacity=s.test_capacity,
            at_once=width,
            sizes=s.sizes,
        )
        for group, clients, own, width in each
    ]
    shared = set.intersection(*(set(part.traits) for part in parts))
    told = [part._replace(traits={k: part.traits[k] for k in sorted(shared)}) for part in parts]
    return Personal(*_by_number(told, members))


def pools_of(s: Simulation) -> Pools:
    """All pools of a simulation that its evaluation reads."""
    f = s.federation
    held = None if f.public is None else f.public.validation
    validation = None
    if held is not None:
        one = [jnp.reshape(number, (1,)) for number in (held.start, held.size)]
        validation = Pool(held.x, held.y, held.rows, *one)
    return Pools(f.train, f.test, f.client_test, validation, s.triggered)


def make_evaluation(s: Simulation, state: State) -> Callable[[State], Evaluation]:
    """Compiles the evaluation of states like ``state`` on all test rows.

    Raises:
      TypeError: if the state is that of another method, model or number of clients.
    """
    check_state(s.types, [len(members) for members in s.layout.members], state, s.places)
    # The pools are arguments: as constants they would become part of the program.
    program = jax.jit(evaluation_of(s), out_shardings=everywhere(s.mesh))
    compiled = program.lower(state, pools_of(s)).compile()
    return lambda state: compiled(state, pools_of(s))


class _Seen(NamedTuple):
    """The results of one group's model."""

    test: Tally
    validation: Tally | None
    clients: Tally | None
    classes: ClassTally | None
    triggered: Tally | None


def evaluation_of(s: Simulation) -> Callable[[State, Pools], Evaluation]:
    """The evaluation of a state on all test rows, to be jitted."""
    federation, key = s.federation, s.key("evaluate")
    measure = partial(measure_rows, at_once=s.backend.rows_at_once)
    own = federation.client_test
    test_is_dealt = own is not None and own.x is federation.test.x
    x = jax.tree.map(lambda a: jax.ShapeDtypeStruct((2, *a.shape[1:]), a.dtype), federation.test.x)
    own_models = own is not None and any(
        has_personal_model(a, t.server, t.client, x) for a, t in zip(s.groups, s.types, strict=True)
    )

    def told(predict: Predict, measures: Measures, pool: Pool | None) -> Tally | None:
        if pool is None:
            return None
        return measure_all(measures, *measure(predict, measures, pool), pool)

    def under(algorithm: Algorithm, state: State, pools: Pools) -> _Seen:
        predict, measures = shared_model(algorithm, key, state.server), s.measures(algorithm)
        rows, outputs = found = measure(predict, measures, pools.test)
        whole, classes = measure_all(measures, *found, pools.test), None
        if s.tells_classes:
            classes = by_class(rows, pools.test, federation.num_classes)
        theirs, clients = pools.client_test, None
        validation = told(predict, measures, pools.validation)
        if theirs is not None:
            if test_is_dealt:
                rows, outputs = jax.tree.map(lambda a: a[theirs.rows], found)
            else:
                rows, outputs = measure(predict, measures, theirs)
            clients = measure_clients(measures, rows, outputs, theirs, s.test_capacity)
        return _Seen(whole, validation, clients, classes, told(predict, measures, pools.triggered))

    def evaluate(state: State, pools: Pools) -> Evaluation:
        members, theirs = s.layout.members, pools.client_test
        seen = [under(algorithm, state, pools) for algorithm in s.groups]
        test, validation, clients, classes, triggered = zip(*seen, strict=True)
        personal, finetuned, traits = None, None, dict[str, Array]()
        if own_models and theirs is not None:
            personal, traits = evaluate_personal(s, s.groups, key, state, (pools.train, theirs))
        if theirs is not None and any(a.finetune is not None for a in s.groups):
            after = [tuned(a, a.score or federation.problem.score) for a in s.groups]
            finetuned, _ = evaluate_personal(s, after, key, state, (pools.train, theirs))
        return Evaluation(
            mean_of_groups(test, members),
            None if pools.validation is None else mean_of_groups(validation, members),
            None if theirs is None else each_of_its_group(clients, members),
            personal,
            traits,
            finetuned,
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *test) if len(test) > 1 else None,
            mean_of_groups(classes, members) if s.tells_classes else None,
            None if pools.triggered is None else mean_of_groups(triggered, members),
        )

    return evaluate
