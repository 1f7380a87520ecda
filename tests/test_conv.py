"""Convolutions: equal to lax's, and no convolution inside but on TPUs."""

from __future__ import annotations

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from fedjax_kd.nn import Conv, conv_general_dilated, conv_lowering, conv_products

CHANNELS_LAST = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC")}
CHANNELS_LAST[3] = ("NDHWC", "DHWIO", "NDHWC")


@st.composite
def convolutions(draw):
    """The shape of an input and a kernel, and the options of a convolution that fits them."""
    rank, groups = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2, 3]))
    numbers = partial(st.lists, min_size=rank, max_size=rank)
    window = draw(numbers(st.integers(1, 3)))
    spread = draw(numbers(st.integers(1, 2)))
    gaps = draw(numbers(st.integers(1, 2)))
    sides = [draw(st.integers((k - 1) * d + 1, 7)) for k, d in zip(window, spread, strict=True)]
    pairs = numbers(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    padding = draw(st.one_of(st.sampled_from(["SAME", "VALID", "SAME_LOWER"]), pairs))
    per_group, outputs = draw(st.integers(1, 3)), groups * draw(st.integers(1, 2))
    lhs = (draw(st.integers(1, 2)), *sides, per_group * groups)
    rhs = (*window, per_group, outputs)
    options = {
        "window_strides": draw(numbers(st.integers(1, 3))),
        "padding": padding,
        "lhs_dilation": None if isinstance(padding, str) else gaps,
        "rhs_dilation": spread,
        "dimension_numbers": CHANNELS_LAST[rank],
        "feature_group_count": groups,
    }
    return lhs, rhs, options


def normal(seed, shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def value_and_gradients(conv, lhs, rhs, options):
    def objective(lhs, rhs):
        y = conv(lhs, rhs, **options)
        return (y * jnp.cos(jnp.arange(y.size, dtype=y.dtype)).reshape(y.shape)).sum(), y

    # One program: compiling every operation of every drawn shape by itself takes minutes.
    both = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
    (_, y), gradients = both(lhs, rhs)
    return y, gradients


def assert_close(ours, theirs, tolerance):
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, theirs)
    chex.assert_trees_all_close(ours, theirs, rtol=tolerance, atol=tolerance)


@settings(max_examples=15, deadline=None)
@given(convolutions())
def test_values_and_gradients_equal_lax(drawn):
    lhs_shape, rhs_shape, options = drawn
    with jax.enable_x64(True):
        lhs, rhs = normal(0, lhs_shape, "float64"), normal(1, rhs_shape, "float64")
        ours = value_and_gradients(conv_general_dilated, lhs, rhs, options)
        theirs = value_and_gradients(lax.conv_general_dilated, lhs, rhs, options)
        assert_close(ours, theirs, 1e-10)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("stacked", [True, False])
def test_both_ways_to_convolve_equal_lax(monkeypatch, by_rows, dtype, stacked):
    monkeypatch.setattr(conv_products, "_is_by_rows", lambda kernel, window: by_rows)
    lead = (2,) if stacked else ()
    options = {
        "window_strides": (1, 2),
        "padding": [(2, 1), (0, 1)],
        "rhs_dilation": (2, 1),
        "dimension_numbers": CHANNELS_LAST[2],
    }
    with jax.enable_x64(dtype == "float64"):
        lhs, rhs = normal(0, (*lead, 2, 9, 8, 3), dtype), normal(1, (*lead, 3, 2, 3, 4), dtype)
        runs = [
            lambda x, kernel, c=c: value_and_gradients(c, x, kernel, options)
            for c in (conv_general_dilated, lax.conv_general_dilated)
        ]
        with conv_lowering.as_products():
            ours, theirs = (jax.vmap(run)(lhs, rhs) if stacked else run(lhs, rhs) for run in runs)
        assert_close(ours, theirs, 1e-10 if dtype == "float64" else 1e-4)


@settings(max_examples=8, deadline=None)
@given(convolutions())
def test_stacked_kernels_equal_a_loop_over_lax(drawn):
    lhs_shape, rhs_shape, options = drawn
    lhs, rhs = normal(0, (2, *lhs_shape)), normal(1, (2, *rhs_shape))
    both = jax.vmap(lambda x, kernel: value_and_gradients(conv_general_dilated, x, kernel, options))
    single = [
        value_and_gradients(lax.conv_general_dilated, lhs[i], rhs[i], options) for i in (0, 1)
    ]
    assert_close(both(lhs, rhs), jax.tree.map(lambda *leaves: jnp.stack(leaves), *single), 2e-4)


@pytest.mark.parametrize("names", [None, ("NCHW", "OIHW", "NCHW"), ("CHWN", "HWOI", "HNWC")])
def test_every_layout_equals_lax(names):
    sizes = {"N": 2, "C": 3, "H": 6, "W": 5, "O": 4, "I": 3}
    spec = names or ("NCHW", "OIHW", "NCHW")
    lhs = normal(0, [sizes[axis] for axis in spec[0]])
    rhs = normal(1, [{**sizes, "H": 3, "W": 2}[axis] for axis in spec[1]])
    options = {"window_strides": (2, 1), "padding": "SAME", "dimension_numbers": names}
    ours = value_and_gradients(conv_general_dilated, lhs, rhs, options)
    assert_close(ours, value_and_gradients(lax.conv_general_dilated, lhs, rhs, options), 1e-4)


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("padding", ["SAME", "VALID", "CIRCULAR", "REFLECT", 1])
def test_flax_layers_equal_the_same_layers_with_lax(strides, padding):
    x, build = normal(0, (2, 7, 7, 3)), partial(nnx.Conv, 3, 4, (3, 3), strides=strides)
    ours = Conv(3, 4, (3, 3), strides=strides, padding=padding, rngs=nnx.Rngs(0))
    theirs = build(padding=padding, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-4, atol=1e-5)


def test_accumulates_and_returns_in_the_preferred_dtype():
    lhs, rhs = normal(0, (1, 2, 4), "bfloat16"), normal(1, (3, 2, 1), "bfloat16")
    y = conv_general_dilated(lhs, rhs, (1,), "VALID", preferred_element_type=jnp.float32)
    assert y.dtype == jnp.float32
    exact = conv_general_dilated(lhs.astype(jnp.float32), rhs.astype(jnp.float32), (1,), "VALID")
    np.testing.assert_allclose(y, exact, rtol=1e-5)


def lowered(function, *arguments, platform="cpu"):
    return jax.jit(function).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()


def stacked_gradients(conv):
    stacked = jax.vmap(partial(conv, window_strides=(2, 1), padding="SAME"))
    return jax.grad(lambda x, kernel: (stacked(x, kernel) ** 2).sum(), argnums=(0, 1))


def test_stacked_gradients_compile_without_a_convolution_but_on_tpus():
    shapes = normal(0, (3, 2, 3, 8, 8)), normal(1, (3, 4, 3, 5, 5))
    ours, theirs = map(stacked_gradients, (conv_general_dilated, lax.conv_general_dilated))
    assert "stablehlo.convolution" not in lowered(ours, *shapes)
    assert "stablehlo.convolution" not in lowered(ours, *shapes, platform="cuda")
    assert "stablehlo.convolution" in lowered(ours, *shapes, platform="tpu")
    assert "stablehlo.convolution" in lowered(theirs, *shapes)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_are_never_given_what_is_native_to_cpus(platform):
    shapes = normal(0, (3, 2, 3, 8, 8)), normal(1, (3, 4, 3, 5, 5))
    text = lowered(stacked_gradients(conv_general_dilated), *shapes, platform=platform)
    assert "fedjax_kd" not in text
    assert "custom_call" not in text


def test_a_kernel_of_one_pixel_is_a_single_matrix_product():
    conv = partial(conv_general_dilated, window_strides=(1, 1), padding="SAME")
    conv = partial(conv, dimension_numbers=CHANNELS_LAST[2])
    text = lowered(conv, normal(0, (2, 4, 4, 3)), normal(1, (1, 1, 3, 5)))
    assert text.count("dot_general") == 1
    assert "concatenate" not in text
    assert "stablehlo.pad" not in text


@settings(max_examples=6, deadline=None)
@given(convolutions())
def test_every_derivative_of_second_order_equals_that_of_lax(drawn):
    lhs_shape, rhs_shape, options = drawn

    def hessian_products(conv):
        def loss(operands):
            return jnp.sin(conv(*operands, **options)).sum()

        def of(operands, tangents):
            forward_over_reverse = jax.jvp(jax.grad(loss), (operands,), (tangents,))[1]

            def along(operands):
                parts = jax.tree.map(lambda g, t: (g * t).sum(), jax.grad(loss)(operands), tangents)
                return parts[0] + parts[1]

            return forward_over_reverse, jax.grad(along)(operands)

        return jax.jit(of)

    with jax.enable_x64(True):
        operands = normal(0, lhs_shape, "float64"), normal(1, rhs_shape, "float64")
        tangents = normal(2, lhs_shape, "float64"), normal(3, rhs_shape, "float64")
        ours = hessian_products(conv_general_dilated)(operands, tangents)
        theirs = hessian_products(lax.conv_general_dilated)(operands, tangents)
        assert_close(ours, theirs, 1e-9)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("inner", [(0, None), (None, 0), (0, 0), (None, None)])
def test_vmap_of_vmap_equals_that_of_lax(axes, inner):
    options = {"window_strides": (1, 2), "padding": "SAME", "dimension_numbers": CHANNELS_LAST[2]}
    lhs, rhs = (2, 6, 5, 3), (3, 2, 3, 4)
    for operand_axes in (inner, axes):
        lhs = lhs if operand_axes[0] is None else (2, *lhs)
        rhs = rhs if operand_axes[1] is None else (2, *rhs)

    def run(conv):
        def one(x, kernel):
            return value_and_gradients(conv, x, kernel, options)

        once = one if inner == (None, None) else jax.vmap(one, in_axes=inner)
        return jax.vmap(once, in_axes=axes)(normal(0, lhs), normal(1, rhs))

    assert_close(run(conv_general_dilated), run(lax.conv_general_dilated), 1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lhs_dilation": (2,)}, "dilated inputs need"),
        ({"batch_group_count": 2}, "batch_group_count is 2"),
        ({"feature_group_count": 3}, "the input has 4 features"),
    ],
)
def test_what_is_not_possible_says_so(options, message):
    with pytest.raises(ValueError, match=message):
        conv_general_dilated(jnp.ones((2, 4, 6)), jnp.ones((2, 4, 3)), (1,), "VALID", **options)
