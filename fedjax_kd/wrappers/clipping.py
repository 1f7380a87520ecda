"""Uploads of bounded length: around zero, or around what the server expects."""

from __future__ import annotations

import jax.numpy as jnp

from fedjax_kd.components import robust_rules as rules
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Client, Data, Key, Message, PyTree, Round, Scalar, Upload
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._beside import Beside, beside_server, floats
from fedjax_kd.wrappers._robust import Robust, all_kept, by_rule, float_leaves
from fedjax_kd.wrappers.privacy import clipped_to


@checks_options
def with_norm_bound(algorithm: Algorithm, *, bound: Scalar = 1.0) -> Algorithm:
    """Uploads no longer than a bound (Sun et al., 2019).

    Against the algorithm inside: uploads are scaled down to a norm.
    Down, Up, Keeps: as before.

        u_k = u_k / max(1, ||u_k|| / bound)                    the norm over the whole upload

    Votes stay as they are. Statistics of normalisation are part of an upload, too.

    Equals the algorithm inside when ``bound`` is above all norms.

    Args:
      algorithm: whose uploads are bounded.
      bound: largest norm of an upload, > 0.

    Raises:
      ValueError: if ``bound`` is out of its range.

    Departs from the paper: the noise that it adds is the wrapper `privacy`'s.
    Source: Sun, Kairouz, Suresh, McMahan, 2019, arXiv:1911.07963.
    """

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, message, client, data, round)
        bounded = clipped_to(floats(upload.message), bound)
        return upload._replace(message=combine(bounded, upload.message)), client

    return algorithm._replace(client_update=client_update)


@checks_options
def with_centred_clipping(
    algorithm: Algorithm, federation: Federation, *, bound: Scalar = 10.0, steps: int = 1
) -> Algorithm:
    """Differences to the last mean, of bounded length (Karimireddy, He, Jaggi, 2021).

    Against the algorithm inside: the server keeps all uploads of a round, and their centre v.
    Down, Up, Keeps: as before.

        repeat: v = v + mean_k (u_k - v) min(1, bound / ||u_k - v||)         without votes

    v starts at zero. Sums are v times the number of clients. What the server looks at client by
    client is v in each place.

    Equals the algorithm inside, with uniform votes, when ``bound`` is above all distances.

    Args:
      algorithm: whose means are replaced.
      federation: the clients, by which the types of uploads are known.
      bound: largest distance that an upload moves v by, > 0.
      steps: how often v moves in a round, >= 1.

    Raises:
      ValueError: if a number is out of its range.

    Departs from the paper: clients send their updates and no momenta, without which its guarantee
    does not hold.
    Source: Karimireddy, He, Jaggi, ICML 2021, arXiv:2012.10333.
    """
    types = check_algorithm(algorithm, federation.train, federation.public).upload.message
    start = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in float_leaves(types)]
    base = beside_server(algorithm, lambda *_: start)

    def server_update(key: Key, server: Beside, update: PyTree, round: Round) -> Beside:
        centre = server.extra
        if centre:
            centre = rules.centred(float_leaves(update), round.present, centre, bound, steps)
        inside = by_rule(algorithm, Robust(centre, None), update, round)
        return Beside(algorithm.server_update(key, server.base, *inside), centre)

    return base._replace(server_update=server_update, aggregate=all_kept(algorithm))
