"""Every method's declared limit: there it is FedAvg, and FedAvg of one client is plain SGD."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from federations import federation, gap, logistic, play, public
from method_records import RECORDS, limit_is_numeric
from methods import OF_A_KIND, WHOLE, Limit, each_method, make, model

from fedjax_kd.algorithms import REGISTRY, scaffold
from fedjax_kd.core import Algorithm, State
from fedjax_kd.local import Fit
from fedjax_kd.task import Task


@cache
def reference_of(
    equals: Callable[[Task, Fit], Algorithm], task: Callable[[], Task], cohorts: Any
) -> State:
    """What FedAvg makes of these cohorts; many methods equal the same."""
    return play(equals(task(), WHOLE), federation().train, cohorts)[0]


# Numbers that the sweep of the contract may trace are compared there, up to rounding.
@each_method(
    [name for name in REGISTRY if name not in RECORDS or isinstance(RECORDS[name].limit, Limit)],
    thorough=OF_A_KIND.union(filter(limit_is_numeric, REGISTRY)),
)
def test_degenerate_case_is_fedavg(name: str):
    known = RECORDS[name]
    limit, task = known.limit, known.task()
    its_task = limit.prepare(task) if limit.prepare else task
    method = make(name, its_task, WHOLE, **known.options | limit.options)
    one, _ = play(method, federation().train, limit.cohorts, public=public())
    other = reference_of(limit.equals, known.task, tuple(limit.cohorts))
    assert gap(model(one), model(other)) <= limit.gap
    assert gap(model(one), task.init(jax.random.key(0))) > 1e-2, "something was learnt"


def test_scaffold_with_everyone_present_keeps_the_mean_control():
    pool = federation((4, 3, 5)).train
    state, _ = play(scaffold(logistic(), WHOLE), pool, [(0, 1, 2)] * 3)
    expected = jax.tree.map(lambda a: a.mean(0), state.clients[0])
    assert gap(state.server.control, expected) < 1e-6
    assert gap(state.server.control, jax.tree.map(jnp.zeros_like, expected)) > 1e-3
