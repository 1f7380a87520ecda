"""FedDF: the authors' numbers, what students learn from, who teaches, and several architectures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import (
    CLASSES,
    FEATURES,
    dataset,
    federation,
    gap,
    logistic,
    normed,
    play,
    start,
    task_of,
)
from vectors import golden, keys_of

from fedjax_kd import batching, losses, tree
from fedjax_kd.algorithms import fedavg
from fedjax_kd.algorithms.feddf import feddf, feddf_groups
from fedjax_kd.chunking import given
from fedjax_kd.core import Data, Key, Round, State, Variables
from fedjax_kd.dispatch import make_evaluation
from fedjax_kd.distil import ensembles, fusion
from fedjax_kd.distil.ensembles import Uploads
from fedjax_kd.distil.fusion import server_distillation
from fedjax_kd.engine import make_round
from fedjax_kd.local import local_training
from fedjax_kd.public import Generator, MissingError, Public, Stored, stretched
from fedjax_kd.seating import lay_out
from fedjax_kd.simulation import initial_state, simulate
from fedjax_kd.task import Task
from fedjax_kd.train import evaluation_row


@pytest.fixture(autouse=True)
def short_shuffle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of turns is a permutation."""
    monkeypatch.setattr(batching, "_SHUFFLE_ROUNDS", 3)


FIT = local_training(client_lr=0.3, batch_size=0, epochs=3)
KEY = jax.random.key(5)
SHORT = {"distil_steps": 4, "distil_batch": 5}
TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
WEIGHTS = (0.5, 0.3, 0.2)


def labelled(rows: int = 30) -> Data:
    """Examples of the server."""
    data = dataset(rows, seed=0).train
    return Data(
        jnp.asarray(data.x), jnp.asarray(data.y), jnp.arange(rows), *map(jnp.int32, (0, rows))
    )


def stored() -> Stored:
    return Stored(jnp.asarray(dataset(40, seed=1).train.x))


def generator() -> Generator:
    params = {"w": 0.5 * jax.random.normal(KEY, (3, FEATURES))}
    return Generator(params, lambda params, z: jnp.tanh(z @ params["w"]), 3)


SOURCES = {
    "stored": stored,
    "generator": generator,
}


def in_round(inputs: Any, validation: Data | None = None) -> Round:
    return Round(jnp.int32(0), jnp.arange(3), jnp.ones(3), 6, Public(inputs, validation))


def models(task: Task, count: int = 3) -> Variables:
    """Different models of a task."""
    return jax.vmap(task.init)(jax.random.split(jax.random.key(7), count))


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


@partial(jax.jit, static_argnames=("drop_worst", "votes"))
def elected(accuracy: Any, **options: Any) -> tuple[Any, Any]:
    """The votes of four models that are right so often, in two groups; the last is not there."""
    examples = labelled(20)
    right = jnp.arange(20.0)[None] < 20 * accuracy[:, None]
    wrong = jax.nn.one_hot((examples.y + 1) % CLASSES, CLASSES)
    said = jnp.where(right[..., None], jax.nn.one_hot(examples.y, CLASSES)[None], wrong[None])
    place = jnp.arange(20.0)[:, None]

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> Any:
        return model.params[x[:, 0].astype(jnp.int32)], ()

    task, votes = task_of(lambda key: Variables(said[0]), apply), jnp.array([1.0, 5.0, 7.0, 0.0])
    zero = Variables(jnp.zeros_like(said[0]))
    parts = [Uploads(task, zero, Variables(said[a:b]), votes[a:b]) for a, b in ((0, 2), (2, 4))]
    where = in_round(Stored(place), examples._replace(x=place))
    teachers, kept = fusion.elected(server_distillation(**options), parts, where)
    return teachers.votes, kept


def judged(*accuracy: float, **options: Any) -> tuple[list[float], list[list[float]]]:
    """Votes as teachers, and on the average of each group."""
    votes, kept = elected(jnp.array(accuracy), **options)
    return votes.tolist(), [k.tolist() for k in kept]


def test_the_worst_count_for_nothing():
    all_of_them = ([1, 1, 1, 0], [[1, 5], [7, 0]])
    assert judged(0.9, 0.35, 0.5, 1.0, drop_worst=True) == ([1, 0, 1, 0], [[1, 0], [7, 0]])
    assert judged(0.9, 0.35, 0.5, 1.0) == all_of_them
    assert judged(0.1, 0.3, 0.0, 1.0, drop_worst=True) == all_of_them


def test_teachers_vote_by_accuracy():
    votes, kept = judged(0.9, 0.35, 0.5, 1.0, drop_worst=True, votes="accuracy")
    np.testing.assert_allclose(votes, [0.9, 0, 0.5, 0], rtol=1e-6)
    assert kept == [[1, 0], [7, 0]]
    nobody, _ = judged(0.0, 0.0, 0.0, 0.0, drop_worst=True, votes="accuracy")
    assert nobody == [0, 0, 0, 0]


TASKS = (logistic(2), logistic(3))
GROUP_OF = (0, 0, 0, 1, 1, 1)
APART = Public(stored(), labelled())


@cache
def grouped_round() -> Any:
    """A compiled round of both architectures, at a learning rate."""

    def run(eta: Any, *args: Any) -> Any:
        groups = feddf_groups(TASKS, FIT, eta=eta, best=False, **SHORT)
        members, chunks = [np.arange(3), np.arange(3, 6)], [given((3,), 3)] * 2
        layout = lay_out(members, 6, 4, chunks, work=[a.work for a in groups])
        return make_round(groups, layout)(*args)

    return jax.jit(run)


def grouped(cohort: tuple[int, ...], eta: float) -> tuple[Any, Any, Any]:
    """The servers of two architectures before and after a round, and its report."""
    groups, pool = feddf_groups(TASKS, FIT, **SHORT), federation().train
    run, state = partial(grouped_round(), jnp.float32(eta)), start(groups, np.array(GROUP_OF))
    options = {"group_of": GROUP_OF, "public": APART, "places": 4, "run": run, "state": state}
    after, (report,) = play(groups, pool, [cohort], **options)
    return state.server, after.server, report


def test_every_architecture_learns_from_all():
    before, after, report = grouped((0, 2, 4, 5), 0.01)
    _, averaged, _ = grouped((0, 2, 4, 5), 0.0)
    assert report.used.tolist() == [2, 2]
    for g in (0, 1):
        assert gap(averaged[g].model, before[g].model) > 1e-2
        assert gap(after[g].model, averaged[g].model) > 1e-3
    alone = fedavg(TASKS[1], FIT, weighting="uniform")
    state, _ = play(alone, federation().train, [(4, 5)], state=State(before[1], ((),)))
    assert gap(state.server.model, averaged[1].model) < 1e-6


def test_a_group_that_is_not_there_learns_from_the_others():
    before, after, _ = grouped((0, 2), 0.01)
    _, averaged, _ = grouped((0, 2), 0.0)
    assert gap(averaged[1], before[1]) == 0
    assert gap(averaged[0], before[0]) > 1e-2
    assert gap(after[1], before[1]) > 1e-3
    assert bool(tree.is_finite(after))


def test_each_client_is_evaluated_with_its_groups_model():
    data = federation()
    simulation = simulated(APART, feddf_groups(TASKS, FIT, **SHORT))
    state = initial_state(simulation)
    seen = make_evaluation(simulation, state)(state)
    row = evaluation_row(seen)
    right = np.array(
        [
            np.asarray(task.apply(server.model, data.test.x)[0].argmax(-1))
            == np.asarray(data.test.y)
            for task, server in zip(TASKS, state.server, strict=True)
        ]
    )
    assert [row[f"group_{g}_accuracy"] for g in (0, 1)] == pytest.approx(right.mean(1).tolist())
    assert row["test_accuracy"] == pytest.approx(right.mean())
    own = data.client_test
    rows = [
        np.asarray(own.rows)[int(a) : int(a) + int(n)]
        for a, n in zip(own.starts, own.sizes, strict=True)
    ]
    scores = [right[g, ids].sum() for g, ids in zip(GROUP_OF, rows, strict=True)]
    np.testing.assert_array_equal(seen.clients.correct, scores)
    assert seen.personal is None


def simulated(public: Any, groups: Any) -> Any:
    return simulate(
        groups,
        replace(federation(), public=public),
        num_rounds=1,
        cohort_size=2,
        group_of=None if len(groups) == 1 else np.array(GROUP_OF),
        chunk=1,
    )


@pytest.mark.parametrize(
    ("public", "options", "words"),
    [
        (None, {}, "FedDF needs public inputs"),
        (Public(stored()), {"best": True}, "needs labelled examples of the server"),
        (Public(stored()), {"drop_worst": True}, "needs labelled examples of the server"),
        (Public(stored()), {"votes": "accuracy"}, "needs labelled examples of the server"),
        (Public(stored()), {"adversarial": 1}, "inputs are Stored, which cannot be trained"),
        (
            Public(stored(), labelled()._replace(y=jnp.zeros((30, 2)))),
            {},
            "have no classes, by which",
        ),
    ],
)
def test_what_is_missing_is_said_when_it_is_built(public: Any, options: Any, words: str):
    with pytest.raises(MissingError, match=words):
        simulated(public, [feddf(logistic(2), FIT, **SHORT | options)])


def test_groups_must_know_the_same_classes():
    four = task_of(
        lambda key: Variables(jnp.zeros((FEATURES, 4))),
        lambda model, x, key=None: (x @ model.params, ()),
    )
    with pytest.raises(MissingError, match="models for the same classes"):
        simulated(APART, feddf_groups([logistic(2), four], FIT, **SHORT))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"distil_steps": -1}, "distil_steps is -1, but must be >= 0"),
        ({"distil_batch": 0}, "distil_batch is 0, but must be >= 1"),
        ({"patience": 0}, "patience is 0"),
        ({"adversarial": 0}, "adversarial is 0"),
        ({"eta": -0.1}, "eta is -0.1"),
        ({"tau": 0.0}, "tau is 0.0, but a temperature must be > 0"),
        ({"scheme": "models"}, "scheme is 'models', but must be one of logits"),
        ({"votes": "examples"}, "votes is 'examples', but must be one of uniform"),
        ({"weighting": "size"}, "weighting is 'size'"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        feddf(logistic(2), FIT, **options)


def test_batch_normalisation_of_one_input_is_an_error():
    with pytest.raises(ValueError, match="distil_batch is 1, but the model has batch norm"):
        feddf_groups([logistic(), normed()], FIT, distil_batch=1)
    feddf(logistic(), FIT, distil_batch=1)
