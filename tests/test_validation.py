"""A broken algorithm is refused before anything runs, by the name of the function at fault."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, logistic

from fedjax_kd.algorithms import fedavg, scaffold
from fedjax_kd.core import Algorithm, Upload, mean
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.engine.validation import check_algorithm, check_groups, check_same_type
from fedjax_kd.local import local_training

BASE = scaffold(logistic(), local_training(batch_size=0))


def uploading(change: Any) -> Any:
    """A client_update whose result went through ``change``."""
    return lambda *args: change(*BASE.client_update(*args))


def grown(tree: Any) -> Any:
    """Not the type that it was."""
    return (tree, jnp.zeros(1))


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "server_init": ({"server_init": lambda key: 1 / 0}, "server_init cannot be traced: ZeroDiv"),
    "not traceable": (
        {"broadcast": lambda server, number: server if number > 0 else None},
        "(?s)broadcast cannot be traced.*the debug engine shows where",
    ),
    "no upload": (
        {"client_update": uploading(lambda upload, own: (upload.message, own))},
        "must return \\(Upload, client\\), but its first part is a Controlled",
    ),
    "client state": (
        {"client_update": uploading(lambda upload, own: (upload, grown(own)))},
        "client_update must return the client state it was given, but at",
    ),
    "vector weight": (
        {"client_update": uploading(lambda u, own: (u._replace(weight=jnp.ones(2)), own))},
        r"Upload.weight must be a scalar a client, but is float32\[2\]",
    ),
    "vector metric": (
        {"client_update": uploading(lambda u, own: (u._replace(metrics={"a": jnp.ones(3)}), own))},
        r"metrics\['a'\] must be a scalar",
    ),
    "aggregate is no reducer": ({"aggregate": "mean"}, "must be a tree of Reducers"),
    "aggregate is no prefix": ({"aggregate": {"a": mean}}, "no tree prefix of the message"),
    "server state": (
        {"server_update": lambda key, server, update, round: grown(server)},
        "server_update must return a server state like the one it got",
    ),
    "predict": ({"predict": lambda server, own, x: x @ x}, "predict cannot be traced"),
    "personalise": (
        {"personalise": lambda key, server, own, data: 1 / 0},
        "personalise cannot be traced: ZeroDiv",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_algorithms(case: str):
    change, match = BROKEN[case]
    with pytest.raises(TypeError, match=match):
        check_algorithm(BASE._replace(**change), federation().train)


def test_population_is_a_number_and_may_size_arrays():
    def client_update(key: Any, message: Any, own: Any, data: Any, round: Any) -> Any:
        everyone = jnp.zeros(round.population)
        return Upload(everyone, jnp.float32(1), {}), own

    algorithm = Algorithm(
        server_init=lambda key: jnp.zeros(federation().num_clients),
        client_init=lambda key, server: (),
        broadcast=lambda server, number, round: (),
        client_update=client_update,
        aggregate=mean,
        server_update=lambda key, server, update, round: update,
        predict=lambda server, own, x: x,
    )
    types = check_algorithm(algorithm, federation().train)
    assert (types.bytes_down, types.bytes_up) == (0, 4 * federation().num_clients)


def test_groups_need_one_server():
    fit = local_training()
    one, other = fedavg(logistic(), fit), fedavg(logistic(hidden=2), fit)
    with pytest.raises(TypeError, match="group 1 must have group 0's server, but at"):
        check_groups([one, other], federation().train)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"w": jnp.zeros(3, jnp.int32)}, r"at \['w'\] it is int32\[3\] instead of float32\[3\]"),
        ({"v": jnp.zeros(3)}, r"at \['w'\] it is absent instead of float32\[3\]"),
        (
            {"w": jnp.zeros(3), "x": jnp.zeros(())},
            r"at \['x'\] it is float32\[\] instead",
        ),
        ({"w": jnp.zeros(3), "x": ()}, "its structure is"),
    ],
)
def test_first_difference(given: Any, message: str):
    with pytest.raises(TypeError, match=message):
        check_same_type({"w": jnp.zeros(3)}, given, "it must stay")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_rounds": 0}, "num_rounds is 0, but must be >= 1"),
        ({"eval_every": 0}, "eval_every is 0"),
        ({"cohort_size": 7}, "cohort_size is 7, but must be between 1 and the 6 clients"),
        ({"dropout_rate": 1.0}, "dropout_rate is 1.0"),
        ({"engine": "torch"}, "engine is 'torch', but must be one of jit, python"),
        ({"chunk": 0}, "chunk is 0"),
        ({"group_of": np.array([0, 1, 0, 1, 0, 1])}, "with 1 algorithms"),
    ],
)
def test_simulations_that_cannot_run(options: dict[str, Any], match: str):
    with pytest.raises(ValueError, match=match):
        simulate(BASE, federation(), **{"num_rounds": 2, "cohort_size": 3} | options)


def test_groups_must_be_told_apart():
    with pytest.raises(ValueError, match="with 2 algorithms it must give each of the 6 clients"):
        simulate((BASE, BASE), federation(), num_rounds=1, cohort_size=2)


def test_blocks_divide_the_evaluations():
    for every, block in ((1, 1), (10, 10), (50, 25), (26, 13), (29, 1)):
        s = simulate(BASE, federation(), num_rounds=3, cohort_size=2, eval_every=every)
        assert s.block == block
