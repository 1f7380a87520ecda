"""A clipping norm that follows a quantile."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import (
    CLASSES,
    COHORTS,
    FEATURES,
    federation,
    gap,
    in_round,
    logistic,
    play,
    rounds,
)
from test_golden import one_row_a_client
from test_golden_wrappers import from_zero, moving
from vectors import golden

from fedjax_kd.algorithms import fedavg, scaffold
from fedjax_kd.core import Plan
from fedjax_kd.local import local_training
from fedjax_kd.wrappers import with_adaptive_clipping
from fedjax_kd.wrappers.adaptive_clipping import WithBit, update_noise

FIT = local_training(client_lr=0.1, batch_size=0, epochs=2)


def test_the_norm_follows_the_quantile():
    known = golden("dp_central")
    norms, how = known["in_ac_norms"], start_of(known)
    base = fedavg(from_zero(jnp.zeros(1)), moving(jnp.asarray(norms[:, None], jnp.float32)))
    algorithm = with_adaptive_clipping(base, noise=0.0, **how)
    expected = known["out_ac_andrew_noiseless"]
    played = rounds(algorithm, one_row_a_client(8), [range(8)] * len(expected))
    bounds = [float(state.server.extra) for state, _ in played]
    np.testing.assert_allclose(bounds, expected, rtol=1e-5)


def test_the_count_is_noisy(monkeypatch: pytest.MonkeyPatch):
    known = golden("dp_central")
    norms, deviation = jnp.asarray(known["in_ac_norms"]), float(known["in_ac_count_std"])
    base = fedavg(from_zero(jnp.zeros(1)), moving(norms[:, None]))
    # Next to all of the noise is on the bits, and is what was drawn there.
    algorithm = with_adaptive_clipping(base, noise=1e-6, bit_noise=deviation, **start_of(known))
    server = algorithm.server_init(jax.random.key(0))
    for drawn, expected in zip(known["in_ac_count_noise"], known["out_ac_andrew"], strict=True):
        unit = jnp.float32(drawn / deviation)
        monkeypatch.setattr(jax.random, "normal", lambda key, shape=(), u=unit: jnp.full(shape, u))
        short = jnp.sum(norms <= server.extra).astype(jnp.float32)
        update = WithBit(jax.tree.map(jnp.zeros_like, server.base.model), short)
        server = algorithm.server_update(jax.random.key(0), server, update, in_round(clients=8))
        np.testing.assert_allclose(server.extra, expected, rtol=1e-5)


def start_of(known: dict[str, np.ndarray]) -> dict[str, Any]:
    """The options of the vectors."""
    names = {"clip": "in_ac_c0", "clip_lr": "in_ac_eta", "quantile": "in_ac_quantile"}
    return {option: float(known[name]) for option, name in names.items()}


def test_both_releases_are_paid_for():
    known = golden("dp_central")
    z, deviation = jnp.float32(known["in_ac_z"]), jnp.float32(known["in_ac_count_std_100"])
    np.testing.assert_allclose(update_noise(z, deviation), known["out_ac_z_delta_100"], rtol=1e-6)
    assert float(update_noise(jnp.float32(0.0), deviation)) == 0


@pytest.mark.parametrize("method", [fedavg, scaffold])
def test_without_noise_and_bound_nothing_changes(method: Any):
    base = method(logistic(), FIT, weighting="uniform")
    plain, _ = play(base, federation().train, COHORTS)
    loose = with_adaptive_clipping(base, noise=0.0, clip=1e6, clip_lr=0.0)
    other, _ = play(loose, federation().train, COHORTS)
    assert gap(plain.server, other.server.base) < 1e-6


def test_bytes():
    base = fedavg(logistic(), FIT)
    _, (report,) = play(with_adaptive_clipping(base), federation().train, [(4,)])
    model = 4 * (FEATURES * CLASSES + CLASSES)
    assert int(np.sum(report.wire[0].up)) == model + 1
    assert int(np.sum(report.wire[0].down)) == model + 4


def test_small_cohorts_spend_too_much_on_bits():
    algorithm = with_adaptive_clipping(fedavg(logistic(), FIT), noise=1.0)
    few = Plan((), np.array([5] * 20), range(20), cohort_size=10, num_rounds=5)
    with pytest.raises(ValueError, match="must be above noise / 2"):
        algorithm.check(few)
    algorithm.check(few._replace(cohort_size=20))
    with pytest.raises(ValueError, match=r"noise is 1.0 and bit_noise 0.5"):
        with_adaptive_clipping(fedavg(logistic(), FIT), noise=1.0, bit_noise=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, "clip is 0.0, but must be > 0"),
        ({"noise": -1.0}, "noise is -1.0, but must be >= 0"),
        ({"quantile": 1.5}, r"quantile is 1.5, but must be in \[0, 1\]"),
        ({"clip_lr": -0.1}, "clip_lr is -0.1, but must be >= 0"),
        ({"denominator": 0.0}, "denominator is 0.0, but must be > 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        with_adaptive_clipping(fedavg(logistic(), FIT), **options)
