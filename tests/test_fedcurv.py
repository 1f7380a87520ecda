"""FedCurv: the Fisher information, and springs between the clients of one round."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, logistic, normed, play
from label_skew import ROUND, after, in_order
from precise import EXACT, arrays, close
from test_golden import softmax_task
from vectors import keys_of

from fedjax_kd import tree
from fedjax_kd.algorithms import fedavg, fedcurv
from fedjax_kd.components.fisher import Curvature, Curved, fisher_diagonal
from fedjax_kd.core import Data, Variables
from fedjax_kd.local import Fit, Fitted, local_training

FIT = local_training(client_lr=0.1, batch_size=0, epochs=3)


def standing(key: Any, model: Variables, data: Data, loss: Any, round: Any) -> Fitted:
    """Local training that stays where it is."""
    return Fitted(model, jnp.float32(0), jnp.int32(0), jnp.float32(0))


FISHER = keys_of("fedcurv_penalty", r"out_(paper|model_label)_F_(W|b)")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("key", "parts"), FISHER)
def test_golden_fisher(key: str, parts: tuple[str, str]):
    vectors = arrays("fedcurv_penalty")
    x, y = (vectors[f"in_{name}"] for name in "xy")
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1)
    weights, bias = (vectors[f"in_{name}"] for name in "Wb")
    start = np.concatenate([weights.ravel(), bias])
    task = softmax_task(start, x.shape[1])
    labels: Any = "data" if parts[0] == "paper" else "model"
    algorithm = fedcurv(task, Fit(standing, lambda *given: given[0]), labels=labels)
    server = algorithm.server_init(jax.random.key(0))
    own = algorithm.client_init(jax.random.key(0), server)
    received = algorithm.broadcast(server, jnp.int32(0), ROUND)
    data = Data.all_of(jnp.asarray(x), jnp.asarray(y))
    upload, kept = algorithm.client_update(jax.random.key(1), received, own, data, ROUND)
    curvature = upload.message[1]
    fisher = np.split(curvature.fisher, [weights.size])
    expected = vectors[key]
    close(fisher[parts[1] == "b"].reshape(expected.shape), expected, **EXACT)
    close(curvature.pull, curvature.fisher * start, **EXACT)
    assert gap(kept.curvature, curvature) == 0


PENALTIES = keys_of("fedcurv_penalty", r"out_paper_penalty_(\d)")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("key", "parts"), PENALTIES)
def test_golden_penalty(key: str, parts: tuple[str]):
    vectors, client = arrays("fedcurv_penalty"), int(parts[0])
    fisher, there = (jnp.asarray(vectors[f"in_{name}"]) for name in ("F", "thetas"))
    theta, lamb = jnp.asarray(vectors["in_theta"]), float(vectors["in_lambda"])
    task = softmax_task(theta, 1)._replace(loss=lambda model, batch, key: (jnp.zeros(()), ()))
    sent = Curvature(fisher, fisher * there)
    sums, its = (jax.tree.map(f, sent) for f in (lambda a: a.sum(0), lambda a: a[client]))
    received = Curved(Variables(theta), sums, jnp.int32(0))
    data = Data.all_of(jnp.zeros((1, 1)), jnp.zeros(1, jnp.int32))
    once = in_order(np.zeros((1, 1, 1)), np.zeros((1, 1), int), 1.0)
    upload, _ = after(
        lambda fit: fedcurv(task, fit, lamb=lamb),
        once,
        received,
        Curved((), its, jnp.int32(0)),
        data,
    )
    constant = lamb * (jnp.delete(fisher * there**2, client, axis=0)).sum()
    close(upload.metrics["loss"] + constant, vectors[key], rtol=1e-7)
    gradient = tree.neg(upload.message[0].params)
    close(gradient, vectors[key.replace("penalty", "penalty_grad")], rtol=1e-7)


def alone(params: Any, x: Any, y: Any) -> jax.Array:
    """The loss of one example."""
    task = logistic()
    return task.example_loss(task.apply(Variables(params), x[None])[0], y[None])[0]


def fitted_by_hand(params: Any, client: int, springs: list[Any]) -> tuple[Any, Any]:
    """Fisher information and parameters of a client after its local steps."""
    data = federation()
    x, y = (a[data.parts[client]] for a in (data.train.x, data.train.y))

    def loss(params: Any) -> jax.Array:
        away = [jax.tree.map(jnp.square, tree.sub(params, there)) for _, there in springs]
        pulls = [tree.dot(fisher, a) for (fisher, _), a in zip(springs, away, strict=True)]
        return jax.vmap(alone, (None, 0, 0))(params, x, y).mean() + 0.5 * sum(pulls)

    for _ in range(3):
        params = jax.tree.map(lambda w, g: w - 0.1 * g, params, jax.grad(loss)(params))
    each = jax.vmap(jax.grad(alone), (None, 0, 0))(params, x, y)
    return jax.tree.map(lambda g: jnp.square(g).mean(0), each), params


def test_three_rounds_by_hand():
    """Client 4 comes again at once, client 0 after a round elsewhere, client 5 is new."""
    cohorts = [(0, 4), (4, 5), (0, 4, 5)]
    task = logistic()
    state, _ = play(fedcurv(task, FIT, lamb=0.5), federation().train, cohorts)
    params, last = task.init(jax.random.key(0)).params, {}
    for cohort in cohorts:
        of_others = {k: [last[j] for j in last if j != k] for k in cohort}
        last = {k: fitted_by_hand(params, k, of_others[k]) for k in cohort}
        votes = jnp.array([len(federation().parts[k]) for k in cohort], jnp.float32)
        models = jax.tree.map(lambda *a: jnp.stack(a), *(p for _, p in last.values()))
        params = tree.weighted_mean(models, votes)
    expected = Variables(params)
    assert gap(state.server.base.model, expected) < 1e-5
    plain, _ = play(fedavg(task, FIT), federation().train, cohorts)
    assert gap(plain.server.model, expected) > 1e-3


def test_who_is_alone_has_no_springs():
    task, pool = logistic(), federation().train
    one, _ = play(fedcurv(task, FIT, lamb=5.0), pool, [(4,)] * 3)
    other, _ = play(fedavg(task, FIT), pool, [(4,)] * 3)
    assert gap(one.server.base.model, other.server.model) < 1e-6


def test_a_round_of_nobody_leaves_the_springs_as_they_were():
    """Who was in the sum before it takes itself out after it, too."""
    task, pool = logistic(), federation().train
    method = fedcurv(task, FIT, lamb=5.0)
    with_gap, _ = play(method, pool, [(4,), (1,), (4,)])
    without, _ = play(fedavg(task, FIT), pool, [(4,), (4,)])
    assert gap(with_gap.server.base.model, without.server.model) < 1e-6


@pytest.mark.parametrize("labels", ["data", "model"])
@pytest.mark.parametrize("client", [1, 2, 4], ids=["no example", "one", "many"])
def test_fisher_of_few_examples(labels: Any, client: int):
    task, data = logistic(), federation().train.of(jnp.int32(client))
    model = task.init(jax.random.key(0))
    found = fisher_diagonal(task, labels)(model, data)
    assert bool(tree.is_finite(found))
    assert all(float(a.min()) >= 0 for a in jax.tree.leaves(found))
    assert (gap(found, tree.zeros_like(found)) > 0) == (client != 1)


def test_fisher_counts_no_example_twice():
    """Ten examples fill two pieces, of which the second is padded."""
    task, pool = logistic(), federation((10,)).train
    model, data = task.init(jax.random.key(0)), pool.of(jnp.int32(0))
    ones = [Data.all_of(pool.x[i : i + 1], pool.y[i : i + 1]) for i in range(10)]
    fisher = fisher_diagonal(task, "data")
    each = [fisher(model, one) for one in ones]
    mean = jax.tree.map(lambda *a: jnp.stack(a).mean(0), *each)
    assert gap(fisher(model, data), mean) < 1e-6


def test_statistics_of_normalisation_have_no_curvature():
    state, _ = play(fedcurv(normed(), FIT), federation().train, [(0, 4), (4, 5)])
    assert bool(tree.is_finite(state))
    assert gap(state.server.base.model.stats, normed().init(jax.random.key(0)).stats) > 1e-3


def test_bad_options_are_said():
    with pytest.raises(ValueError, match=r"lamb is -1.0, but must be >= 0"):
        fedcurv(logistic(), FIT, lamb=-1.0)
    with pytest.raises(ValueError, match="labels is 'soft', but must be one of data, model"):
        fedcurv(logistic(), FIT, labels="soft")
    assert fedcurv(logistic(), FIT, labels="model").needs_classes
    assert not fedcurv(logistic(), FIT).needs_classes
