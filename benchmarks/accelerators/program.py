"""The block of rounds that really runs, compiled for a device that is not there."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
from jax.sharding import NamedSharding, SingleDeviceSharding

from benchmarks.accelerators import thunks
from benchmarks.accelerators.targets import Target, devices_of, mesh_of
from benchmarks.accelerators.workloads import federation_of
from benchmarks.cases import Case
from benchmarks.methods import make
from fedjax_kd import initial_state, simulate
from fedjax_kd.backends import Backend, backend_of
from fedjax_kd.core import PyTree
from fedjax_kd.engine import simulation
from fedjax_kd.engine.block_inputs import draw_inputs, largest_window
from fedjax_kd.engine.blocks import block_arguments, lower_block
from fedjax_kd.engine.mesh import AXIS, everywhere, make_mesh
from fedjax_kd.engine.simulation import Simulation

_RUN = 10  # blocks of the run that is pretended: too short for anything to be measured


class Compiled(NamedTuple):
    """A block of rounds, compiled."""

    simulation: Simulation
    text: str  # its optimised HLO
    state_bytes: int  # of a device
    memory: Any  # XLA's plan of it
    on_device: frozenset[str]  # instructions in command buffers


def compile_block(
    case: Case,
    target: Target,
    *,
    method: str = "fedavg",
    cohort: int = 10,
    chunk: int | None = None,
    devices: int = 1,
    graph: bool = False,
) -> Compiled:
    """Compiles a block of rounds of a method.

    Args:
      case: network, data and local steps.
      target: the kind of device.
      method: of the registry.
      cohort: clients in a round.
      chunk: clients at once; what the engine chooses for such a device if None.
      devices: of a mesh.
      graph: whether GPUs are asked to take loops into command buffers.
    """
    described = devices_of(target, devices)
    backend = dataclasses.replace(backend_of(target.platform), loops_in_graphs=graph)
    with mock.patch.object(simulation, "backend_here", return_value=backend):
        s = _simulation(case, method, cohort, chunk, devices)
    state = jax.eval_shape(lambda: initial_state(s))
    arguments = block_arguments(s, state, draw_inputs(s, 0, largest_window(s, 0)))
    if s.mesh is not None:
        s = dataclasses.replace(s, mesh=mesh_of(described, AXIS))
    lowered = lower_block(s, *_moved(arguments, s, described[0]))
    with tempfile.TemporaryDirectory() as folder:
        compiled = lowered.compile(compiler_options=_options(s.backend, folder))
        on_device = thunks.dumped(Path(folder)) if target.platform == "gpu" else frozenset()
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    return Compiled(s, compiled.as_text() or "", size, compiled.memory_analysis(), on_device)


def _simulation(
    case: Case, method: str, cohort: int, chunk: int | None, devices: int
) -> Simulation:
    federation = federation_of(case, cohort)
    return simulate(
        make(method, case, federation),
        federation,
        num_rounds=_RUN * case.rounds,
        eval_every=case.rounds,
        cohort_size=cohort,
        chunk=chunk,
        mesh=make_mesh(devices) if devices > 1 else None,
    )


def _moved(arguments: PyTree, s: Simulation, device: Any) -> PyTree:
    """Shapes of arguments, as if they lay on described devices as they lie on this machine's."""
    alone = SingleDeviceSharding(device)

    def moved(leaf: Any, kind: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        own = getattr(leaf, "sharding", None)
        where = alone if s.mesh is None else everywhere(s.mesh)
        if s.mesh is not None and isinstance(own, NamedSharding):
            where = NamedSharding(s.mesh, own.spec)
        return jax.ShapeDtypeStruct(
            kind.shape, kind.dtype, sharding=where, weak_type=kind.weak_type
        )

    return jax.tree.map(moved, arguments, jax.eval_shape(lambda given: given, arguments))


def _options(backend: Backend, folder: str) -> dict[str, str | bool] | None:
    """Has a GPU's compiler tell its estimates and its launches."""
    if backend.platform == "tpu":
        return None
    own = backend.compiler_options or {}
    return {"xla_gpu_collect_cost_model_stats": True, "xla_dump_to": folder, **own}
