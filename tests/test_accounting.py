"""Accounting for privacy: the vectors' epsilons and noise, Poisson cohorts, the budget of runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from commandline import command
from federations import rounds
from test_golden import one_row_a_client
from test_golden_wrappers import from_zero, moving
from vectors import golden

from fedjax_kd.algorithms import fedavg
from fedjax_kd.data.sampling import poisson
from fedjax_kd.metrics.accounting import Accountant, noise_for
from fedjax_kd.runs.build import build
from fedjax_kd.runs.config import Config
from fedjax_kd.runs.folder import read_rows, read_summary
from fedjax_kd.runs.privacy_config import PrivacyConfig
from fedjax_kd.wrappers import privacy, with_local_privacy, with_privacy

EPSILON = golden("dp_epsilon")
GRID = range(len(EPSILON["in_grid_sigma"]))
USERS = 1_000_000
SMALL = ["--model", "logistic", "--num-rounds", "4", "--eval-every", "2", "--quiet"]


def accountant(row: int, **options: Any) -> tuple[Accountant, int]:
    """That of a row of the grid, and its rounds."""
    sigma, rate, delta, count = (
        EPSILON[f"in_grid_{k}"][row] for k in ("sigma", "q", "delta", "rounds")
    )
    cohort = options.pop("cohort", round(rate * USERS))
    given: dict[str, Any] = {"users": round(cohort / rate), "delta": float(delta)} | options
    return Accountant(float(sigma), cohort=cohort, **given), int(count)


@pytest.mark.parametrize("row", [0, 4, 6, 7])
def test_epsilon_by_loss_distributions(row: int):
    who, count = accountant(row)
    np.testing.assert_allclose(who.epsilon(count), EPSILON["out_eps_pld"][row], rtol=2e-3)
    assert (who.by, who.relation) == ("pld", "add or remove one user")


@pytest.mark.parametrize("row", GRID)
def test_epsilon_by_renyi_divergences(row: int):
    who, count = accountant(row, method="rdp")
    np.testing.assert_allclose(who.epsilon(count), EPSILON["out_eps_rdp"][row], rtol=1e-3)


@pytest.mark.parametrize("row", [0, 3, 8])
def test_epsilon_of_cohorts_of_a_fixed_size(row: int):
    """They cost more: a replaced user moves a sum twice as far."""
    who, count = accountant(row, cohort=1000, sampling="fixed")
    expected = EPSILON["out_eps_rdp_wor_replace_one"][row]
    np.testing.assert_allclose(who.epsilon(count), expected, rtol=1e-3)
    assert (who.by, who.relation) == ("rdp", "replace one user")


@pytest.mark.parametrize("row", [6, 7])
def test_epsilon_of_everyone_is_that_of_one_gaussian(row: int):
    who, count = accountant(row, sampling="everyone")
    np.testing.assert_allclose(who.epsilon(count), EPSILON["out_eps_analytic_q1"][row], rtol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("row", range(4))
def test_noise_for_a_budget(row: int):
    epsilon, delta, rate, count = (
        EPSILON[f"in_cal_{k}"][row] for k in ("eps", "delta", "q", "rounds")
    )
    like = Accountant(1.0, cohort=round(rate * USERS), users=USERS, delta=float(delta))
    found = noise_for(float(epsilon), int(count), like)
    np.testing.assert_allclose(found.noise, EPSILON["out_cal_sigma_dpaccounting"][row], rtol=5e-3)
    assert found.epsilon(int(count)) <= epsilon


def test_noise_for_a_budget_by_renyi_divergences():
    epsilon, delta, count = (float(EPSILON[f"in_cal_{k}"][3]) for k in ("eps", "delta", "rounds"))
    like = Accountant(1.0, cohort=10, users=10, delta=delta, method="rdp")
    found = noise_for(epsilon, int(count), like).noise
    np.testing.assert_allclose(found, EPSILON["out_cal_sigma_pfl_rdp"][3], rtol=5e-3)


def test_a_budget_that_no_noise_keeps():
    like = Accountant(1.0, cohort=10, users=10, delta=1e-9, method="rdp")
    with pytest.raises(ValueError, match=r"No noise gives an epsilon of 1e-05 .* fewer rounds"):
        noise_for(1e-5, 1000, like)


def test_nothing_is_spent_before_the_first_round():
    assert Accountant(1.0, cohort=1, users=10, delta=1e-3).epsilon(0) == 0


@pytest.mark.usefixtures("float64")
def test_the_noise_of_a_larger_cohort(monkeypatch: pytest.MonkeyPatch):
    """As pfl's: the mean of few is as noisy as that of many would be."""
    few, many = int(EPSILON["in_cohort"]), int(EPSILON["in_noise_cohort"])
    sigma, clip = (
        float(EPSILON["out_cohort_noise_parameter"]) / float(EPSILON["out_noise_scale"]),
        float(EPSILON["in_clip"]),
    )
    np.testing.assert_allclose(few / many, EPSILON["out_noise_scale"], rtol=1e-12)
    monkeypatch.setattr(privacy.jax.random, "normal", lambda key, shape: jnp.ones(shape))
    updates = jnp.zeros((few, 3))
    base = fedavg(from_zero(updates[0]), moving(updates))
    private = with_privacy(base, clip=clip, noise=sigma, scale=few / many)
    ((state, _),) = rounds(private, one_row_a_client(few), [range(few)])
    expected = clip * sigma / many
    np.testing.assert_allclose(state.server.model.params, np.full(3, expected), rtol=1e-6)


@pytest.mark.usefixtures("float64")
def test_sums_are_divided_by_the_expected_cohort(monkeypatch: pytest.MonkeyPatch):
    known = golden("dp_central")
    flat = [np.concatenate([known[f"in_c{k}_{n}"].ravel() for n in "wb"]) for k in range(6)]
    noise = np.concatenate([known["in_noise_w"].ravel(), known["in_noise_b"]])
    clip, sigma = float(known["in_clip"]), float(known["in_sigma"])
    drawn = jnp.asarray(noise / (clip * sigma))
    monkeypatch.setattr(privacy.jax.random, "normal", lambda key, shape: drawn)
    base = fedavg(from_zero(flat[0]), moving(jnp.asarray(np.stack(flat))))
    expected = float(known["in_expected_cohort"])
    private = with_privacy(base, clip=clip, noise=sigma, denominator=expected)
    ((state, _),) = rounds(private, one_row_a_client(6), [range(6)])
    np.testing.assert_allclose(
        state.server.model.params, known["out_mean_fixed_denominator"], rtol=1e-5
    )


def test_poisson_cohorts():
    """Everyone as likely as any other, independently; no cohort is larger than the largest."""
    sampler = poisson(50, 5)
    drawn = [sampler(np.random.default_rng(n), n) for n in range(3000)]
    sizes, counts = [len(ids) for ids in drawn], np.bincount(np.concatenate(drawn), minlength=50)
    assert np.mean(sizes) == pytest.approx(5, abs=0.15)
    assert np.var(sizes) == pytest.approx(4.5, abs=0.5)
    assert max(sizes) <= sampler.most <= 25
    assert np.abs(counts - 300).max() < 5 * np.sqrt(270)


def run(folder: Path, *more: str) -> dict[str, Any]:
    """The privacy of a run."""
    assert command("run", "fedavg", *SMALL, "--out", str(folder), *more) == 0
    return read_summary(folder)["privacy"]


def test_a_run_tells_what_it_spends(tmp_path: Path):
    around = ["--with", "privacy:clip=0.5,noise=2.0", "--delta", "1e-3", "--sampling", "poisson"]
    told = run(tmp_path / "a", *around)
    by_hand = Accountant(2.0, cohort=10, users=100, delta=1e-3)
    spent = {r["round"]: r["epsilon"] for r in read_rows(tmp_path / "a") if "epsilon" in r}
    assert spent == {0: 0, 2: by_hand.epsilon(2), 4: by_hand.epsilon(4)}
    assert told["epsilon"] == by_hand.epsilon(4)
    assert (told["relation"], told["sampling"]) == (by_hand.relation, by_hand.assumption)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["wrappers"]["privacy"]["denominator"] == 10
    assert command("resume", str(tmp_path / "a"), "--num-rounds", "6", "--quiet") == 0
    assert read_summary(tmp_path / "a")["privacy"]["epsilon"] == by_hand.epsilon(6)


def test_a_run_keeps_its_budget(tmp_path: Path):
    """Of cohorts of a fixed size; and as pfl does it, of a larger cohort by Poisson sampling."""
    around = ["--with", "privacy:clip=0.5", "--epsilon", "3", "--delta", "1e-3"]
    plain = run(tmp_path / "a", *around)
    assert 2.95 < plain["epsilon"] <= 3
    assert (plain["accountant"], plain["relation"]) == ("rdp", "replace one user")
    as_pfl = run(
        tmp_path / "b",
        *(*around, "--users", "100000", "--noise-cohort", "500"),
        *("--assume", "poisson", "--accountant", "rdp"),
    )
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["wrappers"]["privacy"]["scale"] == 10 / 500
    assert 2.95 < as_pfl["epsilon"] <= 3
    assert "not for the smaller simulated ones" in as_pfl["holds_for"]
    assert "Poisson" in as_pfl["assumed"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epsilon", "3"], "epsilon needs a delta"),
        (["--delta", "1e-3"], "has none"),
        (["--delta", "2", "--with", "privacy"], "must be in (0, 1)"),
        (["--delta", "1e-3", "--with", "privacy:noise=0"], "epsilon is infinite"),
        (["--delta", "1e-3", "--epsilon", "1", "--with", "privacy:noise=1"], "leave out either"),
        (["--delta", "1e-3", "--with", "privacy:clip=0"], "must be > 0"),
        (["--delta", "1e-3", "--with", "privacy", "adaptive_clipping"], "privacy and adaptive"),
        (["--delta", "1e-3", "--users", "5", "--with", "privacy"], "account for more"),
        (["--delta", "1e-3", "--noise-cohort", "5", "--with", "privacy"], "give a larger one"),
        (
            ["--delta", "1e-3", "--with", "privacy", "power_of_choice:clients=2"],
            "which tells of their data",
        ),
    ],
)
def test_what_cannot_be_is_said(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert command("run", "fedavg", *SMALL, "--out", str(tmp_path / "run"), *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("row", range(5))
def test_one_release_is_the_analytic_gaussian(row: int):
    """Of a trusted server; where clients add the noise, all data of one may be replaced."""
    epsilon = float(EPSILON["in_single_eps"][row])
    like = Accountant(1.0, cohort=1, users=1, delta=float(EPSILON["in_single_delta"]))
    expected = EPSILON["out_single_sigma_pfl"][row]
    np.testing.assert_allclose(noise_for(epsilon, 1, like).noise, expected, rtol=5e-3)
    local = Accountant(2 * expected, cohort=1, users=9, delta=like.delta, sampling="local")
    np.testing.assert_allclose(local.epsilon(1), epsilon, rtol=5e-3)


def test_noise_of_clients_themselves(tmp_path: Path):
    """It has the deviation that is asked for in each upload; without it nothing changes."""
    updates = jnp.ones((4, 500)) / 500**0.5
    base = fedavg(from_zero(updates[0]), moving(updates), weighting="uniform")
    still = with_local_privacy(base, clip=2.0, noise=0.0)
    for algorithm, deviation in (
        (still, 0.0),
        (with_local_privacy(base, clip=2.0, noise=0.1), 0.1),
    ):
        ((state, _),) = rounds(algorithm, one_row_a_client(4), [range(4)])
        drawn = np.asarray(state.server.model.params - updates[0])
        assert drawn.std() == pytest.approx(2.0 * deviation / 2, rel=0.15)
    told = run(tmp_path / "a", "--with", "local_privacy:noise=3", "--delta", "1e-3")
    assert told["relation"] == "replace all data of a user"


def test_a_budget_is_turned_into_noise_before_a_run_is_built():
    privacy = PrivacyConfig(delta=1e-3, epsilon=3.0)
    with pytest.raises(ValueError, match="was not looked for"):
        build(Config("fedavg", wrappers={"privacy": {"clip": 0.5}}, privacy=privacy))
