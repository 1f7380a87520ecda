"""Random sparsification: clients send entries that both sides draw alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd.components.codecs import Codec, Scope, Sent, codec_of, encoded
from fedjax_kd.components.sparsity import kept_of
from fedjax_kd.core import Algorithm, Key, Scalar
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._compression import Memory, Way, with_codec


@checks_options
def with_random_k(
    algorithm: Algorithm,
    federation: Federation,
    *,
    keep: Scalar = 0.1,
    scope: Scope = "message",
    memory: Memory = "none",
    way: Way = "up",
) -> Algorithm:
    """Random-k: as many entries as are to travel, drawn anew each time (Stich et al., 2018).

    Against the algorithm inside: its messages are sparse.
    Down, Up: values of the drawn entries and a seed of 8 bytes; whole numbers and statistics of
    normalisation as they are. Keeps: what ``memory`` says, of the upload's shape.

        sent = v * mask * n / k,  k = ceil(keep n)             without a memory: the mean is v
        sent = v * mask                                        with one

    Equals the algorithm inside when ``keep == 1``.

    Args:
      algorithm: whose messages are made sparse.
      federation: the clients, by which the types of messages are known.
      keep: share of the entries that travel, in (0, 1].
      scope: whether entries are drawn from the whole message or from each of its tensors.
      memory: of a client for what was not sent: "none", "ef14" or "ef21".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a number is out of its range, or a name unknown.

    Departs from the paper: nothing known.
    Source: Stich, Cordonnier, Jaggi, NeurIPS 2018, arXiv:1809.07599.
    """

    def codec(remembered: bool) -> Codec:
        def one(key: Key, vector: Array, number: Array) -> Sent:
            count = jnp.asarray(kept_of(len(vector), keep), jnp.int32)
            order = jax.random.permutation(key, len(vector))
            mask = (order < count).astype(vector.dtype)
            scale = 1.0 if remembered else len(vector) / count.astype(vector.dtype)
            return encoded(vector * mask * scale, count * vector.dtype.itemsize)

        return codec_of(one, scope, raw=False, seeded=True)

    return with_codec(algorithm, federation, codec, memory=memory, way=way)
