"""What kinds of devices want, and that it changes no result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CPU, federation, gap, logistic, play, public
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params
from method_records import RECORDS
from methods import FIT, each_method, make

from fedjax_kd import fedavg, initial_state, local_training, simulate
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.backends import COMMAND_BUFFER, backend_of
from fedjax_kd.batching import over_rows, turns
from fedjax_kd.core import Data, SizeRange
from fedjax_kd.engine import simulation
from fedjax_kd.engine.block_inputs import draw_inputs
from fedjax_kd.engine.blocks import block_arguments, block_of
from fedjax_kd.engine.client_program import client_program
from fedjax_kd.engine.packing import pack_leaves, unpack_leaves
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.models import MODELS
from fedjax_kd.task import from_nnx

GPU = backend_of("gpu")
ALIKE = (6, 5, 7, 8, 5, 6)  # two batches of 4 each
COHORTS = ((0, 4, 2), (1, 5, 3), (4, 3))
FEW = {"fedavg", "scaffold", "feddf"}


def primitives_of(s: simulation.Simulation) -> list[str]:
    """The names of all primitives of a block of rounds."""
    arguments = block_arguments(s, initial_state(s), draw_inputs(s, 0, None))

    def names(jaxpr: Any) -> Iterator[str]:
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            for inner in jaxprs_in_params(equation.params):
                yield from names(inner)

    return list(names(jax.make_jaxpr(block_of(s))(*arguments).jaxpr))


@each_method(list(REGISTRY), thorough=set(REGISTRY) - FEW)
def test_loops_of_known_length_change_nothing(name: str):
    known, pool = RECORDS[name], federation(ALIKE).train
    algorithm = make(name, known.task(), local_training(**FIT), **known.options)
    how: dict[str, Any] = {"public": public(), "places": 4, "chunk": 2}
    (state, reports), (other, its_reports) = (
        play(algorithm, pool, COHORTS, backend=backend, **how) for backend in (CPU, GPU)
    )
    assert gap(state, other) < 1e-5
    assert gap(reports, its_reports) < 1e-5


@pytest.mark.parametrize(
    ("sizes", "loops"), [(ALIKE, 0), ((5, 6, 5, 9, 5, 6), 1), ((5, 6, 0, 7, 5, 6), 1)]
)
def test_only_clients_that_work_alike_have_loops_of_known_length(monkeypatch, sizes, loops):
    monkeypatch.setattr(simulation, "backend_here", lambda mesh: GPU)
    data, task = federation(sizes), logistic()
    s = simulate(fedavg(task, local_training(**FIT)), data, num_rounds=1, cohort_size=3, chunk=3)
    assert s.sizes == SizeRange(min(sizes), max(sizes))
    assert primitives_of(s).count("while") == loops


def test_a_gpu_gets_no_branch_and_a_cpu_one(monkeypatch):
    for backend, branches in ((GPU, 0), (CPU, 1)):
        monkeypatch.setattr(simulation, "backend_here", lambda mesh, backend=backend: backend)
        algorithm = fedavg(logistic(), local_training(**FIT))
        s = simulate(algorithm, federation(ALIKE), num_rounds=1, cohort_size=3, chunk=3)
        # Those that choose by platform are settled when a program is lowered.
        assert primitives_of(s).count("cond") == branches + primitives_of(s).count("platform_index")


def test_an_upload_that_is_not_finite_is_left_out_without_a_branch():
    data = federation(ALIKE).train
    bad = data._replace(x=data.x.at[data.rows[int(data.starts[4])]].set(jnp.nan))
    algorithm = fedavg(logistic(), local_training(client_lr=0.1, batch_size=0))
    state, (report,) = play(algorithm, bad, ((0, 4, 2),), backend=GPU)
    without, _ = play(algorithm, data, ((0, 2),), backend=CPU)
    assert report.rejected.tolist() == [1]
    assert gap(state, without) < 1e-6


@given(
    least=st.integers(0, 40),
    more=st.integers(0, 9),
    batch=st.integers(1, 12),
    last=st.sampled_from(["partial", "drop", "wrap"]),
    epochs=st.integers(1, 3),
)
def test_a_known_number_of_turns_is_that_of_every_size(least, more, batch, last, epochs):
    fit = local_training(batch_size=batch, epochs=epochs, last_batch=last)

    def count(size: Any) -> Any:
        return fit.steps(size, 0, 0)

    data = Data.all_of(jnp.zeros(1))._replace(sizes=SizeRange(least, least + more))
    each = {int(count(np.int64(size))) for size in range(least, least + more + 1)}
    found = turns(count, data)
    assert (found == each.pop() and not each) if isinstance(found, int) else len(each) > 1


def test_another_size_is_of_no_known_range():
    data = Data.all_of(jnp.ones(9))._replace(sizes=SizeRange(9, 9))
    assert data._replace(start=1).sizes == SizeRange(9, 9)
    none = data._replace(size=jnp.int32(0))
    assert none.sizes is None
    assert over_rows(none, 4, lambda total, batch, _: total + batch.mask.sum(), 0.0) == 0


def test_rules_by_kind_of_device_and_network():
    tiny, large = 1e5, 1e9
    for platform, conv, other in (("cpu", 1, 1), ("gpu", 32, 256), ("tpu", 1, 256)):
        backend = backend_of(platform)
        assert backend.lanes(large, 10**6, convolutional=True) == conv
        assert backend.lanes(large, 10**6, convolutional=False) == other
        assert backend.lanes(tiny, 10, convolutional=True) == 256
    sizes = (19_000, 31_000, 10**8)
    assert [CPU.lanes(tiny, n, convolutional=False) for n in sizes] == [110, 67, 1]
    unknown = backend_of("cerebras")
    assert unknown.platform == "cerebras"
    assert unknown.fixed_loops


@pytest.mark.parametrize(("model", "convolutional"), [("cnn_small", True), ("mlp", False)])
def test_convolutions_are_seen(model, convolutional):
    pool = federation().train
    x = jnp.zeros((len(pool.x), 8, 8, 1))
    algorithm = fedavg(from_nnx(MODELS[model]((8, 8, 1), 3)), local_training())
    pool = pool._replace(x=x)
    program = client_program(algorithm, check_algorithm(algorithm, pool), pool)
    assert program.convolutional is convolutional
    assert program.operations > 0


def test_command_buffers_are_asked_for_by_name_and_on_gpus_alone(monkeypatch):
    assert GPU.compiler_options is None
    monkeypatch.setenv(COMMAND_BUFFER, "loops")
    asked = backend_of("gpu").compiler_options
    assert asked is not None
    assert "WHILE" in str(asked["xla_gpu_enable_command_buffer"])
    assert backend_of("cpu").compiler_options is None
    monkeypatch.setenv(COMMAND_BUFFER, "yes")
    with pytest.raises(ValueError, match="'yes', but may only be 'loops'"):
        backend_of("cpu")


def test_packed_trees_come_back_with_the_axes_of_loops():
    tree = {"a": jnp.ones((2, 3)), "b": (jnp.arange(4), jnp.zeros(())), "c": jnp.ones(0, bool)}

    def one(carry: None, i: jax.Array) -> tuple[None, Any]:
        return carry, pack_leaves(jax.tree.map(lambda a: a + i.astype(a.dtype), tree))

    rows = jnp.arange(5, dtype=jnp.int32)
    stacked = unpack_leaves(jax.lax.scan(one, None, rows)[1])
    assert jax.tree.map(lambda a: (a.shape, a.dtype), stacked) == jax.tree.map(
        lambda a: ((5, *a.shape), a.dtype), tree
    )
    np.testing.assert_array_equal(stacked["b"][0][3], tree["b"][0] + 3)
    assert unpack_leaves(pack_leaves(())) == ()
