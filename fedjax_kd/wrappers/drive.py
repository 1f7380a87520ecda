"""DRIVE: the signs of a randomly rotated message, and one number."""

from __future__ import annotations

from jaxtyping import Array

from fedjax_kd.components import rotations
from fedjax_kd.components.codecs import Scope, Sent, codec_of, encoded, packed
from fedjax_kd.components.rotations import DriveScale
from fedjax_kd.core import Algorithm, Key
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._compression import Memory, Way, with_codec


@checks_options
def with_drive(
    algorithm: Algorithm,
    federation: Federation,
    *,
    scale: DriveScale = "unbiased",
    scope: Scope = "message",
    memory: Memory = "none",
    way: Way = "up",
) -> Algorithm:
    """DRIVE: one bit an entry, of a rotation of each client's own (Vargaftik et al., 2021).

    Against the algorithm inside: its messages are rotated and quantised.
    Down, Up: a bit an entry, padded to a power of two, a float and 8 bytes of a seed; whole numbers
    and statistics of normalisation as they are. Keeps: what ``memory`` says.

        r = H D v / sqrt(n), D random signs;  sent: sign(r), S
        decoded = D H (S sign(r)) / sqrt(n)

    Equals the algorithm inside where one entry alone is not zero.

    Args:
      algorithm: whose messages are quantised.
      federation: the clients, by which the types of messages are known.
      scale: S is ``||r||^2 / ||r||_1`` ("unbiased"), or ``||r||_1 / n`` ("least_error").
      scope: whether a vector is the whole message or a tensor; of less than some hundred numbers
        the mean is not the message.
      memory: of a client for what was not sent: "none", "ef14" or "ef21".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a name is unknown.

    Departs from the paper: the rotation is the structured one of its experiments, whose mean is the
    message in high dimension only.
    Source: Vargaftik, Ben-Basat, Portnoy, Mendelson, Ben-Itzhak, Mitzenmacher, NeurIPS 2021,
    arXiv:2105.08339.
    """
    check_choice("scale", scale, DriveScale)

    def one(key: Key, vector: Array, number: Array) -> Sent:
        signs = rotations.signs_of(key, len(vector), vector.dtype)
        turned = rotations.drive(rotations.rotated(vector, signs), scale)
        size = packed(len(signs), 1) + vector.dtype.itemsize
        return encoded(rotations.rotated_back(turned, signs, len(vector)), size)

    return with_codec(
        algorithm, federation, lambda _: codec_of(one, scope, seeded=True), memory=memory, way=way
    )
