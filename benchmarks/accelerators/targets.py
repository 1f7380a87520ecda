"""Devices that programs are compiled for without having them."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.experimental import topologies

# What libtpu would ask of surroundings that are not there. Several processes may compile at once.
_TPU_SURROUNDINGS = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_GPU_PLUGINS = ("xla_cuda13", "xla_cuda12")


@dataclass(frozen=True)
class Target:
    """A kind of device, with the rates of its vendor's data sheet."""

    name: str
    platform: Literal["gpu", "tpu"]
    described: str  # by XLA's name of a TPU's topology, or of a GPU
    operations: float  # a second: bfloat16 on TPUs, TF32 on GPUs, as XLA's default precision
    bandwidth: float  # bytes a second
    hertz: float = 0.0  # of the cycles in which XLA estimates on TPUs

    @property
    def packages(self) -> tuple[str, ...]:
        """Modules of which one must be there to compile."""
        plugins = tuple(f"jax_plugins.{plugin}" for plugin in _GPU_PLUGINS)
        return ("libtpu",) if self.platform == "tpu" else plugins


# 1.5 GHz: XLA's estimates of a bfloat16 product of 4096 squared and of a copy of 256 MiB are then
# 0.97 of the peak and 0.81 of the bandwidth.
TARGETS = {
    target.name: target
    for target in (
        Target("v5e", "tpu", "v5e:2x2", 197e12, 819e9, 1.5e9),
        Target("h100", "gpu", "NVIDIA H100 80GB HBM3", 495e12, 3.35e12),
        Target("h200", "gpu", "NVIDIA H200 141GB HBM3e", 495e12, 4.8e12),
        Target("a100", "gpu", "NVIDIA A100-SXM4-80GB", 156e12, 2.04e12),
    )
}
MOST_DEVICES = 4
INSTALL = "pip install -c constraints.txt -e '.[aot]', with Python 3.12 or newer."


def is_installed(target: Target) -> bool:
    """Whether the compiler for a target is there: the extra ``aot``."""
    return any(_spec(name) is not None for name in target.packages)


def devices_of(target: Target, count: int = 1) -> Sequence[Any]:
    """Devices of that kind, on which nothing can be put: they are there to compile for.

    Raises:
      ModuleNotFoundError: if the compiler is not installed.
      ValueError: if the compiler has no description of this GPU.
    """
    if not is_installed(target):
        raise ModuleNotFoundError(f"The compiler for {target.name} is not installed: {INSTALL}")
    if target.platform == "tpu":
        for name, value in _TPU_SURROUNDINGS.items():
            os.environ.setdefault(name, value)
        found = topologies.get_topology_desc(platform="tpu", topology_name=target.described)
    else:
        found = topologies.get_topology_desc(
            platform="cuda",
            topology_name="",
            topology=f"1x1x{count}",
            target_config=_gpu_description(target.described),
        )
    return found.devices[:count]


def mesh_of(devices: Sequence[Any], axis: str) -> jax.sharding.Mesh:
    """A mesh of described devices along one axis."""
    types = (jax.sharding.AxisType.Auto,)
    return jax.sharding.Mesh(np.array(devices), (axis,), axis_types=types)


@cache
def _gpu_description(name: str) -> str:
    """The text that describes a GPU to XLA, out of the plugin, in which it lies."""
    found = next(filter(None, map(_spec, (f"jax_plugins.{plugin}" for plugin in _GPU_PLUGINS))))
    (folder,) = found.submodule_search_locations
    library = next(Path(folder).glob("*cuda_plugin.so")).read_bytes()
    known: Mapping[str, str] = dict(_descriptions(library))
    if name not in known:
        raise ValueError(f"The plugin describes no {name}, but {', '.join(sorted(known))}.")
    return known[name]


def _descriptions(library: bytes) -> list[tuple[str, str]]:
    found = []
    for start in re.finditer(rb"gpu_device_info \{", library):
        text = library[start.start() : library.index(b"\0", start.start())].decode()
        name = re.search(r'device_description_str: "([^"]*)"', text)
        if name:
            found.append((name[1], text))
    return found


def _spec(module: str) -> Any:
    try:
        return importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of the package around it
        return None
