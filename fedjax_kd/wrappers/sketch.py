"""FetchSGD: clients send sketches of their updates, and the server remembers in sketches."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from fedjax_kd import tree
from fedjax_kd.components import sketches
from fedjax_kd.components.model_parts import combine
from fedjax_kd.components.sketches import SketchVariant
from fedjax_kd.core import Algorithm, Client, Data, Key, Message, PyTree, Round, Scalar, Upload
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._beside import Beside, beside_server, wire_of
from fedjax_kd.wrappers._compression import compressible, means_only


class Sketched(NamedTuple):
    """An upload whose parameters' changes are a sketch."""

    table: Any  # Float[Array, "R C"]
    rest: Any  # None in place of what is sketched


@checks_options
def with_sketch(
    algorithm: Algorithm,
    federation: Federation,
    *,
    shrink: int = 20,
    rows: int = 5,
    keep: Scalar = 0.02,
    momentum: Scalar = 0.9,
    variant: SketchVariant = "paper",
) -> Algorithm:
    """FetchSGD: count sketches of updates, with momentum and error on the server (Rothchild, 2020).

    Against the algorithm inside: the server takes the largest entries of a sketch of the mean.
    Down: as before. Up: a table of R x C floats; whole numbers and statistics of normalisation as
    they are. Keeps: nothing more; the server keeps two tables.

        u = rho u + mean of S(u_k);  E = E + u
        update = the entries of largest size of the estimate of E;  E = E - S(update)

    Clients vote as in the algorithm inside. Entries are told by the median over rows.

    Equals the algorithm inside with ``shrink=1``, where each entry has its own bucket, ``keep=1``
    and ``momentum=0``.

    Args:
      algorithm: whose uploads are sketched.
      federation: the clients, by which the types of uploads are known.
      shrink: entries of an upload for each column of a table, >= 1: C is n / shrink, rounded up.
      rows: R, >= 1, each with other hashes.
      keep: share of the entries that move in a round, in (0, 1].
      momentum: rho, in [0, 1).
      variant: "zeroing" sets the buckets that the update touches to zero, in both tables, where the
        paper takes the update's sketch off; the authors' code does so.

    Raises:
      ValueError: if a number is out of its range, ``variant`` is unknown, or the server takes no
        means.

    Departs from the paper: updates of local training take the place of gradients, and the learning
    rate is that of the algorithm inside, after the memory.
    Source: Rothchild, Panda, Ullah, Ivkin, Stoica, Braverman, Gonzalez, Arora, ICML 2020,
    arXiv:2007.07682.
    """
    check_choice("variant", variant, SketchVariant)
    types = check_algorithm(algorithm, federation.train, federation.public).upload.message
    rules = means_only(algorithm, types, "FetchSGD asks for")
    if len(rules) > 1:
        raise InputError(
            "FetchSGD sketches a whole upload, and of this method's the server takes a mean by "
            "votes of one part and a uniform one of another."
        )
    flat, unflatten = ravel_pytree(tree.zeros_like(compressible(types)))
    columns = max(math.ceil(flat.size / shrink), 1)
    hashes = sketches.hashes_of(jax.random.key(0), flat.size, rows, columns)

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, message, client, data, round)
        meant = compressible(upload.message)
        rest = jax.tree.map(lambda a, b: None if b is not None else a, upload.message, meant)
        sketched = Sketched(sketches.sketch(ravel_pytree(meant)[0], hashes, columns), rest)
        wire = wire_of(message, upload)._replace(up=tree.num_bytes(sketched))
        return upload._replace(message=sketched, wire=wire), client

    def server_update(key: Key, server: Beside, update: PyTree, round: Round) -> Beside:
        change, tables = sketches.remembered(
            hashes, server.extra, update.table, keep=keep, momentum=momentum, variant=variant
        )
        both = combine(unflatten(change), update.rest)
        return Beside(algorithm.server_update(key, server.base, both, round), tables)

    start = sketches.Tables(*[jnp.zeros((rows, columns), flat.dtype)] * 2)
    return beside_server(algorithm, lambda *_: start)._replace(
        client_update=client_update,
        server_update=server_update,
        aggregate=Sketched(rules.pop(), algorithm.aggregate),
    )
