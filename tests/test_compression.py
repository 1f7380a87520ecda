"""Codecs around methods: memories, differences on the way down, bytes, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import (
    COHORTS,
    FEATURES,
    federation,
    gap,
    in_round,
    logistic,
    normed,
    play,
    public,
    rounds,
)
from test_golden import one_row_a_client, quadratic, repeated
from vectors import golden

from fedjax_kd.algorithms import fedavg, fedmoswa, fedproto, pfedhn, scaffold
from fedjax_kd.core import Algorithm
from fedjax_kd.local import local_training
from fedjax_kd.wrappers import WRAPPERS, with_low_rank, with_random_k, with_sign, with_top_k
from fedjax_kd.wrappers._compression import compressible, cosine
from fedjax_kd.wrappers.sketch import with_sketch

FORMULA = {"rtol": 1e-6, "atol": 1e-6}  # shares of clients are float32
FIT = local_training(client_lr=0.1, batch_size=0, epochs=2)
CODECS = ("top_k", "random_k", "quantise", "qsgd", "terngrad", "drive", "sign", "low_rank", "svd")
# Where a codec changes nothing, or next to nothing.
FINE: dict[str, dict[str, Any]] = {
    "top_k": {"keep": 1.0},
    "random_k": {"keep": 1.0},
    "quantise": {"levels": 2**20},
    "qsgd": {"steps": 2**20},
    "low_rank": {"rank": 9},
    "svd": {"energy": 1.0},
}


@pytest.fixture
def clients(float64: None) -> tuple[dict[str, np.ndarray], Algorithm, Any]:
    """The vectors, FedAvg of three clients with quadratics, and their data."""
    known = golden("compress_ef")
    x = (jnp.asarray(known["in_A"]), jnp.asarray(known["in_b"]))
    pool = repeated(one_row_a_client(3, x), known["in_p"])
    steps = int(known["in_local_steps"])
    fit = local_training(client_lr=float(known["in_lr"]), batch_size=0, epochs=steps)
    data = SimpleNamespace(train=pool, public=None, num_clients=3)
    return known, fedavg(quadratic(known["in_x0"]), fit), data


def share(known: dict[str, np.ndarray]) -> float:
    return int(known["in_k"]) / len(known["in_x0"])


def models_and_memories(algorithm: Algorithm, data: Any, cohorts: Any) -> tuple[Any, Any]:
    """The model after each round, and what each client then keeps."""
    played = [state for state, _ in rounds(algorithm, data.train, cohorts)]
    servers = [getattr(state.server, "base", state.server) for state in played]
    return [s.model.params for s in servers], [state.clients[0].extra.params for state in played]


@pytest.mark.parametrize("kind", ["ef14_topk", "ef14_partial", "efsign", "ef21fed"])
def test_memories_of_clients(clients: Any, kind: str):
    known, base, data = clients
    everyone = [range(3)] * int(known["in_rounds"])
    if kind == "efsign":
        algorithm = with_sign(base, data)
    else:
        memory: Any = kind[:4]
        algorithm = with_top_k(base, data, keep=share(known), ties="first", memory=memory)
    partial = [np.flatnonzero(mask) for mask in known["in_cohort_mask"]]
    cohorts = partial if kind == "ef14_partial" else everyone
    models, kept = models_and_memories(algorithm, data, cohorts)
    np.testing.assert_allclose(models, known[f"out_{kind}_x"], **FORMULA)
    memories = known.get(f"out_{kind}_e", known.get(f"out_{kind}_h"))
    np.testing.assert_allclose(kept, memories, **FORMULA)


def test_nothing_is_lost_on_the_way(clients: Any):
    """What was sent so far and what is kept make up all changes."""
    known, base, data = clients
    algorithm = with_top_k(base, data, keep=share(known))
    sent, residual = np.zeros((3, 8)), np.zeros((3, 8))
    x = jnp.asarray(known["in_x0"])
    for state, _ in rounds(algorithm, data.train, [range(3)] * 4):
        moved = state.clients[0].extra.params
        for k in range(3):
            a, b = jnp.asarray(known["in_A"][k]), jnp.asarray(known["in_b"][k])
            w = x
            for _ in range(int(known["in_local_steps"])):
                w = w - float(known["in_lr"]) * (a @ w - b)
            sent[k] += np.asarray(w - x) + residual[k] - np.asarray(moved[k])
        residual, x = np.asarray(moved), state.server.model.params
    total = known["in_p"] @ sent
    np.testing.assert_allclose(known["in_x0"] + total, x, **FORMULA)


def test_estimates_of_absent_clients_stay_in_the_mean():
    """EF21: the server's mean is of all clients, whoever was asked."""
    data = federation()
    algorithm = with_top_k(
        fedavg(logistic(), FIT, weighting="uniform"), data, keep=0.3, memory="ef21"
    )
    for state, _ in rounds(algorithm, data.train, [(0, 4), (3, 5), (4, 5, 3)]):
        held = jax.tree.map(lambda a: a.sum(0) / data.num_clients, state.clients[0].extra)
        assert gap(held, state.server.extra) < 1e-6


@pytest.mark.parametrize("memory", ["none", "ef14", "ef21"])
@pytest.mark.parametrize("name", FINE)
def test_fine_codecs_change_next_to_nothing(name: str, memory: Any):
    data, everyone = federation((5, 3, 8)), [(0, 1, 2)] * 3
    base = fedavg(logistic(), FIT)
    plain, _ = play(base, data.train, everyone)
    other, (*_, report) = play(
        WRAPPERS[name](base, data, memory=memory, **FINE[name]), data.train, everyone
    )
    server = other.server.base if memory == "ef21" else other.server
    assert gap(plain.server, server) < 1e-4
    assert float(report.metrics["upload_cosine"]) > 0.9999


@pytest.mark.parametrize("way", ["down", "both"])
@pytest.mark.parametrize("name", CODECS)
def test_every_codec_goes_both_ways(name: str, way: Any):
    data = federation()
    base = fedavg(logistic(hidden=5), FIT)
    plain, _ = play(base, data.train, COHORTS)
    rank = {"rank": 1} if name == "low_rank" else {}
    state, reports = play(WRAPPERS[name](base, data, way=way, **rank), data.train, COHORTS)
    assert gap(plain.server, state.server.base) > 1e-6
    whole = 4 * sum(a.size for a in jax.tree.leaves(plain.server.model))
    down = np.concatenate([np.ravel(jax.tree.leaves(r.wire)[1]) for r in reports])
    assert 0 < down.max() <= 3 * whole


@pytest.mark.parametrize(("memory", "way"), [("ef14", "up"), ("ef21", "up"), ("none", "down")])
@pytest.mark.parametrize("name", ["qsgd", "terngrad", "quantise"])
def test_what_chance_leaves_out_does_not_grow(name: str, memory: Any, way: Any):
    """A norm in one step, or a range in two levels, may make many times the vector of it."""
    data, coarse = federation(), {"qsgd": {"steps": 1}, "quantise": {"levels": 2}}.get(name, {})
    base = fedavg(logistic(hidden=20), FIT)
    plain, _ = play(base, data.train, [(0, 4, 3)] * 40)
    wrapped: Any = WRAPPERS[name](base, data, memory=memory, way=way, **coarse)
    state, _ = play(wrapped, data.train, [(0, 4, 3)] * 40)
    start = logistic(hidden=20).init(jax.random.key(0))
    server = state.server if memory == "ef14" else state.server.base
    assert gap(server.model, plain.server.model) < 3 * gap(plain.server.model, start)


def test_who_comes_again_gets_differences():
    data = federation()
    base = fedavg(logistic(), FIT)
    algorithm = with_top_k(base, data, keep=0.2, way="down")
    whole, entry = 4 * (FEATURES * 3 + 3), 8
    spent = [
        sum(int(np.sum(chunk.down)) for chunk in report.wire)
        for _, report in rounds(algorithm, data.train, [(0,), (0,), (4,), (0,)])
    ]
    # Three entries a difference; client 0 missed one of two.
    assert spent == [whole, 3 * entry, whole, 2 * 3 * entry]


def test_what_the_server_leaves_out_comes_later():
    data = federation()
    algorithm = with_top_k(fedavg(logistic(), FIT), data, keep=0.2, way="down")
    state, _ = play(algorithm, data.train, [(0, 4, 3)] * 2)
    server, key = state.server, jax.random.key(0)
    assert gap(compressible(server.base.model), server.extra.view) > 1e-3
    nothing = jax.tree.map(jnp.zeros_like, server.base.model)
    for _ in range(4):  # three of fifteen entries each time, after those that were sent already
        server = algorithm.server_update(key, server, nothing, in_round(clients=6))
    assert gap(compressible(server.base.model), server.extra.view) < 1e-6


def test_statistics_and_whole_numbers_travel_as_they_are():
    data = federation()
    base = fedavg(normed(), FIT)
    plain, _ = play(base, data.train, [(0, 4, 3)])
    coded, _ = play(with_sign(base, data), data.train, [(0, 4, 3)])
    assert gap(plain.server.model.stats, coded.server.model.stats) < 1e-6
    assert gap(plain.server.model.params, coded.server.model.params) > 1e-4


def test_a_share_that_falls():
    data = federation()
    algorithm = with_top_k(fedavg(logistic(), FIT), data, keep=0.125, warmup=2, memory="none")
    sent = [
        int(np.sum(report.wire[0].up)) // 8
        for _, report in rounds(algorithm, data.train, [(4,)] * 4)
    ]
    assert sent == [7, 4, 2, 2]  # of 15: halves, quarters, eighths; 8 would cost more than all


def test_random_entries_are_scaled_to_the_mean():
    data = federation()
    base = fedavg(logistic(), FIT)
    plain, _ = play(base, data.train, [(4,)])
    start = logistic().init(jax.random.key(0))
    change = jax.tree.map(jnp.subtract, plain.server.model, start)
    codec = with_random_k(base, data, keep=0.2)
    state, _ = play(codec, data.train, [(4,)])
    moved = jax.tree.map(jnp.subtract, state.server.model, start)
    ratios = np.concatenate(
        [np.ravel(a / b) for a, b in zip(*map(jax.tree.leaves, (moved, change)), strict=True)]
    )
    assert sorted(np.round(ratios).tolist()) == [0.0] * 12 + [5.0] * 3


def test_a_vote_moves_all_entries_by_one_step():
    data = federation()
    algorithm = WRAPPERS["majority_vote"](fedavg(logistic(), FIT), data, step=0.02)
    state, (report,) = play(algorithm, data.train, [(0, 4, 3)])
    start = logistic().init(jax.random.key(0))
    moved = jax.tree.leaves(jax.tree.map(jnp.subtract, state.server.model, start))
    assert np.allclose(np.abs(np.concatenate([np.ravel(a) for a in moved])), 0.02)
    assert int(np.sum(report.wire[0].up)) == 3 * 3  # 12 and 3 bits, in whole bytes


def test_a_sketch_with_a_bucket_each_is_the_mean():
    data = federation()
    base = fedavg(logistic(), FIT)
    plain, _ = play(base, data.train, COHORTS)
    exact = with_sketch(base, data, shrink=1, keep=1.0, momentum=0.0)
    state, (report, *_) = play(exact, data.train, COHORTS)
    assert gap(plain.server, state.server.base) < 1e-5
    assert int(np.sum(report.wire[0].up)) == 3 * 5 * 15 * 4
    coarse, _ = play(with_sketch(base, data, shrink=3), data.train, COHORTS)
    assert gap(plain.server, coarse.server.base) > 1e-3


def test_the_cosine_of_what_arrives():
    assert float(
        cosine({"a": jnp.array([3.0, 4.0])}, {"a": jnp.array([3.0, 0.0])})
    ) == pytest.approx(0.6)
    zero = jnp.zeros(2)
    assert float(cosine(zero, zero)) == 1
    assert float(cosine(zero, jnp.ones(2))) == 0


HYPERNET = {"population": 6, "hidden": 3, "layers": 1, "embedding": 2}


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda d: with_top_k(fedavg(logistic(), FIT), d, memory="ef15"), "memory is 'ef15'"),
        (lambda d: with_top_k(fedavg(logistic(), FIT), d, way="sideways"), "way is 'sideways'"),
        (lambda d: with_top_k(fedavg(logistic(), FIT), d, warmup=-1), "warmup is -1"),
        (lambda d: WRAPPERS["quantise"](fedavg(logistic(), FIT), d, levels=1), "levels is 1"),
        (lambda d: WRAPPERS["qsgd"](fedavg(logistic(), FIT), d, steps=0), "steps is 0"),
        (lambda d: WRAPPERS["terngrad"](fedavg(logistic(), FIT), d, clip=0.0), "clip is 0.0"),
        (lambda d: WRAPPERS["drive"](fedavg(logistic(), FIT), d, scale="big"), "scale is 'big'"),
        (lambda d: with_low_rank(fedavg(logistic(), FIT), d, rank=0), "rank is 0"),
        (lambda d: WRAPPERS["svd"](fedavg(logistic(), FIT), d, energy=1.1), "energy is 1.1"),
        (lambda d: with_random_k(fedavg(logistic(), FIT), d, keep=0.0), "keep is 0.0"),
        (lambda d: with_sketch(fedavg(logistic(), FIT), d, shrink=0), "shrink is 0"),
        (lambda d: with_sketch(fedavg(logistic(), FIT), d, momentum=1.0), "momentum is 1.0"),
        (
            lambda d: with_top_k(fedproto(logistic(hidden=2), FIT), d, memory="ef21"),
            r"EF21 keeps means .* takes \['summed'\]",
        ),
        (lambda d: with_sketch(scaffold(logistic(), FIT), d), r"FetchSGD asks for .* \['total'\]"),
        (lambda d: with_sketch(fedmoswa(logistic(), FIT), d), "a mean by votes of one part"),
        (
            lambda d: with_top_k(pfedhn(logistic(), FIT, **HYPERNET), d, way="down"),
            "sends each client another message",
        ),
    ],
)
def test_wrong_options_are_refused(build: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build(SimpleNamespace(train=federation().train, public=public(), num_clients=6))
