"""Secure aggregation: fixed point, sums modulo 2^32, masks that cancel, and what is refused."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, COHORTS, FEATURES, gap, logistic, play
from vectors import golden
from wrapping import clients

from fedjax_kd.algorithms import fedavg, feddf, scaffold
from fedjax_kd.components.secure_sums import decoded, fixed_point, modular_sum
from fedjax_kd.core import Plan
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.local import local_training
from fedjax_kd.wrappers import with_krum, with_secure_aggregation, with_top_k

FIT = local_training(client_lr=0.1, batch_size=0, epochs=2)
MODULUS = 2**32


def quantised(known: dict[str, np.ndarray], name: str) -> np.ndarray:
    """What the four clients of the vectors send, before it is masked."""
    clip, levels = float(known["in_clip"]), int(known["in_target_range"])
    shares = known["out_q_ratio"] / levels
    sent = [
        fixed_point(
            jnp.asarray(known[f"in_c{k}_{name}"] * shares[k]),
            jnp.asarray(known[f"in_c{k}_rand_{name}"]),
            clip,
            levels,
        )
        for k in range(4)
    ]
    return np.stack(sent)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["w", "b"])
@pytest.mark.parametrize("dropped", [None, 2])
def test_sums_and_means_are_flowers(name: str, dropped: int | None):
    known = golden("secagg")
    sent, kind = quantised(known, name), "all" if dropped is None else f"drop{dropped}"
    for k in range(4):
        np.testing.assert_array_equal(sent[k], known[f"out_c{k}_quantized_{name}"])
    present = np.ones(4) if dropped is None else np.array([1.0, 1.0, 0.0, 1.0])
    summed, _ = modular_sum.accumulate(jnp.asarray(sent), jnp.ones(4), jnp.asarray(present))
    np.testing.assert_array_equal(summed, known[f"out_{kind}_int_sum_{name}"])
    clip, levels = float(known["in_clip"]), int(known["in_target_range"])
    total = decoded(summed, jnp.asarray(present.sum()), clip, levels)
    votes = (known["out_q_ratio"] * present).sum() / levels
    np.testing.assert_allclose(total / votes, known[f"out_{kind}_mean_{name}"], rtol=1e-9)


@pytest.mark.parametrize("dropped", [None, 2])
def test_masks_cancel(dropped: int | None):
    """A client adds its own mask and those of its pairs, with either sign."""
    rng = np.random.default_rng(0)
    sent = rng.integers(0, 2**22, (4, 5), np.uint64)
    own, pairs = (rng.integers(0, MODULUS, s, np.uint64) for s in ((4, 5), (4, 4, 5)))
    masked = sent + own
    for i in range(4):
        for j in range(4):
            mask = pairs[min(i, j), max(i, j)]
            masked[i] += mask if i > j else MODULUS - mask if i < j else np.uint64(0)
    there = [k for k in range(4) if k != dropped]
    server = masked[there].sum(0) + sum(MODULUS - own[k] for k in there)
    if dropped is not None:  # whose seeds the others give away
        for i in there:
            mask = pairs[min(i, dropped), max(i, dropped)]
            server += MODULUS - mask if i > dropped else mask
    present = jnp.asarray([float(k in there) for k in range(4)])
    summed, _ = modular_sum.accumulate(jnp.asarray(sent, jnp.uint32), jnp.ones(4), present)
    np.testing.assert_array_equal(summed, server % MODULUS)


@pytest.mark.parametrize("weighting", ["examples", "uniform"])
@pytest.mark.parametrize("method", [fedavg, scaffold])
def test_means_and_sums_are_those_of_floats(method: Any, weighting: Any):
    data, base = clients(), method(logistic(), FIT, weighting=weighting)
    plain, _ = play(base, data.train, COHORTS)
    secure = with_secure_aggregation(base, data, max_weight=20.0)
    state, (*_, report) = play(secure, data.train, COHORTS)
    assert 0 < gap(plain, state) < 1e-4
    assert float(report.metrics["clipped_share"]) == 0
    sent = (FEATURES + 1) * CLASSES * (2 if method is scaffold else 1) + 1
    keys = 2 * 32 + 2 * (2 * 32 + 28 + 32)  # each of the three has two peers
    assert int(np.sum(report.wire[0].up)) == 3 * (4 * sent + keys)


def test_what_is_large_is_cut_and_told():
    data, base = clients(), fedavg(logistic(), FIT, weighting="uniform")
    plain, _ = play(base, data.train, [(4,)])
    cut = with_secure_aggregation(base, data, clip=1e-3, max_weight=1.0)
    state, (report,) = play(cut, data.train, [(4,)])
    assert gap(plain.server, state.server) > 1e-3
    assert float(report.metrics["clipped_share"]) > 0.5


def test_chunks_and_devices_change_nothing():
    data = clients()
    secure = with_secure_aggregation(fedavg(logistic(), FIT), data)
    one, _ = play(secure, data.train, COHORTS)
    other, _ = play(secure, data.train, COHORTS, chunk=1, mesh=make_mesh(2))
    assert gap(one, other) < 1e-6


def test_what_is_no_number_is_left_out():
    data = clients()
    pool = data.train
    rows = np.asarray(pool.rows)[int(pool.starts[4]) :][: int(pool.sizes[4])]
    poisoned = pool._replace(x=pool.x.at[rows].set(jnp.nan))
    secure = with_secure_aggregation(fedavg(logistic(), FIT), data)
    state, (report,) = play(secure, poisoned, [(0, 4, 3)])
    expected, _ = play(secure, pool, [(0, 3)])
    assert float(report.rejected.sum()) == 1
    assert gap(state, expected) < 1e-6


def test_sums_that_wrap_around_are_refused():
    algorithm = with_secure_aggregation(fedavg(logistic(), FIT), clients())
    plan = Plan((), np.array([5] * 2000), range(2000), cohort_size=1024, num_rounds=5)
    with pytest.raises(ValueError, match="take at most 4194303 levels"):
        algorithm.check(plan)
    algorithm.check(plan._replace(cohort_size=1000))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda d: with_secure_aggregation(fedavg(logistic(), FIT), d, clip=0.0), "clip is 0.0"),
        (lambda d: with_secure_aggregation(fedavg(logistic(), FIT), d, levels=1), "levels is 1"),
        (
            lambda d: with_secure_aggregation(with_krum(fedavg(logistic(), FIT)), d),
            "looks at uploads one by one",
        ),
        (
            lambda d: with_secure_aggregation(
                feddf(logistic(), FIT, distil_steps=1, distil_batch=2), d
            ),
            "looks at uploads one by one",
        ),
    ],
)
def test_wrong_options_are_refused(build: Any, message: str):
    with pytest.raises(ValueError, match=message):
        build(clients())


def test_sparse_uploads_are_summed_as_well():
    data = clients()
    sparse = with_top_k(fedavg(logistic(), FIT), data, keep=0.3)
    plain, _ = play(sparse, data.train, COHORTS)
    state, _ = play(with_secure_aggregation(sparse, data, max_weight=20.0), data.train, COHORTS)
    assert gap(plain.server, state.server) < 1e-4
