"""Central differential privacy whose clipping norm follows a quantile of the uploads' norms."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from fedjax_kd import tree
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Client, Data, Key, Plan, Round, Scalar, Upload, Wire, total
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._beside import Beside, beside_server, floats, wire_of
from fedjax_kd.wrappers.privacy import clipped_to, noisy

_LEAST = 1e-8  # of a clipping norm
_BIT = 14  # folded into the keys of a method, which has its own use for them


class WithBit(NamedTuple):
    """A message, and the clipping norm on the way down, or whether it was met on the way up."""

    base: Any
    bit: Any


@checks_options
def with_adaptive_clipping(
    algorithm: Algorithm,
    *,
    noise: Scalar = 1.0,
    clip: Scalar = 0.1,
    quantile: Scalar = 0.5,
    clip_lr: Scalar = 0.2,
    bit_noise: Scalar | None = None,
    denominator: Scalar | None = None,
    scale: Scalar = 1.0,
) -> Algorithm:
    """Differential privacy with quantile-based adaptive clipping (Andrew et al., 2021).

    Against the algorithm inside: uploads are clipped to a norm C that the server adapts, all
    clients vote alike, and the server sees noisy sums.
    Down: C as well. Up: a bit as well, whether the upload was short enough. Keeps: as before; the
    server keeps C.

        u_k = u_k * min(1, C / ||u_k||);  b_k = 1 if ||u_k|| <= C
        mean of u_k = (sum_k u_k + N(0, (scale z_u C)^2 I)) / denominator
        C = C * exp(-clip_lr * ((sum_k b_k + N(0, bit_noise^2)) / denominator - quantile))
        z_u = (noise^-2 - (2 bit_noise)^-2)^(-1/2)

    so that both releases together are as private as one with the multiplier ``noise``.

    Equals the algorithm inside, with uniform votes, when ``noise == 0``, ``clip_lr == 0`` and
    ``clip`` is above all norms.

    Args:
      algorithm: to be made private.
      noise: multiplier z of both releases together, >= 0; without noise there is none on the bits.
      clip: C at first, > 0.
      quantile: of the norms that C follows, in [0, 1].
      clip_lr: learning rate of the logarithm of C, >= 0.
      bit_noise: deviation of the noise on the count of short uploads, > 0, and above ``noise / 2``;
        by default a twentieth of ``denominator``.
      denominator: what sums are divided by, > 0: the expected size of a cohort. By default the
        number of clients whose uploads are used.
      scale: of the updates' noise, in (0, 1]; see the wrapper `privacy`.

    Raises:
      ValueError: if a number is out of its range, or cohorts are too small for the default
        ``bit_noise``.

    Departs from the paper: C stays above 1e-8.
    Source: Andrew, Thakkar, McMahan, Ramaswamy, NeurIPS 2021, arXiv:1905.03871.
    """
    if isinstance(noise, float | int) and isinstance(bit_noise, float | int):
        _check_split(noise, bit_noise, "bit_noise")
    base = beside_server(algorithm, lambda *_: jnp.asarray(clip, jnp.float32))

    def broadcast(server: Beside, number: Array, round: Round) -> WithBit:
        return WithBit(algorithm.broadcast(server.base, number, round), server.extra)

    def client_update(
        key: Key, received: WithBit, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, received.base, client, data, round)
        true, bound = floats(upload.message), received.bit
        short = (jnp.sqrt(tree.sq_norm(true)) <= bound).astype(jnp.float32)
        sent = combine(clipped_to(true, bound), upload.message)
        up, down = wire_of(received.base, upload)
        wire = Wire(jnp.asarray(up) + 1, jnp.asarray(down) + bound.nbytes)
        made = upload._replace(message=WithBit(sent, short), weight=jnp.float32(1), wire=wire)
        return made, client

    def server_update(key: Key, server: Beside, update: WithBit, round: Round) -> Beside:
        count, bound = round.present.sum(), server.extra
        many = count if denominator is None else jnp.asarray(denominator, jnp.float32)
        on_bits = many / 20 if bit_noise is None else jnp.asarray(bit_noise, jnp.float32)
        multiplier = update_noise(jnp.asarray(noise, jnp.float32), on_bits)
        noised = noisy(
            algorithm.aggregate,
            update.base,
            key,
            round,
            deviation=scale * multiplier * bound,
            divided_by=many,
        )
        drawn = jax.random.normal(jax.random.fold_in(key, _BIT)) * jnp.where(noise > 0, on_bits, 0)
        share = (update.bit + drawn) / many
        moved = jnp.maximum(bound * jnp.exp(-clip_lr * (share - quantile)), _LEAST)
        return Beside(algorithm.server_update(key, server.base, noised, round), moved)

    def check(plan: Plan) -> None:
        algorithm.check(plan)
        if isinstance(noise, float | int) and bit_noise is None:
            many = plan.cohort_size if denominator is None else denominator
            if isinstance(many, float | int):
                _check_split(noise, many / 20, "the default of bit_noise")

    return base._replace(
        broadcast=broadcast,
        client_update=client_update,
        server_update=server_update,
        aggregate=WithBit(algorithm.aggregate, total),
        check=check,
    )


def update_noise(noise: Float[Array, ""], bit_noise: Float[Array, ""]) -> Float[Array, ""]:
    """The multiplier of the updates' noise, so that the bits' are paid for as well.

    Example:
      >>> update_noise(jnp.float32(1.0), jnp.float32(5.0))
      Array(1.0050378, dtype=float32)
    """
    inverse = 1 / jnp.square(jnp.where(noise > 0, noise, 1)) - 1 / jnp.square(2 * bit_noise)
    return jnp.where(noise > 0, 1 / jnp.sqrt(inverse), 0)


def _check_split(noise: float, bit_noise: float, what: str) -> None:
    if 2 * bit_noise <= noise:
        raise InputError(
            f"noise is {noise} and {what} {bit_noise:g}, but it must be above noise / 2: with less "
            "the bits alone would spend more. Set bit_noise higher, or ask more clients."
        )
