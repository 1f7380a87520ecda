"""Changes cut to most of their energy: the authors' numbers, and what a cut must keep."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import golden

from fedjax_kd import tree
from fedjax_kd.components.low_rank import cut, factor_numbers, rising, truncated

SHORT = {"rtol": 1e-4, "atol": 1e-5}  # of a decomposition in float32
NAMES = ("dec", "flat", "wide", "bias", "three", "zero", "row")
cut_at = jax.jit(cut)
truncated_at = jax.jit(truncated)


def test_golden_energy():
    vectors = golden("fedkd_svd")
    energy = rising(*(float(vectors[f"in_{name}"]) for name in ("tmin", "tmax", "epochs")))
    np.testing.assert_allclose(
        energy(jnp.asarray(vectors["in_comm_round"])), vectors["in_energy"], rtol=1e-6
    )
    np.testing.assert_allclose(energy(jnp.int32(50)), vectors["in_tmax"], rtol=1e-6)


def test_golden_cuts():
    """Clients cut, the server averages and cuts again; where the code found a rank, it agrees."""
    vectors = golden("fedkd_svd")
    energy = float(vectors["in_energy"])
    sent = [
        cut_at({name: jnp.asarray(vectors[f"in_c{k}_{name}"]) for name in NAMES}, energy).base
        for k in range(2)
    ]
    averaged = jax.tree.map(lambda a, b: (a + b) / 2, *sent)
    found = {"c0": sent[0], "c1": sent[1], "server": cut_at(averaged, energy).base}
    by_code = 0
    for who, has in found.items():
        for name in NAMES:
            expected = vectors[f"out_paper_{who}_{name}_recon"]
            np.testing.assert_allclose(has[name], expected, **SHORT, err_msg=f"{who} {name}")
            if vectors.get(f"out_{who}_{name}_rank", 0) > 0:
                np.testing.assert_allclose(has[name], vectors[f"out_{who}_{name}_recon"], **SHORT)
                by_code += 1
    assert by_code == 3


@pytest.mark.parametrize("name", ["dec", "flat", "wide", "row"])
def test_golden_ranks(name: str):
    vectors = golden("fedkd_svd")
    for k in range(2):
        matrix = jnp.asarray(vectors[f"in_c{k}_{name}"])
        _, rank = truncated_at(matrix, float(vectors["in_energy"]))
        assert rank == vectors[f"out_paper_c{k}_{name}_rank"]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.999), st.booleans())
def test_least_rank_that_holds_the_energy(seed: int, energy: float, wide: bool):
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(7, 4)) * np.exp(rng.normal(size=4))
    matrix = (matrix.T if wide else matrix).astype(np.float32)
    kept, rank = truncated_at(jnp.asarray(matrix), energy)
    u, sigma, v = np.linalg.svd(np.asarray(matrix, float), full_matrices=False)
    held = np.cumsum(sigma**2) / (sigma**2).sum()
    allowed = {int((held < energy * (1 + slack)).sum()) + 1 for slack in (-1e-5, 0, 1e-5)}
    assert int(rank) in allowed
    expected = (u[:, : int(rank)] * sigma[: int(rank)]) @ v[: int(rank)]
    np.testing.assert_allclose(kept, expected, rtol=1e-3, atol=1e-4 * sigma[0])


def test_what_travels_whole():
    """Everything at energy 1, to the last bit; vectors always; of zeros, nothing."""
    rng = np.random.default_rng(0)
    change = {
        "w": rng.normal(size=(20, 6)) * np.geomspace(1, 1e-6, 6),
        "b": rng.normal(size=6),
        "s": np.array(2.0),
    }
    change = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), change)
    whole = cut_at(change, 1.0)
    np.testing.assert_array_equal(whole.base["w"], change["w"])
    assert int(whole.size) == 4 * 127
    most = cut_at(change, 0.9)
    np.testing.assert_array_equal(most.base["b"], change["b"])
    assert int(most.size) == 4 * (27 + 6 + 1)
    assert cut_at(change, 0.0).size == most.size, "one singular vector always travels"
    nothing = cut_at(tree.zeros_like(change), 0.95)
    assert int(nothing.size) == 4 * 7
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(nothing.base))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_scale_does_not_matter(scale: float):
    matrix = jnp.asarray(np.random.default_rng(1).normal(size=(7, 4)), jnp.float32)
    (kept, rank), (far, other) = (truncated_at(m, 0.8) for m in (matrix, matrix * scale))
    assert rank == other
    np.testing.assert_allclose(far / scale, kept, rtol=1e-4, atol=1e-5)


def test_kernels_of_convolutions_are_matrices_of_their_outputs():
    rng = np.random.default_rng(2)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 5)), jnp.float32)
    flat, _ = truncated(kernel.reshape(18, 5), 0.7)
    np.testing.assert_allclose(cut(kernel, 0.7).base, flat.reshape(kernel.shape), rtol=1e-6)
    assert float(factor_numbers((18, 5), jnp.int32(4))) == 90, "the factors would be larger"


def test_what_is_not_finite_stays_so():
    matrix = jnp.ones((7, 4)).at[2, 1].set(jnp.nan)
    assert not bool(tree.is_finite(truncated_at(matrix, 0.9)[0]))
    assert cut((), 0.5).size == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((-0.1, 0.5, 3), "start is -0.1, but must be in"),
        ((0.5, 1.1, 3), "end is 1.1, but must be in"),
        ((0.5, 0.9, 0), "rounds is 0, but must be >= 1"),
    ],
)
def test_energies_out_of_range(given: tuple[float, ...], message: str):
    with pytest.raises(ValueError, match=message):
        rising(*given)
