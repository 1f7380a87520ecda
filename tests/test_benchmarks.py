"""The benchmarks' counting and bookkeeping, and tiny runs of them; no time is asserted."""

from __future__ import annotations

import doctest
import importlib
import json
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from benchmarks import (
    cases,
    check,
    machine,
    operations,
    overhead,
    reporting,
    roofline,
    scaling,
    throughput,
)
from benchmarks.cases import CASES, Case
from benchmarks.convolution import with_lax
from fedjax_kd import Batch, Task, federate, from_arrays, from_nnx, initial_state, simulate, train

COMMANDS = (
    "accelerators.__main__",
    "check",
    "compile",
    "convolution",
    "machine",
    "methods",
    "overhead",
    "repeat",
    "roofline",
    "scaling",
    "throughput",
)
TINY = ("--model", "digits_mlp", "--cohort", "2", "--seconds", "0")


def shapes(x_shape: tuple[int, ...], dtype: type = jnp.float32) -> Batch:
    """A batch of that shape, without its values."""
    rows = x_shape[0]
    return jax.eval_shape(
        lambda: Batch(jnp.zeros(x_shape, dtype), jnp.zeros(rows, jnp.int32), jnp.ones(rows))
    )


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, *args: str
) -> tuple[object, str]:
    """The exit code of a benchmark (None if it just ends) and what it printed."""
    monkeypatch.setattr(sys, "argv", [name, *args])
    code: object = None
    try:
        importlib.import_module(f"benchmarks.{name}").main()
    except SystemExit as exit:
        code = exit.code
    return code, capsys.readouterr().out


def of_layers(*layers: nnx.Module) -> Task:
    """A classifier that averages over places what comes out of the layers."""

    def build(rngs: nnx.Rngs) -> nnx.Module:
        flatten = [lambda x: x.reshape(x.shape[0], -1, x.shape[-1]).mean(1)]
        return nnx.Sequential(*[layer(rngs) for layer in layers], *flatten)

    return from_nnx(build)


def test_dense_layer_is_two_products_and_a_second_one_three() -> None:
    one = of_layers(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    two = of_layers(
        lambda rngs: nnx.Linear(4, 8, rngs=rngs), lambda rngs: nnx.Linear(8, 3, rngs=rngs)
    )
    assert operations.count(one, shapes((5, 4))).operations == 2 * (2 * 5 * 4 * 3)
    both = operations.count(two, shapes((5, 4)))
    assert both.operations == 2 * (2 * 5 * 4 * 8) + 3 * (2 * 5 * 8 * 3)
    assert [product.shape for product in both.products] == [(5, 4, 8), (5, 8, 3)]
    params = 4 * (4 * 8 + 8 + 8 * 3 + 3)
    batch, hidden = 4 * (5 * 4 + 5), 4 * 5 * 8
    assert both.bytes == 2 * params + batch + 2 * hidden


@pytest.mark.parametrize(
    ("padding", "strides", "taps", "places"),
    [
        ("VALID", 1, 3 * 4, 4),
        ("SAME", 1, 3 * 6 - 2, 6),  # the two edges lack a tap each
        ("SAME", 2, 3 * 3 - 1, 3),  # 6 places in steps of 2 are padded on one side
    ],
)
def test_convolution_counts_real_taps_only(
    padding: str, strides: int, taps: int, places: int
) -> None:
    def conv(rngs: nnx.Rngs) -> nnx.Module:
        return nnx.Conv(2, 7, (3, 3), strides=strides, padding=padding, rngs=rngs)

    work = operations.count(of_layers(with_lax(conv)), shapes((5, 6, 6, 2)))
    assert work.operations == 2 * (2 * 5 * taps * taps * 2 * 7)
    assert work.products[0].shape == (5 * places * places, 9 * 2, 7)


def test_emnist_cnn_by_hand() -> None:
    case = CASES["cnn_emnist"]
    work = cases.step_work(case, cases.make_federation(case, 1))
    first = 26 * 26 * 9 * 1 * 32
    rest = 24 * 24 * 9 * 32 * 64 + 9216 * 128 + 128 * 62
    assert work.operations == 20 * 2 * (2 * first + 3 * rest)
    hidden = 26 * 26 * 32 + 9216 + 128
    assert work.bytes == 4 * 2 * 1_206_590 + 20 * (784 + 4) + 20 * 4 * 2 * hidden


def test_loops_are_counted_as_often_as_they_run() -> None:
    class Recurrent(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.kernel = nnx.Param(jnp.ones((3, 3)))

        def __call__(self, x: jax.Array) -> jax.Array:
            kernel = self.kernel[...]
            return jax.lax.scan(lambda h, now: (h @ kernel + now, None), x[:, 0], x.swapaxes(0, 1))[
                0
            ]

    work = operations.count(from_nnx(Recurrent), shapes((5, 7, 3)))
    assert work.operations == 7 * 3 * (2 * 5 * 3 * 3)


def test_while_loop_with_products_is_refused() -> None:
    class Unknown(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.kernel = nnx.Param(jnp.ones((3, 3)))

        def __call__(self, x: jax.Array) -> jax.Array:
            kernel = self.kernel[...]
            return jax.lax.while_loop(lambda h: h.sum() < 9, lambda h: h @ kernel, x)

    with pytest.raises(ValueError, match="how often they run"):
        operations.count(from_nnx(Unknown), shapes((5, 3)))


def test_loop_by_hand_does_what_the_engine_does() -> None:
    case = Case("mlp", (4,), 3, 2, 2, lr=0.1, options={"hidden": (5,)}, rounds=2)
    # All examples of one client are alike, so that the order of its batches does not matter.
    own = np.random.default_rng(0).integers(0, 256, (4, 4), np.uint8)
    x, y = np.repeat(own, case.examples, 0), np.repeat(np.arange(4) % 3, case.examples)
    data = from_arrays(x, y, x[:2], y[:2], num_classes=3)
    federation = federate(data, lambda data: np.split(np.arange(len(y)), 4))
    algorithm = cases.make_algorithm(case, federation)
    options = {"num_rounds": 2, "cohort_size": 4, "eval_every": 2}
    trained = train(algorithm, federation, **options)
    model = initial_state(simulate(algorithm, federation, **options)).server.model
    program = overhead.by_hand(cases.make_task(case, federation), case, width=2)
    keys = jax.random.split(jax.random.key(0), (2, 4))
    by_hand, losses = program(model, overhead.make_examples(case, federation, 4), keys)
    chex.assert_trees_all_close(trained.state.server.model, by_hand, rtol=1e-7, atol=1e-6)
    assert losses[1] == pytest.approx(trained.history[-1]["train_loss"], rel=1e-5)


def test_measuring_counts_compilation_apart() -> None:
    case = Case("logistic", (2, 2), 3, 2, 1)
    federation = cases.make_federation(case, 3)
    assert federation.sizes.tolist() == [2, 2, 2]
    algorithm = cases.make_algorithm(case, federation)
    compiled, seconds = cases.measure(algorithm, federation, budget=0, cohort_size=2, chunk=1)
    assert compiled > 0
    assert seconds > 0


def result_file(folder: Path, name: str, **ratios: float) -> str:
    """A result file with these ratios."""
    result = {"benchmark": "made", "command": "", "machine": {}, "rows": [], "ratios": ratios}
    (folder / name).write_text(json.dumps(result), encoding="utf-8")
    return str(folder / name)


def test_check_names_what_fell_beyond_the_tolerance(tmp_path: Path, monkeypatch, capsys) -> None:
    old = result_file(tmp_path, "old.json", a=1.0, b=1.0, c=1.0)
    near = result_file(tmp_path, "near.json", a=0.9, b=5.0, c=1.0, new=0.1)
    worse = result_file(tmp_path, "worse.json", a=0.8, b=float("nan"))
    assert run(monkeypatch, capsys, "check", old, near) == (False, "none of 3 ratios fell\n")
    code, printed = run(monkeypatch, capsys, "check", old, worse)
    assert code == 1
    assert [line[0] for line in printed.splitlines()] == ["a", "b", "c"]
    code, printed = run(monkeypatch, capsys, "check", old, near, "--tolerance", "0.05")
    assert (code, printed) == (1, "a: fell from 1 to 0.9\n")


def test_check_of_a_part_looks_at_what_it_has(tmp_path: Path, monkeypatch, capsys) -> None:
    old = result_file(tmp_path, "old.json", a=1.0, b=1.0)
    part = result_file(tmp_path, "part.json", b=0.5)
    other = result_file(tmp_path, "none.json", c=1.0)
    code, printed = run(monkeypatch, capsys, "check", old, part, "--common")
    assert (code, printed) == (1, "b: fell from 1 to 0.5\n")
    assert run(monkeypatch, capsys, "check", old, other, "--common")[0] == 2


def test_check_refuses_results_of_two_benchmarks(tmp_path: Path, monkeypatch, capsys) -> None:
    old = result_file(tmp_path, "old.json", a=1.0)
    other = Path(result_file(tmp_path, "other.json", a=1.0))
    other.write_text(other.read_text("utf-8").replace("made", "another"), encoding="utf-8")
    assert run(monkeypatch, capsys, "check", old, str(other))[0] == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, monkeypatch, capsys) -> None:
    code, printed = run(monkeypatch, capsys, name, "--help")
    assert code == 0
    assert f"python -m benchmarks.{name.removesuffix('.__main__')}" in printed
    assert name == "check" or "--json" in printed


@pytest.mark.thorough
def test_smallest_overhead_run(tmp_path: Path, monkeypatch, capsys) -> None:
    file = tmp_path / "folder" / "overhead.json"
    args = (*TINY, "--chunk", "1", "--least", "1", "--json", str(file))
    code, printed = run(monkeypatch, capsys, "overhead", *args)
    assert code is None
    assert printed.startswith("| model | cohort | way | engine ms/round |")
    result = json.loads(file.read_text("utf-8"))
    assert set(result) == {"benchmark", "command", "machine", "rows", "ratios"}
    assert result["command"].startswith("python -m benchmarks.overhead --model digits_mlp")
    assert len(result["rows"]) == 2
    assert all(value > 0 for value in result["ratios"].values())
    code, _ = run(monkeypatch, capsys, "check", str(file), str(file))
    assert code == 0


@pytest.mark.thorough
def test_smallest_roofline_run(monkeypatch, capsys) -> None:
    monkeypatch.setattr(machine, "SQUARES", ((8, 8, 8),))
    monkeypatch.setattr(machine, "COPIES", (1 << 12, 1 << 13))
    code, printed = run(monkeypatch, capsys, "roofline", *TINY, "--ceiling-seconds", "0.001")
    assert code is None
    head, _, row = printed.splitlines()[:3]
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    # 2 clients x 2 steps x 10 examples: 64 -> 64 twice, 64 -> 10 three times.
    assert float(cells["Gop/round"]) == pytest.approx(4 * 10 * 2 * (2 * 4096 + 3 * 640) / 1e9, 0.01)
    assert float(cells["of floor"]) > 0


def test_floor_is_the_larger_of_operations_and_bytes() -> None:
    product = operations.Product((2, 3, 4), multiplications=24, passes=2, repeats=1, saved=0)
    work = operations.Work((product,), operations=96, bytes=50)
    rates = {(2, 3, 4): 24.0, (3, 2, 4): 48.0}
    floor = roofline.find_floor(work, 10, averaged=100, products=rates, bandwidth=10.0)
    assert floor == roofline.Floor(operations=20.0, bytes=60.0, own_shapes=30.0)
    assert floor.binding == 60.0


def test_throughput_compares_within_a_model_and_cohort() -> None:
    case = CASES["cnn_small"]
    found = list(throughput.ways(case, 10, [4, 32], lax=True))
    assert [way.chunk for way in found] == [1, 4, 10, None, 1]
    seconds = [2.0, 1.0, 4.0, 1.25, 30.0]
    cells = [
        throughput.Cell("cnn_small", case, 10, way, 0.0, s)
        for way, s in zip(found, seconds, strict=True)
    ]
    values = [ratio.value for ratio in throughput.ratios_of(cells).values()]
    assert values == pytest.approx([0.8, 30.0])


def test_distance_from_a_line_is_relative() -> None:
    line = [scaling.Point("cohort", n, 0.1 + 0.02 * n) for n in (1, 10, 100, 1000)]
    assert scaling.fit(line) == pytest.approx((0.1, 0.02))
    (straight,) = scaling.linear("cohort", line).values()
    assert straight.value == pytest.approx(1)
    bent = [*line[:-1], line[-1]._replace(seconds=2 * line[-1].seconds)]
    (bad,) = scaling.linear("cohort", bent).values()
    assert bad.value < 0.9


@pytest.mark.parametrize("module", [check, machine, reporting, scaling])
def test_examples_in_the_docstrings(module) -> None:
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_rates_are_of_the_asked_sizes() -> None:
    rates = machine.product_rates([(4, 8, 2), (4, 8, 2)], seconds=0.001)
    assert list(rates) == [(4, 8, 2)]
    assert list(machine.copy_rates([4096], seconds=0.001)) == [4096]
    assert rates[4, 8, 2] > 0
