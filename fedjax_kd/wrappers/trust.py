"""FLTrust and FoolsGold: clients are trusted by what the server knows of them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedjax_kd import tree
from fedjax_kd.components import trust
from fedjax_kd.core import Algorithm, Key, PyTree, Round, Server
from fedjax_kd.data.federation import Federation
from fedjax_kd.data.public_inputs import MissingError
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._beside import Beside, beside_server
from fedjax_kd.wrappers._robust import Robust, all_kept, by_rule, float_leaves

_KEY = 17  # folded into the keys of a method, which has its own use for them


@checks_options
def with_fltrust(algorithm: Algorithm, federation: Federation) -> Algorithm:
    """Uploads count as far as they point where the server's own training does (Cao et al., 2021).

    Against the algorithm inside: the server trains on its own labelled rows, as a new client would,
    and keeps all uploads of a round to compare them with the result g.
    Down, Up, Keeps: as before.

        t_k = max(0, cos(u_k, g))
        u = sum_k t_k (||g|| / ||u_k||) u_k / sum_k t_k           without votes

    Norms and products are over the whole upload. If nobody is trusted, u is zero. Sums are u times
    the number of clients; what the server looks at client by client is u in each place.

    Args:
      algorithm: whose means are replaced.
      federation: the clients, and the server's validation rows, which are its root data.

    Raises:
      MissingError: if the server has no labelled rows (``--validation-fraction``).
      ValueError: if clients send values, which have no direction.

    Departs from the paper: nothing known. Its root data are 100 examples.
    Source: Cao, Fang, Liu, Gong, NDSS 2021, arXiv:2012.13995.
    """
    if federation.public is None or federation.public.validation is None:
        raise MissingError(
            "FLTrust compares uploads with the server's own training, for which this federation "
            "has no labelled rows: set some apart, as by --validation-fraction 0.01."
        )
    if algorithm.uploads == "values":
        raise InputError(
            "FLTrust compares the directions of changes, but clients of this method send values, "
            "such as logits: use median or geometric_median."
        )

    def own_upload(key: Key, server: Server, round: Round) -> list[Any]:
        """What the server itself would send if it was a new client with its labelled rows."""
        client = algorithm.client_init(key, server)
        message = algorithm.broadcast(server, jnp.int32(0), round)
        root = round.public.validation
        upload, _ = algorithm.client_update(key, message, client, root, round)
        return float_leaves(upload.message)

    def server_update(key: Key, server: Server, update: PyTree, round: Round) -> Server:
        uploads = float_leaves(update)
        robust = Robust([], None)
        if uploads:
            root = own_upload(jax.random.fold_in(key, _KEY), server, round)
            mean, _ = trust.trusted_mean(uploads, round.present, root)
            robust = Robust(mean, None)
        return algorithm.server_update(key, server, *by_rule(algorithm, robust, update, round))

    return algorithm._replace(aggregate=all_kept(algorithm), server_update=server_update)


@checks_options
def with_foolsgold(algorithm: Algorithm, federation: Federation) -> Algorithm:
    """Clients that keep sending alike uploads count less (FoolsGold: Fung et al., 2020).

    Against the algorithm inside: the server keeps all uploads of a round, and the sum H_k of all
    that each client ever sent, which is as large as the whole population's models.
    Down, Up, Keeps: as before.

        c_ij = cos(H_i, H_j), i != j;  m_i = max_j c_ij;  c_ij = c_ij m_i / m_j  if m_i < m_j
        a_i = 1 - max_j c_ij, clipped to [0, 1], divided by the largest
        w_i = ln(a_i / (1 - a_i)) + 0.5, clipped to [0, 1]
        u = sum_i w_i u_i / sum_i w_i                              without votes

    Honest clients whose data are alike look like liars to it, and a single liar does not. Sums are
    u times the number of clients; what the server looks at client by client is zero, without a
    vote, for clients that have no weight.

    Args:
      algorithm: whose means are replaced.
      federation: the clients, each of which has a history.

    Departs from the paper: the authors' code looks at one layer and does not divide by the weights.
    Source: Fung, Yoon, Beschastnikh, RAID 2020, arXiv:1808.04866.
    """
    types = check_algorithm(algorithm, federation.train, federation.public).upload.message
    count = federation.num_clients
    start = [jnp.zeros((count, *a.shape), a.dtype) for a in float_leaves(types)]
    base = beside_server(algorithm, lambda *_: start)

    def server_update(key: Key, server: Beside, update: PyTree, round: Round) -> Beside:
        uploads, history = float_leaves(update), server.extra
        robust = Robust([], None)
        if uploads:
            history = [
                kept.at[round.cohort].add(sent, mode="drop")
                for kept, sent in zip(history, uploads, strict=True)
            ]
            own = [kept.at[round.cohort].get(mode="clip") for kept in history]
            weights = trust.sybil_weights(own, round.present)
            chosen = (weights > 0).astype(round.present.dtype)
            robust = Robust(tree.weighted_mean(uploads, weights), chosen)
        inside = by_rule(algorithm, robust, update, round)
        return Beside(algorithm.server_update(key, server.base, *inside), history)

    return base._replace(server_update=server_update, aggregate=all_kept(algorithm))
