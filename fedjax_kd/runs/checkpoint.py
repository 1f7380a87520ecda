"""Checkpoints of a federation between two rounds, written by Orbax."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from fedjax_kd.core import PyTree, State
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.schedule import Chunks
from fedjax_kd.engine.simulation import Simulation
from fedjax_kd.engine.validation import check_same_type
from fedjax_kd.errors import FileError, InputError
from fedjax_kd.options import checks_options

FORMAT = 1

_PAST = State._fields[2]  # how paths of its leaves begin

_KEEP, _REMOVED = 2, ".removed"


@checks_options
def save(
    folder: Path,
    state: State,
    finished: int,
    chunks: Sequence[Chunks] = (),
    points: Sequence[int] = (),
) -> None:
    """Writes the state after ``finished`` rounds; the two newest checkpoints are kept.

    The checkpoint appears under its final name only when it is complete, so that a process may be
    killed at any moment. A leaf is stored under its path in the tree, which restores named tuples,
    optimiser states and empty clients exactly.

    Args:
      folder: of all checkpoints of one run; made if it does not exist.
      state: of the federation.
      finished: rounds, >= 0.
      chunks: that the run is cut into, for `chunks_of`; sums are rounded by them.
      points: of a sweep, whose states the leading axis of every leaf counts, for `points_of`.

    Raises:
      OSError: if the folder cannot be written to.
    """
    import orbax.checkpoint as ocp

    leaves = {path: _to_numpy(leaf) for path, leaf in leaves_by_path(state).items()}
    kinds = {p: _kind(a) for p, a in leaves.items()}
    about = {
        "format": FORMAT,
        "leaves": kinds,
        "chunks": [c._asdict() for c in chunks],
        "points": list(points),
    }
    # Orbax stores no empty arrays; their type says all about them.
    stored = {path: array for path, array in leaves.items() if array.size}
    parts = ocp.args.Composite(state=ocp.args.StandardSave(stored), about=ocp.args.JsonSave(about))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _manager(folder, writes=True) as manager:
            manager.save(finished, args=parts, force=True)
            known = sorted(manager.all_steps())
    except ValueError as error:
        # Tensorstore reports a full disk as a ValueError, whose last part says what is wrong.
        reason = str(error).rsplit(": ", 1)[-1]
        full = any(os.strerror(number) in str(error) for number in (errno.ENOSPC, errno.EDQUOT))
        raise FileError(
            f"The checkpoint {folder / str(finished)} cannot be written ({reason}): "
            f"{'make room' if full else 'put that right'}, and go on with `fedjax-kd resume RUN`."
        ) from error
    _remove(folder, known[:-_KEEP])


def finished_rounds(folder: Path) -> list[int]:
    """Rounds after which there is a complete checkpoint, ascending; empty if there is none."""
    if not folder.is_dir():
        return []
    with _manager(folder, writes=False) as manager:
        return sorted(manager.all_steps())


def drop(folder: Path, after: int) -> None:
    """Removes the checkpoints of later rounds than ``after``."""
    if folder.is_dir():
        _remove(folder, [n for n in finished_rounds(folder) if n > after])


def _remove(folder: Path, checkpoints: Sequence[int]) -> None:
    """Removes checkpoints, each by another name: a half-removed one would look like a whole one."""
    for finished in checkpoints:
        (folder / str(finished)).rename(folder / f"{finished}{_REMOVED}")
    for path in folder.glob(f"*{_REMOVED}"):  # also those that were left by a kill
        shutil.rmtree(path)


def restore(
    folder: Path, simulation: Simulation, finished: int | None = None, num_points: int | None = None
) -> tuple[State, int]:
    """The newest checkpoint of a run, or the one after ``finished`` rounds.

    Args:
      folder: that `save` wrote to.
      simulation: whose state is expected; it decides the types.
      finished: rounds; the newest checkpoint if None.
      num_points: of a sweep, whose states were saved together; None for a single run.

    Returns:
      The state, and the number of finished rounds.

    Raises:
      ValueError: if there is no such checkpoint, it is damaged, or of another format.
      TypeError: if it belongs to another model or method; the message names the first difference.
    """
    known = finished_rounds(folder)
    if not known or (finished is not None and finished not in known):
        raise InputError(
            f"{folder} holds no checkpoint{'' if finished is None else f' of round {finished}'}: "
            "`fedjax-kd resume` starts such a run from its beginning."
        )
    step = known[-1] if finished is None else finished
    found = _stored_types(folder, step)
    places = _places(found, 0 if num_points is None else 1)
    expected = jax.eval_shape(lambda: initial_state(simulation, places))
    if num_points is not None:
        expected = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((num_points, *a.shape), a.dtype), expected
        )
    types = {path: _stored_type(leaf) for path, leaf in leaves_by_path(expected).items()}
    rule = (
        f"{folder / str(step)} fits only the configuration that wrote it (was config.json changed?)"
    )
    check_same_type(types, found, rule)
    stored = _read(folder, step, "state", {p: t for p, t in types.items() if t.size})
    arrays = {p: stored[p] if t.size else np.zeros(t.shape, t.dtype) for p, t in types.items()}
    leaves = [_from_numpy(arrays[p], like) for p, like in leaves_by_path(expected).items()]
    state = jax.tree.unflatten(jax.tree.structure(expected), leaves)
    return _with_places(state, simulation, 0 if num_points is None else 1), step


def _places(types: Mapping[str, jax.ShapeDtypeStruct], axis: int) -> int | None:
    """Servers of the past that a checkpoint holds; None if it holds none."""
    return next((t.shape[axis] for p, t in types.items() if p.startswith(_PAST)), None)


def _with_places(state: State, simulation: Simulation, axis: int) -> State:
    """The state with as many places for servers of the past as a run of another length needs.

    Lower places are filled first, so that those which are left out, or new, are empty.
    """
    places = simulation.places
    return state._replace(
        past=jax.tree.map(
            lambda a: jnp.take(a, jnp.arange(places), axis=axis, mode="clip"), state.past
        )
    )


def stored(folder: Path, finished: int) -> dict[str, NDArray[Any]]:
    """All leaves of a checkpoint by their path, whatever wrote it.

    Raises:
      ValueError: if there is no such checkpoint, it is damaged, or of another format.
    """
    if finished not in finished_rounds(folder):
        raise InputError(f"There is no checkpoint {folder / str(finished)}: was its run resumed?")
    types = _stored_types(folder, finished)
    read = _read(folder, finished, "state", {p: t for p, t in types.items() if t.size})
    return {p: read[p] if t.size else np.zeros(t.shape, t.dtype) for p, t in types.items()}


def _stored_types(folder: Path, finished: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The types of the leaves of a checkpoint, by their path."""
    about = _read(folder, finished, "about", None)
    if about.get("format") != FORMAT:
        raise InputError(
            f"The checkpoint {folder / str(finished)} has format {about.get('format')!r}, but this "
            f"version of fedjax_kd reads format {FORMAT}: use the version that wrote it."
        )
    return {path: _type_named(kind) for path, kind in about["leaves"].items()}


def chunks_of(folder: Path, finished: int) -> tuple[Chunks, ...]:
    """The chunks that a run was cut into; empty if the checkpoint does not tell."""
    about = _read(folder, finished, "about", None)
    return tuple(
        Chunks(tuple(group["widths"]), tuple(group["costs"])) for group in about.get("chunks", ())
    )


def points_of(folder: Path, finished: int) -> list[int]:
    """The points of a sweep whose states a checkpoint holds."""
    return list(_read(folder, finished, "about", None).get("points", ()))


def _manager(folder: Path, *, writes: bool) -> Any:
    """Orbax's view of the folder; importing Orbax takes seconds, so it waits until here.

    One that only reads leaves unfinished checkpoints alone: another process may be writing them.
    """
    import orbax.checkpoint as ocp

    # Its threads log tracebacks of errors that reach the caller anyway.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    here = jax.process_index()
    options = ocp.CheckpointManagerOptions(
        create=False,
        read_only=not writes,
        enable_async_checkpointing=False,
        cleanup_tmp_directories=writes,
        # Of several processes one alone writes and reads: it must not wait for the others.
        multiprocessing_options=ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process{here}"
        ),
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def _read(folder: Path, step: int, part: str, like: PyTree) -> Any:
    """One part of a checkpoint; any error of Orbax means that it is damaged."""
    import orbax.checkpoint as ocp

    how = ocp.args.JsonRestore() if like is None else ocp.args.StandardRestore(like)
    try:
        with _manager(folder, writes=False) as manager:
            return manager.restore(step, args=ocp.args.Composite(**{part: how}))[part]
    except Exception as error:
        raise InputError(
            f"The checkpoint {folder / str(step)} is damaged ({type(error).__name__}: {error}): "
            "remove that folder, and `fedjax-kd resume` goes on from the one before, or from the "
            "beginning."
        ) from error


def leaves_by_path(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their path, as checkpoints store them."""
    return {
        jax.tree_util.keystr(path).lstrip("."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> NDArray[Any]:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _from_numpy(array: NDArray[Any], like: Any) -> jax.Array:
    if _is_key(like):
        return jax.random.wrap_key_data(jnp.asarray(array))
    return jnp.asarray(array)


def _stored_type(leaf: Any) -> jax.ShapeDtypeStruct:
    stored = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    return jax.ShapeDtypeStruct(stored.shape, stored.dtype)


def _kind(array: NDArray[Any]) -> list[Any]:
    return [str(array.dtype), *array.shape]


def _type_named(kind: list[Any]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(kind[1:]), jnp.dtype(kind[0]))
