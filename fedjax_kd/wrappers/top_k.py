"""Gradient dropping: clients send the largest entries, and add the rest to what comes next."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd.components.codecs import Scope, Sent, codec_of, encoded
from fedjax_kd.components.sparsity import Positions, Ties, largest, sparse_bytes
from fedjax_kd.core import Algorithm, Key, Scalar
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._compression import Memory, Way, with_codec


@checks_options
def with_top_k(
    algorithm: Algorithm,
    federation: Federation,
    *,
    keep: Scalar = 0.1,
    scope: Scope = "message",
    memory: Memory = "ef14",
    warmup: int = 0,
    ties: Ties = "dropped",
    positions: Positions = "int32",
    way: Way = "up",
) -> Algorithm:
    """Gradient dropping with residuals: the largest entries travel (Aji, Heafield, 2017).

    Against the algorithm inside: its messages are sparse, and clients remember what was left out.
    Down, Up: the entries of largest size, values and positions; whole numbers and statistics of
    normalisation as they are. Keeps: what was not sent yet, of the upload's shape.

        a = upload + residual
        sent = a where |a| > the (n - ceil(keep n))-th smallest |a|, else 0
        residual = a - sent

    Bytes: an entry sent counts its value and its position; where the whole vector is smaller, it is
    sent whole, with zeros, which never travel else.

    Equals the algorithm inside when ``keep == 1``.

    Args:
      algorithm: whose messages are made sparse.
      federation: the clients, by which the types of messages are known.
      keep: share of the entries that travel, in (0, 1]; the paper drops 99 %, ``keep=0.01``.
      scope: whether entries compete within the whole message or within each of its tensors.
      memory: of a client for what was not sent: "ef14" is the residual; "ef21" sends the largest
        differences to what the server knows; or "none".
      warmup: rounds over which the share falls from 1 to ``keep``, geometrically, >= 0.
      ties: of equal entries at the threshold none is sent ("dropped"), as by the authors' code, or
        the first ones, so that there are ceil(keep n).
      positions: how they are encoded: 4 bytes each ("int32"), as few bits as tell n of them apart
        ("packed"), a bit an entry ("bitmap"), or what is the "smallest".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a number is out of its range, or a name unknown.

    Departs from the paper: thresholds are exact where the authors' code samples them in large
    tensors; ``keep=1`` drops nothing, where that code drops the smallest entry.
    Source: Aji, Heafield, EMNLP 2017, arXiv:1704.05021; EF21 of Richtarik, Sokolov, Fatkhullin,
    NeurIPS 2021, arXiv:2106.05203.

    Example:
      >>> import fedjax_kd as fk
      >>> federation = fk.federate(fk.load("digits"), fk.IidPartitioner(num_partitions=10))
      >>> build = fk.MODELS["logistic"](federation.input_shape, federation.num_classes)
      >>> base = fk.fedavg(fk.from_nnx(build, prepare=federation.prepare), fk.local_training())
      >>> sparse = with_top_k(base, federation, keep=0.05)
      >>> fk.train(sparse, federation, num_rounds=1, cohort_size=2).history[-1]["bytes_up"]
      528
    """
    check_choice("scope", scope, Scope)
    check_choice("positions", positions, Positions)
    check_choice("ties", ties, Ties)

    def one(key: Key, vector: Array, number: Array) -> Sent:
        # With equal exponents a share that is a number stays one, and is rounded exactly.
        share = keep if warmup == 0 else keep ** jnp.minimum((number + 1) / (warmup + 1), 1)
        chosen = largest(vector, share, ties)
        return encoded(chosen, sparse_bytes(chosen, positions))

    codec = codec_of(one, scope, raw=False)
    return with_codec(algorithm, federation, lambda _: codec, memory=memory, way=way)
