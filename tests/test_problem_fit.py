"""What models, methods and losses must give for a problem, said before anything runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from federations import CLASSES, FEATURES, federation
from flax import linen, nnx
from method_records import RECORDS
from methods import each_method, make

import fedjax_kd as fk
from fedjax_kd import losses
from fedjax_kd.algorithms import REGISTRY


def built(task: fk.Task, **options: object) -> fk.Simulation:
    """FedAvg of a task on the smallest federation."""
    algorithm = fk.fedavg(task, fk.local_training())
    return fk.simulate(algorithm, federation(), num_rounds=1, cohort_size=2, **options)


class Pair(nnx.Module):
    """A network that also returns its features."""

    def __init__(self, *, rngs: nnx.Rngs) -> None:
        self.head = nnx.Linear(FEATURES, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return self.head(x), x


class Column(nnx.Linear):
    """A network of one axis too many."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return super().__call__(x)[:, None]


class Guess(linen.Module):
    """A network that returns the class itself."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(CLASSES)(x).argmax(-1)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (
            lambda: fk.from_nnx(lambda rngs: nnx.Linear(FEATURES, 2, rngs=rngs)),
            r"outputs of shape \(2,\) an example, but arrays asks for \(3,\).*3 classes",
        ),
        (
            lambda: fk.from_nnx(lambda rngs: Column(FEATURES, CLASSES, rngs=rngs)),
            r"outputs of shape \(1, 3\) an example, but arrays asks for \(3,\)",
        ),
        (lambda: fk.from_nnx(lambda rngs: Pair(rngs=rngs)), "gives a tuple, but must give one"),
        (
            lambda: fk.from_linen(Guess(), jnp.ones((1, FEATURES))),
            "gives int32 outputs, but must give floats",
        ),
    ],
    ids=["few", "axes", "tuple", "integers"],
)
def test_outputs_are_checked_against_the_problem(task: object, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        built(task())


def test_more_outputs_than_classes_are_no_mistake() -> None:
    built(fk.from_nnx(lambda rngs: nnx.Linear(FEATURES, CLASSES + 2, rngs=rngs)))


def focal(logits: jax.Array, y: jax.Array) -> jax.Array:
    """The focal loss (Lin et al., 2017) with gamma = 2."""
    ce = losses.cross_entropy(logits, y)
    return (1 - jnp.exp(-ce)) ** 2 * ce


def test_the_loss_of_evaluation_is_the_tasks_own() -> None:
    task = fk.from_nnx(lambda rngs: nnx.Linear(FEATURES, CLASSES, rngs=rngs), example_loss=focal)
    data = federation()
    algorithm = fk.fedavg(task, fk.local_training())
    row = fk.train(algorithm, data, num_rounds=1, cohort_size=2).history[0]
    model = task.init(fk.simulate(algorithm, data, num_rounds=1, cohort_size=2).key("init"))
    logits = task.apply(model, data.test.x)[0]
    assert row["test_loss"] == pytest.approx(float(focal(logits, data.test.y).mean()), rel=1e-5)


@each_method(list(REGISTRY))
def test_every_method_tells_the_loss_of_its_task(name: str) -> None:
    task = RECORDS[name].task()
    fit = fk.local_training(client_lr=0.1, batch_size=4)
    made = make(name, task, fit, **RECORDS[name].options)
    assert made.score is task.example_loss
