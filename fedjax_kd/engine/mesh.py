"""Arrays on a mesh of devices: whole on each of them, or divided among them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from fedjax_kd.core import PyTree
from fedjax_kd.errors import InputError

AXIS = "clients"


def make_mesh(devices: int | None = None, axis: str = AXIS) -> Mesh:
    """A mesh along one axis, of all devices of all processes by default.

    Args:
      devices: how many.
      axis: ``"clients"`` to divide cohorts, ``"points"`` to divide the points of a sweep.

    Raises:
      ValueError: if there are not so many devices, or some of several processes' are left out.
    """
    available, processes = jax.device_count(), jax.process_count()
    count = available if devices is None else devices
    if not 1 <= count <= available or (processes > 1 and count < available):
        rule = f"between 1 and {available}" if processes == 1 else f"{available}, all of them"
        raise InputError(
            f"devices is {count}, but must be {rule}: JAX sees {available} devices in {processes} "
            "processes."
        )
    return jax.make_mesh((count,), (axis,), axis_types=(AxisType.Auto,))


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """How arrays lie that every device has; None without a mesh."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def replicate(arrays: PyTree, mesh: Mesh | None) -> PyTree:
    """The arrays on every device of a mesh; one that occurs twice is copied once.

    Where the mesh spans processes, each process gives the same arrays.
    """
    sharding = everywhere(mesh)
    if mesh is None or sharding is None:
        return arrays
    leaves, structure = jax.tree.flatten(arrays)
    placed = {i: _on_all(a, mesh, sharding) for i, a in {id(a): a for a in leaves}.items()}
    return jax.tree.unflatten(structure, [placed[id(a)] for a in leaves])


def _on_all(array: Any, mesh: Mesh, sharding: NamedSharding) -> Array:
    if isinstance(array, jax.Array) and array.sharding == sharding:
        return array
    copies = [jax.device_put(array, device) for device in mesh.local_devices]
    return jax.make_array_from_single_device_arrays(np.shape(array), sharding, copies)


def divide(arrays: PyTree, mesh: Mesh | None) -> PyTree:
    """Host arrays ``[R, devices * n]`` of a block of rounds, each device's part on that device."""
    if mesh is None:
        return arrays
    split = NamedSharding(mesh, PartitionSpec(None, AXIS))
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(a.shape, split, a.__getitem__), arrays
    )


def assemble(part: Callable[[int], PyTree], mesh: Mesh) -> PyTree:
    """Arrays of which each device has its own part, end to end along the first axis.

    Args:
      part: number of a device of the mesh -> host arrays of the same shapes for each device. It is
        called for the devices of this process alone.
      mesh: of the devices.
    """
    split = NamedSharding(mesh, PartitionSpec(AXIS))
    here = [(n, d) for n, d in enumerate(mesh.devices.flat) if d in mesh.local_devices]
    parts = [jax.device_put(part(n), device) for n, device in here]

    def whole(*own: Array) -> Array:
        shape = (mesh.size * own[0].shape[0], *own[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, split, list(own))

    return jax.tree.map(whole, *parts)
