"""Local differential privacy: each client adds the noise itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedjax_kd import prng, tree
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Client, Data, Key, Message, Round, Scalar, Upload
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._beside import floats
from fedjax_kd.wrappers.privacy import clipped_to

_KEY = 16  # folded into the keys of a method, which has its own use for them


@checks_options
def with_local_privacy(
    algorithm: Algorithm, *, clip: Scalar = 1.0, noise: Scalar = 1.0
) -> Algorithm:
    """The Gaussian mechanism in each client, so that the server need not be trusted.

    Against the algorithm inside: uploads are clipped and noised before they are sent.
    Down, Keeps: as before. Up: as before, and votes are alike.

        u_k = u_k * min(1, clip / ||u_k||) + N(0, (noise * clip)^2 I)      the norm over all of u_k

    The mean over n clients has noise of deviation ``noise * clip / sqrt(n)``, where that of the
    wrapper `privacy` has ``noise * clip / n``. Whole numbers are sent as they are, and so are the
    metrics: they are not private.

    Equals the algorithm inside, with uniform votes, when ``noise == 0`` and ``clip`` is above all
    norms.

    Args:
      algorithm: to be made private.
      clip: largest norm of an upload before noise, > 0.
      noise: noise multiplier, >= 0: standard deviation of the noise over ``clip``. Replacing all
        data of a client moves its upload by up to ``2 * clip``.

    Raises:
      ValueError: if a number is out of its range.

    Source: Balle, Wang, ICML 2018, arXiv:1805.06530, for what it costs.
    """

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, message, client, data, round)
        clipped = clipped_to(floats(upload.message), clip)
        drawn = prng.normal_like(jax.random.fold_in(key, _KEY), clipped, noise * clip)
        sent = combine(tree.add(clipped, drawn), upload.message)
        return upload._replace(message=sent, weight=jnp.float32(1)), client

    return algorithm._replace(client_update=client_update)
