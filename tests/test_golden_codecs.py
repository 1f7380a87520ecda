"""Golden vectors of codecs: FedJAX's and the authors' code, and the papers' formulas."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vectors import golden, keys_of

from fedjax_kd.components import low_rank, quantisers, rotations, sketches, sparsity
from fedjax_kd.components.codecs import entropy_bytes, packed

pytestmark = pytest.mark.usefixtures("float64")
FEDJAX = {"rtol": 1e-5, "atol": 1e-5}  # its code is in float32
AUTHORS = {"rtol": 1e-4, "atol": 1e-5}  # so is theirs
SEED = 8  # bytes, once a message
FORMULA = {"rtol": 1e-9, "atol": 1e-12}


def close(found: Any, expected: Any, tolerance: dict[str, float]) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, **tolerance)


@pytest.mark.parametrize(("key", "parts"), keys_of("compress_fedjax", r"out_uniform_L(\d+)"))
def test_uniform_levels(key: str, parts: tuple[str]):
    known, levels = golden("compress_fedjax"), int(*parts)
    values, draws = jnp.asarray(known["in_v"]), jnp.asarray(known["in_rand"])
    decoded, codes, variance = quantisers.uniform_levels(values, draws, levels)
    close(variance, known[f"{key}_variance"].sum(), FEDJAX)
    close(decoded, known[key], FEDJAX)
    estimated = 8 * entropy_bytes(codes, levels)
    close(estimated, known[f"{key}_arith_bits_f64"], FEDJAX)


def test_the_variance_of_uniform_levels():
    known = golden("compress_fedjax")
    values = jnp.asarray(known["in_v"], float)
    draws = jnp.broadcast_to(((jnp.arange(5000, dtype=float) + 0.5) / 5000)[:, None], (5000, 24))
    drawn = jax.vmap(lambda own: quantisers.uniform_levels(values, own, 4)[0])(draws)
    close(drawn.mean(0), values, {"rtol": 0, "atol": 1e-3})
    close(drawn.var(0), known["out_uniform_L4_variance"], {"rtol": 1e-2, "atol": 2e-3})


@pytest.mark.parametrize("kind", ["constant", "zero"])
def test_vectors_of_one_value_stay(kind: str):
    values = jnp.asarray(golden("compress_fedjax")[f"out_uniform_L4_{kind}"])
    draws = 0.5 * jnp.ones_like(values)
    close(quantisers.uniform_levels(values, draws, 4)[0], values, {"rtol": 0, "atol": 0})
    if kind == "zero":
        for decoded in (
            quantisers.ternary(values, draws, 2.5)[0],
            quantisers.qsgd(values, draws, 4)[0],
            quantisers.scaled_sign(values)[0],
            rotations.drive(values),
        ):
            assert not jnp.any(decoded)


def test_terngrad():
    known = golden("compress_fedjax")
    values, draws = jnp.asarray(known["in_v"]), jnp.asarray(known["in_rand"])
    coded = quantisers.ternary(values, draws, 2.5)
    close(coded.decoded, known["out_terngrad"], FEDJAX)
    close(coded.variance, known["out_terngrad_variance"].sum(), FEDJAX)
    close(values.std(), known["out_terngrad_sigma"], FEDJAX)


@pytest.mark.parametrize("part", ["b", "w"])
def test_weighted_means_of_quantised_uploads(part: str):
    known = golden("compress_fedjax")
    weights = jnp.asarray(known["in_weights"] / known["in_weights"].sum(), jnp.float32)
    found: dict[str, Any] = {
        "uniform_L4": 0.0,
        "terngrad_agg": 0.0,
        "rotated_L4": 0.0,
        "drive": 0.0,
    }
    for client, weight in enumerate(weights):
        values = jnp.ravel(jnp.asarray(known[f"in_c{client}_{part}"]))
        draws = jnp.ravel(jnp.asarray(known[f"in_c{client}_rand_{part}"]))
        signs = jnp.asarray(known[f"in_rotq_rademacher_{part}"], values.dtype)
        own = jnp.asarray(known[f"in_c{client}_drive_rademacher_{part}"], values.dtype)
        turned_draws = jnp.ravel(jnp.asarray(known[f"in_c{client}_rotq_rand_{part}"]))
        turned = quantisers.uniform_levels(rotations.rotated(values, signs), turned_draws, 4)[0]
        driven = rotations.drive(rotations.rotated(values, own))
        found["uniform_L4"] += weight * quantisers.uniform_levels(values, draws, 4)[0]
        found["terngrad_agg"] += weight * quantisers.ternary(values, draws, 2.5)[0]
        found["rotated_L4"] += weight * rotations.rotated_back(turned, signs, len(values))
        found["drive"] += weight * rotations.rotated_back(driven, own, len(values))
    for name, mean in found.items():
        close(mean, np.ravel(known[f"out_{name}_{part}"]), {"rtol": 1e-4, "atol": 1e-4})


def test_rotations():
    known = golden("compress_fedjax")
    close(rotations.hadamard(jnp.asarray(known["in_wht_x"])), known["out_wht"] / 32**0.5, FEDJAX)
    signs = jnp.asarray(known["in_rot_rademacher"], jnp.float32)
    turned = rotations.rotated(jnp.ravel(jnp.asarray(known["in_rot_x"])), signs)
    close(turned, known["out_rot"], {"rtol": 1e-4, "atol": 1e-4})
    back = rotations.rotated_back(turned, signs, 24).reshape(6, 4)
    close(back, known["out_rot_inverse"], {"rtol": 1e-4, "atol": 1e-4})
    driven = rotations.drive(jnp.asarray(known["out_rot"]))
    close(driven, known["out_drive_of_rot"], {"rtol": 1e-4, "atol": 1e-4})


@pytest.mark.parametrize("scale", ["unbiased", "least_error"])
def test_drive(scale: Any):
    known = golden("compress_official")
    values = jnp.asarray(known["in_drive_v"], float)
    signs = jnp.asarray(known["in_drive_rademacher"], float)
    driven = rotations.drive(rotations.rotated(values, signs), scale)
    name = "out_drive_decoded_f64" if scale == "unbiased" else "out_drive_decoded_min_mse_f64"
    close(rotations.rotated_back(driven, signs, 32), known[name], FORMULA)


@pytest.mark.parametrize(("key", "parts"), keys_of("compress_ef", r"out_qsgd_s(\d+)"))
def test_qsgd(key: str, parts: tuple[str]):
    known, steps = golden("compress_ef"), int(*parts)
    decoded, codes, variance = quantisers.qsgd(
        jnp.asarray(known["in_v"]), jnp.asarray(known["in_u"]), steps
    )
    close(variance, known[f"{key}_variance"].sum(), FORMULA)
    close(decoded, known[key], FORMULA)
    levels = jnp.abs(codes - steps)
    close(levels, np.abs(known[f"{key}_levels"]), {"rtol": 0, "atol": 0})


def test_scaled_signs():
    known = golden("compress_ef")
    values = jnp.asarray(known["in_v"])
    decoded, expected = quantisers.scaled_sign(values)[0], known["out_scaled_sign"]
    close(jnp.where(values == 0, 0, decoded), expected, FORMULA)


@pytest.mark.parametrize(("key", "parts"), keys_of("compress_ef", r"out_topk(\d+)"))
def test_the_largest_entries(key: str, parts: tuple[str]):
    known, count = golden("compress_ef"), int(*parts)
    found = sparsity.largest(jnp.asarray(known["in_v"]), count / len(known["in_v"]))
    close(found, known[key], {"rtol": 0, "atol": 0})


def test_of_equal_entries_the_first_travel():
    known = golden("compress_ef")
    found = sparsity.largest(jnp.asarray(known["in_tie"]), 3 / 8, "first")
    close(found, known["out_tie_topk3"], {"rtol": 0, "atol": 0})


def test_factors_of_the_mean_over_clients():
    known = golden("compress_official")
    start, errors = jnp.asarray(known["in_psp_q0"]), np.zeros_like(known["out_psp_error"][0])
    for n, gradients in enumerate(known["in_psp_g"]):
        waiting = gradients + errors
        left, start = low_rank.power_step(
            jnp.asarray(waiting), start, lambda products: products.mean(0)
        )
        approximation = np.asarray(left @ start.T)
        errors = waiting - approximation
        close(approximation, known["out_psp_approx"][n], {"rtol": 1e-7, "atol": 1e-9})
        close(errors, known["out_psp_error"][n], {"rtol": 1e-7, "atol": 1e-9})


def test_sketches():
    known = golden("compress_ef")
    hashes = sketches.Hashes(jnp.asarray(known["in_cs_hash"]), jnp.asarray(known["in_cs_sign"]))
    tables = [sketches.sketch(jnp.asarray(known[f"in_cs_v{n}"]), hashes, 7) for n in (1, 2)]
    close(tables[0], known["out_cs_sketch_v1"], FORMULA)
    mean = (tables[0] + tables[1]) / 2
    close(mean, known["out_cs_sketch_mean"], FORMULA)
    estimate = sketches.estimate(mean, hashes)
    close(estimate, known["out_cs_estimate_mean"], FORMULA)
    close(sparsity.largest(estimate, 4 / 20, "first"), known["out_cs_top4"], FORMULA)


@pytest.mark.parametrize("variant", ["paper", "zeroing"])
def test_momentum_and_error_in_sketches(variant: Any):
    known, rate = golden("compress_ef"), float(golden("compress_ef")["in_fetch_lr"])
    name = "out_fetch" if variant == "paper" else "out_fetch_zeroing"
    hashes = sketches.Hashes(jnp.asarray(known["in_cs_hash"]), jnp.asarray(known["in_cs_sign"]))
    tables = sketches.Tables(jnp.zeros((3, 7)), jnp.zeros((3, 7)))
    how: Any = {"keep": int(known["in_fetch_k"]) / 20, "momentum": float(known["in_fetch_rho"])}
    for n, expected in enumerate(known[f"{name}_delta"]):
        table = sketches.sketch(jnp.asarray(known[f"in_cs_v{n % 2 + 1}"]), hashes, 7)
        change, tables = sketches.remembered(hashes, tables, table, variant=variant, **how)
        # The rate of the paper is before the memory, and here that of what comes after it.
        close(rate * change, expected, FORMULA)
    error = rate * tables.error if variant == "paper" else tables.error
    close(error, known[f"{name}_error"], FORMULA)
    close(tables.momentum, known[f"{name}_momentum"], FORMULA)


def sizes() -> list[int]:
    """Of the tensors whose bytes are counted."""
    shapes = golden("wire_bytes")["in_shapes"]
    return [int(np.prod(shape[shape > 0])) for shape in shapes]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_bytes_of_codes(bits: int):
    known = golden("wire_bytes")
    assert sum(packed(n, bits) + 8 for n in sizes()) == known[f"out_uniform_b{bits}"]
    turned = sum(packed(rotations.padded_length(n), bits) + 8 for n in sizes())
    assert turned + SEED == known[f"out_rotated_b{bits}"]


def test_bytes_of_signs_and_thirds():
    known = golden("wire_bytes")
    assert sum(packed(n, 1) + 4 for n in sizes()) == known["out_sign_scaled"]
    assert sum(packed(n, 2) + 4 for n in sizes()) == known["out_terngrad_2bit"]
    turned = sum(packed(rotations.padded_length(n), 1) + 4 for n in sizes())
    assert turned + SEED == known["out_drive"]
    assert packed(len(known["in_pack4"]), 4) == known["out_pack4_bytes"]


@pytest.mark.parametrize("positions", ["idx32", "idxpacked", "bitmap"])
@pytest.mark.parametrize("keep", ["0p01", "0p1", "0p25"])
def test_bytes_of_sparse_vectors(positions: str, keep: str):
    known = golden("wire_bytes")
    name: Any = {"idx32": "int32", "idxpacked": "packed"}.get(positions, positions)
    total = 0
    for n, count in zip(sizes(), known[f"out_topk_{keep}_k"], strict=True):
        vector = jnp.zeros(n, jnp.float32).at[: int(count)].set(1.0)
        total += int(sparsity.sparse_bytes(vector, name))
    assert total == known[f"out_topk_{keep}_{positions}"]


@pytest.mark.parametrize("rank", [1, 4])
def test_bytes_of_factors(rank: int):
    known = golden("wire_bytes")
    shapes = [tuple(int(n) for n in shape[shape > 0]) for shape in known["in_shapes"]]
    found = sum(low_rank.factor_bytes(jnp.zeros(s, jnp.float32), rank) for s in shapes)
    assert found == known[f"out_powersgd_r{rank}"]


def test_the_estimate_of_an_entropy_coder():
    known = golden("wire_bytes")
    codes = jnp.asarray(known["in_ternary"] - known["in_ternary"].min())
    close(8 * entropy_bytes(codes, 3), known["out_ternary_fedjax_arith_bits"], FEDJAX)
