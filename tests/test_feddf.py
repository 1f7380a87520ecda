"""FedDF: the authors' numbers, what students learn from, and when they stop."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import FEATURES, gap, logistic, normed, task_of
from teachers import SHORT, in_round, labelled, models, stored
from vectors import golden, keys_of

from fedjax_kd import batching, losses
from fedjax_kd.components import ensembles
from fedjax_kd.components import server_distillation as fusion
from fedjax_kd.components.server_distillation import server_distillation
from fedjax_kd.core import Key, Variables
from fedjax_kd.data.public_inputs import Generator, Public, stretched
from fedjax_kd.task import Task


@pytest.fixture(autouse=True)
def short_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of turns is a permutation."""
    monkeypatch.setattr(batching, "_SHUFFLE_ROUNDS", 3)


KEY = jax.random.key(5)


TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32


WEIGHTS = (0.5, 0.3, 0.2)


def generator() -> Generator:
    params = {"w": 0.5 * jax.random.normal(KEY, (3, FEATURES))}
    return Generator(params, lambda params, z: jnp.tanh(z @ params["w"]), 3)


SOURCES = {
    "stored": stored,
    "generator": generator,
}


def taught_by(task: Task, votes: tuple[float, ...] = (1.0, 1.0, 1.0)) -> ensembles.Ensemble:
    return ensembles.Ensemble(ensembles.ensemble([(task, models(task))]), jnp.array(votes))


class Fixed(NamedTuple):
    """The same inputs in every step."""

    x: jax.Array

    def draw(self, key: Key, count: int) -> jax.Array:
        return self.x


def linear() -> Task:
    """The layer that the vectors were made with."""
    return task_of(
        lambda key: Variables({"w": jnp.zeros((10, 5)), "b": jnp.zeros(10)}),
        lambda model, x, key=None: (x @ model.params["w"].T + model.params["b"][None], ()),
    )


@partial(jax.jit, static_argnames="scheme")
def golden_step(tau: Any, votes: Any, *, scheme: Any) -> Variables:
    vectors = golden("feddf_distill")
    how = server_distillation(distil_steps=1, tau=tau, scheme=scheme)
    student = Variables({"w": jnp.asarray(vectors["in_W"]), "b": jnp.asarray(vectors["in_b"])})
    said = ensembles.Ensemble(lambda x: jnp.asarray(vectors["in_teacher_logits"]), votes)
    where = in_round(Fixed(jnp.asarray(vectors["in_x"])))
    return fusion.distil(how, KEY, (linear(), student), said, where)


FEDDF_KEY = r"out_stepW_avg_(logits|probs|losses)_T(\d+)_(uniform|weighted)"


@pytest.mark.parametrize(("key", "parts"), keys_of("feddf_distill", FEDDF_KEY))
def test_golden_step_of_a_student(key: str, parts: tuple[str, str, str]):
    scheme, tau, votes = parts
    weights = jnp.array(WEIGHTS if votes == "weighted" else (1.0, 1.0, 1.0))
    scheme = scheme.replace("probs", "probabilities")
    after = golden_step(jnp.float32(tau), weights, scheme=scheme)
    np.testing.assert_allclose(after.params["w"], golden("feddf_distill")[key], **TORCH)


def test_golden_noise():
    vectors = golden("feddf_random_data")
    made = stretched(jnp.asarray(vectors["in_g"]), jnp.float32(-1), jnp.float32(1))
    np.testing.assert_allclose(made, vectors["out_x"], **TORCH)


@pytest.mark.parametrize("name", SOURCES)
def test_students_learn_from_inputs_of_every_kind(name: str):
    task, source = logistic(2), SOURCES[name]()
    student, teachers = task.init(KEY), taught_by(task)
    adversarial = 2 if name == "generator" else None
    how = server_distillation(
        distil_batch=16, eta=0.02, distil_steps=60, adversarial=adversarial, best=False
    )

    def apart(model: Variables) -> jax.Array:
        x = source.draw(jax.random.key(9), 50)
        logits = task.apply(model, x)[0]
        return losses.ensemble_divergence(logits, teachers.teach(x)).mean()

    @jax.jit
    def run() -> Any:
        after = fusion.distil(how, KEY, (task, student), teachers, in_round(source))
        return apart(student), apart(after)

    before, after = run()
    assert after < 0.4 * before


def test_a_generator_makes_the_student_disagree():
    task, source = logistic(2), generator()
    how = server_distillation(distil_batch=64, eta=0.1, distil_steps=20, adversarial=1)
    student, teachers = task.init(KEY), taught_by(task)
    lesson = fusion._Lesson(how, task, teachers, source, KEY)
    start = fusion._Progress(
        student,
        fusion._OPT.init(student.params),
        (),
        (source.params, fusion._OPT.init(source.params)),
    )

    def apart(params: Any) -> float:
        x = Generator(params, source.apply, source.latent).draw(KEY, 64)
        logits = task.apply(student, x)[0]
        return float(losses.ensemble_divergence(logits, teachers.teach(x)).mean())

    still = jax.jit(lambda i, now: fusion._step(lesson, i, now)._replace(student=student))
    now = start
    for i in range(5):
        now = still(jnp.int32(i), now)
    assert apart(now.maker[0]) > 1.05 * apart(source.params)


def test_answers_of_teachers_are_kept_if_that_is_less_work():
    task, x = logistic(2), stored().x
    teach = taught_by(task).teach
    kept = partial(ensembles.answers, teach, stored(), [task])
    np.testing.assert_allclose(jnp.swapaxes(jax.jit(lambda: kept(40))(), 0, 1), teach(x), atol=1e-6)
    assert kept(39) is None
    noisy = task._replace(augment=lambda key, x: x + jax.random.normal(key, x.shape))
    assert ensembles.answers(teach, stored(), [task, noisy], 40) is None
    assert ensembles.answers(teach, generator(), [task], 40) is None
    student, votes = task.init(KEY), jnp.ones(3)
    how = server_distillation(distil_steps=3, distil_batch=16, eta=0.02)

    @jax.jit
    def both_ways() -> Any:
        one, other = (ensembles.Ensemble(teach, votes, said) for said in (kept(40), None))
        where = in_round(stored())
        return [fusion.distil(how, KEY, (task, student), those, where) for those in (one, other)]

    assert gap(*both_ways()) < 1e-5


def test_swa_is_the_mean_of_every_25th_model():
    task, x = logistic(2), stored().x[:8]
    student, teachers = task.init(KEY), taught_by(task)
    opt = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(0.01))

    def loss(params: Any) -> jax.Array:
        logits = task.apply(Variables(params), x)[0]
        return losses.ensemble_divergence(logits, teachers.teach(x)).mean()

    @jax.jit
    def by_hand() -> Any:
        def step(carry: Any, _: None) -> Any:
            params, state = carry
            with jax.numpy_dtype_promotion("standard"):
                updates, state = opt.update(jax.grad(loss)(params), state)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return jax.lax.scan(step, (student.params, opt.init(student.params)), length=60)[1]

    @partial(jax.jit, static_argnums=0)
    def run(steps: int) -> Any:
        how = server_distillation(distil_steps=steps, eta=0.01, swa=True)
        return fusion.distil(how, KEY, (task, student), teachers, in_round(Fixed(x))).params

    way = by_hand()
    expected = jax.tree.map(lambda all: (all[24] + all[49]) / 2, way)
    assert gap(run(60), expected) < 1e-5
    assert gap(student.params, expected) > 1e-2
    assert gap(run(24), jax.tree.map(lambda all: all[23], way)) < 1e-5


def worsening(**options: Any) -> tuple[Variables, int, Variables]:
    """A perfect student after bad lessons, their number, and the student before."""
    task, examples, draws = logistic(0), labelled(), []
    student = task.init(KEY)

    class Counted(Fixed):
        def draw(self, key: Key, count: int) -> jax.Array:
            jax.debug.callback(lambda: draws.append(1))
            return self.x

    best = ensembles.Ensemble(lambda x: -3 * task.apply(student, x)[0][None], jnp.ones(1))
    how = server_distillation(eta=0.5, distil_steps=50, distil_eval_every=2, **options)
    where = in_round(Counted(stored().x), examples)
    labels = task.apply(student, examples.x)[0].argmax(-1).astype(jnp.int32)
    where = where._replace(public=Public(where.public.inputs, examples._replace(y=labels)))
    after = jax.jit(lambda: fusion.distil(how, KEY, (task, student), best, where))()
    jax.effects_barrier()
    return after, len(draws), student


def test_the_best_student_is_kept_and_patience_ends():
    after, steps, before = worsening(patience=5)
    assert gap(after, before) == 0
    assert steps == 6
    after, steps, before = worsening(best=False)
    assert gap(after, before) > 0.1
    assert steps == 50


def test_without_votes_nobody_learns():
    task = logistic(2)
    how, student = server_distillation(**SHORT), task.init(KEY)
    silent = taught_by(task, (0, 0, 0))
    run = jax.jit(lambda: fusion.distil(how, KEY, (task, student), silent, in_round(stored())))
    assert gap(run(), student) == 0


def test_students_are_in_training_mode_and_teachers_are_not():
    task, x = normed(), stored().x
    student, teachers = task.init(KEY), taught_by(task)
    np.testing.assert_allclose(teachers.teach(x)[:, :1], teachers.teach(x[:1]), atol=1e-6)
    how = server_distillation(distil_steps=1, eta=0.0)
    run = jax.jit(lambda: fusion.distil(how, KEY, (task, student), teachers, in_round(Fixed(x))))
    after = run()
    assert gap(after.params, student.params) == 0
    np.testing.assert_allclose(after.stats["norm"]["mean"], 0.01 * x.mean(0), rtol=1e-4)
