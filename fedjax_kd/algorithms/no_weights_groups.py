"""FedProto, FedTGP and FD where clients have models of several architectures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax

from fedjax_kd.algorithms._partial import Shared
from fedjax_kd.algorithms.fd import fd
from fedjax_kd.algorithms.fedproto import fedproto
from fedjax_kd.algorithms.fedtgp import fedtgp
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedproto)
def fedproto_groups(tasks: Sequence[Task], fit: Fit, **options: Any) -> tuple[Algorithm, ...]:
    """`fedproto` of several architectures, one algorithm each; all models start differently.

    Args:
      tasks: classifiers of the same classes, with features of the same width.
      fit: local training of them all.
    """
    return _from_own_starts(fedproto, tasks, fit, options)


@extends(fedtgp)
def fedtgp_groups(tasks: Sequence[Task], fit: Fit, **options: Any) -> tuple[Algorithm, ...]:
    """`fedtgp` of several architectures, one algorithm each; all models start differently.

    Args:
      tasks: classifiers of the same classes, with features of the same width.
      fit: local training of them all.
    """
    return _from_own_starts(fedtgp, tasks, fit, options)


@extends(fd)
def fd_groups(tasks: Sequence[Task], fit: Fit, **options: Any) -> tuple[Algorithm, ...]:
    """`fd` of several architectures, one algorithm each; all models start differently.

    Args:
      tasks: classifiers of the same classes.
      fit: local training of them all.
    """
    return _from_own_starts(fd, tasks, fit, options)


def _from_own_starts(
    factory: Callable[..., Algorithm], tasks: Sequence[Task], fit: Fit, options: dict[str, Any]
) -> tuple[Algorithm, ...]:
    """An algorithm a task; the server, which is the same to all, has no model to start with."""

    def of(task: Task) -> Algorithm:
        alone = factory(task, fit, **options)
        return alone._replace(
            server_init=lambda key: _without_model(alone.server_init(key)),
            client_init=lambda key, server: alone.client_init(key, alone.server_init(key)),
        )

    return tuple(map(of, tasks))


def _without_model(server: Any) -> Any:
    def is_model(x: Any) -> bool:
        return isinstance(x, Shared)

    return jax.tree.map(lambda x: () if is_model(x) else x, server, is_leaf=is_model)
