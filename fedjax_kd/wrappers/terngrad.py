"""TernGrad: of each entry its sign or nothing, by chance."""

from __future__ import annotations

import jax
from jaxtyping import Array

from fedjax_kd.components import quantisers
from fedjax_kd.components.codecs import Codec, Scope, Sent, codec_of, encoded, entropy_bytes, packed
from fedjax_kd.core import Algorithm, Key, Scalar
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._compression import Memory, Way, with_codec

_BITS = 2


@checks_options
def with_terngrad(
    algorithm: Algorithm,
    federation: Federation,
    *,
    clip: Scalar = 2.5,
    scope: Scope = "tensor",
    memory: Memory = "none",
    way: Way = "up",
) -> Algorithm:
    """TernGrad: three values a tensor, minus and plus its largest size and zero (Wen et al., 2017).

    Against the algorithm inside: its messages are quantised by chance.
    Down, Up: 2 bits an entry and a float a tensor; whole numbers and statistics of normalisation as
    they are. Keeps: what ``memory`` says.

        v = clip(v, -c sigma, c sigma), sigma the deviation of the tensor
        decoded = max|v| sign(v) with chance |v| / max|v|, else 0     whose mean is the clipped v

    With a memory, and on the way down, what is decoded is shortened so that less than everything is
    left out: else errors would grow from round to round.

    Equals the algorithm inside where all entries of a tensor have one size that ``clip`` leaves.

    Args:
      algorithm: whose messages are quantised.
      federation: the clients, by which the types of messages are known.
      clip: c, in deviations, > 0; the paper has 2.5. What is cut makes the mean another one.
      scope: whether a vector is a tensor or the whole message.
      memory: of a client for what was not sent: "none", "ef14" or "ef21".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a number is out of its range, or a name unknown.

    Departs from the paper: clients do not share their largest size, as FedJAX's do not.
    Source: Wen, Xu, Yan, Wu, Wang, Chen, Li, NeurIPS 2017, arXiv:1705.07878.
    """

    def codec(remembered: bool) -> Codec:
        def one(key: Key, vector: Array, number: Array) -> Sent:
            draws = jax.random.uniform(key, vector.shape, vector.dtype)
            coded = quantisers.ternary(vector, draws, clip)
            coded = quantisers.steadied(vector, coded) if remembered else coded
            size = packed(len(vector), _BITS) + vector.dtype.itemsize
            return encoded(coded.decoded, size, entropy_bytes(coded.codes, 3))

        return codec_of(one, scope)

    return with_codec(algorithm, federation, codec, memory=memory, way=way)
