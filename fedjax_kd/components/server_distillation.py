"""Server distillation: a student learns the uploaded models' joint predictions on the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fedjax_kd import losses, tree
from fedjax_kd.components.ensembles import Ensemble, Uploads, Votes, accuracies, elect
from fedjax_kd.components.model_checks import check_batches
from fedjax_kd.core import Data, Key, PyTree, Round, Scalar, Variables
from fedjax_kd.data.public_inputs import Generator, MissingError, inputs_of, validation_of
from fedjax_kd.options import check_choice, checks_options, options_of
from fedjax_kd.task import Task

Scheme = Literal["logits", "probabilities", "losses"]

_CLIP = 5.0  # largest norm of a gradient
_SWA_EVERY = 25  # steps between two models of the average

_OPT = optax.chain(optax.clip_by_global_norm(_CLIP), optax.scale_by_adam())


class Distillation(NamedTuple):
    """How the server distils, from `server_distillation`, which explains the fields."""

    distil_steps: int
    eta: Scalar
    distil_batch: int
    tau: Scalar
    scheme: Scheme
    best: bool | None
    distil_eval_every: int
    patience: int
    swa: bool
    drop_worst: bool
    votes: Votes
    adversarial: int | None


class _Lesson(NamedTuple):
    """The constants of a student's training."""

    how: Distillation
    task: Task
    teachers: Ensemble
    inputs: Any
    key: Key


class _Progress(NamedTuple):
    """The state of a student's training."""

    student: Variables
    opt: Any
    mean: Any  # of its models so far; () without SWA
    maker: Any  # the generator's parameters and its optimiser's state; () if it stays as it is


class _Best(NamedTuple):
    """The state of a student's training, and the best student so far."""

    step: Array
    now: _Progress
    model: Variables
    accuracy: Array
    at: Array  # step


@checks_options
def server_distillation(
    *,
    distil_steps: int = 500,
    eta: Scalar = 1e-3,
    distil_batch: int = 128,
    tau: Scalar = 1.0,
    scheme: Scheme = "logits",
    best: bool | None = None,
    distil_eval_every: int = 100,
    patience: int = 1000,
    swa: bool = False,
    drop_worst: bool = False,
    votes: Votes = "uniform",
    adversarial: int | None = None,
) -> Distillation:
    """Distillation from an ensemble of teachers on the server's inputs (Lin et al., 2020).

    The student is in training mode; teachers are in evaluation mode, on the same view of the
    inputs. Gradients are clipped to norm 5, steps are Adam's.

    Args:
      distil_steps: steps of each student on the server in a round, >= 0; the paper takes 10,000,
        which is for accelerators.
      eta: the students' learning rate at first, >= 0; it falls to 0 as a cosine. The paper uses
        0.001.
      distil_batch: inputs in a step, >= 1.
      tau: temperature, > 0; the paper uses 1. The loss is not multiplied by its square.
      scheme: what is averaged over teachers: their "logits" (the paper), their "probabilities" at
        temperature 1, whatever ``tau`` is, or the "losses" against each.
      best: whether the best student is kept, by its accuracy on the server's labelled examples
        before the first step and after every ``distil_eval_every``, or the last one. By default the
        best, if there are such examples.
      distil_eval_every: steps between two evaluations on these examples, >= 1.
      patience: steps without a better student after which it is enough, >= 1; needs ``best``.
      swa: whether the student is the mean of its models after every 25 steps, at a constant rate.
      drop_worst: whether models count for nothing whose accuracy on the server's labelled examples
        is below 1.2 times that of guessing; if all are so bad, all count.
      votes: whether teachers vote alike, or by their accuracy on these examples.
      adversarial: of inputs from a generator: steps of a student for each one of the generator,
        >= 1, which learns to make it disagree with the teachers and starts anew in every round; the
        authors' code has 10. If not given, the generator stays as it is.

    Raises:
      ValueError: if an argument is out of its range.

    Source: Lin, Kong, Stich, Jaggi, NeurIPS 2020, arXiv:2006.07242.
    """
    check_choice("scheme", scheme, Scheme)
    check_choice("votes", votes, Votes)
    return Distillation(
        distil_steps, eta, distil_batch, tau, scheme, best, distil_eval_every, patience,
        swa, drop_worst, votes, adversarial,
    )  # fmt: skip


def described(
    tasks: Sequence[Task], options: Mapping[str, Any]
) -> tuple[Distillation, dict[str, Any]]:
    """The distillation of these students that options describe, and the other options.

    Raises:
      ValueError: if an option is out of its range, also for these students.
    """
    own, others = options_of(server_distillation, options)
    how = server_distillation(**own)
    for task in tasks:
        check_batches(task, "distil_batch", how.distil_batch)
    return how, others


def elected(
    how: Distillation, uploads: Sequence[Uploads], round: Round
) -> tuple[Ensemble, list[Float[Array, " K"]]]:
    """`elect` with the options of a distillation."""
    looks = how.distil_steps * how.distil_batch
    return elect(uploads, round, drop_worst=how.drop_worst, votes=how.votes, looks=looks)


def distil(
    how: Distillation,
    key: Key,
    learner: tuple[Task, Variables],
    teachers: Ensemble,
    round: Round,
) -> Variables:
    """The student after it has learnt; as it was, if no teacher has a vote.

    Args:
      how: from `server_distillation`.
      key: consumed.
      learner: the student, and the task that it is a model of.
      teachers: from whom it learns.
      round: with public inputs.

    Raises:
      MissingError: if there are no public inputs, no generator to be trained, or no labelled
        examples that ``best`` needs.
    """
    (task, student), inputs = learner, inputs_of(round, "FedDF")
    maker: Any = ()
    if isinstance(inputs, Generator) and how.adversarial is not None:
        maker = (inputs.params, _OPT.init(inputs.params))
    elif how.adversarial is not None:
        raise MissingError(
            f"adversarial is {how.adversarial}, but the public inputs are {type(inputs).__name__}, "
            "which cannot be trained: take a generator (--public generator), or leave it out."
        )
    lesson = _Lesson(how, task, teachers, inputs, key)
    mean = tree.scale(1.0, student) if how.swa else ()  # of counters it is a float
    start = _Progress(student, _OPT.init(student.params), mean, maker)
    if round.public.validation is not None if how.best is None else how.best:
        after = _best_of(lesson, start, validation_of(round, "FedDF"))
    else:
        last = jax.lax.fori_loop(0, how.distil_steps, lambda i, now: _step(lesson, i, now), start)
        after = _result(how, jnp.int32(how.distil_steps), last)
    return tree.where(teachers.votes.sum() > 0, after, student)


def _best_of(lesson: _Lesson, start: _Progress, examples: Data) -> Variables:
    """The student of the best accuracy on labelled examples among those evaluated."""
    how = lesson.how

    def accuracy(model: Variables) -> Array:
        alone, _ = accuracies(lambda x: lesson.task.apply(model, x)[0][None], examples)
        return alone[0]

    def look(seen: _Best) -> _Best:
        step = jnp.minimum(seen.step + how.distil_eval_every, how.distil_steps)
        now = jax.lax.fori_loop(seen.step, step, lambda i, now: _step(lesson, i, now), seen.now)
        found = _result(how, step, now)
        score = accuracy(found)
        best = tree.where(score > seen.accuracy, (found, score, step), seen[2:])
        return _Best(step, now, *best)

    def unfinished(seen: _Best) -> Array:
        return (seen.step < how.distil_steps) & (seen.step - seen.at < how.patience)

    zero = jnp.int32(0)
    first = _Best(zero, start, start.student, accuracy(start.student), zero)
    return jax.lax.while_loop(unfinished, look, first).model


def _step(lesson: _Lesson, i: Array, now: _Progress) -> _Progress:
    """One step of the student, after one of the generator where that is due."""
    how, task = lesson.how, lesson.task
    i = jnp.asarray(i, jnp.int32)  # the debug engine counts in Python
    key_inputs, key_view = jax.random.split(jax.random.fold_in(lesson.key, i))
    inputs, maker = lesson.inputs, now.maker

    def teach(x: PyTree) -> Array:
        return lesson.teachers.teach(task.augment(key_view, x))

    def divergence(logits: Array, taught: Array) -> Array:
        return losses.ensemble_divergence(
            logits, taught, how.tau, lesson.teachers.votes, average=how.scheme, teacher_tau=1.0
        ).mean()

    def agreement(params: PyTree) -> Array:
        x = replace(inputs, params=params).draw(key_inputs, how.distil_batch)
        return -divergence(task.apply(now.student, x, key_view)[0], teach(x))

    if how.adversarial is not None:
        made, opt = maker
        maker = jax.lax.cond(
            i % how.adversarial == 0,
            lambda: _moved(how, i, made, opt, jax.grad(agreement)(made)),
            lambda: maker,
        )
        inputs = replace(inputs, params=maker[0])
    if lesson.teachers.logits is None:
        x = inputs.draw(key_inputs, how.distil_batch)
        taught = teach(x)
    else:
        x, rows = inputs._replace(y=lesson.teachers.logits).examples(key_inputs, how.distil_batch)
        taught = jnp.swapaxes(rows, 0, 1)

    def loss(params: PyTree) -> tuple[Array, PyTree]:
        logits, stats = task.apply(Variables(params, now.student.stats), x, key_view)
        return divergence(logits, taught), stats

    grads, stats = jax.grad(loss, has_aux=True)(now.student.params)
    params, opt = _moved(how, i, now.student.params, now.opt, grads)
    student = Variables(params, stats)
    return _Progress(student, opt, _averaged(i + 1, now.mean, student), maker)


def _moved(
    how: Distillation, i: Array, params: PyTree, opt: Any, grads: PyTree
) -> tuple[PyTree, Any]:
    """Parameters and the optimiser's state after step ``i``."""
    fallen = 0.5 + 0.5 * jnp.cos(jnp.pi * i.astype(jnp.float32) / max(how.distil_steps, 1))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
        updates, opt = _OPT.update(grads, opt, params)
    return tree.add_scaled(params, -how.eta * (1.0 if how.swa else fallen), updates), opt


def _averaged(done: Array, mean: Any, student: Variables) -> Any:
    """The mean of the student's models so far, if there is to be one."""
    if mean == ():
        return mean
    share = jnp.where(done % _SWA_EVERY == 0, 1 / jnp.maximum(done // _SWA_EVERY, 1), 0)
    return tree.add_scaled(mean, share, tree.sub(student, mean))


def _result(how: Distillation, done: Array, now: _Progress) -> Variables:
    """The model at the end of a student's training."""
    if not how.swa:
        return now.student
    mean = tree.cast_like(now.mean, now.student)
    return tree.where(done >= _SWA_EVERY, mean, now.student)
