"""What clients find out about themselves: told by evaluations, tables and reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from digits import digits, network

import fedjax_kd as fk
from fedjax_kd import wrappers
from fedjax_kd.commands.evaluate import write_clients
from fedjax_kd.core import Algorithm
from fedjax_kd.engine.evaluation import make_evaluation
from fedjax_kd.report.traits import draw_traits, traits_table

CLIENTS = 100  # of the federation of digits


def telling() -> Algorithm:
    """FedPer, whose clients tell the mean of their heads, its sign, and a choice between two."""
    fit = fk.local_training(client_lr=0.1, steps=2)

    def traits(server: Any, client: Any) -> dict[str, jax.Array]:
        head = jnp.stack([leaf.mean() for leaf in jax.tree.leaves(client)]).mean()
        rises = head > 0
        return {"head": head, "both": jnp.stack([head, -head]), "sign": jnp.stack([~rises, rises])}

    return fk.fedper(network(digits()), fit)._replace(traits=traits)


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    simulation = fk.simulate(telling(), digits(), num_rounds=2, cohort_size=10)
    *_, last = fk.blocks(simulation, fk.initial_state(simulation))
    return simulation, last


def test_evaluations_tell_them(trained: tuple[Any, Any]):
    simulation, last = trained
    seen = make_evaluation(simulation, last.state)(last.state)
    assert seen.traits["head"].shape == (CLIENTS,)
    means, row = np.asarray(seen.traits["head"], np.float64), last.rows[-1]
    assert row["trait_head_mean"] == pytest.approx(means.mean(), rel=1e-5)
    assert row["trait_head_std"] == pytest.approx(means.std(), rel=1e-5)
    assert row["trait_both_1_mean"] == pytest.approx(-means.mean(), rel=1e-5)
    assert row["trait_sign_1_share"] == pytest.approx((means > 0).mean())
    assert row["trait_sign_0_share"] + row["trait_sign_1_share"] == pytest.approx(1)


def test_the_table_of_clients_has_them(trained: tuple[Any, Any], tmp_path: Path):
    simulation, last = trained
    seen = make_evaluation(simulation, last.state)(last.state)
    write_clients(tmp_path / "clients.csv", simulation, seen)
    head, *lines = (tmp_path / "clients.csv").read_text().splitlines()
    cells = zip(*(line.split(",") for line in lines), strict=True)
    columns = dict(zip(head.split(","), cells, strict=True))
    np.testing.assert_allclose(np.array(columns["head"], float), seen.traits["head"], rtol=1e-6)
    np.testing.assert_allclose(np.array(columns["both_1"], float), -seen.traits["head"], rtol=1e-6)
    assert [int(n) for n in columns["sign"]] == (np.asarray(seen.traits["head"]) > 0).tolist()


@pytest.mark.parametrize(
    "wrapped", ["ema", pytest.param("swa", marks=pytest.mark.thorough), "top_k"]
)
def test_wrappers_tell_those_of_the_method_inside(wrapped: str):
    inside = wrappers.WRAPPERS[wrapped](telling(), digits())
    result = fk.train(inside, digits(), num_rounds=1, cohort_size=5, eval_every=1)
    assert {"trait_head_mean", "trait_sign_0_share"} <= result.history[-1].keys()


def test_groups_tell_what_all_of_them_have():
    one, other = telling(), telling()._replace(traits=lambda server, client: {"head": jnp.ones(())})
    group_of = np.arange(CLIENTS) % 2
    result = fk.train([one, other], digits(), num_rounds=1, cohort_size=4, group_of=group_of)
    assert {n for n in result.history[-1] if n.startswith("trait_")} == {
        "trait_head_mean",
        "trait_head_std",
    }


def test_reports_show_first_and_last():
    rows = [
        {"round": 0, "trait_alpha_mean": 0.5, "trait_alpha_std": 0.0, "trait_cluster_0_share": 1.0},
        {"round": 1},
        {"round": 2, "trait_alpha_mean": 0.7, "trait_alpha_std": 0.1, "trait_cluster_0_share": 0.3},
    ]
    other = [{"round": 0, "test_loss": 1.0, "trait_alpha_mean": None}]
    lines = {"apfl": [rows, rows], "fedavg": [other]}
    table = traits_table(lines, "method")
    assert table is not None
    assert [row[:2] for row in table.rows] == [["apfl", "alpha"], ["apfl", "clients in cluster 0"]]
    assert table.rows[0][2:] == ["0.500 ± 0.000", "0.700 ± 0.000", "0.100 ± 0.000"]
    assert table.rows[1][2:] == ["1.00 ± 0.00", "0.300 ± 0.000", "-"]
    (axes,) = draw_traits(lines, (6, 3)).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[0, 0.5], [2, 0.7]],
        [[0, 1.0], [2, 0.3]],
    ]
    assert traits_table({"fedavg": lines["fedavg"]}, "method") is None
