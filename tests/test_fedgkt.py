"""FedGKT: the authors' numbers, which logits belong to which example, and the server's steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import CLASSES, COHORTS, FEATURES, SIZES, Normed, federation, gap, logistic, play
from flax import nnx
from objectives import table, wide
from vectors import golden, keys_of, number

from fedjax_kd import tree
from fedjax_kd.algorithms.fedgkt import fedgkt, fedgkt_groups
from fedjax_kd.components.split_client import Exchange
from fedjax_kd.components.split_server import Answers, Upper
from fedjax_kd.core import Data, Key, Pool, Round, Variables
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.local import Fitted, local_training
from fedjax_kd.losses.objectives import Objective, gradient
from fedjax_kd.task import Task, from_nnx

FIT = local_training(client_lr=0.1, batch_size=4)
FACTS = {"population": len(SIZES), "capacity": max(SIZES), "classes": CLASSES}
SMALL = FACTS | {"server_hidden": (4,), "server_batch": 5}
PLAIN = {"server_opt": optax.sgd, "server_lr": 1.0, "server_epochs": 1}


def by_heart(rows: int, classes: int) -> Task:
    """A model that knows logits by the number of a row, which is also its feature."""
    task = table(rows, classes)
    return task._replace(features_and_logits=lambda model, x, key=None: (x, *task.apply(model, x)))


def a_round(clients: int) -> Round:
    return Round(
        jnp.int32(0), jnp.arange(clients), jnp.ones(clients), jnp.ones(clients), clients, None
    )


@jax.jit
def both_sides(student: Any, teacher: Any, y: Any, tau: Any, alpha: Any) -> tuple[Any, ...]:
    """The client's losses with and without answers, its gradient, and what the server becomes."""
    task, rows = by_heart(*student.shape), jnp.arange(6, dtype=jnp.int32)
    data = Data(rows, y, rows, jnp.int32(0), jnp.int32(6))

    def look(key: Key, start: Variables, data: Data, loss: Objective, round: Round) -> Fitted:
        batch = data.take(jnp.arange(9, dtype=jnp.int32) % 6, (jnp.arange(9) < 6).astype(float))
        value, _, grads = gradient(loss, start, batch, key)
        return Fitted(Variables(grads), value, jnp.int32(1), jnp.float32(1))

    facts, options = {"population": 1, "capacity": 6, "classes": 10}, {"tau": tau, "alpha": alpha}
    algorithm = fedgkt(task, look, **facts, **PLAIN, **options, server=task, variant="code")
    update, round = partial(algorithm.client_update, jax.random.key(0)), a_round(1)
    own = Variables(student), data, round
    supervised, _ = update(Answers(teacher, jnp.bool_(False)), *own)
    upload, grads = update(Answers(teacher, jnp.bool_(True)), *own)
    server = algorithm.server_init(jax.random.key(0))
    server = server._replace(part=server.part._replace(model=Variables(student)))
    sent = Exchange(*(a[None] for a in (rows, teacher, y, jnp.int32(6))))
    after = algorithm.server_update(jax.random.key(0), server, sent, round)
    return supervised.metrics["loss"], upload.metrics["loss"], grads.params, after


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("key", "parts"), keys_of("fedgkt_kl", r"out_client_loss_T(\d+)_alpha(\w+)")
)
def test_golden_both_sides(key: str, parts: tuple[str, str]):
    """The client's loss, and the server's gradient in a step with learning rate 1."""
    vectors, (tau, alpha) = golden("fedgkt_kl"), map(number, parts)
    student, teacher, y = (wide(vectors[f"in_{k}"]) for k in ("student", "teacher", "targets"))
    supervised, loss, grads, after = both_sides(student, teacher, y, tau, alpha)
    np.testing.assert_allclose(supervised, vectors["out_ce"], rtol=1e-6)
    np.testing.assert_allclose(loss, vectors[key], rtol=1e-5)
    by_kl = np.asarray(vectors[f"out_grad_T{parts[0]}"], float)
    by_ce = (np.asarray(jax.nn.softmax(student)) - np.eye(10)[np.asarray(y)]) / 6
    np.testing.assert_allclose(grads, by_ce + alpha * by_kl, atol=1e-5)
    step = student - after.part.model.params
    np.testing.assert_allclose(step, by_kl + alpha * by_ce, atol=1e-5)
    np.testing.assert_array_equal(after.answers.logits[0], student)  # as before the step


def numbered() -> Pool:
    """The usual clients, whose examples are the numbers of their rows."""
    pool = federation().train
    return pool._replace(x=jnp.arange(len(pool.y), dtype=jnp.int32))


def sent_by(pool: Pool, cohort: tuple[int, ...]) -> Exchange:
    """The row numbers of clients, with logits of zeros."""
    numbers, sizes = np.arange(max(SIZES)), np.array(SIZES)[list(cohort)]
    rows = np.asarray(pool.starts)[list(cohort)][:, None] + numbers
    rows = jnp.asarray(np.where(numbers < sizes[:, None], rows, 0), jnp.int32)
    logits = jnp.zeros((*rows.shape, CLASSES))
    return Exchange(rows, logits, pool.y[rows], jnp.asarray(sizes, jnp.int32))


def taught(cohorts: Sequence[tuple[int, ...]], **options: Any) -> list[Upper]:
    """A server that learns rows by heart, before and after rounds with these clients."""
    task, pool = by_heart(sum(SIZES), CLASSES), numbered()
    own = task._replace(init=lambda key: Variables(jax.random.normal(key, (sum(SIZES), CLASSES))))
    algorithm = fedgkt(task, FIT, **FACTS, server=own, server_batch=5, **options)
    servers, update = [algorithm.server_init(jax.random.key(0))], jax.jit(algorithm.server_update)
    for n, cohort in enumerate(cohorts):
        present = (np.array(SIZES)[list(cohort)] > 0).astype(np.float32)
        round = Round(
            jnp.int32(n),
            jnp.array(cohort),
            jnp.asarray(present),
            jnp.asarray(present),
            len(SIZES),
            None,
        )
        sent = sent_by(pool, cohort)
        servers.append(update(jax.random.key(1), servers[-1], sent, round))
    return servers


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_answers_belong_to_the_examples(variant: str):
    """Each row of a table is moved by its own example: answers are rows, after or before."""
    before, after = taught([(4, 1, 0, 5, 3, 2)], **PLAIN, variant=variant)
    source, pool = (after if variant == "paper" else before).part.model.params, numbered()
    assert gap(before.part.model, after.part.model) > 0.1
    for client, size in enumerate(SIZES):
        start, logits = int(pool.starts[client]), after.answers.logits[client]
        np.testing.assert_allclose(logits[:size], source[start : start + size], atol=1e-6)
        np.testing.assert_array_equal(logits[size:], 0)
    np.testing.assert_array_equal(after.answers.known, np.array(SIZES) > 0)


def test_steps_of_the_server_and_answers_of_those_who_are_absent():
    """Filling takes no steps, epochs may follow a schedule, and answers stay until the next."""
    _, one, two = taught(COHORTS[:2], server_epochs=lambda number: 3 - number)
    assert int(one.part.opt[0].count) == 3 * (2 + 3 + 1)  # 7, 12 and 1 examples
    assert int(two.part.opt[0].count) == 18 + 2 * (0 + 1 + 1)
    np.testing.assert_array_equal(one.answers.known, [True, False, True, False, True, False])
    np.testing.assert_array_equal(two.answers.known, [True, False, True, True, True, True])
    absent = np.array([0, 2, 4])
    np.testing.assert_array_equal(one.answers.logits[absent], two.answers.logits[absent])


def test_clients_learn_the_answer_to_each_example():
    """Without labels a client comes to say what the server said, whatever the order of batches."""
    task, answers = by_heart(sum(SIZES), CLASSES), jax.random.normal(jax.random.key(3), (12, 3))
    silent = task._replace(example_loss=lambda logits, y: jnp.zeros(len(y)))
    fit = local_training(client_lr=3.0, batch_size=5, epochs=80)
    algorithm = fedgkt(silent, fit, **FACTS, server=task, tau=1.0)
    update = jax.jit(lambda data, *args: algorithm.client_update(*args, data, a_round(6)))
    received = Answers(answers, jnp.bool_(True))
    pool, start = numbered(), task.init(jax.random.key(0))
    upload, model = update(pool.of(jnp.int32(3)), jax.random.key(1), received, start)
    rows = slice(int(pool.starts[3]), int(pool.starts[3]) + 5)
    said, expected = jax.nn.softmax(model.params[rows]), jax.nn.softmax(answers[:5])
    np.testing.assert_allclose(said, expected, atol=0.01)
    sent = upload.message
    np.testing.assert_array_equal(sent.features, [*range(rows.start, rows.stop)] + [0] * 7)
    np.testing.assert_array_equal(sent.logits[:5], model.params[rows])
    np.testing.assert_array_equal(sent.labels[:5], pool.y[rows])
    assert int(sent.size) == 5


class Wide(nnx.Module):
    """Another network on the clients, with as many features."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = nnx.Linear(FEATURES, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)
        self.head = nnx.Linear(2, CLASSES, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return self.second(nnx.relu(self.first(x)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


class Deep(nnx.Module):
    """A server's network with batch normalisation."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.norm = nnx.Linear(2, FEATURES, rngs=rngs), Normed(rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.first(x))


@pytest.mark.thorough
def test_two_kinds_of_clients_behind_one_server():
    """Also a server with batch statistics; filling and clients with one example do it no harm."""
    example = jax.ShapeDtypeStruct((1, FEATURES), jnp.float32)
    tasks = logistic(2), from_nnx(Wide, example_x=example)
    options = SMALL | {"server_opt": optax.sgd, "server": from_nnx(Deep)}
    algorithms = fedgkt_groups(tasks, FIT, **options)
    state, _ = play(algorithms, federation().train, [(0, 2, 3)], group_of=[0, 1, 1, 1, 0, 0])
    assert bool(tree.is_finite(state))
    np.testing.assert_array_equal(
        state.server.answers.known, [True, False, True, True] + [False] * 2
    )
    before = algorithms[0].server_init(jax.random.key(0)).part.model.stats
    assert gap(before, state.server.part.model.stats) > 1e-3


WRONG = [
    ({"alpha": -1.0}, "alpha is -1.0, but must be >= 0"),
    ({"tau": 0.0}, "tau is 0.0, but must be > 0"),
    ({"variant": "mine"}, "variant is 'mine', but must be one of paper, code"),
    ({"server_epochs": 0}, "server_epochs is 0, but must be >= 1"),
    ({"server_batch": 0}, "server_batch is 0, but must be >= 1"),
    ({"capacity": 0}, "capacity is 0, but must be >= 1"),
    ({"server_hidden": (0,)}, "each must be >= 1"),
    ({"server": from_nnx(Deep), "server_batch": 1}, "server_batch is 1, but the network has batch"),
]


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_options_out_of_range(given: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        fedgkt(logistic(2), FIT, **SMALL | given)


def test_networks_that_cannot_be_cut():
    with pytest.raises(ValueError, match="does not give features and logits in one pass"):
        fedgkt(table(3, 3), FIT, **SMALL)
    with pytest.raises(ValueError, match="does not know the shape of its examples"):
        fedgkt(logistic(2)._replace(input_types=None), FIT, **SMALL)
    with pytest.raises(TypeError, match="Normed has no method 'features'"):
        fedgkt(from_nnx(Normed, example_x=jnp.zeros((1, FEATURES))), FIT, **SMALL)
    with pytest.raises(TypeError, match="take models for the same classes"):
        check_algorithm(fedgkt(logistic(2), FIT, **SMALL | {"classes": 4}), federation().train)
