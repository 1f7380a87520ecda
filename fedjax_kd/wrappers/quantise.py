"""Uniform stochastic quantisation, of messages or of their random rotations."""

from __future__ import annotations

import jax
from jaxtyping import Array

from fedjax_kd.components import quantisers, rotations
from fedjax_kd.components.codecs import Codec, Scope, Sent, codec_of, encoded, entropy_bytes, packed
from fedjax_kd.core import Algorithm, Key
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._compression import Memory, Way, with_codec

_FLOATS = 2  # the least and the largest


@checks_options
def with_quantise(
    algorithm: Algorithm,
    federation: Federation,
    *,
    levels: int = 16,
    rotate: bool = False,
    scope: Scope = "tensor",
    memory: Memory = "none",
    way: Way = "up",
) -> Algorithm:
    """Uniform levels between the least and the largest entry (Suresh et al., 2017).

    Against the algorithm inside: its messages are quantised by chance.
    Down, Up: codes of ceil(log2 levels) bits and two floats a tensor, and 8 bytes of a seed if
    rotated; whole numbers and statistics of normalisation as they are. Keeps: what ``memory`` says.

        t = (v - min) / (max - min) * (levels - 1)
        level = floor(t), or one more with chance t - floor(t)
        rotated: the same of r = H D v / sqrt(n), and back; n is a power of two, by padding

    The mean is the message. With a memory, and on the way down, what is decoded is shortened so
    that less than everything is left out. All clients of a round share the random signs D.

    Equals the algorithm inside as ``levels`` grows.

    Args:
      algorithm: whose messages are quantised.
      federation: the clients, by which the types of messages are known.
      levels: >= 2; 2 sends a bit an entry.
      rotate: whether vectors are rotated first, which makes their range small.
      scope: whether a vector is a tensor or the whole message.
      memory: of a client for what was not sent: "none", "ef14" or "ef21".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a number is out of its range, or a name unknown.

    Departs from the paper: the entropy-coded size is an estimate (``train_entropy_bytes``), and
    what is counted on the wire are packed codes.
    Source: Suresh, Yu, Kumar, McMahan, ICML 2017, arXiv:1611.00429.
    """
    bits = (levels - 1).bit_length()

    def codec(remembered: bool) -> Codec:
        def one(key: Key, vector: Array, number: Array) -> Sent:
            size, signs = len(vector), None
            if rotate:
                shared = jax.random.fold_in(jax.random.key(size), number)
                signs = rotations.signs_of(shared, size, vector.dtype)
                vector = rotations.rotated(vector, signs)
            draws = jax.random.uniform(key, vector.shape, vector.dtype)
            coded = quantisers.uniform_levels(vector, draws, levels)
            coded = quantisers.steadied(vector, coded) if remembered else coded
            wire = packed(len(vector), bits) + _FLOATS * vector.dtype.itemsize
            entropy = entropy_bytes(coded.codes, levels)
            decoded = coded.decoded
            if signs is not None:
                decoded = rotations.rotated_back(decoded, signs, size)
            return encoded(decoded, wire, entropy)

        return codec_of(one, scope, seeded=rotate)

    return with_codec(algorithm, federation, codec, memory=memory, way=way)
