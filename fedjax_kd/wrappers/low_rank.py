"""Matrices of low rank: by one power iteration, as PowerSGD does, or by singular values."""

from __future__ import annotations

import jax
from jaxtyping import Array

from fedjax_kd import prng, tree
from fedjax_kd.components import low_rank
from fedjax_kd.components.codecs import Sent, encoded
from fedjax_kd.core import Algorithm, Key, PyTree, Scalar
from fedjax_kd.data.federation import Federation
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._compression import Memory, Way, with_codec


@checks_options
def with_low_rank(
    algorithm: Algorithm,
    federation: Federation,
    *,
    rank: int = 2,
    memory: Memory = "ef14",
    way: Way = "up",
) -> Algorithm:
    """PowerSGD of each client: matrices by two thin factors (Vogels et al., 2019).

    Against the algorithm inside: matrices in its messages are of low rank.
    Down, Up: of an M x N matrix ``rank (M + N)`` numbers, if that is less; vectors, whole numbers
    and statistics of normalisation as they are. Keeps: what ``memory`` says.

        P = orthonormalised(A Q0), Q0 Gaussian;  Q = A^T P;  decoded = P Q^T

    A kernel of more axes is a matrix whose columns are its last axis.

    Equals the algorithm inside when ``rank`` reaches that of each matrix.

    Args:
      algorithm: whose messages are cut.
      federation: the clients, by which the types of messages are known.
      rank: of the factors, >= 1.
      memory: of a client for what was not sent: "none", "ef14" or "ef21".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a number is out of its range, or a name unknown.

    Departs from the paper: each client has factors of its own, which takes one exchange in a round
    where factors of the mean take two; Q0 is drawn anew and not the last Q.
    Source: Vogels, Karimireddy, Jaggi, NeurIPS 2019, arXiv:1905.13727.
    """

    def codec(key: Key, values: PyTree, number: Array) -> Sent:
        cut = jax.tree.map(
            lambda leaf, own: low_rank.powered(leaf, own, rank), values, prng.leaf_keys(key, values)
        )
        size = sum(low_rank.factor_bytes(leaf, rank) for leaf in jax.tree.leaves(values))
        return encoded(cut, size)

    return with_codec(algorithm, federation, lambda _: codec, memory=memory, way=way)


@checks_options
def with_svd(
    algorithm: Algorithm,
    federation: Federation,
    *,
    energy: Scalar = 0.95,
    memory: Memory = "none",
    way: Way = "up",
) -> Algorithm:
    """FedKD's compression: the singular vectors that hold most of a matrix (Wu et al., 2022).

    Against the algorithm inside: matrices in its messages are of low rank.
    Down, Up: of an M x N matrix of rank r ``r (M + N + 1)`` numbers, if that is less; vectors,
    whole numbers and statistics of normalisation as they are. Keeps: what ``memory`` says.

        r = min {r : sum_{j <= r} sigma_j^2 >= energy * sum_j sigma_j^2}

    Equals the algorithm inside when ``energy == 1``.

    Args:
      algorithm: whose messages are cut.
      federation: the clients, by which the types of messages are known.
      energy: share of a matrix's squared entries that travels at least, in [0, 1].
      memory: of a client for what was not sent: "none", "ef14" or "ef21".
      way: which messages: those of clients ("up"), of the server ("down") or "both".

    Raises:
      ValueError: if a number is out of its range, or a name unknown.

    Departs from the paper: the energy does not grow over rounds; the method `fedkd` has that.
    Source: Wu, Wu, Lyu, Huang, Xie, Nature Communications 2022, doi:10.1038/s41467-022-29763-x.
    """

    def codec(key: Key, values: PyTree, number: Array) -> Sent:
        cut = low_rank.cut(values, energy)
        return encoded(cut.base, jax.numpy.minimum(cut.size, tree.num_bytes(values)))

    return with_codec(algorithm, federation, lambda _: codec, memory=memory, way=way)
