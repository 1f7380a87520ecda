"""Secure aggregation, simulated: the server sees sums of whole numbers and nothing else."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from fedjax_kd import prng, tree
from fedjax_kd.components import secure_sums
from fedjax_kd.components.secure_sums import WORD, modular_sum
from fedjax_kd.core import (
    Algorithm,
    Client,
    Data,
    Key,
    Message,
    Plan,
    PyTree,
    Reducer,
    Round,
    Scalar,
    Server,
    Upload,
    Wire,
    mean,
)
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.errors import InputError
from fedjax_kd.options import checks_options
from fedjax_kd.wrappers._beside import is_float, rule_of_each, wire_of

_KEY = 15  # folded into the keys of a method, which has its own use for them


class Masked(NamedTuple):
    """What would travel under masks: numbers modulo 2^32, and how much the client votes."""

    numbers: Any
    vote: Any


@checks_options
def with_secure_aggregation(
    algorithm: Algorithm,
    federation: Federation,
    *,
    clip: float = 8.0,
    levels: int = 2**22,
    max_weight: Scalar = 1000.0,
    neighbours: int = 0,
) -> Algorithm:
    """Secure aggregation in fixed point (Bonawitz et al., 2017; SecAgg+ of Bell et al., 2020).

    Against the algorithm inside: uploads are weighted and rounded by the clients, and the server
    sees their sum alone.
    Down: also the keys and encrypted shares of other clients, 156 bytes for each of them.
    Up: 4 bytes an entry, and 4 of the vote; two keys, 64 bytes; and for each of those clients its
    encrypted share and, to unmask, another, 124 bytes. Keeps: as before.

        p_k = round(levels * votes_k / max_weight) / levels     where the server takes votes, else 1
        q_k = (clip(p_k u_k, -c, c) + c) levels / (2 c), rounded up or down by chance
        sum of p_k u_k = (sum_k q_k mod 2^32) * 2 c / levels - n c

    Masks cancel in the sum and are left out; so do those of clients that drop out, whose seeds the
    others give away. The column ``train_clipped_share`` tells how much of an upload was cut.

    Equals the algorithm inside, up to rounding, where nothing is cut.

    Args:
      algorithm: whose uploads are summed so.
      federation: the clients, by which the types of uploads are known.
      clip: c, largest size of an entry after weighting, > 0.
      levels: of the fixed point, >= 2; a whole cohort of them must stay below 2^32.
      max_weight: votes that count as 1, > 0: with uniform votes take 1; of more the weighted
        entry may be cut, and of much less rounding is coarse.
      neighbours: clients with which each shares masks, >= 0; 0 for all others of the cohort, about
        the logarithm of their number in SecAgg+.

    Raises:
      ValueError: if a number is out of its range, the server looks at clients one by one, uploads
        hold whole numbers, or a cohort's sum may reach 2^32.

    Departs from the paper: nothing is encrypted. Flower, whose options these are, masks models,
    where here it is what the method sends.
    Source: Bonawitz et al., CCS 2017; Bell, Bonawitz, Gascon, Lepoint, Raykova, CCS 2020.
    """
    message = check_algorithm(algorithm, federation.train, federation.public).upload.message
    rules = rule_of_each(algorithm, message)
    _sums_alone(message, rules)

    def client_update(
        key: Key, received: Message, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        upload, client = algorithm.client_update(key, received, client, data, round)
        vote = jnp.round(levels * jnp.asarray(upload.weight) / max_weight).astype(jnp.uint32)
        share = vote.astype(jnp.float32) / levels

        weighted = jax.tree.map(
            lambda rule, a: a * (share if rule.name == mean.name else 1.0), rules, upload.message
        )
        leaves = jax.tree.leaves(weighted)

        def rounded(a: Array, own: Key) -> Array:
            return secure_sums.fixed_point(
                a, jax.random.uniform(own, a.shape, a.dtype), clip, levels
            )

        own_keys = prng.leaf_keys(jax.random.fold_in(key, _KEY), weighted)
        cut = sum((jnp.sum(jnp.abs(a) > clip) for a in leaves), jnp.int32(0))
        size = max(sum(a.size for a in leaves), 1)
        sent = Masked(jax.tree.map(rounded, weighted, own_keys), vote)
        # Whole numbers hide what is none: a vote that is none shows it.
        finite = tree.is_finite(upload.message)
        weight = jnp.where(finite, upload.weight, jnp.nan)
        told = upload.metrics | {"clipped_share": cut.astype(jnp.float32) / size}
        up, down = secure_sums.key_bytes(_peers(round, neighbours))
        wire = Wire(tree.num_bytes(sent) + up, jnp.asarray(wire_of(received, upload).down) + down)
        return Upload(sent, weight, told, wire), client

    def server_update(key: Key, server: Server, update: Masked, round: Round) -> Server:
        count = round.present.sum()
        votes = update.vote.astype(jnp.float32) / levels

        def one(rule: Reducer, kind: Any, summed: Array) -> Array:
            total = secure_sums.decoded(summed, count, clip, levels).astype(kind.dtype)
            of = {"mean": votes, "uniform_mean": count}.get(rule.name, jnp.float32(1))
            return total / jnp.where(of > 0, of, 1).astype(kind.dtype)

        received = jax.tree.map(one, rules, message, update.numbers)
        return algorithm.server_update(key, server, received, round)

    def check(plan: Plan) -> None:
        algorithm.check(plan)
        if plan.cohort_size * levels >= WORD:
            raise InputError(
                f"levels is {levels}, of which {plan.cohort_size} clients may reach 2^32: take at "
                f"most {(WORD - 1) // plan.cohort_size} levels."
            )

    return algorithm._replace(
        client_update=client_update,
        server_update=server_update,
        aggregate=Masked(modular_sum, modular_sum),
        check=check,
    )


def _peers(round: Round, neighbours: int) -> Array:
    """Clients with which one of this cohort shares masks."""
    others = jnp.maximum(round.present.sum().astype(jnp.int32) - 1, 0)
    return jnp.minimum(others, neighbours) if neighbours else others


def _sums_alone(message: PyTree, rules: PyTree) -> None:
    if any(rule.stacked for rule in jax.tree.leaves(rules)):
        raise InputError(
            "The server of this method, or a wrapper inside, looks at uploads one by one, and "
            "under secure aggregation it sees their sum alone."
        )
    if not all(is_float(a) for a in jax.tree.leaves(message)):
        raise InputError("Clients of this method send whole numbers, which have no fixed point.")
