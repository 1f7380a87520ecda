"""Learning rates by round: what each schedule gives, and that clients and servers follow it."""

from __future__ import annotations

import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, logistic, play, public
from method_records import RECORDS
from methods import FIT, each_method, make

import fedjax_kd as fk
from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.core import Batch
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.options import options
from fedjax_kd.runs import build
from fedjax_kd.runs.config import Config, DataConfig, TrainingConfig, from_json, to_json
from fedjax_kd.runs.schedule_config import parse_schedule, with_schedule
from fedjax_kd.sweeps import axes
from fedjax_kd.sweeps.axes import Setting
from fedjax_kd.sweeps.parameters import applied


def cosine(gone: float, end: float = 0.0) -> float:
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * gone))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", [1, 1, 1, 1, 1]),
        ("cosine:rounds=4", [1, cosine(1 / 4), cosine(2 / 4), cosine(3 / 4), 0, 0]),
        ("cosine:rounds=2,end=0.1", [1, cosine(1 / 2, 0.1), 0.1, 0.1]),
        ("linear:rounds=4,end=0.2", [1, 0.8, 0.6, 0.4, 0.2, 0.2]),
        ("linear:rounds=2,start=0,end=2", [0, 1, 2, 2]),
        ("warmup:rounds=4", [0.25, 0.5, 0.75, 1, 1]),
        ("warmup:rounds=3,start=0", [0, 0.5, 1, 1]),
        ("warmup:rounds=1", [1, 1]),
        ("step:at=2", [1, 1, 0.1, 0.1]),
        ("step:at=1x3,factor=0.5", [1, 0.5, 0.5, 0.25, 0.25]),
        ("exponential:factor=0.5", [1, 0.5, 0.25, 0.125]),
        ("exponential:factor=0.25,every=2,end=0.2", [1, 0.5, 0.25, 0.2]),
        ("warmup:rounds=2+constant:rounds=1+cosine:rounds=2", [0.5, 1, 1, 1, 0.5, 0, 0]),
        ("constant:rounds=2 + step:at=1,factor=0.5", [1, 1, 1, 0.5, 0.5]),
    ],
)
def test_a_schedule_has_the_share_of_each_round(text: str, expected: list[float]) -> None:
    share = jax.jit(parse_schedule(text))
    found = [float(share(jnp.int32(number))) for number in range(len(expected))]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cosin:rounds=3", "no schedule 'cosin'; near it: cosine"),
        ("cosine:round=3", "no option 'round'; near it: rounds"),
        ("cosine", "schedule cosine needs rounds: write it as"),
        ("cosine:rounds=0", "rounds is 0, but must be >= 1"),
        ("cosine:rounds=3,end=-1", "end is -1.0, but must be >= 0"),
        ("cosine:rounds=2.5", "must be a whole number"),
        ("warmup:rounds=3,start=-0.5", "start is -0.5, but must be >= 0"),
        ("step:at=3x2", "at is 3x2, but must ascend"),
        ("step:at=0", "but each must be >= 1"),
        ("step:at=2,factor=0", "factor is 0.0, but must be > 0"),
        ("exponential:factor=1.5", r"factor is 1.5, but must be in \(0, 1\]"),
        ("step:at=2+cosine:rounds=3", "step in the schedule .* does not say for how many rounds"),
        ("constant+cosine:rounds=3", "constant in the schedule .* does not say"),
        ("", "no schedule ''"),
    ],
)
def test_a_wrong_schedule_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_schedule(text)


def test_clients_and_server_follow_their_schedules_to_the_number() -> None:
    task, pool, rate, server_rate = logistic(), federation().train, 0.3, 0.5
    on_client, on_server = "linear:rounds=4,end=0.2", "step:at=1,factor=0.5"
    local = {"client_lr": rate, "batch_size": 0}
    fit = fk.local_training(**with_schedule("client", on_client, local, options(fk.local_training)))
    rates = with_schedule("server", on_server, {"server_lr": server_rate}, options(fk.fedavg))
    state, _ = play(fk.fedavg(task, fit, **rates), pool, [(4,)] * 3)
    rows = pool.rows[pool.starts[4] : pool.starts[4] + pool.sizes[4]]
    batch = Batch(pool.x[rows], pool.y[rows], jnp.ones(len(rows)))
    params = task.init(jax.random.key(0)).params
    for client_share, server_share in [(1.0, 1.0), (0.8, 0.5), (0.6, 0.5)]:
        grads = jax.grad(lambda p: task.loss(fk.Variables(p), batch, None)[0])(params)
        step = rate * client_share * server_rate * server_share
        params = jax.tree.map(lambda p, g, step=step: p - step * g, params, grads)
    assert gap(state.server.model.params, params) < 1e-6


WITH_RATE = [m for m in REGISTRY if {o.name for o in options(REGISTRY[m])} & {"server_lr", "eta"}]
OF_THEIR_OWN = {"fedavg", "fedadam", "fedavgm", "fedsgd", "fedgkt", "pfedhn", "pfedhn_pc"}


@each_method(WITH_RATE, thorough=set(WITH_RATE) - OF_THEIR_OWN)
def test_every_server_rate_may_be_a_schedule(name: str) -> None:
    known = {o.name for o in options(REGISTRY[name])}
    asked: list[Any] = []

    def schedule(number: Any) -> Any:
        asked.append(number)
        return 0.1 / (1 + number.astype(jnp.float32))

    rate = {"server_lr" if "server_lr" in known else "eta": schedule}
    record = RECORDS[name]
    algorithm = make(name, record.task(), fk.local_training(**FIT), **record.options | rate)
    check_algorithm(algorithm, federation().train, public())
    assert any(isinstance(number, jax.core.Tracer) for number in asked), "by the round's number"


def small(method: str, **training: Any) -> Config:
    return Config(
        method,
        data=DataConfig(partition="iid", num_clients=4),
        model="logistic",
        training=TrainingConfig(num_rounds=2, cohort_size=2, **training),
    )


@pytest.mark.parametrize(
    ("method", "training", "message"),
    [
        ("fedsgd", {"client_schedule": "constant"}, "has no client_lr that it could change"),
        ("standalone", {"server_schedule": "constant"}, "has no server_lr or eta that it could"),
        ("fedavg", {"server_schedule": "cosine"}, "cosine needs rounds"),
    ],
)
def test_a_schedule_without_a_rate_is_refused(
    method: str, training: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build.build(small(method, **training))


@pytest.mark.thorough
def test_a_sweep_varies_schedules_and_traces_the_rates_below_them() -> None:
    grid = axes.axis("constant; linear:rounds=2,end=0.5")
    assert grid == ["constant", "linear:rounds=2,end=0.5"]
    found = applied(small("fedavg"), {"client_schedule": grid[1], "client_lr": 0.2})
    assert found.training.client_schedule == "linear:rounds=2,end=0.5"

    def algorithm(client_lr: float) -> fk.Algorithm:
        known = options(fk.local_training)
        local = with_schedule("client", grid[1], {"client_lr": client_lr}, known)
        return fk.fedavg(logistic(), fk.local_training(**local))

    how: dict[str, Any] = {"num_rounds": 2, "cohort_size": 3, "eval_every": 2}
    settings: list[Setting] = fk.grid(client_lr=[0.1, 0.3])
    points = fk.sweep(algorithm, federation(), settings, **how)
    alone = fk.train(algorithm(0.3), federation(), chunk=1, **how)
    assert points[1].history[-1]["test_loss"] == pytest.approx(alone.history[-1]["test_loss"])


def test_schedules_stay_in_the_configuration() -> None:
    given = small("fedadam", client_schedule="cosine:rounds=9", server_schedule="warmup:rounds=2")
    assert from_json(json.loads(json.dumps(to_json(given)))) == given
    older = to_json(given)
    del older["training"]["client_schedule"], older["training"]["server_schedule"]
    assert from_json(older) == small("fedadam")
