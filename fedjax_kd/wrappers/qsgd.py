"""QSGD: sizes rounded by chance to parts of the norm."""

from __future__ import annotations

import jax
from jaxtyping import Array

from fedjax_kd.components import quantisers
from fedjax_kd.components.codecs import Codec, Scope, Sent, codec_of, encoded, entropy_bytes, packed
from fedjax_kd.core import Algorithm, Key
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._compression import Memory, Way, with_codec


@checks_options
def with_qsgd(
    algorithm: Algorithm,
    federation: Federation,
    *,
    steps: int = 7,
    scope: Scope = "tensor",
    memory: Memory = "none",
    way: Way = "up",
) -> Algorithm:
    """QSGD: signs, and sizes in parts of the norm (Alistarh et al., 2017).

    Against the algorithm inside: its messages are quantised by chance.
    Down, Up: codes of ceil(log2(2 steps + 1)) bits and the norm of each tensor; whole numbers and
    statistics of normalisation as they are. Keeps: what ``memory`` says.

        t = steps |v| / ||v||;  level = floor(t), one more with chance t - floor(t)
        decoded = ||v|| sign(v) level / steps                  whose mean is v

    With a memory, and on the way down, what is decoded is shortened so that less than everything is
    left out: else errors would grow from round to round.

    Equals the algorithm inside as ``steps`` grows.

    Args:
      algorithm: whose messages are quantised.
      federation: the clients, by which the types of messages are known.
      steps: >= 1; 7 make codes of 4 bits.
      scope: whether a vector is a tensor or the whole message.
      memory: of a client for what was not sent: "none", "ef14" or "ef21".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a number is out of its range, or a name unknown.

    Departs from the paper: codes are of a fixed length, and Elias's coding is left out; vectors are
    not cut into buckets.
    Source: Alistarh, Grubic, Li, Tomioka, Vojnovic, NeurIPS 2017, arXiv:1610.02132.
    """
    bits = (2 * steps).bit_length()

    def codec(remembered: bool) -> Codec:
        def one(key: Key, vector: Array, number: Array) -> Sent:
            draws = jax.random.uniform(key, vector.shape, vector.dtype)
            coded = quantisers.qsgd(vector, draws, steps)
            coded = quantisers.steadied(vector, coded) if remembered else coded
            size = packed(len(vector), bits) + vector.dtype.itemsize
            return encoded(coded.decoded, size, entropy_bytes(coded.codes, 2 * steps + 1))

        return codec_of(one, scope)

    return with_codec(algorithm, federation, codec, memory=memory, way=way)
