"""A generator of features of given classes: its training by heads, and its use (FedGEN)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from fedjax_kd import losses, tree
from fedjax_kd.components.feature_network import generator_network
from fedjax_kd.components.model_parts import classifier, combine, head, partition
from fedjax_kd.core import Batch, Key, PyTree, Round, Scalar, Variables
from fedjax_kd.local import stepped
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.prng import cheap
from fedjax_kd.task import Task

Teacher = Literal["ensemble", "labels", "broadcast"]
NoiseKind = Literal["normal", "uniform"]


class Lesson(NamedTuple):
    """What a generator learns from: the heads of K models and their label counts."""

    teachers: Callable[[Float[Array, "B D"]], Float[Array, "K B L"]]  # features -> logits
    student: Callable[[Float[Array, "B D"]], Float[Array, "B L"]]  # of the model that they had
    counts: Float[Array, "K L"]  # labels
    present: Float[Array, " K"]  # 1 or 0


class GeneratorState(NamedTuple):
    """A generator in training, and its optimiser's state."""

    model: Variables
    opt: Any


class FeatureGenerator(NamedTuple):
    """A generator's functions, from `feature_generator`."""

    init: Callable[[Key], GeneratorState]
    # (key, learner, lesson, shares of the classes [L]) -> learner
    train: Callable[[Key, GeneratorState, Lesson, Array], GeneratorState]
    # (key, model, labels [B]) -> features [B, D], in evaluation mode
    draw: Callable[[Key, Variables, Array], Array]


@checks_options
def feature_generator(
    width: int,
    classes: int,
    *,
    teacher: Teacher = "ensemble",
    noise: NoiseKind = "normal",
    diversity: Scalar = 1.0,
    student: Scalar = 0.0,
    generator_lr: Scalar = 3e-4,
    generator_decay: Scalar = 1e-2,
    generator_steps: int = 50,
    generator_batch: int = 32,
    generator_hidden: int = 256,
    generator_noise: int = 32,
) -> FeatureGenerator:
    """A generator of features and its training by Adam.

    Args:
      width: features D, >= 1.
      classes: L, >= 1.
      teacher: what the heads teach: the label, by their mean logits ("ensemble", the paper); each
        the labels by its share of their examples ("labels", the intent of the authors' code); or
        by its mean share ("broadcast", what that code computes).
      noise: "normal" (the paper), or "uniform" in [0, 1) (the authors' code).
      diversity: weight of the diversity loss, >= 0.
      student: weight of the search for features on which the heads and the received one disagree,
        >= 0; not in the paper, and 0 in the authors' runs.
      generator_lr: learning rate, > 0; the authors' runs have 3e-4 or 1e-4.
      generator_decay: weight decay, added to the gradient, >= 0.
      generator_steps: steps a round, >= 1.
      generator_batch: features a step, >= 2 as they are normalised together.
      generator_hidden: hidden units, >= 1.
      generator_noise: numbers of noise a feature, >= 1.

    Raises:
      ValueError: if a number is out of its range or a choice unknown.
    """
    check_choice("teacher", teacher, Teacher)
    check_choice("noise", noise, NoiseKind)
    opt = optax.chain(optax.add_decayed_weights(generator_decay), optax.adam(generator_lr))
    network = generator_network(generator_noise, classes, generator_hidden, width)
    draw_noise = jax.random.normal if noise == "normal" else jax.random.uniform

    def noise_for(key: Key, labels: Array) -> Array:
        return draw_noise(cheap(key), (*labels.shape, generator_noise))

    def init(key: Key) -> GeneratorState:
        model = network.init(key)
        return GeneratorState(model, opt.init(model.params))

    def train(key: Key, learner: GeneratorState, lesson: Lesson, shares: Array) -> GeneratorState:
        def step(i: Array, learner: GeneratorState) -> GeneratorState:
            key_labels, key_noise = jax.random.split(jax.random.fold_in(key, i))
            labels = draw_labels(key_labels, shares, generator_batch)

            def loss(params: PyTree) -> tuple[Array, PyTree]:
                model, of_them = learner.model._replace(params=params), noise_for(key_noise, labels)
                return generator_loss(
                    network,
                    model,
                    lesson,
                    (of_them, labels),
                    teacher=teacher,
                    diversity=diversity,
                    student=student,
                )

            grads, stats = jax.grad(loss, has_aux=True)(learner.model.params)
            params, state = stepped(opt, learner.model.params, grads, learner.opt)
            return GeneratorState(Variables(params, stats), state)

        return jax.lax.fori_loop(0, generator_steps, step, learner)

    def draw(key: Key, model: Variables, labels: Array) -> Array:
        return network.apply(model, (noise_for(key, labels), labels))[0]

    return FeatureGenerator(init, train, draw)


@checks_options
def with_generated(
    task: Task,
    generator: FeatureGenerator,
    *,
    alpha: Scalar = 1.0,
    beta: Scalar = 0.0,
    decay: Scalar = 1.0,
    generated: int = 32,
) -> Callable[[Variables, Array, Round], Objective]:
    """The task's loss with generated features: (generator's model, shares, round) -> objective.

        loss(w) + decay^round * (alpha * E_{y ~ shares} CE(head(G(y)), y)
                                 + beta * mean_{(x, y)} KL(head(G(y)) || f(x)))

    The shares are zeros as long as the generator knows nothing; then the task's loss is left.

    Args:
      task: with ``classify``.
      generator: of its features.
      alpha: weight of the labels of generated features, >= 0; 1 in the paper's equation, 10 in the
        runs of the authors' code, times ``generated`` over the batch size.
      beta: weight of what the head says of a feature generated for an example's label, as a target
        for the example, >= 0; not in the paper, 10 in those runs (EMNIST: 1).
      decay: factor on both after each round, in (0, 1]; 0.98 in those runs, but never below 1e-4.
      generated: features drawn for a local step, >= 1.

    Raises:
      ValueError: if a number is out of its range, or the task has no ``classify``.
    """
    classify = classifier(task)

    def objective(model_of: Variables, shares: Array, round: Round) -> Objective:
        weight = jnp.asarray(decay) ** round.number.astype(float)
        weight = jnp.where(shares.sum() > 0, weight, 0)

        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            logits, stats = task.apply(model, batch.x, key)
            supervised = losses.batch_mean(task.example_loss(logits, batch.y), batch)
            key_labels, key_noise = jax.random.split(jax.random.fold_in(key, 1))
            labels = draw_labels(key_labels, shares, generated)
            wanted = jnp.concatenate([labels, batch.y.astype(labels.dtype)])
            seen = classify(model, generator.draw(key_noise, model_of, wanted))
            drawn, alike = seen[:generated], seen[generated:]
            apart = losses.kl_divergence(logits, jax.lax.stop_gradient(alike), scaled=False)
            known = losses.cross_entropy(drawn, labels).mean()
            terms = alpha * known + beta * losses.batch_mean(apart, batch)
            return supervised + weight.astype(terms.dtype) * terms, stats

        return loss

    return objective


def lesson_of(
    task: Task, model: Variables, changes: PyTree, counts: Float[Array, "K L"], present: Array
) -> Lesson:
    """The lesson of clients whose heads are a model's plus ``changes``, leaves ``[K, ...]``."""
    classify = classifier(task)
    rest, own = partition(head(task), model)
    heads = jax.vmap(tree.add, in_axes=(None, 0))(own, changes)

    def teachers(z: Array) -> Array:
        # Each head has a copy: so gradients are summed head by head, and the absent add zeros.
        copies = jnp.broadcast_to(z[None], (len(present), *z.shape))
        return jax.vmap(lambda head, z: classify(combine(rest, head), z))(heads, copies)

    return Lesson(teachers, lambda z: classify(model, z), counts, present)


def draw_labels(key: Key, shares: Float[Array, " L"], count: int) -> Int[Array, " B"]:
    """Labels by their shares, which sum to 1."""
    where = jax.random.uniform(cheap(key), (count,), shares.dtype)
    return (where[:, None] >= jnp.cumsum(shares)[None, :-1]).sum(1, dtype=jnp.int32)


def generator_loss(
    network: Task,
    model: Variables,
    lesson: Lesson,
    given: tuple[Float[Array, "B E"], Int[Array, " B"]],
    *,
    teacher: Teacher = "ensemble",
    diversity: Scalar = 1.0,
    student: Scalar = 0.0,
) -> tuple[Array, PyTree]:
    """``(loss, new stats)`` of a generator on some noise and labels.

    taught + diversity * losses.diversity - student * KL(teachers || student) / L
    """
    noise, labels = given
    # Nothing in the network is random: the key says no more than that it is trained.
    z, stats = network.apply(model, given, jax.random.key(0))
    logits = lesson.teachers(z)
    shares = _shares(lesson, labels, teacher).astype(logits.dtype)
    together = (shares[..., None] * logits).sum(0)
    if teacher == "ensemble":
        taught = losses.cross_entropy(together, labels).mean()
    else:
        each = losses.cross_entropy(logits, jnp.broadcast_to(labels[None], logits.shape[:2]))
        taught = (shares * each).sum(0).mean()
        if teacher == "broadcast":
            taught = (shares.mean(1) * each.mean(1)).sum()
    gap = losses.kl_divergence(lesson.student(z), together, scaled=False).mean()
    spread = losses.diversity(noise, z)
    return taught + diversity * spread - student * gap / logits.shape[-1], stats


def _shares(lesson: Lesson, labels: Int[Array, " B"], teacher: Teacher) -> Float[Array, "K B"]:
    """The weight of each head for each feature; over the heads they sum to 1."""
    if teacher == "ensemble":
        votes = jnp.broadcast_to(lesson.present[:, None], (len(lesson.present), len(labels)))
    else:
        votes = (lesson.counts * lesson.present[:, None])[:, labels]
    return votes / jnp.maximum(votes.sum(0), 1)[None]
