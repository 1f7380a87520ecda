"""Reading programs that were compiled for accelerators.

The recorded modules are of `steps` below, for an H100 and a TPU v5e, without what nobody reads.
"""

from __future__ import annotations

import doctest
from pathlib import Path

import jax
import pytest

from benchmarks.accelerators import arithmetic, hlo, loops, thunks, traffic
from benchmarks.accelerators.checks import faults
from benchmarks.accelerators.costs import Part, Reader, largest, outermost, total
from benchmarks.accelerators.targets import TARGETS

GOLDEN = Path(__file__).parent / "golden"
MATRIX, SQUARE = 4 * 64 * 256, 4 * 64 * 64  # bytes
PRODUCT = 2 * 64 * 64 * 256  # operations


def steps(w: jax.Array, x: jax.Array, n: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What was recorded, w [64, 256], x [64, 64] and rows [8, 256]; w and rows are donated."""

    def given(i: jax.Array, w: jax.Array) -> jax.Array:
        return w + 0.5 * jax.numpy.tanh(x @ w)

    def known(i: jax.Array, held: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        w, kept = held
        w = jax.numpy.tanh(x @ w)
        return w, jax.lax.dynamic_update_index_in_dim(kept, w[0], i, 0)

    w = jax.lax.fori_loop(0, n, given, w)
    w, kept = jax.lax.fori_loop(0, 3, known, (w, rows))
    finite = jax.numpy.isfinite(w).all()
    largest = jax.numpy.abs(w).max(1, keepdims=True)
    return jax.lax.cond(finite, lambda: w, lambda: jax.numpy.zeros_like(w) + largest), kept


def recorded(target: str) -> hlo.Module:
    return hlo.parse((GOLDEN / f"hlo_{target}.txt").read_text("utf-8"))


def read(target: str, on_device: frozenset[str] = frozenset()) -> Part:
    return Reader(recorded(target), TARGETS[target], on_device).program()


def of(body: str, more: str = "") -> tuple[hlo.Module, hlo.Computation]:
    """A module of these instructions."""
    module = hlo.parse(f"{more}\nENTRY %main (a: f32[]) -> f32[] {{\n{body}\n}}\n")
    return module, module.entry


def test_loops_have_the_lengths_that_xla_knows() -> None:
    for target in ("h100", "v5e"):  # XLA notes them down for GPUs alone
        assert [loop.turns for loop in read(target).loops] == [None, 3]


def test_kernels_of_a_gpu() -> None:
    given, known = read("h100").loops
    # The product and sum, a copy, the counter; the product, its row, a copy, the counter.
    one, other = total(given.body, 1), total(known.body, 1)
    assert (one.kernels, other.kernels) == (3, 4)
    assert (one.products, one.operations) == (1, PRODUCT)
    assert one.bytes == (MATRIX + SQUARE + MATRIX) + 2 * MATRIX + 2 * 4
    # Of a row that is put in its place, that row is read and written, and where it goes.
    assert other.bytes == (SQUARE + 2 * MATRIX) + 2 * MATRIX + 2 * 4 + (2 * 4 * 256 + 4)
    assert one.xla_us == pytest.approx(0.308 + 0.001)
    assert one.unestimated == 1
    rates = TARGETS["h100"]
    slowest = (2 * MATRIX + SQUARE) / rates.bandwidth, 2 * MATRIX / rates.bandwidth
    assert one.roofline_us == pytest.approx(1e6 * (sum(slowest) + 8 / rates.bandwidth))


def test_kernels_of_a_tpu() -> None:
    program = read("v5e")
    one, other = (total(loop.body, 1) for loop in program.loops)
    # A copy into vector memory and the product; then a copy out of it, a row, and its place.
    assert (one.kernels, other.kernels) == (2, 5)
    assert one.operations == other.operations == PRODUCT
    assert one.bytes == MATRIX + MATRIX
    assert other.bytes == MATRIX + MATRIX + 4 * 256
    assert one.xla_us == pytest.approx(2221 / 1.5e3)
    # 64 columns lie in tiles of 128; a truth value takes a tile of 512 bytes.
    assert program.own.bytes == 2 * SQUARE + 3 * MATRIX + 512
    assert program.own.waits == 0


def test_host_waits_for_what_only_the_device_knows() -> None:
    # Before each of five turns and after the last, and for the branch.
    assert total(read("h100"), 5).waits == 5 + 1 + 1
    assert total(read("h100", frozenset({"cond.1.clone"})), 5).waits == 5 + 1
    assert total(read("h100", frozenset({"cond.1.clone", "while.15"})), 5).waits == 0
    assert total(read("v5e"), 5).waits == 0
    assert [total(read(target), 5).unknown for target in ("h100", "v5e")] == [1, 1]


def test_whole_program_multiplies_loops_out() -> None:
    # Two copies and the test for finite numbers stand outside, and nothing in the usual branch.
    assert total(read("h100"), 5).kernels == 3 + 5 * (3 + 1) + 3 * 4
    assert total(read("h100"), 5).operations == (5 + 3) * PRODUCT


def test_loops_are_found_by_the_function_that_they_are_in() -> None:
    assert [loop.turns for loop in outermost(read("h100"), "steps")] == [None, 3]
    step = largest(outermost(read("h100"), "steps"), turns=5)
    assert step is not None
    assert step.kernels == 4
    assert largest(outermost(read("h100"), "of_another"), turns=5) is None


NESTED = """
%count (p: (s32[], s32[])) -> (s32[], s32[]) {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %end = s32[] get-tuple-element(%p), index=1
  ROOT %t = (s32[], s32[]) tuple(%next, %end)
}

%below (p: (s32[], s32[])) -> pred[] {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %end = s32[] get-tuple-element(%p), index=1
  ROOT %lt = pred[] compare(%i, %end), direction=LT
}

%outer (p: (s32[], s32[])) -> (s32[], s32[]) {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %zero = s32[] constant(FIRST)
  %end = s32[] get-tuple-element(%p), index=1
  %start = (s32[], s32[]) tuple(%zero, %BOUND)
  %inner = (s32[], s32[]) while(%start), condition=%below, body=%count
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %t = (s32[], s32[]) tuple(%next, %end)
}

%early (p: (s32[], s32[])) -> pred[] {
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %end = s32[] get-tuple-element(%p), index=1
  ROOT %lt = pred[] compare(%end, %i), direction=GT
}
"""


@pytest.mark.parametrize(("bound", "expected"), [("end", [7, 5]), ("i", [7, None])])
def test_bound_of_an_inner_loop_is_known_if_the_outer_one_keeps_it(bound, expected) -> None:
    start = """
  %zero = s32[] constant(0)
  %seven = s32[] constant(7)
  %start = (s32[], s32[]) tuple(%zero, %seven)
  ROOT %w = (s32[], s32[]) while(%start), condition=%early, body=%outer"""
    module, entry = of(start, NESTED.replace("BOUND", bound).replace("FIRST", "2"))
    outer = module.computations["outer"]
    found = [
        loops.length(module, entry, entry.instructions["w"]),
        loops.length(module, outer, outer.instructions["inner"]),
    ]
    assert found == expected


@pytest.mark.parametrize(
    ("window", "length", "out", "places"),
    [
        ("size=3 pad=1_1", 6, 6, 3 * 6 - 2),  # the two edges lack a tap each
        ("size=3 stride=2 pad=0_1", 6, 3, 3 * 3 - 1),
        ("size=3 pad=2_2 lhs_dilate=2", 4, 9, 4 * 3),  # the gradient of a stride: 4 places, 3 taps
        ("size=2 rhs_dilate=3", 6, 3, 6),
    ],
)
def test_convolution_counts_real_taps_only(window, length, out, places) -> None:
    module, entry = of(f"""
  %x = f32[5,{length},2]{{2,1,0}} parameter(0)
  %k = f32[3,2,7]{{2,1,0}} parameter(1)
  ROOT %c = f32[5,{out},7]{{2,1,0}} convolution(%x, %k), window={{{window}}}, \
dim_labels=b0f_0io->b0f""")
    found = arithmetic.operations(module, entry, entry.root)
    assert found == 2 * 5 * 7 * 2 * places


def test_product_of_many_clients_that_a_tpu_writes_as_a_convolution() -> None:
    module, entry = of("""
  %x = f32[10,20,64]{2,1,0} parameter(0)
  %k = f32[10,64,30]{2,1,0} parameter(1)
  ROOT %c = f32[10,20,30]{2,1,0} convolution(%x, %k), window={size=10 stride=9 lhs_dilate=10}, \
dim_labels=0bf_0io->0bf""")
    assert arithmetic.operations(module, entry, entry.root) == 10 * 2 * 20 * 64 * 30


@pytest.mark.parametrize(
    ("target", "first", "second", "result"),
    [
        ("Forward", "5,8,8,3", "3,3,3,7", "5,8,8,7"),
        ("BackwardInput", "5,8,8,7", "3,3,3,7", "5,8,8,3"),
        ("BackwardFilter", "5,8,8,3", "5,8,8,7", "3,3,3,7"),
    ],
)
def test_products_in_calls_of_libraries(target, first, second, result) -> None:
    module, entry = of(f"""
  %a = f32[{first}]{{3,2,1,0}} parameter(0)
  %b = f32[{second}]{{3,2,1,0}} parameter(1)
  ROOT %c = (f32[{result}]{{3,2,1,0}}, u8[9]{{0}}) custom-call(%a, %b), \
custom_call_target="__cudnn$conv{target}", dim_labels=b01f_01io->b01f""")
    assert arithmetic.operations(module, entry, entry.root) == 2 * 5 * 8 * 8 * 9 * 3 * 7
    module, entry = of("""
  %a = f32[20,64]{1,0} parameter(0)
  %b = f32[64,30]{1,0} parameter(1)
  ROOT %c = (f32[20,30]{1,0}, s8[9]{0}) custom-call(%a, %b), \
custom_call_target="__cublas$lt$matmul", \
backend_config={"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}""")
    assert arithmetic.operations(module, entry, entry.root) == 2 * 20 * 64 * 30


def test_parts_of_arrays_move_no_more_than_themselves() -> None:
    module, entry = of("""
  %a = f32[100,8]{1,0} parameter(0)
  %i = s32[] constant(3)
  %s = f32[1,8]{1,0} dynamic-slice(%a, %i, %i), dynamic_slice_sizes={1,8}
  ROOT %u = f32[100,8]{1,0} dynamic-update-slice(%a, %s, %i, %i)""")
    for name in ("s", "u"):
        assert traffic.moved(module, entry, entry.instructions[name]) == 2 * 4 * 8


def test_started_copy_is_one_kernel_and_its_end_none() -> None:
    module, _ = of("""
  %a = f32[128,128]{1,0:T(8,128)} parameter(0)
  %c = (f32[128,128]{1,0:T(8,128)S(1)}, f32[128,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  ROOT %d = f32[128,128]{1,0:T(8,128)S(1)} copy-done(%c)""")
    own = Reader(module, TARGETS["v5e"]).program().own
    assert (own.kernels, own.bytes) == (1, 4 * 128 * 128)


def test_what_must_not_be_in_a_program_is_found() -> None:
    module, _ = of("""
  %a = f32[2]{0} parameter(0)
  %b = f32[2]{0} custom-call(%a), custom_call_target="fedjax_kd_convolution"
  %c = f64[2]{0} convert(%b)
  ROOT %d = f32[2]{0} custom-call(%c), custom_call_target="cusolver_syevd_ffi"
""")
    assert list(faults(module, TARGETS["h100"], aliased=7, state=8)) == [
        "calls fedjax_kd_convolution",
        "computes in f64",
        "takes over 7 of 8 bytes of state",
    ]
    for target in ("h100", "v5e"):
        assert not list(faults(recorded(target), TARGETS[target], aliased=8, state=8))
    assert next(faults(module, TARGETS["v5e"], 8, 8)).endswith(
        "cusolver_syevd_ffi, fedjax_kd_convolution"
    )


def test_text_that_is_no_module_is_refused() -> None:
    with pytest.raises(ValueError, match="no text of a compiled module"):
        hlo.parse("stablehlo")


@pytest.mark.parametrize("module", [hlo, thunks])
def test_examples_in_the_docstrings(module) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
