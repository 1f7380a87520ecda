"""Golden vectors of servers that weigh clients by their losses, labels or domains."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, gap, in_round, logistic, play, rounds, start, task_of
from test_golden import one_row_a_client
from test_golden_server import SHARES
from vectors import golden, keys_of, number

from fedjax_kd import tree
from fedjax_kd.algorithms import agnostic_fedavg, fedavg, feddisco, qfedavg
from fedjax_kd.components.agnostic import DomainWeights, reweighted
from fedjax_kd.components.label_distances import label_distances
from fedjax_kd.core import Algorithm, Data, Key, Pool, Round, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import Fit, Fitted, local_training
from fedjax_kd.losses.objectives import gradient
from fedjax_kd.task import Task


def arrays(vectors: dict[str, np.ndarray], prefix: str) -> list[jnp.ndarray]:
    """The weights ``PREFIX0``, ``PREFIX1``, ... of a model."""
    count = sum(key.startswith(prefix) for key in vectors)
    return [jnp.asarray(vectors[f"{prefix}{n}"], float) for n in range(count)]


def with_losses(start: Any) -> Task:
    """A model of given parameters, whose losses are the inputs."""
    base = task_of(lambda key: Variables(start), lambda model, x, key=None: (x, model.stats))
    return base._replace(example_loss=lambda outputs, y: outputs)


def arriving(models: Any, lr: float) -> Fit:
    """Local training that arrives at entry k of ``models`` in a step of rate ``lr``."""

    def fit(key: Key, model: Variables, data: Data, objective: Any, round: Round) -> Fitted:
        own = [jnp.stack(leaf)[data.client] for leaf in zip(*models, strict=True)]
        return Fitted(Variables(own), jnp.float32(0), jnp.int32(1), jnp.asarray(lr))

    return Fit(fit, lambda sizes, *_: sizes)


def uploaded(method: Algorithm, data: Data) -> Any:
    """What a client would send in the first round."""
    server = method.server_init(jax.random.key(0))
    received = method.broadcast(server, jnp.int32(data.client), in_round())
    client = method.client_init(jax.random.key(1), server)
    return method.client_update(jax.random.key(2), received, client, data, in_round())[0].message


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("key", "parts"), keys_of("qfedavg_step", r"out_q(\w+)_h"))
def test_qfedavg_step(key: str, parts: tuple[str]):
    vectors = golden("qfedavg_step")
    losses = jnp.asarray(vectors["in_losses"], float)
    trained = [arrays(vectors, f"in_new{k}_w") for k in range(len(losses))]
    method = qfedavg(
        with_losses(arrays(vectors, "in_w")),
        arriving(trained, float(vectors["in_lr"])),
        q=number(*parts),
    )
    pool = one_row_a_client(len(losses), losses)
    ((state, _),) = rounds(method, pool, [range(len(losses))])
    for n, found in enumerate(state.server.model.params):
        np.testing.assert_allclose(found, vectors[key.replace("_h", f"_w{n}")], rtol=1e-9)
    for k, expected in enumerate(vectors[key]):
        message = uploaded(method, pool.of(jnp.int32(k)))
        np.testing.assert_allclose(message.curvature, expected, rtol=1e-9)


def test_qfedavg_lets_the_rate_decay():
    """The server's step is in units of the rate that clients had in this round."""
    fit = local_training(client_lr=0.1, batch_size=0, lr_decay=0.5)
    data, cohorts = federation().train, [(0, 4), (3, 4)]
    found, _ = play(qfedavg(logistic(), fit, q=0.0), data, cohorts)
    expected, _ = play(fedavg(logistic(), fit, weighting="uniform"), data, cohorts)
    assert gap(found.server.model, expected.server.model) < 1e-6


@pytest.mark.parametrize("q", [0.5, 5.0])
def test_qfedavg_of_no_loss_stays_where_it_is(q: float):
    start = [jnp.ones(2)]
    method = qfedavg(with_losses(start), arriving([[jnp.zeros(2)]], 0.1), q=q)
    ((state, _),) = rounds(method, one_row_a_client(1, jnp.zeros(1)), [[0]])
    np.testing.assert_allclose(state.server.model.params[0], start[0], atol=1e-6)


def test_qfedavg_of_equal_losses_goes_where_fedavg_goes_and_less_far():
    start, trained = [jnp.zeros(2)], [[jnp.array([1.0, 0.0])], [jnp.array([0.0, 0.5])]]
    pool = one_row_a_client(2, jnp.array([2.0, 2.0]))
    ((state, _),) = rounds(qfedavg(with_losses(start), arriving(trained, 0.1)), pool, [[0, 1]])
    x, y = state.server.model.params[0]
    assert 0 < x < 0.5
    np.testing.assert_allclose(y, 0.5 * x, rtol=1e-5)


def with_labels(counts: np.ndarray) -> Pool:
    """Clients that have so many labels of each class."""
    sizes = counts.sum(1)
    y = np.concatenate([np.repeat(np.arange(counts.shape[1]), own) for own in counts])
    rows = jnp.arange(len(y), dtype=jnp.int32)
    starts = jnp.asarray(np.cumsum(sizes) - sizes, jnp.int32)
    return Pool(rows, jnp.asarray(y, jnp.int32), rows, starts, jnp.asarray(sizes, jnp.int32))


def votes_of(counts: np.ndarray, cohort: Any = None, **options: Any) -> np.ndarray:
    """The shares of clients in a mean, of which each one's change is a coordinate of its own."""
    clients, classes = counts.shape

    def apply(model: Variables, x: Any, key: Any = None) -> tuple[Any, Any]:
        return jnp.zeros((len(x), classes)), model.stats

    task = task_of(lambda key: Variables([jnp.zeros(clients)]), apply)
    method = feddisco(task, arriving([[own] for own in jnp.eye(clients)], 0.1), **options)
    cohort = range(clients) if cohort is None else cohort
    ((state, _),) = rounds(method, with_labels(counts), [cohort])
    return np.asarray(state.server.model.params[0])


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("key", "parts"), keys_of("server_rules", r"out_disco_weights_(\w+)"))
def test_feddisco_votes(key: str, parts: tuple[Any]):
    vectors = golden("server_rules")
    numbers = {name: float(vectors[f"in_disco_{name}"]) for name in "ab"}
    found = votes_of(vectors["in_disco_counts"], distance=parts[0], **numbers)
    np.testing.assert_allclose(found, vectors[key], rtol=1e-5, atol=1e-7)
    counts = jnp.asarray(vectors["in_disco_counts"], float)
    apart = label_distances(counts, parts[0], "uniform")
    np.testing.assert_allclose(apart, vectors[key.replace("weights", "diff")], rtol=1e-9)


COUNTS = np.array([[6, 0, 0], [0, 2, 0], [1, 1, 0]])


@pytest.mark.parametrize("ideal", ["uniform", "cohort"])
@pytest.mark.parametrize("distance", ["kl", "l1", "l2", "cosine"])
def test_feddisco_without_any_vote_is_fedavg(distance: Any, ideal: Any):
    found = votes_of(COUNTS, a=1e4, b=0.0, distance=distance, ideal=ideal)
    np.testing.assert_allclose(found, COUNTS.sum(1) / COUNTS.sum(), rtol=1e-6)


def test_feddisco_of_the_cohort_s_labels():
    """A class that nobody holds is at no distance."""
    found = votes_of(COUNTS, a=0.1, b=0.0, distance="l1", ideal="cohort")
    aim = np.array([0.7, 0.3, 0])
    shares = COUNTS / COUNTS.sum(1, keepdims=True)
    votes = COUNTS.sum(1) / COUNTS.sum() - 0.1 * np.abs(shares - aim).sum(1)
    np.testing.assert_allclose(found, votes / votes.sum(), rtol=1e-5)


def test_feddisco_looks_at_the_cohort_alone():
    """Neither who was not asked nor who has nothing counts among the divergences."""
    counts = np.concatenate([COUNTS, np.zeros((1, 3), int)])
    found = votes_of(counts, cohort=[0, 2, 3])
    np.testing.assert_allclose(found[[0, 2]], votes_of(COUNTS[[0, 2]]), rtol=1e-6)
    assert found[1] == found[3] == 0


@pytest.mark.parametrize("name", ["distance", "ideal"])
def test_feddisco_says_what_there_is(name: str):
    with pytest.raises(ValueError, match=f"{name} is 'far', but must be one of"):
        votes_of(COUNTS, **{name: "far"})


COHORTS = ((0, 1, 2), (0, 2), (1,))  # of the vectors


def in_order(lr: float, batch_size: int, epochs: int) -> Fit:
    """SGD through the examples in their order, whose last batch wraps around."""

    def fit(key: Key, model: Variables, data: Data, objective: Any, round: Round) -> Fitted:
        steps = -(-data.size * epochs // batch_size)

        def step(i: Any, model: Variables) -> Variables:
            positions = (i * batch_size + jnp.arange(batch_size, dtype=jnp.int32)) % data.size
            batch = data.take(positions, jnp.ones(batch_size))
            _, stats, slope = gradient(objective, model, batch, key)
            return Variables(tree.add_scaled(model.params, -lr, slope), stats)

        model = jax.lax.fori_loop(0, steps, step, model)
        return Fitted(model, jnp.float32(0), steps, steps.astype(float) * lr)

    return Fit(fit, lambda sizes, *_: sizes, batch_size)


@pytest.mark.usefixtures("float64")
def test_agnostic_fedavg_rounds():
    vectors = golden("agnostic_fedavg")
    x, y, domain = ([vectors[f"in_{name}{k}"] for k in range(3)] for name in ("x", "y", "domain"))
    sizes = np.array([len(own) for own in y])
    rows = jnp.arange(sizes.sum(), dtype=jnp.int32)
    inputs = jnp.asarray(np.concatenate(x), float), jnp.asarray(np.concatenate(domain))
    starts, owned = (jnp.asarray(a, jnp.int32) for a in (np.cumsum(sizes) - sizes, sizes))
    pool = Pool(inputs, jnp.asarray(np.concatenate(y), jnp.int32), rows, starts, owned)

    def apply(model: Variables, x: Any, key: Any = None) -> tuple[Any, Any]:
        return x[0] @ model.params["W"].T + model.params["b"][None], model.stats

    first = Variables({name: jnp.asarray(vectors[f"in_{name}"], float) for name in "Wb"})
    method = agnostic_fedavg(
        task_of(lambda key: first, apply),
        in_order(*(vectors[f"in_{name}"].item() for name in ("lr", "batch_size", "epochs"))),
        population=3,
        server_lr=float(vectors["in_server_lr"]),
        domain_lr=float(vectors["in_domain_lr"]),
        window=int(vectors["in_window"]),
        domains=len(vectors["in_lambda0"]),
        domain_of=lambda batch: batch.x[1],
    )
    state = start([method], np.zeros(3, int))
    given = jnp.asarray(vectors["in_lambda0"], float)
    known = state.server.domains._replace(log_weights=jnp.log(given / given.sum()))
    state = state._replace(server=state.server._replace(domains=known))
    for r, (after, _) in enumerate(rounds(method, pool, COHORTS, state=state)):
        base, known = after.server
        for name, found in base.model.params.items():
            np.testing.assert_allclose(found, vectors[f"out_r{r}_{name}"], **SHARES)
        np.testing.assert_allclose(
            jnp.exp(known.log_weights), vectors[f"out_r{r}_lambda"], **SHARES
        )
        np.testing.assert_array_equal(known.window, vectors[f"out_r{r}_window"])


@pytest.mark.usefixtures("float64")
def test_exponentiated_gradient():
    vectors = golden("agnostic_fedavg")
    given, loss = (jnp.asarray(vectors[f"in_eg_{name}"], float) for name in ("w", "loss"))
    known = DomainWeights(jnp.log(given), jnp.ones((1, len(given))), jnp.ones(len(given)))
    after = reweighted(known, loss, jnp.ones(len(given)), float(vectors["in_eg_lr"]))
    np.testing.assert_allclose(jnp.exp(after.log_weights), vectors["out_eg"], rtol=1e-7)


def test_agnostic_fedavg_knows_clients_by_their_number():
    """Each is its own domain, of whose examples nothing is forgotten while it is away."""
    data, fit = federation().train, local_training(client_lr=0.1, batch_size=4)
    method = agnostic_fedavg(logistic(), fit, population=6, domain_lr=0.5)
    first, second = (state.server for state, _ in rounds(method, data, [(0, 4, 1), (3,)]))
    asked = np.isin(np.arange(6), [0, 4])
    assert (first.domains.log_weights[asked] > first.domains.log_weights[~asked].max()).all()
    np.testing.assert_allclose(np.exp(first.domains.log_weights).sum(), 1, rtol=1e-6)
    np.testing.assert_array_equal(first.domains.window, [[7, 0, 0, 0, 12, 0]])
    np.testing.assert_array_equal(second.domains.latest, [7, 1, 1, 5, 12, 1])
    received = method.broadcast(second, jnp.int32(4), in_round())
    weight = np.exp(second.domains.log_weights[4]) / 12
    np.testing.assert_allclose(received.weights, [weight], rtol=1e-6)


def test_agnostic_fedavg_of_labels():
    """By the command line domains can be classes; one that nobody holds loses weight."""
    data, fit = federation().train, local_training(client_lr=0.1, batch_size=4)
    method = agnostic_fedavg(logistic(), fit, population=6, domains=5)
    state, _ = play(method, data, [(0, 4)])
    held = [data.y[data.rows[start : start + size]] for start, size in ((0, 7), (13, 12))]
    counts = np.bincount(np.concatenate(held), minlength=5)
    np.testing.assert_array_equal(state.server.domains.window, [counts])
    assert (state.server.domains.log_weights[3:] < state.server.domains.log_weights[:3].min()).all()
    assert np.isfinite(method.broadcast(state.server, jnp.int32(0), in_round()).weights).all()


def test_agnostic_fedavg_counts_nothing_outside_its_domains():
    """Clients whose examples are all elsewhere have no vote, and nobody moves."""
    data, fit = federation().train, local_training(client_lr=0.1, batch_size=4)
    method = agnostic_fedavg(
        logistic(), fit, population=6, domains=2, domain_of=lambda batch: batch.y + 2
    )
    state, _ = play(method, data, [(0, 4)] * 2)
    assert gap(state.server.base.model, method.server_init(jax.random.key(0)).base.model) == 0
    np.testing.assert_allclose(np.exp(state.server.domains.log_weights), 0.5, rtol=1e-6)


def test_agnostic_fedavg_says_what_is_wrong():
    data, fit = federation(), local_training(client_lr=0.1, batch_size=4)
    with pytest.raises(ValueError, match="domain_of is given, but domains=0 makes each client"):
        agnostic_fedavg(logistic(), fit, population=6, domain_of=lambda batch: batch.y)
    with pytest.raises(ValueError, match="population is 5, but the federation has 6 clients"):
        check_algorithm(agnostic_fedavg(logistic(), fit, population=5), data.train)
    values = data.train._replace(y=data.train.x[:, 0])
    square = logistic()._replace(example_loss=lambda outputs, y: (outputs[:, 0] - y) ** 2)
    with pytest.raises(TypeError, match="domains=3 takes labels for domains, but the targets"):
        check_algorithm(agnostic_fedavg(square, fit, population=6, domains=3), values)
