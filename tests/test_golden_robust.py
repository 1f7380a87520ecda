"""Golden vectors of robust rules: Flower's, RFA's and other authors' code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from federations import rounds
from test_golden import one_row_a_client
from test_golden_wrappers import after_one_round, from_zero, moving
from vectors import golden, keys_of, number

from fedjax_kd.algorithms import fedavg
from fedjax_kd.components import robust_rules as rules
from fedjax_kd.components.trust import sybil_weights, trusted_mean
from fedjax_kd.wrappers import (
    with_bulyan,
    with_centred_clipping,
    with_geometric_median,
    with_norm_bound,
    with_trimmed_mean,
)
from fedjax_kd.wrappers.trust import with_foolsgold

pytestmark = pytest.mark.usefixtures("float64")
FLOAT32 = {"rtol": 2e-6, "atol": 2e-6}  # presence and votes are float32


@pytest.mark.parametrize(("key", "parts"), keys_of("robust", r"out_trimmed_b(0p\d)"))
def test_trimmed_means(key: str, parts: tuple[str]):
    known = golden("robust")
    found = after_one_round(
        lambda base: with_trimmed_mean(base, share=number(*parts)), known["in_updates"]
    )
    np.testing.assert_allclose(found, known[key], **FLOAT32)


def test_nothing_is_trimmed():
    known = golden("robust")
    found = after_one_round(lambda base: with_trimmed_mean(base, share=0.0), known["in_updates"])
    np.testing.assert_allclose(found, known["out_trimmed_b0_equals_unweighted_mean"], **FLOAT32)


def test_bulyan():
    known = golden("robust")
    updates, f = jnp.asarray(known["in_updates"]), int(known["in_f"])
    _, chosen = rules.bulyan([updates], jnp.ones(len(updates)), f)
    assert set(np.flatnonzero(chosen)) == set(known["out_bulyan_selected"].tolist())
    found = after_one_round(lambda base: with_bulyan(base, malicious=f), known["in_updates"])
    np.testing.assert_allclose(found, known["out_bulyan_flower"], **FLOAT32)


@pytest.mark.parametrize("steps", [4, 100])
def test_geometric_medians_of_votes(steps: int):
    known = golden("robust")
    updates, votes = jnp.asarray(known["in_updates"]), jnp.asarray(known["in_num_examples"])
    # The authors stop when the objective hardly changes, after so many steps.
    done = int(known[f"out_rfa_maxiter{steps}_iters"])
    weights = rules.geometric_weights([updates], votes / votes.sum(), done, 1e-5)
    np.testing.assert_allclose(weights @ updates, known[f"out_rfa_maxiter{steps}"], rtol=1e-5)


def test_a_geometric_median_resists():
    known = golden("robust")
    found = after_one_round(with_geometric_median, known["in_updates"])
    honest = known["in_updates"][:9].mean(0)
    plain = known["in_updates"].mean(0)
    assert np.linalg.norm(found - honest) < 0.5 * np.linalg.norm(plain - honest)


def test_centred_clipping():
    known = golden("robust")
    updates = known["in_updates"]
    doubled = jnp.asarray(np.stack([updates, updates / 2]))
    data = SimpleNamespace(train=one_row_a_client(len(updates)), public=None)

    def at(number: Any) -> Any:
        return doubled[number]

    base = fedavg(from_zero(jnp.asarray(updates[0])), moving(at))
    bound = float(known["in_cc_tau"])
    algorithm = with_centred_clipping(base, data, bound=bound, steps=3)
    played = rounds(algorithm, data.train, [range(len(updates))] * 2)
    centres = [state.server.extra[0] for state, _ in played]
    np.testing.assert_allclose(centres[0], known["out_cc_round1"], **FLOAT32)
    np.testing.assert_allclose(centres[1], known["out_cc_round2"], **FLOAT32)


@pytest.mark.parametrize("bound", [1, 100])
def test_norm_bounds(bound: int):
    known = golden("robust")
    found = after_one_round(
        lambda base: with_norm_bound(base, bound=float(bound)), known["in_updates"]
    )
    np.testing.assert_allclose(found, known[f"out_norm_bound_{bound}"], **FLOAT32)


def test_fltrust():
    known = golden("robust")
    updates, root = jnp.asarray(known["in_updates"]), jnp.asarray(known["in_root_update"])
    mean, trust = trusted_mean([updates], jnp.ones(len(updates)), [root])
    np.testing.assert_allclose(trust, known["out_fltrust_scores"], **FLOAT32)
    np.testing.assert_allclose(mean[0], known["out_fltrust"], **FLOAT32)


def test_fltrust_trusts_nobody_who_points_elsewhere():
    mean, trust = trusted_mean([-jnp.ones((3, 2))], jnp.ones(3), [jnp.ones(2)])
    assert (mean[0] == 0).all()
    assert (trust == 0).all()
    still, _ = trusted_mean([jnp.zeros((3, 2))], jnp.ones(3), [jnp.ones(2)])
    assert (still[0] == 0).all()


@pytest.mark.parametrize("key", ["out_fg_alpha_f64", "out_fg_authors_alpha"])
def test_foolsgold(key: str):
    """The authors' code cuts weights below one, and adds 1e-5 twice."""
    known = golden("robust")
    weights = sybil_weights([jnp.asarray(known["in_fg_history"])], jnp.ones(11))
    np.testing.assert_allclose(weights, known[key], atol=1e-4 if "authors" in key else 1e-9)
    summed = weights @ known["in_updates"]
    np.testing.assert_allclose(summed, known["out_fg_authors_aggregate"], rtol=1e-3, atol=1e-3)


def test_foolsgold_remembers_clients_by_their_number():
    """Two that have always been alike are left out, wherever they stand in a cohort."""
    updates = jnp.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, -1.0]])
    base = fedavg(from_zero(updates[0]), moving(updates), weighting="uniform")
    federation: Any = SimpleNamespace(train=one_row_a_client(4), public=None, num_clients=4)
    guarded = with_foolsgold(base, federation)
    (first, _), (second, _) = rounds(guarded, one_row_a_client(4), [(0, 1), (3, 2, 0, 1)])
    alone = np.asarray(updates[:2].mean(0))
    np.testing.assert_allclose(first.server.base.model.params, alone, **FLOAT32)
    expected = alone + np.asarray((updates[0] + updates[3]) / 2)
    np.testing.assert_allclose(second.server.base.model.params, expected, **FLOAT32)
    np.testing.assert_allclose(
        second.server.extra[0], updates * jnp.array([[2.0, 2.0, 1.0, 1.0]]).T
    )
