"""The contract: an algorithm is a tuple of pure functions of ONE client.

The engine (:mod:`fedjax_kd.engine`) does the rest: it vectorises these functions over the cohort,
reduces what the clients upload, and counts bytes. No function here sees a client axis, unless it
asks for one with ``stack``.

Axis letters, everywhere in this project: **C** population, **K** cohort, **N** examples of one
client, **B** batch, **L** classes, **D** features, **P** public examples, **S** local steps, **M**
rows of the shared pool.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

PyTree = Any
Key = jax.Array
Server = PyTree
Client = PyTree
Message = PyTree
Metrics = dict[str, jax.Array]
Scalar = float | jax.Array  # a numeric hyper-parameter: may be traced, so no `if` may look at it


class Variables(NamedTuple):
    """A model: what gradients change (params), and what is only measured (stats).

    ``stats`` are BatchNorm's running statistics and the like: they travel with the model and are
    averaged as values, but no optimiser ever steps them.
    """

    params: PyTree
    stats: PyTree = ()


class Batch(NamedTuple):
    """A minibatch of one client. Rows with ``mask == 0`` are filling; no loss may count them."""

    x: PyTree
    y: PyTree
    mask: Float[Array, " B"]


@jax.tree_util.register_static
@dataclass(frozen=True)
class SizeRange:
    """How many examples a client has at least and at most, known before anything is traced.

    Slots without a client do not count: what is computed for them is thrown away.
    """

    smallest: int
    largest: int

    @classmethod
    def of(cls, sizes: NDArray[np.int64]) -> SizeRange:
        """The range of some clients' numbers of examples ``[C]``.

        Example:
          >>> SizeRange.of(np.array([3, 2, 5]))
          SizeRange(smallest=2, largest=5)
        """
        return cls(int(sizes.min()), int(sizes.max()))

    def up_to(self, most: int) -> SizeRange:
        """The range where no client keeps more than ``most``."""
        return SizeRange(min(self.smallest, most), min(self.largest, most))


class _DataFields(NamedTuple):
    x: PyTree  # [M, ...]
    y: PyTree  # [M, ...]
    rows: Int[Array, " R"]
    start: Int[Array, ""]
    size: Int[Array, ""]
    client: Int[Array, ""] | int = -1  # its number; -1 if these are no client's
    sizes: SizeRange | None = None  # which ``size`` may have, if loops are to be of known length
    most_steps: Int[Array, ""] | None = None  # local steps that the client has time for


class Data(_DataFields):
    """What ONE client may train on: rows ``rows[start : start + size]`` of a shared pool."""

    __slots__ = ()

    def _replace(self, **changes: Any) -> Data:
        # Another size need not lie in the range that is known of the old one.
        return super()._replace(**({"sizes": None} if "size" in changes else {}) | changes)

    @classmethod
    def all_of(cls, x: PyTree, y: PyTree = ()) -> Data:
        """All rows of some arrays, in their order; without labels if none are given."""
        count = len(jax.tree.leaves(x)[0])
        return cls(x, y, jnp.arange(count, dtype=jnp.int32), jnp.int32(0), jnp.int32(count))

    def take(self, positions: Int[Array, " B"], mask: Float[Array, " B"]) -> Batch:
        """The examples at ``positions``, which count from 0 within this client."""
        rows = self.rows.at[self.start + positions].get(mode="clip")
        x, y = jax.tree.map(lambda pool: pool.at[rows].get(mode="clip"), (self.x, self.y))
        return Batch(x, y, mask)


class Pool(NamedTuple):
    """The examples of a population, resident on the device: a table of rows, and who owns which."""

    x: PyTree  # [M, ...]
    y: PyTree  # [M, ...]
    rows: Int[Array, " R"]
    starts: Int[Array, " C"]
    sizes: Int[Array, " C"]

    def of(self, client: Int[Array, ""]) -> Data:
        """What client number ``client`` holds; nothing if there is no such client."""
        start = self.starts.at[client].get(mode="clip")
        size = self.sizes.at[client].get(mode="fill", fill_value=0)
        return Data(self.x, self.y, self.rows, start, size, client)


class Round(NamedTuple):
    """What both sides know about the present round."""

    number: Int[Array, ""]  # rounds are counted from 0
    cohort: Int[Array, " K"]  # client numbers; an empty place holds the number ``population``
    present: Float[Array, " K"]  # 1 where a usable upload arrived from this place, else 0
    votes: Float[Array, " K"]  # the weights of these uploads; 0 before they have arrived
    population: int
    public: PyTree  # what belongs to no client, a `fedjax_kd.data.public_inputs.Public`; or None
    # server steps since ONE client began, of all [K] for the server; None if all begin together
    lag: Int[Array, "*K"] | None = None

    @classmethod
    def first(cls) -> Round:
        """Round 0 with nobody in it: for training that belongs to none."""
        return cls(jnp.int32(0), jnp.zeros(0, jnp.int32), jnp.zeros(0), jnp.zeros(0), 0, None)


class Wire(NamedTuple):
    """Bytes of ONE client's messages in a round, where their static types do not tell them.

    A message that is cut in rank or sparse keeps its static shape. None leaves it to the types.
    """

    up: Array | int | None = None
    down: Array | int | None = None


class Upload(NamedTuple):
    """What ONE client returns: ``message`` is exactly what crosses the wire."""

    message: Message
    weight: Float[Array, ""]  # this client's vote in `mean`
    metrics: Metrics
    wire: Wire = Wire()  # summed over the clients of a round


@dataclass(frozen=True)
class Reducer:
    """How the server sees one entry of the clients' messages.

    ``accumulate`` maps values ``[k, ...]``, weights ``[k]``, presence ``[k]`` to sums; the engine
    adds sums over chunks and devices; ``finalise`` turns them into the value that ``server_update``
    receives. A ``stacked`` reducer has no sums: every client's value is kept, ``[K, ...]`` in the
    order of ``round.cohort``, at the price of K times the memory.
    """

    name: str
    accumulate: Callable[[Array, Array, Array], tuple[Array, Array]]
    finalise: Callable[[Array, Array], Array]
    stacked: bool = False


def _weighted_sum(values: Array, votes: Array) -> tuple[Array, Array]:
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.promote_types(values.dtype, votes.dtype)
    # HIGHEST: an average of models must not be rounded to the accelerator's short matrix formats.
    summed = jnp.tensordot(
        votes.astype(dtype), values.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
    )
    return summed, votes.sum()


def _ratio(total: Array, votes: Array) -> Array:
    return total / jnp.where(votes == 0, 1, votes).astype(total.dtype)


mean = Reducer("mean", lambda values, weights, present: _weighted_sum(values, weights), _ratio)
uniform_mean = Reducer(
    "uniform_mean", lambda values, weights, present: _weighted_sum(values, present), _ratio
)
total = Reducer(
    "total",
    lambda values, weights, present: _weighted_sum(values, present),
    lambda summed, votes: summed,
)
stack = Reducer(
    "stack",
    lambda values, weights, present: (values, present),
    lambda kept, votes: kept,
    stacked=True,
)


JudgedBy = Literal["server", "clients"]


def keep(key: Key, server: Server, client: Client, data: Data) -> Client:
    """The default ``personalise``: the client is evaluated as it is."""
    del key, server, data
    return client


def examples(sizes: Any, clients: Any, round: Any) -> Any:
    """The default ``work``: clients work in proportion to their examples."""
    del clients, round
    return sizes


class Plan(NamedTuple):
    """What a simulation is about to do, for `Algorithm.check`."""

    examples: PyTree  # inputs of clients, of which only shapes and dtypes matter
    sizes: NDArray[np.int64]  # training examples of each client, [C_g]
    clients: NDArray[np.int64] | range  # their numbers, [C_g]
    cohort_size: int
    num_rounds: int


def no_check(plan: Plan) -> None:
    """The default ``check``: every federation will do."""
    del plan


class Choice(NamedTuple):
    """How many of the clients that were asked take part, and which: those of the largest scores."""

    clients: int
    # (key, server, client number, its data, round) -> the score of ONE client that was asked
    score: Callable[[Key, Server, Array, Data, Round], Array]


class Algorithm(NamedTuple):
    """A federated algorithm: pure functions of one client, and declarations.

    Every function is written for ONE client and must be traceable by JAX. Keys are consumed. A
    variant is ``base._replace(...)`` with the functions that differ; ``algorithms/fedavg.py`` shows
    the whole round in one file. ``work`` changes the speed alone: it is how clients are placed.
    ``personalise`` may return another type than ``client_init``; ``predict`` must take both.
    """

    server_init: Callable[[Key], Server]
    client_init: Callable[
        [Key, Server], Client
    ]  # what ONE client keeps between rounds; () if nothing
    broadcast: Callable[
        [Server, Array, Round], Message
    ]  # (server, client number, round): what ONE client receives
    client_update: Callable[[Key, Message, Client, Data, Round], tuple[Upload, Client]]
    aggregate: PyTree  # a `Reducer`, or a tree prefix of reducers over ``Upload.message``
    server_update: Callable[[Key, Server, PyTree, Round], Server]
    predict: Callable[
        [Server, Client, PyTree], Array
    ]  # logits of the model that this client would use
    personalise: Callable[[Key, Server, Client, Data], Client] = keep  # before evaluation only
    # (examples of clients [k], their numbers [k], round number) -> their local steps, in any unit
    work: Callable[[Any, Any, Any], Any] = examples
    judged_by: JudgedBy = "server"  # whose models tell how good the method is
    # (outputs, targets) -> loss of each example or target, which evaluation tells: the task's;
    # that of the problem if None
    score: Callable[[Array, PyTree], Array] | None = None
    # why the method needs targets that are classes, as "FedNTD distils the classes that ..."; ""
    # if it takes any
    needs_classes: str = ""
    # Once, when a simulation is built: raises `fedjax_kd.errors.InputError` if it makes no sense,
    # and warns (`fedjax_kd.errors.warn`) if it is seldom meant. Wrappers call that of the inside.
    check: Callable[[Plan], None] = no_check
    # each client's training before a further evaluation, a `fedjax_kd.local.Fit`; None for none
    finetune: Any = None
    # (server, ONE client) -> what it has found out about itself, by name: its cluster, the share of
    # its own model, ...: numbers, vectors, or booleans of which one tells a choice; evaluations
    # show them; None for nothing
    traits: Callable[[Server, Client], dict[str, Array]] | None = None
    uploads: Literal["changes", "values"] = "changes"  # values, as logits, are new in each round
    choice: Choice | None = None  # who of those that the sampler asked takes part; None for all
    backdoor: Any = None  # whose success evaluations tell, a `fedjax_kd.data.backdoor.Trigger`


class State(NamedTuple):
    """A federation between two rounds; ``clients`` holds a stacked tree a group, ``[C_g, ...]``."""

    server: Server
    clients: tuple[Client, ...]
    past: Server = ()  # servers from which clients still work, ``[V, ...]``; or ()
