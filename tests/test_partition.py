"""Partitioners: every row once, the promised sizes and skew, an end in every case."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled import LABELS, assert_every_row_once, labelled, sizes

from fedjax_kd.data import client_test_split, load
from fedjax_kd.data.dirichlet import DirichletPartitioner, _draw, _sweep
from fedjax_kd.data.natural import DomainPartitioner, NaturalIdPartitioner
from fedjax_kd.data.pachinko import PachinkoPartitioner
from fedjax_kd.data.rows import apportion
from fedjax_kd.data.shards import PathologicalPartitioner, ShardPartitioner
from fedjax_kd.data.sizes import IidPartitioner, LogNormalPartitioner, PowerLawPartitioner
from fedjax_kd.report.partition import label_table

quick = settings(max_examples=40, deadline=None)
MAKERS = {
    "iid": lambda clients, seed: IidPartitioner(clients, seed=seed),
    "dirichlet": lambda clients, seed: DirichletPartitioner(
        clients, 0.3, min_partition_size=1, seed=seed
    ),
    "balanced": lambda clients, seed: DirichletPartitioner(
        clients, 0.3, min_partition_size=1, self_balancing=True, seed=seed
    ),
    "shard": lambda clients, seed: ShardPartitioner(clients, seed=seed),
    "pathological": lambda clients, seed: PathologicalPartitioner(clients, 5, seed=seed),
    "first": lambda clients, seed: PathologicalPartitioner(
        clients, 5, class_assignment_mode="first-deterministic", seed=seed
    ),
    "lognormal": lambda clients, seed: LogNormalPartitioner(clients, 1.0, seed=seed),
    "powerlaw": lambda clients, seed: PowerLawPartitioner(clients, 1.5, seed=seed),
    "domain": lambda clients, seed: DomainPartitioner(clients, seed=seed),
    "pachinko": lambda clients, seed: PachinkoPartitioner(clients, seed=seed),
}


@pytest.mark.parametrize("name", MAKERS)
@quick
@given(clients=st.integers(2, 20), rows=st.integers(200, 400), seed=st.integers(0, 2**31))
def test_every_row_once_and_seeded(name, clients, rows, seed):
    data = labelled(rows)
    parts = MAKERS[name](clients, seed)(data)
    assert len(parts) == (3 * clients if name == "domain" else clients)
    assert sizes(parts).min() >= 1
    assert_every_row_once(parts, rows)
    again, other = (MAKERS[name](clients, s)(data) for s in (seed, seed + 1))
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(parts, other, strict=True))


@quick
@given(
    alpha=st.floats(0.05, 100),
    clients=st.integers(1, 60),
    least=st.integers(0, 8),
    balanced=st.booleans(),
)
def test_dirichlet_respects_the_least_size(alpha, clients, least, balanced):
    split = DirichletPartitioner(
        clients, alpha, min_partition_size=least, self_balancing=balanced, shuffle=False
    )
    parts = split(labelled())
    assert sizes(parts).min() >= least
    assert_every_row_once(parts, 600)
    assert all(np.all(np.diff(part) > 0) for part in parts)


def test_dirichlet_ends_on_hard_and_hopeless_cases():
    digits = load("digits")
    start = time.perf_counter()
    for least in (1, 2, 10, 14):
        parts = DirichletPartitioner(100, 0.1, min_partition_size=least)(digits)
        assert sizes(parts).min() >= least
        assert_every_row_once(parts, 1437)
    with pytest.raises(
        ValueError, match=r"alpha=0.001 over 500 clients .* of 0 rows .*raise alpha"
    ):
        DirichletPartitioner(500, 1e-3, min_partition_size=1)(digits)
    assert time.perf_counter() - start < 30


def test_dirichlet_marginals():
    data = labelled(20000)
    even = label_table(data, DirichletPartitioner(10, 1e6)(data))
    assert np.all(np.abs(even - 200) <= 2)
    skewed = label_table(data, DirichletPartitioner(10, 0.01, min_partition_size=0)(data))
    assert np.mean(skewed.max(axis=0) / skewed.sum(axis=0)) > 0.85


def test_dirichlet_fractions_have_the_variance_of_the_law():
    rng, clients, alpha = np.random.default_rng(0), 8, 0.5
    counts = _draw(np.full(4000, 1000), clients, alpha, False, rng)
    assert np.all(counts.sum(axis=1) == 1000)
    mean = 1 / clients
    variance = mean * (1 - mean) / (clients * alpha + 1)
    assert np.allclose(counts.mean(axis=0) / 1000, mean, atol=0.012)
    assert np.allclose((counts / 1000).var(axis=0), variance, rtol=0.15)


def test_mending_follows_the_law_that_redrawing_samples_from():
    """Both ways to a least size give the same mean count of labels and variance of sizes."""
    rng, label_sizes, clients, alpha, least = np.random.default_rng(1), np.full(5, 60), 6, 0.5, 15

    def redrawn():
        while True:
            counts = _draw(label_sizes, clients, alpha, False, rng)
            if counts.sum(axis=0).min() >= least:
                return counts

    def mended():
        counts = _draw(label_sizes, clients, alpha, False, rng)
        for _ in range(40):
            counts = _sweep(counts, alpha, least, int(label_sizes.sum()), rng)
        assert counts.sum(axis=0).min() >= least
        assert np.array_equal(counts.sum(axis=1), label_sizes)
        return counts

    one, other = (np.stack([way() for _ in range(600)]) for way in (redrawn, mended))
    for statistic in (
        lambda counts: np.mean(counts > 0),
        lambda counts: counts.sum(axis=1).std(),
        lambda counts: counts.std(),
    ):
        assert statistic(other) == pytest.approx(statistic(one), rel=0.06)


def test_self_balancing_makes_sizes_alike():
    data = labelled(2000)
    plain, balanced = (
        sizes(DirichletPartitioner(10, 0.1, self_balancing=flag)(data)) for flag in (False, True)
    )
    assert balanced.std() < 0.7 * plain.std()
    # A client may pass the even share by the one label that takes it there.
    assert balanced.max() <= 200 + 200


@quick
@given(clients=st.integers(10, 40), shards=st.integers(1, 4))
def test_shards_hold_few_labels(clients, shards):
    data = labelled()
    parts = ShardPartitioner(clients, shards)(data)
    assert np.ptp(sizes(parts)) <= shards
    assert (label_table(data, parts) > 0).sum(axis=1).max() <= 2 * shards


def test_shards_of_a_given_size_leave_rows_over():
    parts = ShardPartitioner(10, 2, shard_size=25)(labelled())
    assert set(sizes(parts)) == {50}
    assert len(np.unique(np.concatenate(parts))) == 500


@pytest.mark.parametrize("mode", ["random", "deterministic", "first-deterministic"])
@quick
@given(clients=st.integers(5, 40), classes=st.integers(2, LABELS), seed=st.integers(0, 999))
def test_pathological_holds_exactly_so_many_classes(mode, clients, classes, seed):
    data = labelled()
    parts = PathologicalPartitioner(clients, classes, class_assignment_mode=mode, seed=seed)(data)
    counts = label_table(data, parts)
    assert set((counts > 0).sum(axis=1)) == {classes}
    assert np.all(counts.sum(axis=0) == 60)
    assert all(np.ptp(counts[counts[:, label] > 0, label]) <= 1 for label in range(LABELS))
    if mode != "random" and clients >= LABELS:
        assert all(counts[client, client % LABELS] > 0 for client in range(clients))


def test_lognormal_sizes():
    data = labelled(100_000)
    logs = np.log(sizes(LogNormalPartitioner(400, 0.8)(data)))
    assert logs.std() == pytest.approx(0.8, abs=0.1)
    assert np.ptp(sizes(LogNormalPartitioner(400, 0.0)(data))) <= 1
    assert sizes(LogNormalPartitioner(400, 50.0, min_partition_size=3)(data)).min() == 3


def test_powerlaw_sizes():
    data = labelled(5500)
    assert sizes(PowerLawPartitioner(10, -1.0)(data)).tolist() == [100 * k for k in range(1, 11)]
    halves = sizes(PowerLawPartitioner(10, 1.0)(data))
    assert halves[0] == pytest.approx(2 * halves[1], abs=1)
    assert sizes(PowerLawPartitioner(10, 9.0, min_partition_size=20)(data))[-1] == 20


@quick
@given(
    shares=st.lists(st.floats(0.0, 1e9), min_size=1, max_size=30).filter(lambda v: sum(v) > 0),
    least=st.integers(0, 5),
    extra=st.integers(0, 500),
)
def test_apportion_adds_up(shares, least, extra):
    total = least * len(shares) + extra
    given_out = apportion(total, np.array(shares), least)
    assert given_out.sum() == total
    assert given_out.min() >= least


def test_apportion_of_the_smallest_shares():
    assert apportion(2, np.array([5e-324])).tolist() == [2]


def test_natural_ids_and_domains():
    data = labelled()
    parts = NaturalIdPartitioner()(data)
    assert_every_row_once(parts, 600)
    assert parts[1].tolist() == list(range(7, 14))
    assert len(NaturalIdPartitioner(min_partition_size=7)(data)) == len(parts) - 1
    domains = data.train.columns["domain"]
    parts = DomainPartitioner(clients_per_domain=4)(data)
    held = [set(domains[part]) for part in parts]
    assert held == [{0}] * 4 + [{1}] * 4 + [{2}] * 4


def test_pachinko_counts():
    data = labelled(5000, labels=20)
    parts = PachinkoPartitioner(40, examples_per_client=100)(data)
    assert set(sizes(parts)) == {100}
    assert len(np.unique(np.concatenate(parts))) == 4000
    counts = label_table(data, parts)
    early, late = counts[:10], PachinkoPartitioner(40, alpha=100.0)(data)[:10]
    coarse = early.reshape(10, 10, 2).sum(axis=2)
    assert np.mean((coarse > 0).sum(axis=1)) < 6
    assert np.all((label_table(data, late).reshape(10, 10, 2).sum(axis=2) > 0).sum(axis=1) == 10)
    both = coarse > 30
    share = early.reshape(10, 10, 2)[..., 0][both] / coarse[both]
    assert np.all((share > 0.1) & (share < 0.9))


@quick
@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=8),
    fraction=st.floats(0, 0.999),
    seed=st.integers(0, 99),
)
def test_client_test_split(lengths, fraction, seed):
    parts = [np.arange(n) + 100 * k for k, n in enumerate(lengths)]
    train, test = client_test_split(parts, fraction, seed)
    for part, kept, held in zip(parts, train, test, strict=True):
        assert np.array_equal(np.sort(np.concatenate([kept, held])), part)
        assert len(kept) >= min(len(part), 1)
        assert abs(len(held) - fraction * len(part)) <= 1
    again = client_test_split(parts, fraction, seed)
    assert all(map(np.array_equal, train, again[0]))


def test_client_test_split_refuses_and_differs():
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"must be .*in \[0, 1\)"):
            client_test_split([np.arange(3)], fraction)
    one, other = (client_test_split([np.arange(50)], 0.5, seed)[1][0] for seed in (0, 1))
    assert not np.array_equal(one, other)
