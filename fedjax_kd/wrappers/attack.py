"""Liars: a share of the clients sends something else than it should."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import prng, tree
from fedjax_kd.components import attacks
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import (
    Algorithm,
    Client,
    Data,
    Key,
    Message,
    PyTree,
    Round,
    Scalar,
    Server,
    Upload,
)
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine import aggregation
from fedjax_kd.errors import InputError
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.wrappers._backdoor import with_backdoor
from fedjax_kd.wrappers._beside import floats
from fedjax_kd.wrappers._robust import all_kept, float_leaves, with_floats

Attack = Literal["sign_flip", "gaussian", "scaling", "label_flip", "alie", "ipm", "backdoor"]

_KEY = 13  # folded into the keys of a method, which has its own use for them


@checks_options
def with_attack(
    algorithm: Algorithm,
    federation: Federation,
    *,
    attack: Attack = "sign_flip",
    share: Scalar = 0.2,
    strength: Scalar | None = None,
    liars_seed: int = 0,
    target: int = 0,
    poisoned: float = 0.5,
) -> Algorithm:
    """A share of the clients lies, the same ones in all rounds.

    Against the algorithm inside: what liars send, or learn from; with "alie" and "ipm", which know
    what honest clients of the round send, the server keeps all uploads of a round.
    Down, Up, Keeps: as before.

        sign_flip:  -strength u_k                         gaussian:  N(0, strength^2)
        scaling:    strength u_k                          label_flip:  trained on y -> L - 1 - y
        alie:       mu - strength s, of each coordinate   (Baruch, Baruch, Goldberg, 2019)
        ipm:        -strength mu                          (Xie, Koyejo, Gupta, 2019)
        backdoor:   strength u_k, trained on a share of own examples with a pattern and the
                    label ``target``                      (Bagdasaryan et al., 2020)

    with the mean mu and the deviation s of the honest clients. Whole numbers, bytes and votes stay
    as they are. Put it around robust rules: it acts before they do. Of a backdoor evaluations tell
    the ``attack_success``: the share of test rows of other classes that the pattern turns into the
    target. Its model replaces the server's with a strength of all votes over the liar's.

    Equals the algorithm inside when ``share == 0``.

    Args:
      algorithm: whose clients lie.
      federation: the clients, whose number decides who lies.
      attack: which lie.
      share: of all clients, in [0, 1]; of a cohort more or less may lie.
      strength: > 0; by default 1, of "scaling" 10, and of "alie" what hides in the spread.
      liars_seed: decides who lies, >= 0.
      target: class of a backdoor, >= 0.
      poisoned: share of a liar's examples that have its pattern, in [0, 1].

    Raises:
      ValueError: if ``attack`` is unknown, a number is out of its range, or labels are no classes.

    Departs from the papers: ALIE's deviation is that of all honest clients of the round, where the
    authors take the liars' own clean updates.
    Source: arXiv:1902.06156 (ALIE), arXiv:1903.03936 (IPM), arXiv:2007.08432 (label flips),
    arXiv:1807.00459 (model replacement).
    """
    check_choice("attack", attack, Attack)
    lying = attacks.liars(federation.num_clients, share, liars_seed)
    if attack == "label_flip":
        return _of_wrong_labels(algorithm, federation, lying)
    if attack == "backdoor":
        algorithm = with_backdoor(algorithm, federation, lying, target=target, poisoned=poisoned)
        attack = "scaling"
        strength = 1.0 if strength is None else strength
    if attack in ("alie", "ipm"):
        return _of_those_who_know(algorithm, attack, lying, strength)
    size = strength if strength is not None else (10.0 if attack == "scaling" else 1.0)

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, message, client, data, round)
        true = floats(upload.message)
        if attack == "gaussian":
            forged = prng.normal_like(jax.random.fold_in(key, _KEY), true, size)
        else:
            forged = tree.scale(-size if attack == "sign_flip" else size, true)
        sent = tree.where(_lies(lying, data.client), forged, true)
        return upload._replace(message=combine(sent, upload.message)), client

    return algorithm._replace(client_update=client_update)


def _lies(lying: Array, client: Any) -> Array:
    return lying.at[jnp.asarray(client)].get(mode="fill", fill_value=False)


def _of_wrong_labels(algorithm: Algorithm, federation: Federation, lying: Array) -> Algorithm:
    if not federation.num_classes:
        raise InputError("attack is 'label_flip', but the targets are no classes: flip signs.")
    classes = federation.num_classes

    def client_update(
        key: Key, message: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        wrong = attacks.mirrored(data.y, classes)
        seen = data._replace(y=jnp.where(_lies(lying, data.client), wrong, data.y))
        return algorithm.client_update(key, message, client, seen, round)

    return algorithm._replace(client_update=client_update)


def _of_those_who_know(
    algorithm: Algorithm, attack: Attack, lying: Array, strength: Scalar | None
) -> Algorithm:
    def server_update(key: Key, server: Server, update: PyTree, round: Round) -> Server:
        present = round.present
        bad = present * _lies(lying, round.cohort).astype(present.dtype)
        honest, uploads = present - bad, float_leaves(update)
        if attack == "alie":
            hidden = attacks.largest_hidden(present.sum(), bad.sum())
            z = hidden if strength is None else jnp.asarray(strength)
            lie = attacks.hidden_in_the_spread(uploads, honest, z)
        else:
            size = 1.0 if strength is None else strength
            lie = attacks.against_the_mean(uploads, honest, size)
        # Without an honest client there is nothing to hide in, and liars send what they have.
        forging = (bad > 0) & (honest.sum() > 0)
        sent = [
            jnp.where(forging.reshape(-1, *[1] * forged.ndim), forged[None], a)
            for a, forged in zip(uploads, lie, strict=True)
        ]
        forged = with_floats(update, sent), round.votes, round.present
        sums = aggregation.accumulate(algorithm.aggregate, *forged)
        reduced = aggregation.finalise(algorithm.aggregate, sums)
        return algorithm.server_update(key, server, reduced, round)

    return algorithm._replace(aggregate=all_kept(algorithm), server_update=server_update)
