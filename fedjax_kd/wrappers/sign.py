"""Signs in place of numbers: scaled and with a memory, or as votes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import tree
from fedjax_kd.components import quantisers
from fedjax_kd.components.codecs import Scope, Sent, codec_of, encoded, packed
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import (
    Algorithm,
    Client,
    Data,
    Key,
    Message,
    PyTree,
    Round,
    Scalar,
    Server,
    Upload,
    mean,
    uniform_mean,
)
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._beside import wire_of
from fedjax_kd.wrappers._compression import Memory, Way, compressible, means_only, with_codec


@checks_options
def with_sign(
    algorithm: Algorithm,
    federation: Federation,
    *,
    scope: Scope = "tensor",
    memory: Memory = "ef14",
    way: Way = "up",
) -> Algorithm:
    """EF-signSGD: signs times the mean size of a tensor (Karimireddy et al., 2019).

    Against the algorithm inside: its messages are signs.
    Down, Up: a bit an entry and a float a tensor; whole numbers and statistics of normalisation as
    they are. Keeps: what ``memory`` says.

        sent = ||a||_1 / n * sign(a),  a = v + e;  e = a - sent

    Equals the algorithm inside where each tensor has entries of one size.

    Args:
      algorithm: whose messages are signs.
      federation: the clients, by which the types of messages are known.
      scope: whether a vector is a tensor or the whole message.
      memory: of a client for what was not sent: "none", "ef14" or "ef21".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a name is unknown.

    Departs from the paper: zero counts as positive, for a third symbol is no bit.
    Source: Karimireddy, Rebjock, Stich, Jaggi, ICML 2019, arXiv:1901.09847.
    """

    def one(key: Key, vector: Array, number: Array) -> Sent:
        decoded = quantisers.scaled_sign(vector).decoded
        return encoded(decoded, packed(len(vector), 1) + vector.dtype.itemsize)

    return with_codec(algorithm, federation, lambda _: codec_of(one, scope), memory=memory, way=way)


@checks_options
def with_majority_vote(
    algorithm: Algorithm, federation: Federation, *, step: Scalar = 0.01
) -> Algorithm:
    """SignSGD by majority vote: each entry moves as most clients say (Bernstein et al., 2019).

    Against the algorithm inside: clients send signs, and the server takes theirs.
    Down: as before. Up: a bit an entry; whole numbers and statistics of normalisation as they are.
    Keeps: as before.

        sent = sign(u_k);  u = step * sign(sum_k sent)

    Zero counts as positive when it is sent, and a tie moves nothing. Clients vote alike.

    Equals the algorithm inside, with uniform votes, where all uploads' entries are ``step`` or
    ``-step`` and one client is asked.

    Args:
      algorithm: whose uploads are signs.
      federation: the clients, by which the types of uploads are known.
      step: by which an entry of the update moves, > 0.

    Raises:
      ValueError: if ``step`` is out of its range, or the server takes no means.

    Departs from the paper: signs are those of a client's whole update.
    Source: Bernstein, Zhao, Azizzadenesheli, Anandkumar, ICLR 2019, arXiv:1810.05291.
    """
    types = check_algorithm(algorithm, federation.train, federation.public)
    means_only(algorithm, types.upload.message, "A majority vote asks for")

    def client_update(
        key: Key, received: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, received, client, data, round)
        meant = compressible(upload.message)
        signs = jax.tree.map(lambda a: jnp.where(a >= 0, 1, -1).astype(a.dtype), meant)
        bits = sum(packed(a.size, 1) for a in jax.tree.leaves(meant))
        raw = tree.num_bytes(upload.message) - tree.num_bytes(meant)
        wire = wire_of(received, upload)._replace(up=bits + raw)
        return upload._replace(message=combine(signs, upload.message), wire=wire), client

    def server_update(key: Key, server: Server, update: PyTree, round: Round) -> Server:
        voted = jax.tree.map(lambda a: step * jnp.sign(a), compressible(update))
        return algorithm.server_update(key, server, combine(voted, update), round)

    counted = jax.tree.map(
        lambda rule: uniform_mean if rule.name == mean.name else rule, algorithm.aggregate
    )
    return algorithm._replace(
        client_update=client_update, server_update=server_update, aggregate=counted
    )
