"""Several processes, on one machine or many, that train one federation together.

Every process runs the same program on the same data. JAX connects them (``jax.distributed``): each
computes the clients that are placed on its own devices, and sums travel between the devices. The
first process alone writes and prints. ``docs/cluster.md`` says how to start them.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from fedjax_kd.core import PyTree
from fedjax_kd.errors import InputError

_T = TypeVar("_T")

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def connect(
    address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: int = 300,
) -> None:
    """Connects this process with the others; before anything else that touches a device.

    What is not given is read from the environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, or else what SLURM, Open MPI, Kubernetes or a TPU pod tell JAX. Afterwards an
    exception that is not caught ends this process at once, so that the others do not wait for it.
    A second call changes nothing.

    Args:
      address: host and port of the first process, such as ``10.0.0.1:1234``.
      num_processes: of all machines.
      process_id: of this process, from 0.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: if the others are not known or do not come, or the processes differ in devices.
    """
    if jax.distributed.is_initialized():
        return
    count = _from_environment(COUNT) if num_processes is None else num_processes
    number = _from_environment(NUMBER) if process_id is None else process_id
    address = address or os.environ.get(ADDRESS)
    told = None not in (address, count, number)
    # It would take SIGTERM away from `fedjax_kd.runs.interrupt`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            address,
            count,
            number,
            # A shell within a SLURM job is no task of it, though its variables look so.
            cluster_detection_method="deactivate" if told else None,
            initialization_timeout=timeout,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"The processes cannot meet ({error}), but each must know the others before it touches "
            f"a device: start them by SLURM or Kubernetes, or set {ADDRESS}, {COUNT} and {NUMBER}."
        ) from error
    sys.excepthook = _excepthook
    if jax.local_device_count() * jax.process_count() != jax.device_count():
        raise InputError(
            f"Process {jax.process_index()} has {jax.local_device_count()} of {jax.device_count()} "
            f"devices, but each of the {jax.process_count()} processes must have as many as the "
            "others: start them on machines alike."
        )


def _from_environment(name: str) -> int | None:
    text = os.environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise InputError(f"{name} is {text!r}, but must be a whole number from 0: set it anew.")
    return int(text)


def is_first() -> bool:
    """Whether this process is the one that writes and prints; a process alone is."""
    return jax.process_index() == 0


def any_of(here: bool) -> bool:
    """Whether it holds in any process. All processes must ask, in the same order."""
    if jax.process_count() == 1:
        return here
    return bool(multihost_utils.process_allgather(np.array(here)).any())


def by_first(ask: Callable[[], _T]) -> _T:
    """What the first process finds, in all processes: a plain value, as JSON knows it.

    Raises:
      ValueError: in the others, if ``ask`` raised ValueError or OSError in the first one.
    """
    if jax.process_count() == 1:
        return ask()
    value, failure = None, None
    if is_first():
        try:
            value = ask()
        except (ValueError, OSError) as error:
            failure = error
    told = json.loads(_text_by_first(json.dumps([value, failure and str(failure)])))
    if failure is not None:
        raise failure
    if told[1] is not None:
        raise InputError(told[1])
    return told[0]


def arrays_by_first(arrays: PyTree) -> PyTree:
    """The arrays of the first process, in all processes; those of the others give their shapes."""
    if jax.process_count() == 1:
        return arrays
    plain = jax.tree.map(lambda a: jax.random.key_data(a) if _is_key(a) else a, arrays)
    told = multihost_utils.broadcast_one_to_all(plain)
    return jax.tree.map(
        lambda a, like: jax.random.wrap_key_data(jnp.asarray(a)) if _is_key(like) else a,
        told,
        arrays,
    )


def leave(code: int) -> NoReturn:
    """Ends this process after a failure. The others end too, and do not wait for it in vain."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # an orderly exit would itself wait for the others
    sys.exit(code)


def _excepthook(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.__excepthook__(kind, error, trace)
    leave(1)


def _text_by_first(text: str) -> str:
    here = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.int32(len(here))))
    return bytes(multihost_utils.broadcast_one_to_all(np.resize(here, length))).decode()


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
