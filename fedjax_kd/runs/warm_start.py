"""Training that begins with a model that is there already, such as that of another run."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from fedjax_kd.core import Variables
from fedjax_kd.engine.validation import check_same_type
from fedjax_kd.errors import InputError
from fedjax_kd.runs import checkpoint
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.task import Task

_CHECKPOINTS = "checkpoints"


def start_from(task: Task, model: Variables) -> Task:
    """The same task, whose initial model is ``model`` whatever the seed.

    Args:
      task: of a method.
      model: of the same network, such as ``result.state.server.model``.

    Raises:
      TypeError: if it is of another network; the message names the first difference.

    Example:
      >>> from flax import nnx
      >>> from fedjax_kd import from_nnx
      >>> task = from_nnx(lambda rngs: nnx.Linear(2, 1, rngs=rngs))
      >>> zero = jax.tree.map(jnp.zeros_like, task.init(jax.random.key(0)))
      >>> start_from(task, zero).init(jax.random.key(1)).params["kernel"].sum().item()
      0.0
    """
    expected = jax.eval_shape(task.init, jax.random.key(0))
    rule = "the model to start from must be of the task's network (give the same model and options)"
    check_same_type(expected, jax.eval_shape(lambda: model), rule)
    return task._replace(init=lambda key: jax.tree.map(jnp.asarray, model))


def checkpoint_named(text: str) -> str:
    """The absolute path of a checkpoint: of a run the newest one, of its folder ``best`` the best.

    Raises:
      ValueError: if there is none.
    """
    path = Path(text).absolute()
    if path.name.isdigit() and path.parent.name in (_CHECKPOINTS, run_folder.BEST_STATES):
        return str(path)
    inside = path if path.name == run_folder.BEST_STATES else path / _CHECKPOINTS
    known = checkpoint.finished_rounds(inside)
    if not known:
        raise InputError(
            f"init_from is {text!r}, where no checkpoint is: give the path of a run folder, or "
            "RUN/best of a run with --keep-best."
        )
    return str(inside / str(known[-1]))


def model_at(path: Path, expected: Variables) -> Variables:
    """The global model in a checkpoint, of whatever method.

    Args:
      path: from `checkpoint_named`.
      expected: types of the model.

    Raises:
      ValueError: if there is no such checkpoint any more, or the server has not exactly one model
        with leaves of these names.
      TypeError: if that model's leaves have other types; the message names the first.
    """
    stored = checkpoint.stored(path.parent, int(path.name))
    types = checkpoint.leaves_by_path(expected)
    anchor = next(iter(types))
    prefixes = [name.removesuffix(anchor) for name in stored if name.endswith(anchor)]
    models = [
        {own: stored[prefix + own] for own in types}
        for prefix in prefixes
        if prefix.startswith("server") and all(prefix + own in stored for own in types)
    ]
    if len(models) != 1:
        count = "several models" if models else "no model"
        raise InputError(
            f"The server of {path.parents[1]} holds {count} of this network: give the same model "
            "and options as there, or start from a model in Python."
        )
    arrays = [jnp.asarray(models[0][own]) for own in types]
    return jax.tree.unflatten(jax.tree.structure(expected), arrays)
