"""Partitioners: every row once, the promised sizes and skew, an end in every case."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.data import PARTITIONERS, Dataset, client_test_split, from_arrays, load
from fedjax_kd.data.dirichlet import DirichletPartitioner, _draw, _sweep
from fedjax_kd.data.natural import DomainPartitioner, NaturalIdPartitioner
from fedjax_kd.data.pachinko import PachinkoPartitioner
from fedjax_kd.data.rows import apportion, by_owner
from fedjax_kd.data.shards import PathologicalPartitioner, ShardPartitioner
from fedjax_kd.data.sizes import IidPartitioner, LogNormalPartitioner, PowerLawPartitioner
from fedjax_kd.report.partition import describe, draw, label_counts

GOLDEN = Path(__file__).parent / "golden" / "partition.npz"
LABELS = 10
quick = settings(max_examples=40, deadline=None)


def labelled(rows: int = 600, labels: int = LABELS) -> Dataset:
    """Rows with labels, two labels a coarse one, three domains, clients of 7 rows."""
    numbers = np.arange(rows)
    y = numbers * 7919 % labels
    columns = {"coarse": y // 2, "domain": numbers % 3, "client": numbers // 7}
    return from_arrays(
        np.zeros((rows, 1)),
        y,
        np.zeros((1, 1)),
        np.zeros(1, int),
        num_classes=labels,
        train_columns=columns,
    )


def sizes(parts):
    return np.array([len(part) for part in parts])


def assert_every_row_once(parts, rows):
    assert all(part.dtype == np.int64 for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(rows))


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
    even = label_counts(data, DirichletPartitioner(10, 1e6)(data))
    assert np.all(np.abs(even - 200) <= 2)
    skewed = label_counts(data, DirichletPartitioner(10, 0.01, min_partition_size=0)(data))
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
    assert (label_counts(data, parts) > 0).sum(axis=1).max() <= 2 * shards


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
    counts = label_counts(data, parts)
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
    counts = label_counts(data, parts)
    early, late = counts[:10], PachinkoPartitioner(40, alpha=100.0)(data)[:10]
    coarse = early.reshape(10, 10, 2).sum(axis=2)
    assert np.mean((coarse > 0).sum(axis=1)) < 6
    assert np.all((label_counts(data, late).reshape(10, 10, 2).sum(axis=2) > 0).sum(axis=1) == 10)
    both = coarse > 30
    share = early.reshape(10, 10, 2)[..., 0][both] / coarse[both]
    assert np.all((share > 0.1) & (share < 0.9))


def test_pachinko_wants_a_coarse_label_of_each_label():
    data = labelled()
    with pytest.raises(ValueError, match="has no column 'coarse'"):
        PachinkoPartitioner(3)(load("digits"))
    with pytest.raises(ValueError, match="examples_per_client=300 need 900 rows"):
        PachinkoPartitioner(3, examples_per_client=300)(data)
    columns = {"coarse": np.arange(600) % 7}
    torn = dataclasses.replace(data, train=data.train._replace(columns=columns))
    with pytest.raises(ValueError, match="label 0 have several values in column 'coarse'"):
        PachinkoPartitioner(3)(torn)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IidPartitioner(0), "num_partitions is 0"),
        (lambda: IidPartitioner(2.5), "num_partitions is 2.5"),
        (lambda: IidPartitioner(3, seed=-1), "seed is -1"),
        (lambda: DirichletPartitioner(3, 0.0), "alpha is 0.0, but must be finite and > 0"),
        (lambda: DirichletPartitioner(3, float("nan")), "alpha is nan"),
        (lambda: DirichletPartitioner(3, float("inf")), "alpha is inf"),
        (lambda: LogNormalPartitioner(3, -1.0), "sigma is -1.0, but must be finite and >= 0"),
        (lambda: PowerLawPartitioner(3, float("nan")), "exponent is nan"),
        (lambda: PachinkoPartitioner(3, beta=0.0), "beta is 0.0"),
        (lambda: NaturalIdPartitioner(min_partition_size=0), "min_partition_size is 0"),
        (
            lambda: PathologicalPartitioner(3, class_assignment_mode="best"),
            "'best', but must be one of random, deterministic",
        ),
    ],
)
def test_bad_arguments_are_refused_when_built(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (IidPartitioner(601), "more clients than examples"),
        (DirichletPartitioner(601, 1.0), "more clients than examples"),
        (DirichletPartitioner(100, 1.0), "min_partition_size=10 need 1000 rows.*at most 6"),
        (DirichletPartitioner(2, 1.0, partition_by="x"), "has label, coarse, domain, client"),
        (LogNormalPartitioner(100, min_partition_size=7), "need 700 rows"),
        (ShardPartitioner(10, 2, shard_size=31), "need 620 rows"),
        (PathologicalPartitioner(10, 11), "has 10 classes: give at most 10"),
        (PathologicalPartitioner(4, 2), "cannot hold all 10 classes.*partition to 3"),
        (PathologicalPartitioner(600, 2), "but each of them must get one"),
        (NaturalIdPartitioner(min_partition_size=8), "the largest client .* has 7 rows"),
        (DomainPartitioner(201), "more clients than examples"),
    ],
)
def test_what_the_data_cannot_give_is_refused(split, words):
    with pytest.raises(ValueError, match=words):
        split(labelled())


def test_sequence_labels_have_no_label_column():
    y = np.zeros((4, 3), int)
    data = from_arrays(np.zeros((4, 3), int), y, np.zeros((1, 3), int), y[:1])
    with pytest.raises(ValueError, match=r"its labels are sequences"):
        DirichletPartitioner(2, 1.0, min_partition_size=1)(data)
    assert_every_row_once(IidPartitioner(2)(data), 4)


def test_registry_options_can_be_read():
    for partitioner in PARTITIONERS.values():
        documented = partitioner.__doc__.split("Args:")[1]
        for field in dataclasses.fields(partitioner):
            assert isinstance(field.type, str)
            assert f"      {field.name}: " in documented


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
        with pytest.raises(ValueError, match="must be in 0 <= fraction < 1"):
            client_test_split([np.arange(3)], fraction)
    one, other = (client_test_split([np.arange(50)], 0.5, seed)[1][0] for seed in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("case", ["alpha0p1", "alpha0p5", "alpha1p0", "shard2"])
def test_counts_of_published_partitions(case):
    golden = np.load(GOLDEN)
    labels, owner = golden["in_targets"], golden[f"out_owner_{case}"]
    data = from_arrays(np.zeros((len(labels), 1)), labels, np.zeros((1, 1)), labels[:1])
    counts = golden[f"out_counts_{case}"]
    parts = by_owner(np.arange(len(owner)), owner, len(counts))
    assert np.array_equal(label_counts(data, parts), counts)
    numbers = describe(data, parts)
    assert (numbers.clients, numbers.rows) == (len(counts), counts.sum())
    assert (numbers.smallest, numbers.largest) == (counts.sum(1).min(), counts.sum(1).max())
    assert numbers.labels_per_client == pytest.approx((counts > 0).sum() / len(counts))


def test_label_skew_at_its_ends():
    data = labelled()
    one_label_each = by_owner(np.arange(600), data.train.y, LABELS)
    assert describe(data, one_label_each).label_skew == pytest.approx(0.9)
    assert describe(data, [np.arange(300), np.arange(300, 600)]).label_skew == pytest.approx(0)
    with pytest.raises(ValueError, match="hold no row"):
        describe(data, [])


@pytest.mark.parametrize("clients", [1, 12, 60])
@pytest.mark.parametrize("labels", [10, 40])
def test_pictures(tmp_path, clients, labels):
    data = labelled(labels=labels)
    path = draw(data, IidPartitioner(clients)(data), tmp_path / "split.png", title="a title")
    assert path.read_bytes().startswith(b"\x89PNG")
