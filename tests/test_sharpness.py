"""Methods that take gradients beside the model: limits, what clients keep, edges."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import COHORTS, federation, gap, in_round, logistic, normed, play, rounds, task_of

from fedjax_kd import tree
from fedjax_kd.algorithms import (
    fedasam,
    fedavg,
    fedgamma,
    fedlesam,
    fedlesam_d,
    fedlesam_s,
    fedsam,
    fedspeed,
    mofedsam,
    scaffold,
)
from fedjax_kd.components.sharpness import (
    adaptive_ascent,
    direction_of,
    plain_ascent,
    sharp_ascent,
    steered,
    uphill,
)
from fedjax_kd.core import Batch, Variables
from fedjax_kd.errors import InputError, SharpEdge
from fedjax_kd.local import local_training
from fedjax_kd.losses.objectives import gradient

FIT = local_training(client_lr=0.1, batch_size=4, epochs=2)
ONE_STEP = local_training(client_lr=0.1, batch_size=0)
POOL = federation().train
KEY = jax.random.key(0)
BATCH = Batch(POOL.x[:6], POOL.y[:6], jnp.ones(6))


def bowl(model: Variables, batch: Batch, key: Any) -> tuple[jax.Array, Any]:
    """A loss of the model alone, with the gradient ``(w, 3 w^2)``."""
    first, second = model.params["a"], model.params["b"]
    return 0.5 * (first**2).sum() + (second**3).sum(), ()


BOWL = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([-1.0])}


def test_the_gradient_is_that_of_the_shifted_point_and_the_loss_too():
    slope = {"a": BOWL["a"], "b": 3 * BOWL["b"] ** 2}
    assert gap(direction_of(slope), jax.tree.map(lambda g: g / np.sqrt(18), slope)) < 1e-6
    there = jax.tree.map(lambda w, g: w + 0.5 * g / np.sqrt(18), BOWL, slope)
    loss, _, grads = gradient(uphill(bowl, sharp_ascent(0.5)), Variables(BOWL), BATCH, KEY)
    expected, _, its_grads = gradient(bowl, Variables(there), BATCH, KEY)
    assert gap((loss, grads), (expected, its_grads)) < 1e-5
    assert gap(grads, slope) > 0.1


def test_a_share_of_the_gradient_is_that_of_the_model_itself():
    model, ascent = Variables(BOWL), plain_ascent(0.2)
    ends = [gradient(uphill(bowl, ascent, share), model, BATCH, KEY)[2] for share in (0.0, 1.0)]
    assert gap(ends[0], gradient(bowl, model, BATCH, KEY)[2]) < 1e-6
    assert gap(ends[1], gradient(uphill(bowl, ascent), model, BATCH, KEY)[2]) < 1e-6
    between = gradient(uphill(bowl, ascent, 0.3), model, BATCH, KEY)[2]
    assert gap(between, jax.tree.map(lambda a, b: 0.7 * a + 0.3 * b, *ends)) < 1e-5


def test_steering_leaves_the_reported_loss_as_it_is():
    direction = jax.tree.map(jnp.ones_like, BOWL)
    loss, _, grads = gradient(steered(bowl, 0.25, direction), Variables(BOWL), BATCH, KEY)
    expected, _, own = gradient(bowl, Variables(BOWL), BATCH, KEY)
    assert gap(loss, expected) < 1e-6
    assert gap(grads, jax.tree.map(lambda g: 0.25 * g + 0.75, own)) < 1e-6


@pytest.mark.parametrize("ascent", [sharp_ascent(0.5), adaptive_ascent(0.5, 0.1)])
def test_without_a_slope_nothing_moves(ascent: Any):
    flat = jax.tree.map(jnp.zeros_like, BOWL)
    assert gap(ascent(BOWL, flat), flat) == 0
    _, _, grads = gradient(uphill(bowl, ascent), Variables(flat), BATCH, KEY)
    assert gap(grads, flat) == 0


def test_weights_count_in_their_own_units_wherever_they_stand():
    params = [{"kernel": jnp.array([2.0]), "bias": jnp.array([2.0])}, {"scale": jnp.array([-2.0])}]
    slope = jax.tree.map(jnp.ones_like, params)
    shift = adaptive_ascent(1.0, 0.0)(params, slope)
    assert gap(jax.tree.leaves(shift), [jnp.array([a / 3]) for a in (1.0, 4.0, 4.0)]) < 1e-6


def test_a_bare_array_is_a_weight():
    shift = adaptive_ascent(1.0, 0.5)(jnp.array([1.5]), jnp.array([1.0]))
    assert gap(shift, jnp.array([2.0])) < 1e-6


def test_running_statistics_are_of_the_model_itself():
    one, other = (
        play(method(normed(), ONE_STEP), POOL, [(4,)])[0].server.model
        for method in (fedsam, fedavg)
    )
    assert gap(one.stats, other.stats) < 1e-6
    assert gap(one.params, other.params) > 1e-4


@pytest.mark.parametrize("method", [fedgamma, fedlesam_s])
def test_without_a_distance_it_is_scaffold(method: Any):
    (one, _), (other, _) = (
        play(algorithm, POOL)
        for algorithm in (method(logistic(), FIT, rho=0.0), scaffold(logistic(), FIT))
    )
    assert gap(one.server, other.server) < 1e-6
    assert gap(getattr(one.clients[0], "own", one.clients[0]), other.clients[0]) < 1e-6


def test_mofedsam_of_own_gradients_is_fedsam():
    one, _ = play(mofedsam(logistic(), FIT, beta=1.0), POOL)
    other, _ = play(fedsam(logistic(), FIT, weighting="uniform"), POOL)
    assert gap(one.server.base, other.server) < 1e-6


def test_the_direction_is_the_way_over_the_learning_rates():
    # Clients 4 and 5 have 12 and 3 examples, so 3 steps and 1 in an epoch.
    algorithm = mofedsam(logistic(), FIT.but(epochs=1), beta=0.5)
    old = algorithm.server_init(jax.random.key(0))
    (state, _), (after, _) = rounds(algorithm, POOL, [(4, 5), (4, 5)])
    change = tree.sub(state.server.base.model.params, old.base.model.params)
    assert gap(state.server.direction, tree.scale(-1 / (0.1 * 2), change)) < 1e-6
    assert gap(after.server.direction, state.server.direction) > 1e-3


def test_mofedsam_keeps_going_where_the_loss_is_flat():
    def flat(model: Variables, batch: Batch, key: Any) -> tuple[jax.Array, Any]:
        return 0 * model.params["w"].sum(), ()

    task = task_of(lambda key: Variables({"w": jnp.zeros(2)}), lambda v, x, key=None: (x, ()))
    algorithm = mofedsam(task._replace(loss=flat), FIT.but(epochs=1), beta=0.25)
    server = algorithm.server_init(KEY)._replace(direction={"w": jnp.array([1.0, -2.0])})
    received = algorithm.broadcast(server, jnp.int32(4), in_round())
    upload, _ = algorithm.client_update(KEY, received, (), POOL.of(jnp.int32(4)), in_round())
    expected = -0.1 * 3 * 0.75 * np.array([1.0, -2.0])  # of three steps
    np.testing.assert_allclose(upload.message.change.params["w"], expected, rtol=1e-5)


@pytest.mark.parametrize(("variant", "factor"), [("paper", 2.0), ("code", 1.5)])
def test_dual_variables_lengthen_the_first_round(variant: Any, factor: float):
    task = logistic()
    speed = fedspeed(task, FIT, rho=0.0, lamb=0.0, variant=variant)
    plain = fedavg(task, FIT, weighting="uniform")
    initial = task.init(jax.random.key(0)).params
    (one, _), (other, _) = (play(a, POOL, COHORTS[:1]) for a in (speed, plain))
    change = tree.sub(other.server.model.params, initial)
    moved = tree.sub(one.server.base.model.params, initial)
    assert gap(moved, tree.scale(factor, change)) < 1e-5  # three of six clients are there


def test_the_server_knows_the_mean_of_all_dual_variables():
    state, _ = play(fedspeed(logistic(), FIT, variant="code"), POOL)
    mean = jax.tree.map(lambda a: a.mean(0), state.clients[0])
    assert gap(state.server.dual, mean) < 1e-6
    assert gap(mean, tree.zeros_like(mean)) > 1e-3


@pytest.mark.parametrize("method", [fedlesam, fedlesam_s, fedlesam_d])
def test_clients_remember_what_they_received(method: Any):
    algorithm, sent = method(logistic(), FIT), []
    before = algorithm.client_init(KEY, algorithm.server_init(jax.random.key(0))).model
    cohorts = [(4, 2), (4, 5), (2, 5)]
    for state, _ in rounds(algorithm, POOL, cohorts):
        sent.append(before)
        server = getattr(state.server, "base", state.server)
        before = server.model
    last = {4: 1, 2: 2, 5: 2, 3: 0}
    for client, number in last.items():
        kept = jax.tree.map(lambda a, k=client: a[k], state.clients[0].model)
        assert gap(kept, sent[number]) == 0


def test_lesam_looks_back_to_where_the_client_left():
    task, model = logistic(), logistic().init(KEY)
    older = Variables(jax.tree.map(lambda a: a + 0.1, model.params))
    algorithm = fedlesam(task, ONE_STEP, rho=0.3)
    data = POOL.of(jnp.int32(4))
    client = algorithm.client_init(KEY, algorithm.server_init(KEY))._replace(model=older)
    upload, _ = algorithm.client_update(KEY, model, client, data, in_round())
    length = 0.3 / np.sqrt(sum(a.size for a in jax.tree.leaves(model.params)))
    there = Variables(jax.tree.map(lambda a: a + length, model.params))
    rows = data.take(jnp.arange(12), jnp.ones(12))
    _, _, grads = gradient(task.loss, there, rows, KEY)
    assert gap(upload.message.params, tree.scale(-0.1, grads)) < 1e-6


@pytest.mark.parametrize(("method", "passes"), [(fedavg, 1), (fedlesam, 1), (fedsam, 2)])
def test_gradients_a_step(method: Any, passes: int):
    calls, task = [], logistic()

    def loss(*args: Any) -> Any:
        calls.append(1)
        return task.loss(*args)

    algorithm = method(task._replace(loss=loss), FIT)
    server = algorithm.server_init(KEY)
    client, data = algorithm.client_init(KEY, server), POOL.of(jnp.int32(4))
    jax.make_jaxpr(algorithm.client_update)(KEY, server.model, client, data, in_round())
    assert len(calls) == passes


BAD = [
    (fedsam, {"rho": -0.1}, "rho"),
    (fedasam, {"eta": -0.1}, "eta"),
    (mofedsam, {"beta": 1.5}, "beta"),
    (fedspeed, {"lamb": -1.0}, "lamb"),
    (fedspeed, {"alpha": 2.0}, "alpha"),
    (fedspeed, {"variant": "codes"}, "variant"),
    (fedgamma, {"option": "III"}, "option"),
    (fedlesam, {"rho": -1.0}, "rho"),
    (fedlesam_s, {"weighting": "sizes"}, "weighting"),
    (fedlesam_d, {"lamb": -1.0}, "lamb"),
]


@pytest.mark.parametrize(("method", "options", "named"), BAD)
def test_bad_options_are_named(method: Any, options: dict[str, Any], named: str):
    with pytest.raises(InputError, match=named):
        method(logistic(), FIT, **options)


def test_a_direction_of_other_steps_than_sgds_is_warned_of():
    with pytest.warns(SharpEdge, match=r"MoFedSAM .* client_opt 'adam' "):
        mofedsam(logistic(), FIT.but(client_opt="adam"))
