"""Central differential privacy: clipped uploads, Gaussian noise on their sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import tree
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import (
    Algorithm,
    Client,
    Data,
    Key,
    Message,
    PyTree,
    Reducer,
    Round,
    Scalar,
    Server,
    Upload,
    mean,
    uniform_mean,
)
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._beside import floats, is_float


@checks_options
def with_privacy(
    algorithm: Algorithm,
    *,
    clip: Scalar = 1.0,
    noise: Scalar = 1.0,
    denominator: Scalar | None = None,
    scale: Scalar = 1.0,
) -> Algorithm:
    """The Gaussian mechanism on clipped uploads (McMahan, Ramage, Talwar, Zhang, 2018).

    Against the algorithm inside: uploads are clipped, all clients vote alike, and the server sees
    noisy sums.
    Down, Up, Keeps: as before.

        u_k = u_k * min(1, clip / ||u_k||)                     the norm over the whole upload
        mean of u_k = (sum_k u_k + N(0, (scale * noise * clip)^2 I)) / denominator

    An entry that the server sums without a mean gets the noise of the sum; one that it looks at
    client by client gets the same noise for each client. Statistics of normalisation are part of an
    upload, too. Whole numbers are sent as they are, and so are the metrics: they are not private.

    Equals the algorithm inside, with uniform votes, when ``noise == 0`` and ``clip`` is above all
    norms.

    Args:
      algorithm: to be made private.
      clip: largest norm of an upload, > 0.
      noise: noise multiplier, >= 0: standard deviation of the noise on the sum over ``clip``.
      denominator: what sums are divided by, > 0: the expected size of a cohort, which tells nothing
        about who took part. By default the number of clients whose uploads are used.
      scale: of the noise, in (0, 1]: the cohort over a larger one for whose privacy ``noise`` is
        meant, so that the mean is as noisy as there. Below 1 the run itself is less private.

    Raises:
      ValueError: if a number is out of its range.

    Departs from the paper: adaptive clipping is another wrapper, and a run accounts for privacy
    (``--delta``). A round without a usable upload changes nothing, where the mechanism would add
    noise.
    Source: McMahan, Ramage, Talwar, Zhang, ICLR 2018, arXiv:1710.06963; the scale is pfl's.
    """

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, message, client, data, round)
        clipped = combine(clipped_to(floats(upload.message), clip), upload.message)
        return upload._replace(message=clipped, weight=jnp.float32(1)), client

    def server_update(key: Key, server: Server, update: PyTree, round: Round) -> Server:
        count = round.present.sum()
        divided_by = count if denominator is None else jnp.asarray(denominator)
        noised = noisy(
            algorithm.aggregate,
            update,
            key,
            round,
            deviation=scale * clip * noise,
            divided_by=divided_by,
        )
        return algorithm.server_update(key, server, noised, round)

    return algorithm._replace(client_update=client_update, server_update=server_update)


def noisy(
    aggregate: PyTree,
    update: PyTree,
    key: Key,
    round: Round,
    *,
    deviation: Scalar,
    divided_by: Scalar,
) -> PyTree:
    """What a server receives, with Gaussian noise on the sums over clients.

    Args:
      aggregate: the reducers, by which sums, means and single clients are told apart.
      update: what they make of the uploads.
      key: of the server, in this round.
      round: whose present clients are counted.
      deviation: of the noise on a sum.
      divided_by: what sums of means are divided by.
    """
    count = round.present.sum()
    keys = iter(jax.random.split(jax.random.fold_in(key, 2), len(jax.tree.leaves(update))))

    def of_entry(rule: Reducer, entry: PyTree) -> PyTree:
        averaged = rule.name in (mean.name, uniform_mean.name)

        def one(value: Array) -> Array:
            own = next(keys)
            if not is_float(value):
                return value
            if rule.stacked:
                return value + _noise_of_each(own, value, round, deviation)
            draw = (deviation * jax.random.normal(own, value.shape)).astype(value.dtype)
            if averaged:
                many, divisor = (jnp.asarray(a, value.dtype) for a in (count, divided_by))
                return (value * many + draw) / divisor
            return value + draw

        return jax.tree.map(one, entry)

    return jax.tree.map(of_entry, aggregate, update)


def _noise_of_each(key: Key, values: Array, round: Round, deviation: Scalar) -> Array:
    """Noise for each client of a cohort, by its number: the order of a cohort changes nothing."""

    def one(client: Array, present: Array) -> Array:
        own = jax.random.fold_in(key, client)
        return deviation * present * jax.random.normal(own, values.shape[1:])

    return jax.vmap(one)(round.cohort, round.present).astype(values.dtype)


def clipped_to(update: PyTree, clip: Scalar) -> PyTree:
    """An update scaled down to a norm of at most ``clip``, over all leaves together.

    Example:
      >>> clipped_to({"w": jnp.array([3.0, 4.0])}, 1.0)
      {'w': Array([0.6, 0.8], dtype=float32)}
    """
    norm: Float[Array, ""] = jnp.sqrt(tree.sq_norm(update))
    return tree.scale(jnp.minimum(1, clip / jnp.where(norm > 0, norm, 1)), update)
