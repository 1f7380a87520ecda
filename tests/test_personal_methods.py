"""Methods whose clients have a second model, or something like it: what is special about each."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import CLASSES, federation, gap, logistic, normed, play, rounds, start

from fedjax_kd import losses, tree
from fedjax_kd.algorithms import apfl, ditto, fedala, fedavg, fml, knnper, pfedme, standalone
from fedjax_kd.components.neighbours import Datastore, neighbour_probabilities
from fedjax_kd.core import Algorithm, State
from fedjax_kd.engine.finetuning import tuned, with_finetuning
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.errors import collected_warnings
from fedjax_kd.local import local_training
from fedjax_kd.task import Task

FIT = local_training(client_lr=0.1, batch_size=4, epochs=2)
COHORTS = ((0, 4, 2), (0, 4, 3), (5, 4, 0))


def played(algorithm: Algorithm, cohorts: Any = COHORTS) -> State:
    return play(algorithm, federation().train, cohorts)[0]


def own_of(state: State, client: int) -> Any:
    return jax.tree.map(lambda a: a[client], state.clients[0])


def test_ditto_without_a_spring_is_standalone_training_beside_fedavg():
    clipped = local_training(client_lr=0.1, batch_size=4, clip_norm=0.1)
    state = played(ditto(logistic(), clipped, lamb=0.0))
    assert gap(state.server, played(fedavg(logistic(), clipped)).server) < 1e-6
    assert gap(state.clients, played(standalone(logistic(), clipped)).clients) < 1e-6


def test_ditto_holds_clients_near_the_received_model():
    def distance(lamb: float) -> float:
        *_, (before, _), (after, _) = rounds(
            ditto(logistic(), FIT, lamb=lamb), federation().train, [(4, 0), (0, 2), (4, 0)]
        )
        return float(tree.sq_norm(tree.sub(own_of(after, 4), before.server.model)))

    assert distance(9.0) < distance(1.0) < distance(0.0)


def test_apfl_of_the_global_model_alone_predicts_as_fedavg():
    algorithm = apfl(logistic(), FIT, alpha=0.0, alpha_lr=0.0)
    state, x = played(algorithm), federation().test.x
    plain = fedavg(logistic(), FIT, weighting="uniform")
    expected = plain.predict(played(plain).server, (), x)
    own = own_of(state, 4)
    np.testing.assert_allclose(algorithm.predict(state.server, own, x), expected, atol=1e-5)
    assert algorithm.traits(state.server, own) == {"alpha": 0.0}


@pytest.mark.parametrize("variant", ["paper", "fedjax"])
def test_shares_of_apfl_stay_between_0_and_1(variant: Any):
    algorithm = apfl(logistic(), FIT, alpha_lr=1e4, adapt="every", variant=variant)
    state = played(algorithm)
    told = jax.vmap(lambda own: algorithm.traits(state.server, own)["alpha"])(state.clients[0])
    assert told.shape == ((6,) if variant == "paper" else (6, 2))
    assert set(np.unique(told[np.array([0, 4])])) <= {0.0, 1.0}
    assert np.all(told[np.array([1])] == 0.5), "a client that was never asked"


def test_pfedme_predicts_by_the_last_inner_step():
    """One local step on all of a client's examples, with the formula of the paper."""
    fit, lamb, lr = local_training(client_lr=0.01, batch_size=0), 3.0, 0.1
    algorithm = pfedme(logistic(), fit, lamb=lamb, inner_steps=4, inner_lr=lr)
    pool, task = federation().train, logistic()
    state = played(algorithm, [(4,)])
    batch = pool.of(jnp.int32(4)).take(jnp.arange(12), jnp.ones(12))
    w = start([algorithm], np.zeros(6)).server.model
    theta = w
    for _ in range(4):
        slope = jax.grad(lambda model: task.loss(model, batch, None)[0])(theta)
        theta = tree.add_scaled(theta, -lr, tree.add_scaled(slope, lamb, tree.sub(theta, w)))
    assert gap(own_of(state, 4), theta) < 1e-6
    expected = tree.add_scaled(w, 0.01 * lamb, tree.sub(theta, w))
    assert gap(state.server.model, expected) < 1e-6


def test_fml_by_labels_alone_is_standalone_training_beside_fedavg():
    task, algorithm = logistic(), fml(logistic(), FIT, alpha=1.0, beta=1.0)
    first = start([algorithm], np.zeros(6))
    same = jax.tree.map(lambda a: jnp.stack([a] * 6), first.server.model)
    pool = federation().train
    state, _ = play(algorithm, pool, COHORTS, state=first._replace(clients=(same,)))
    assert gap(state.server, played(fedavg(task, FIT, weighting="uniform")).server) < 1e-6
    assert gap(state.clients, played(standalone(task, FIT)).clients) < 1e-6


def test_fml_of_two_architectures():
    algorithm, x = fml(logistic(), FIT, own=logistic(hidden=2)), federation().test.x
    state = played(algorithm)
    own = own_of(state, 4)
    expected = logistic(hidden=2).apply(own, x)[0]
    np.testing.assert_array_equal(algorithm.predict(state.server, own, x), expected)
    meme = fml(logistic(), FIT, own=logistic(hidden=2), evaluate="meme")
    expected = logistic().apply(state.server.model, x)[0]
    np.testing.assert_array_equal(meme.predict(state.server, own, x), expected)
    assert (algorithm.judged_by, meme.judged_by) == ("clients", "server")


def test_fedala_has_no_gap_to_weigh_in_the_first_round():
    algorithm = fedala(logistic(hidden=2), FIT)
    state = played(algorithm, COHORTS[:1])
    expected = played(fedavg(logistic(hidden=2), FIT), COHORTS[:1])
    assert gap(state.server, expected.server) < 1e-6
    assert not state.clients[0].started.any()
    assert float(algorithm.traits(state.server, own_of(state, 4))["weight"]) == 1


def test_fedala_goes_on_from_its_weights():
    """Of one client and one batch the formula, twice; the second time in a single epoch."""
    task = logistic()
    fit = local_training(client_lr=0.1, batch_size=12)
    algorithm = fedala(task, fit, merged="all", share=1.0, most_epochs=1, weighting="uniform")
    pool = federation().train
    batch = pool.of(jnp.int32(4)).take(jnp.arange(12), jnp.ones(12))
    before = start([algorithm], np.zeros(6))
    for state, _ in rounds(algorithm, pool, [(4, 0)] * 3):
        client, w = own_of(before, 4), before.server.model.params
        ahead = tree.sub(w, client.model.params)
        theta = jax.tree.map(lambda a, b, c: a + b * c, client.model.params, client.weights, ahead)
        model = before.server.model._replace(params=theta)
        slope = jax.grad(lambda model: task.loss(model, batch, None)[0])(model).params
        expected = jax.tree.map(
            lambda a, b, c: jnp.clip(a - b * c, 0, 1), client.weights, slope, ahead
        )
        assert gap(own_of(state, 4).weights, expected) < 1e-5
        before = state
    assert own_of(before, 4).started
    assert float(algorithm.traits(before.server, own_of(before, 4))["weight"]) < 1


def test_knnper_without_neighbours_is_fedavg():
    task, data, x = logistic(hidden=2), federation().train, federation().test.x
    algorithm, key = knnper(task, FIT), jax.random.key(1)
    server = played(algorithm).server
    plain = jax.nn.softmax(fedavg(task, FIT).predict(server, (), x))
    nothing = algorithm.personalise(key, server, (), data.of(jnp.int32(1)))
    found = jnp.exp(algorithm.predict(server, nothing, x))
    np.testing.assert_allclose(found, plain, rtol=1e-5)
    own = algorithm.personalise(key, server, (), data.of(jnp.int32(4)))
    none = knnper(task, FIT, lamb=0.0).predict(server, own, x)
    np.testing.assert_allclose(jnp.exp(none), plain, rtol=1e-5)
    assert gap(algorithm.predict(server, (), x), task.apply(server.model, x)[0]) == 0


def test_knnper_of_one_example_says_its_class():
    algorithm = knnper(logistic(hidden=2), FIT, lamb=1.0)
    server, data = played(algorithm).server, federation().train.of(jnp.int32(2))
    own = algorithm.personalise(jax.random.key(1), server, (), data)
    logits = algorithm.predict(server, own, federation().test.x)
    label = int(data.take(jnp.arange(1), jnp.ones(1)).y[0])
    np.testing.assert_array_equal(logits.argmax(-1), label)
    assert bool(jnp.isfinite(logits).all())


def test_knnper_stores_no_more_than_it_may_and_its_numbers_are_traceable():
    data, x = federation().train.of(jnp.int32(4)), federation().test.x
    server = fedavg(logistic(hidden=2), FIT).server_init(jax.random.key(0))

    def predicted(lamb: Any, scale: Any) -> jax.Array:
        algorithm = knnper(logistic(hidden=2), FIT, stored=3, lamb=lamb, scale=scale)
        own = algorithm.personalise(jax.random.key(1), server, (), data)
        assert own.stats.features.shape == (3, 2)
        return algorithm.predict(server, own, x)

    one, other, third = jax.vmap(predicted)(jnp.array([0.5, 0.7, 0.5]), jnp.array([1.0, 1.0, 0.1]))
    assert gap(one, predicted(0.5, 1.0)) < 1e-5
    assert gap(one, other) > 1e-3
    assert gap(one, third) > 1e-3


def test_far_neighbours_are_neighbours():
    store = Datastore(jnp.array([[100.0], [101.0], [0.0]]), jnp.array([0, 1, 2]), jnp.ones(3))
    store = store._replace(known=jnp.array([1.0, 1.0, 0.0]))
    found = neighbour_probabilities(store, jnp.array([[-100.0]]), CLASSES, 5, 1e3)
    far, near = np.exp(-(201.0**2) / 1e3), np.exp(-(200.0**2) / 1e3)
    np.testing.assert_allclose(found[0], [near / (near + far), far / (near + far), 0], rtol=1e-4)
    found = neighbour_probabilities(store, jnp.array([[-100.0]]), CLASSES, 5, 1e-3)
    np.testing.assert_array_equal(found[0], [1, 0, 0])


def test_fine_tuning_leaves_what_is_stored():
    base = knnper(logistic(hidden=2), FIT)
    algorithm = tuned(with_finetuning(base, local_training(steps=3)), losses.cross_entropy)
    data, key = federation().train.of(jnp.int32(4)), jax.random.key(1)
    server = base.server_init(jax.random.key(0))
    tuned_server, own = algorithm.personalise(key, server, (), data)
    assert gap(own, base.personalise(key, server, (), data)) == 0
    assert gap(tuned_server.model, server.model) > 1e-4


@pytest.mark.parametrize(
    "make",
    [ditto, *(pytest.param(m, marks=pytest.mark.thorough) for m in (apfl, pfedme, fml, fedala))],
    ids=lambda make: make.__name__,
)
def test_statistics_of_normalisation(make: Any):
    """They are measured, averaged and finite, also of a client that is not asked."""
    how = {"merged": "all"} if make is fedala else {}
    algorithm, pool = make(normed(), FIT, **how), federation((7, 5, 12)).train
    check_algorithm(algorithm, pool)
    state, _ = play(algorithm, pool, [(0, 2), (0, 1)])
    assert bool(tree.is_finite(state))
    stats = start([algorithm], np.zeros(3)).server.model.stats
    assert gap(state.server.model.stats, stats) > 1e-3


def tasks_without_a_head() -> list[tuple[Task, type[Exception], str]]:
    bare = logistic(hidden=2)._replace(input_types=None)
    headless = logistic(hidden=2)._replace(
        features=lambda v, x, key=None: logistic(hidden=2).apply(v, x)[0]
    )
    return [(bare, ValueError, "does not know the shape"), (headless, ValueError, "uses every val")]


@pytest.mark.parametrize(("task", "error", "words"), tasks_without_a_head())
def test_fedala_says_what_is_missing_for_a_head(task: Task, error: Any, words: str):
    with pytest.raises(error, match=words):
        fedala(task, FIT)
    fedala(task, FIT, merged="all")


def test_knnper_says_what_is_missing():
    with pytest.raises(ValueError, match="features and logits in one pass, as kNN-Per needs"):
        knnper(logistic()._replace(features_and_logits=None), FIT)
    with pytest.raises(ValueError, match="does not know the shape of its examples"):
        knnper(logistic()._replace(input_types=None), FIT)
    task = logistic()
    deep = task._replace(
        features=lambda v, x, key=None: x[:, None], classify=lambda v, z: z[:, :, :CLASSES]
    )
    with pytest.raises(ValueError, match=r"kNN-Per compares one vector an example"):
        knnper(deep, FIT)


BAD: list[tuple[Any, dict[str, Any], str]] = [
    (ditto, {"lamb": -1.0}, "lamb is -1.0, but must be >= 0"),
    (apfl, {"alpha": 1.5}, r"alpha is 1.5, but must be in \[0, 1\]"),
    (apfl, {"adapt": "never"}, "adapt"),
    (apfl, {"variant": "code"}, "variant"),
    (pfedme, {"lamb": 0.0}, "lamb is 0.0, but must be > 0"),
    (pfedme, {"inner_steps": 0}, "inner_steps is 0, but must be >= 1"),
    (pfedme, {"inner_start": "zero"}, "inner_start"),
    (fml, {"alpha": -0.1}, r"alpha is -0.1, but must be in \[0, 1\]"),
    (fml, {"evaluate": "both"}, "evaluate"),
    (fedala, {"share": 0.0}, r"share is 0.0, but must be in \(0, 1\]"),
    (fedala, {"merged": "body"}, "merged"),
    (knnper, {"k": 0}, "k is 0, but must be >= 1"),
    (knnper, {"lamb": 2.0}, r"lamb is 2.0, but must be in \[0, 1\]"),
]


@pytest.mark.parametrize(("make", "given", "words"), BAD, ids=lambda value: str(value)[:20])
def test_bad_input(make: Any, given: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        make(logistic(hidden=2), FIT, **given)


@pytest.mark.parametrize(
    ("make", "stiff", "options", "words"),
    [
        (ditto, 20.0, {}, "client_lr times lamb is 2, but from 2 on"),
        (pfedme, 20.0, {"inner_lr": 0.1}, "inner_lr times lamb is 2, but from 2 on"),
    ],
)
def test_stiff_springs(make: Any, stiff: float, options: dict[str, float], words: str):
    with collected_warnings() as found:
        make(logistic(), FIT, lamb=0.9 * stiff, **options)
        assert not found
        make(logistic(), FIT, lamb=stiff, **options)
    (warning,) = found
    assert words in warning
