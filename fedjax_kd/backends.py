"""What each kind of device wants of the programs that run on it.

A simulation asks once, when it is built, and hands the answer down. What depends on the platform
inside of a traced function is settled when its program is lowered (`jax.lax.platform_dependent`,
`fedjax_kd.nn.conv_lowering`), so that a program may be lowered for a device that is not there.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh

from fedjax_kd.errors import InputError

COMMAND_BUFFER = "FEDJAX_KD_COMMAND_BUFFER"
"""The environment variable that asks for loops in a GPU's command buffers, by ``loops``."""

# XLA's own list of jax 0.10 to 0.12, with WHILE, and without collective operations.
_WITH_LOOPS = "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"


@jax.tree_util.register_static
@dataclass(frozen=True)
class Backend:
    """A kind of device. It holds nothing traced, and may lie inside of trees of arrays.

    Attributes:
      platform: as JAX calls it.
      fixed_loops: whether loops ought to have a length that the compiler knows, and branches to be
        replaced by both of their sides, at the price of work for slots without a client.
      conv_lanes: local trainings at once by rule, of steps with convolutions.
      other_lanes: the same of steps without.
      tiny_bytes: the same of tiny steps: as many as receive so many bytes, 256 at most.
      step_overhead: what starting a local step costs, in units of what a lane of it costs.
      long_run: operations of a run from which on it pays to measure how many lanes are best.
      rows_at_once: rows of a test set that are evaluated together.
      sweep_growth: factor between the numbers of lanes at which a sweep is measured.
      loops_in_graphs: whether GPUs are asked to take loops into command buffers.
    """

    platform: str
    fixed_loops: bool
    conv_lanes: int
    other_lanes: int
    tiny_bytes: float
    step_overhead: float
    long_run: float
    rows_at_once: int
    sweep_growth: int
    loops_in_graphs: bool = False

    def lanes(self, operations: float, num_bytes: int, *, convolutional: bool) -> int:
        """Local trainings at once without a measurement.

        Args:
          operations: of one local step.
          num_bytes: of the message that a client receives, which is mostly a model.
          convolutional: whether a step has convolutions.

        Example:
          >>> backend_of("cpu").lanes(1e5, 40_000, convolutional=False)
          52
          >>> backend_of("tpu").lanes(1e9, 40_000, convolutional=True)
          1
        """
        if operations < _TINY_STEP:
            return int(max(min(self.tiny_bytes / max(num_bytes, 1), _MOST_LANES), 1))
        return self.conv_lanes if convolutional else self.other_lanes

    @property
    def compiler_options(self) -> dict[str, str | bool] | None:
        """XLA's options for programs that run rounds; None if it decides itself."""
        return {"xla_gpu_enable_command_buffer": _WITH_LOOPS} if self.loops_in_graphs else None


_TINY_STEP, _MOST_LANES = 1e7, 256  # operations; clients

# 2 CPU cores, jax 0.10: 32 clients at once against one after another gave 1.05 times the examples/s
# at 2e7 operations a step (MLP 200-200) and 0.52 at 3e8 (a small CNN). Of 256 clients, logistic
# regression (31 kB) was fastest at 64 at once, the digits MLP (19 kB) at 128 and 256, by 2.9 of one
# by one; 64 of these took the time of 26. Loops of known length gained nothing on the latter. Runs
# of 1e13 operations take seconds, in which there is nothing to win. The activations of many rows
# leave the cache: 10,000 images through the EMNIST CNN took 2 s at 25 rows, 6.7 s from 100 on.
_CPU = Backend(
    "cpu",
    fixed_loops=False,
    conv_lanes=1,
    other_lanes=1,
    tiny_bytes=2**21,
    step_overhead=1.5,
    long_run=1e13,
    rows_at_once=25,
    sweep_growth=2,
)

# In a loop of unknown length a GPU's host waits for it in every turn, and before every branch. An
# H200 did 968 client-updates/s of the EMNIST CNN one by one, 3270 at 32 clients at once and 3852 at
# 100, and 907, 4126 and 5415 of ResNet-8: 32 take a third of the memory of 100.
_GPU = Backend(
    "gpu",
    fixed_loops=True,
    conv_lanes=32,
    other_lanes=_MOST_LANES,
    tiny_bytes=math.inf,
    step_overhead=100.0,
    long_run=1e15,
    rows_at_once=500,
    sweep_growth=4,
)

# By XLA's own estimate for a v5e, convolutions take the fewest cycles one client at a time; of the
# digits MLP's cycles most start kernels. None was measured.
_TPU = replace(_GPU, platform="tpu", conv_lanes=1)


def backend_of(platform: str) -> Backend:
    """What a kind of device wants; one that nobody has looked at is taken for a GPU.

    Raises:
      ValueError: if ``FEDJAX_KD_COMMAND_BUFFER`` is set to something else than ``loops``.
    """
    asked = os.environ.get(COMMAND_BUFFER, "")
    if asked not in ("", "loops"):
        raise InputError(
            f"{COMMAND_BUFFER} is {asked!r}, but may only be 'loops': unset it to leave the "
            "command buffers of GPUs to XLA."
        )
    known = {"cpu": _CPU, "tpu": _TPU}.get(platform, replace(_GPU, platform=platform))
    return replace(known, loops_in_graphs=platform == "gpu" and asked == "loops")


def backend_here(mesh: Mesh | None = None) -> Backend:
    """What the devices of a mesh want, or JAX's default device."""
    return backend_of(jax.default_backend() if mesh is None else mesh.devices.flat[0].platform)
