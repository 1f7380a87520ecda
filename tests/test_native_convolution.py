"""The native convolution: against sums written in NumPy, float64, tap by tap."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from fedjax_kd.nn import conv_lowering
from fedjax_kd.nn.conv_lowering import as_products, convolve
from fedjax_kd.nn.conv_primitive import forward_p, input_p, kernel_p
from fedjax_kd.nn.conv_products import ConvWindow
from fedjax_kd.nn.native import library

pytestmark = pytest.mark.skipif(
    not library.is_available(), reason="the package was installed without its native code"
)


def window_of(size, taps, *, strides=(1, 1), pads=((0, 0), (0, 0)), dilation=(1, 1), groups=1):
    reach = [(n - 1) * d + 1 for n, d in zip(taps, dilation, strict=True)]
    outputs = [
        (n + sum(pad) - r) // s + 1 for n, pad, r, s in zip(size, pads, reach, strides, strict=True)
    ]
    low = tuple(pad[0] for pad in pads)
    return ConvWindow(size, taps, tuple(outputs), strides, low, dilation, groups)


@st.composite
def convolutions(draw):
    """A batch, the features of input and output, and a window with at least one place."""
    pairs = partial(st.tuples)
    taps = draw(pairs(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(pairs(st.integers(1, 3), st.integers(1, 3)))
    strides = draw(pairs(st.integers(1, 3), st.integers(1, 3)))
    edge = st.tuples(st.integers(-1, 3), st.integers(-1, 3))
    pads = draw(pairs(edge, edge))
    least = [
        max((n - 1) * d + 1 - sum(pad), 1 - min(pad[0], 0) - min(pad[1], 0))
        for n, d, pad in zip(taps, dilation, pads, strict=True)
    ]
    size = tuple(draw(st.integers(max(n, 1), max(n, 1) + 13)) for n in least)
    groups = draw(st.sampled_from([1, 1, 2, 5, 19]))
    inputs = groups * draw(st.sampled_from([1, 2, 3, 16] if groups < 5 else [1, 1, 2]))
    outputs = groups * draw(st.sampled_from([1, 3, 8, 17, 31, 62] if groups < 5 else [1, 1, 3]))
    batch = draw(st.sampled_from([1, 2, 9]))
    return (
        batch,
        inputs,
        outputs,
        window_of(size, taps, strides=strides, pads=pads, dilation=dilation, groups=groups),
    )


def operands(batch, inputs, outputs, window, *, clients=1, seed=0):
    """x, kernel and gradient of the output, each with a leading axis of clients."""
    rng = np.random.default_rng(seed)
    shapes = [
        (clients, batch, *window.inputs, inputs),
        (clients, *window.taps, inputs // window.groups, outputs),
        (clients, batch, *window.outputs, outputs),
    ]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def by_taps(x, kernel, dy, window):
    """Output, gradient by the input and gradient by the kernel of one client, in float64."""
    x, kernel, dy = (a.astype(np.float64) for a in (x, kernel, dy))
    low = [max(n, 0) for n in window.low]
    reach = [
        (places - 1) * s + (n - 1) * d + 1
        for places, s, n, d in zip(
            window.outputs, window.strides, window.taps, window.dilation, strict=True
        )
    ]
    far = [
        max(r - n - size, 0) for r, n, size in zip(reach, window.low, window.inputs, strict=True)
    ]
    padded = np.pad(x, ((0, 0), *zip(low, far, strict=True), (0, 0)))
    origin = [max(-n, 0) for n in window.low]
    y, dx, dk = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(kernel)
    inputs, outputs = kernel.shape[-2], kernel.shape[-1] // window.groups
    for tap in np.ndindex(*window.taps):
        seen = [
            slice(o + t * d, o + t * d + (places - 1) * s + 1, s)
            for o, t, d, places, s in zip(
                origin, tap, window.dilation, window.outputs, window.strides, strict=True
            )
        ]
        for group in range(window.groups):
            read = (slice(None), *seen, slice(group * inputs, (group + 1) * inputs))
            made = slice(group * outputs, (group + 1) * outputs)
            y[..., made] += padded[read] @ kernel[(*tap, slice(None), made)]
            dx[read] += dy[..., made] @ kernel[(*tap, slice(None), made)].T
            dk[(*tap, slice(None), made)] = np.einsum("bhwi,bhwo->io", padded[read], dy[..., made])
    rows, columns = (slice(n, n + size) for n, size in zip(low, window.inputs, strict=True))
    return y, dx[:, rows, columns], dk


def natively(x, kernel, dy, window):
    """The same of all clients, in three calls."""
    given = {forward_p: (x, kernel), input_p: (dy, kernel), kernel_p: (x, dy)}

    def run(ways, a, b):
        return conv_lowering.natively(ways, a, b, window)

    return [jax.jit(partial(run, ways))(*given[ways.primitive]) for ways in conv_lowering.WAYS]


def assert_close(ours, exact):
    for mine, true in zip(ours, exact, strict=True):
        assert mine.shape == true.shape
        scale = np.abs(true).max(initial=1e-3)
        np.testing.assert_allclose(mine / scale, true / scale, atol=3e-6)


@settings(max_examples=15, deadline=None)
@given(convolutions())
@example((2, 1, 32, window_of((28, 28), (3, 3))))
@example((2, 3, 16, window_of((16, 16), (3, 3), pads=((1, 1), (1, 1)))))
@example((3, 32, 62, window_of((9, 9), (5, 5), strides=(2, 2), pads=((2, 2), (2, 2)))))
@example((9, 64, 64, window_of((4, 4), (1, 1), strides=(2, 2), groups=64)))
def test_values_and_gradients_equal_sums_over_taps(drawn):
    batch, inputs, outputs, window = drawn
    x, kernel, dy = operands(batch, inputs, outputs, window)
    ours = natively(x, kernel, dy, window)
    assert_close([a[0] for a in ours], by_taps(x[0], kernel[0], dy[0], window))


@settings(max_examples=6, deadline=None)
@given(convolutions())
def test_clients_in_one_call_get_the_bits_that_each_gets_alone(drawn):
    batch, inputs, outputs, window = drawn
    x, kernel, dy = operands(batch, inputs, outputs, window, clients=3)
    together = natively(x, kernel, dy, window)
    for client in range(3):
        alone = natively(*(a[client : client + 1] for a in (x, kernel, dy)), window)
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_array_equal(a[client], b[0])


DIGEST = """
import hashlib, os, sys
os.sched_setaffinity(0, [int(n) for n in sys.argv[1].split(",")])
import jax, numpy as np
from test_native_convolution import natively, operands, window_of
shapes = ((20, 32, 62, (28, 28)), (3, 1, 32, (28, 28)), (1, 64, 64, (8, 8)))
found = hashlib.sha256()
for batch, inputs, outputs, size in shapes:
    window = window_of(size, (3, 3))
    for result in natively(*operands(batch, inputs, outputs, window, clients=2), window):
        found.update(np.asarray(result).tobytes())
print(found.hexdigest())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be limited here")
def test_bits_are_the_same_on_one_core_and_on_all():
    everywhere = sorted(os.sched_getaffinity(0))
    if len(everywhere) == 1:
        pytest.skip("there is one core")

    def digest(cores):
        command = [sys.executable, "-c", DIGEST, ",".join(map(str, cores))]
        folder = Path(__file__).parent
        return subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout

    assert digest(everywhere[:1]) == digest(everywhere)


WINDOW = window_of((9, 8), (3, 3), strides=(1, 2), pads=((1, 1), (0, 1)))


def assert_is_native(function, *arguments):
    assert "fedjax_kd_conv" in jax.jit(function).lower(*arguments).as_text()


@pytest.mark.parametrize("shared", [True, False])
def test_vmap_is_one_call_with_own_and_with_shared_kernels(shared):
    x, kernel, dy = operands(2, 6, 5, WINDOW, clients=4)
    kernel = kernel[:1] if shared else kernel
    axes = (0, None) if shared else (0, 0)

    def gradients(x, kernel, dy):
        y, back = jax.vjp(lambda x, k: convolve(x, k, WINDOW), x, kernel)
        return y, *back(dy)

    run = jax.vmap(gradients, in_axes=(*axes, 0))
    own = kernel[0] if shared else kernel
    text = jax.jit(run).lower(x, own, dy).as_text()
    assert text.count("stablehlo.custom_call @fedjax_kd_conv") == 3
    for client, ours in enumerate(zip(*run(x, own, dy), strict=True)):
        exact = by_taps(x[client], kernel[0 if shared else client], dy[client], WINDOW)
        assert_close(ours, exact)


def test_in_scan_and_on_two_devices_it_is_the_same():
    x, kernel, _ = operands(4, 6, 5, WINDOW)
    once = convolve(x[0], kernel[0], WINDOW)

    def step(total, row):
        return total, convolve(row[None], kernel[0], WINDOW)[0]

    assert_is_native(lambda x: jax.lax.scan(step, 0.0, x)[1], x[0])
    np.testing.assert_array_equal(jax.lax.scan(step, 0.0, x[0])[1], once)
    mesh = Mesh(jax.devices()[:2], ("clients",))
    rows = PartitionSpec("clients")
    split = jax.shard_map(
        lambda x: convolve(x, kernel[0], WINDOW), mesh=mesh, in_specs=rows, out_specs=rows
    )
    np.testing.assert_array_equal(jax.jit(split)(x[0]), once)


def test_second_derivatives_are_native_too_and_right():
    x, kernel, _ = operands(2, 6, 5, WINDOW)
    _, tangent, _ = operands(2, 6, 5, WINDOW, seed=1)

    def loss(kernel):
        return jnp.sin(convolve(x[0], kernel, WINDOW)).sum()

    def along(kernel):
        return jax.jvp(jax.grad(loss), (kernel,), (tangent[0],))[1]

    assert_is_native(along, kernel[0])
    ours = along(kernel[0])
    step = 1e-3
    ends = [jax.grad(loss)(kernel[0] + sign * step * tangent[0]) for sign in (1, -1)]
    np.testing.assert_allclose(ours, (ends[0] - ends[1]) / (2 * step), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_types_are_left_to_products(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, kernel, _ = (jnp.asarray(a, dtype) for a in operands(2, 6, 5, WINDOW))
        lowered = jax.jit(lambda x, k: convolve(x, k, WINDOW)).lower(x[0], kernel[0])
        assert "custom_call" not in lowered.as_text()


def test_counted_programs_have_no_foreign_calls():
    x, kernel, _ = operands(2, 6, 5, WINDOW)
    with as_products():
        program = jax.jit(lambda x, k: convolve(x, k, WINDOW)).lower(x[0], kernel[0])
    assert "custom_call" not in program.as_text()
    places = 2 * 9 * 4
    assert program.cost_analysis()["flops"] >= 2 * places * 9 * 6 * 5


def test_nothing_in_gives_nothing_out():
    y, dx, dk = natively(*operands(0, 3, 5, WINDOW), WINDOW)
    assert y.shape[1] == dx.shape[1] == 0
    assert not np.asarray(dk).any()


def test_kernels_of_one_pixel_and_gradients_of_few_features_are_left_to_products():
    def gradient(x, kernel):
        y, back = jax.vjp(lambda x: convolve(x, kernel[0], WINDOW), x[0])
        return back(y)

    x, kernel, _ = operands(2, 3, 5, WINDOW)
    assert jax.jit(gradient).lower(x, kernel).as_text().count("@fedjax_kd_conv") == 1  # forward
    one = window_of((9, 8), (1, 1))
    x, kernel, _ = operands(2, 6, 5, one)
    assert (
        "custom_call"
        not in jax.jit(convolve, static_argnums=2).lower(x[0], kernel[0], one).as_text()
    )


def test_operands_that_do_not_belong_together_are_an_error_and_no_crash():
    call = jax.ffi.ffi_call(
        "fedjax_kd_conv_forward", jax.ShapeDtypeStruct((1, 2, 7, 6, 5), "float32")
    )
    pair = np.array([1, 1])
    with pytest.raises(Exception, match="the kernel does not fit"):
        call(
            jnp.ones((1, 2, 9, 8, 3)),
            jnp.ones((1, 3, 3, 4, 5)),
            stride=pair,
            low=pair * 0,
            dilation=pair,
            groups=np.int64(1),
        )
