"""Gradient dropping: clients send the largest entries, and add the rest to what comes next."""

from __future__ import annotations

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from fedjax_kd import tree
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Data, Key, Message, PyTree, Round, Scalar, Upload
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._beside import Beside, beside_client, floats, wire_of

Scope = Literal["message", "tensor"]

_INDEX_BYTES = 4


@checks_options
def with_top_k(
    algorithm: Algorithm, federation: Federation, *, keep: Scalar = 0.1, scope: Scope = "message"
) -> Algorithm:
    """Gradient dropping with residuals: the largest entries travel (Aji, Heafield, 2017).

    Against the algorithm inside: its uploads are sparse, and clients remember what was left out.
    Down: as before. Up: of each upload the entries of largest size, values and positions; whole
    numbers as they are. Keeps: what was not sent yet, of the upload's shape.

        a = upload + residual
        sent = a where |a| > the (n - ceil(keep n))-th smallest |a|, else 0
        residual = a - sent

    Bytes: an entry sent counts its value and 4 bytes for its position; where the whole message is
    smaller, it is sent whole. Of equal entries at the threshold none is sent: zeros never travel.

    Equals the algorithm inside when ``keep == 1``.

    Args:
      algorithm: whose uploads are made sparse.
      federation: the clients, by which the types of uploads are known.
      keep: share of the entries that travel, in (0, 1]; the paper drops 99 %, ``keep=0.01``.
      scope: whether entries compete within the whole upload or within each of its tensors.

    Raises:
      ValueError: if ``keep`` is a number out of its range, or ``scope`` is unknown.

    Departs from the paper: thresholds are exact where the authors' code samples them in large
    tensors; ``keep=1`` drops nothing, where that code drops the smallest entry.
    Source: Aji, Heafield, EMNLP 2017, arXiv:1704.05021.

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
    types = check_algorithm(algorithm, federation.train, federation.public).upload.message
    base = beside_client(algorithm, lambda key, server: tree.zeros_like(floats(types)))

    def client_update(
        key: Key, message: Message, client: Beside, data: Data, round: Round
    ) -> tuple[Upload, Beside]:
        upload, own = algorithm.client_update(key, message, client.base, data, round)
        waiting = tree.add(floats(upload.message), client.extra)
        sent = largest(waiting, keep, scope)
        whole = jnp.asarray(wire_of(message, upload).up)
        wire = upload.wire._replace(up=jnp.minimum(sparse_bytes(sent, upload.message), whole))
        upload = upload._replace(message=combine(sent, upload.message), wire=wire)
        return upload, Beside(own, tree.sub(waiting, sent))

    return base._replace(client_update=client_update)


def largest(entries: PyTree, keep: Scalar, scope: Scope = "message") -> PyTree:
    """The entries of largest size, zeros in place of the others.

    Example:
      >>> largest({"w": jnp.array([3.0, -4.0, 1.0, 2.0])}, 0.5)
      {'w': Array([ 3., -4.,  0.,  0.], dtype=float32)}
    """
    if scope == "tensor":
        return jax.tree.map(lambda a: _above(a, _threshold(jnp.ravel(jnp.abs(a)), keep)), entries)
    sizes = [jnp.ravel(jnp.abs(a)).astype(jnp.float32) for a in jax.tree.leaves(entries)]
    if not sizes:
        return entries
    least = _threshold(jnp.concatenate(sizes), keep)
    return jax.tree.map(lambda a: _above(a, least.astype(a.dtype)), entries)


def _above(a: Array, least: Array) -> Array:
    return jnp.where(jnp.abs(a) > least, a, 0)


def _threshold(sizes: Float[Array, " n"], keep: Scalar) -> Float[Array, ""]:
    """What an entry's size must exceed; below all sizes if everything is kept."""
    count = len(sizes)
    if count == 0:
        return jnp.full((), -1, sizes.dtype)
    dropped = count - _kept(count, keep)
    at = jnp.sort(sizes).at[jnp.maximum(dropped - 1, 0)].get(mode="clip")
    return jnp.where(dropped > 0, at, jnp.full((), -1, sizes.dtype))


def _kept(count: int, keep: Scalar) -> Any:
    """``ceil(keep * count)``, where rounding may not make one more of a whole number."""
    if isinstance(keep, float | int):
        return math.ceil(keep * count * (1 - 1e-12))
    return jnp.ceil(keep * count * (1 - 2e-7)).astype(jnp.int32)


def sparse_bytes(sent: PyTree, message: Message) -> Int[Array, ""]:
    """Bytes of the entries that are not zero, with their positions, and of what is not sparse.

    Example:
      >>> sparse_bytes(jnp.array([0.0, 2.0, 3.0]), jnp.ones(3))
      Array(16, dtype=int32)
    """
    dense = tree.num_bytes(message) - tree.num_bytes(sent)
    counted = [
        jnp.sum(a != 0, dtype=jnp.int32) * (a.dtype.itemsize + _INDEX_BYTES)
        for a in jax.tree.leaves(sent)
    ]
    return sum(counted, jnp.int32(dense))
