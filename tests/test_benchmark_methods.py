"""What a method's round costs by its products, and a tiny run of the comparison."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import methods
from benchmarks.cases import CASES, make_federation
from fedjax_kd.nn import conv_general_dilated

TINY = dataclasses.replace(CASES["digits_mlp"], options={"hidden": (8,)}, rounds=1)


def test_products_are_counted_with_loops_and_branches() -> None:
    x, w = jnp.ones((5, 4)), jnp.ones((4, 4))

    def scanned(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 3, lambda i, x: x @ w, x)

    def unknown(x: jax.Array) -> jax.Array:
        return jax.lax.while_loop(lambda x: x.sum() > 0, lambda x: x @ w, x)

    def branching(x: jax.Array) -> jax.Array:
        return jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)

    once = 5 * 4 * 4
    assert methods.cost(lambda x: x @ w, x, turns=7) == once
    assert methods.cost(scanned, x, turns=7) == 3 * once
    assert methods.cost(unknown, x, turns=7) == 7 * once
    assert methods.cost(branching, x, turns=7) == 2 * once


def test_convolutions_and_their_gradients_count_by_places_and_taps() -> None:
    def gradients(x: jax.Array, kernel: jax.Array) -> Any:
        y, back = jax.vjp(lambda x, k: conv_general_dilated(x, k, (1, 1), "VALID"), x, kernel)
        return back(y)

    once = 2 * (5 * 4) * (3 * 2) * 3 * 4  # images, places, taps, features
    shapes = jnp.ones((2, 3, 7, 5)), jnp.ones((4, 3, 3, 2))
    assert methods.cost(gradients, *shapes, turns=1) == 3 * once
    stacked = [jnp.stack([a] * 6) for a in shapes]
    assert methods.cost(jax.vmap(gradients), *stacked, turns=1) == 6 * 3 * once


@pytest.mark.parametrize(("name", "least", "most"), [("fedprox", 1, 1.2), ("fedntd", 1.3, 1.6)])
def test_explained_cost_is_that_of_further_passes(name: str, least: float, most: float) -> None:
    federation = methods.with_public(make_federation(TINY, 2), 16)
    base, own = (
        methods.of_a_round(methods.make(n, TINY, federation), federation, 2, TINY.steps)
        for n in ("fedavg", name)
    )
    # Forward, and backward by both operands but for the data's: 4 units of the first layer's two.
    layers = 64 * 8, 8 * 10
    assert base == 2 * TINY.examples * (2 * layers[0] + 3 * layers[1])
    assert least <= own / base <= most


def test_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    row = methods.compare("moon", TINY, cohort=2, chunk=2, times=1)
    assert row["method"] == "moon"
    assert 1.5 < row["explained"] < 2
    assert row["cost"] > 0
