"""One round of a federation as one traceable function: clients (`fedjax_kd.phase`), then server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from fedjax_kd import reduce, tree
from fedjax_kd.core import Algorithm, Client, Key, Metrics, Pool, PyTree, Round, State, mean
from fedjax_kd.data.window import Window
from fedjax_kd.phase import AXIS, Phase, PhaseFn, Setting, client_phase
from fedjax_kd.seating import Layout, Seating


class Report(NamedTuple):
    """What a round tells about itself."""

    metrics: Metrics  # weighted means over the uploads that were used
    used: Float[Array, " G"]  # uploads in the aggregate, a group
    rejected: Float[Array, " G"]  # uploads left out because they were not finite, a group


class Resident(NamedTuple):
    """What lies on the device throughout a run."""

    pool: Pool | Window
    public: PyTree = None  # what belongs to no client


RoundFn = Callable[[Key, State, Resident, Sequence[Seating], Array], tuple[State, Report]]
"""(key, state, resident data, seating of each group, round number) -> (state, report)"""


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
        raise ValueError(
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


def make_round(
    groups: Sequence[Algorithm],
    layout: Layout,
    *,
    mesh: Mesh | None = None,
    phase: PhaseFn | None = None,
) -> RoundFn:
    """Builds the round function of a federation; `fedjax_kd.train.train` is the usual caller.

    Args:
      groups: an algorithm a group of clients; the server functions of the first are used.
      layout: how cohorts are seated, from `fedjax_kd.seating.lay_out`.
      mesh: devices to divide the cohort over, along the axis ``clients``.
      phase: how a group's clients are run; the default is `client_phase` on ``mesh``.

    Returns:
      A pure function, to be jitted. Seatings come from ``layout.seat``.
    """
    run = partial(client_phase, mesh=mesh) if phase is None else phase

    def group_phase(g: int, setting: Setting, everyone: Client, seating: Seating) -> Phase:
        where = _slots(layout, g, seating.seats)
        clients = jax.tree.map(lambda a: a.at[where].get(mode="clip"), everyone)
        done = run(groups[g], layout.chunks[g].widths, setting, clients, seating)
        kept = jax.tree.map(
            lambda a, new: a.at[where].set(new, mode="drop"), everyone, done.clients
        )
        return done._replace(clients=kept)

    def round_fn(
        key: Key, state: State, resident: Resident, seatings: Sequence[Seating], number: Array
    ) -> tuple[State, Report]:
        key_clients, key_server = jax.random.split(key)
        asked = jnp.concatenate([seating.seats for seating in seatings])
        expected = (asked < layout.population).astype(jnp.float32)
        round = Round(number, asked, expected, layout.population, resident.public)
        setting = Setting(key_clients, state.server, resident.pool, round)
        phases = [group_phase(g, setting, state.clients[g], s) for g, s in enumerate(seatings)]
        return _close_round(groups, key_server, setting, phases)

    return round_fn


def _close_round(
    groups: Sequence[Algorithm], key: Key, setting: Setting, phases: Sequence[Phase]
) -> tuple[State, Report]:
    """Reduces the uploads over all groups and lets the server act on them."""
    used = jnp.concatenate([p.used for p in phases]).astype(jnp.float32)
    update = reduce.done(*reduce.merge([a.aggregate for a in groups], [p.sums for p in phases]))
    metrics = reduce.done(*reduce.merge([mean] * len(groups), [p.metrics for p in phases]))
    round = setting.round._replace(present=used)
    server = groups[0].server_update(key, setting.server, update, round)
    # A round in which nobody's upload could be used leaves the server as it was.
    server = tree.where(used.sum() > 0, server, setting.server)
    counts = [jnp.stack([p.used.sum(), p.rejected.sum()]).astype(jnp.float32) for p in phases]
    report = Report(metrics, *jnp.stack(counts, axis=1))
    return State(server, tuple(p.clients for p in phases)), report


def _slots(layout: Layout, group: int, seats: Int[Array, " K"]) -> Int[Array, " K"]:
    """Where the clients of these seats stand in their group's state; past its end if nowhere."""
    members = layout.members[group]
    if len(members) == layout.population:
        return seats
    slots = np.full(layout.population + 1, len(members), np.int32)
    slots[members] = np.arange(len(members), dtype=np.int32)
    return jnp.asarray(slots)[seats]
