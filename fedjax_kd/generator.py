"""A generator of features of given classes: how heads teach it, and what it teaches (FedGEN)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, Int

from fedjax_kd import losses
from fedjax_kd.core import Batch, Key, PyTree, Round, Scalar, Variables
from fedjax_kd.local import Objective
from fedjax_kd.parts import classifier, head, join, split
from fedjax_kd.prng import cheap
from fedjax_kd.signature import check_range
from fedjax_kd.task import Task, from_nnx

Teacher = Literal["ensemble", "labels", "broadcast"]
Noise = Literal["normal", "uniform"]


class Network(nnx.Module):
    """Noise and a label to features: one hidden layer, normalised, with ReLU."""

    def __init__(self, noise: int, classes: int, width: int, hidden: int, *, rngs: nnx.Rngs):
        self.classes = classes
        # A bias would be normalised away: its gradient is rounding, of which Adam makes steps.
        self.hidden = nnx.Linear(noise + classes, hidden, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(hidden, momentum=0.9, epsilon=1e-5, rngs=rngs)
        self.out = nnx.Linear(hidden, width, rngs=rngs)

    def __call__(self, given: tuple[Float[Array, "B E"], Int[Array, " B"]]) -> Float[Array, "B D"]:
        noise, labels = given
        wanted = jax.nn.one_hot(labels, self.classes, dtype=noise.dtype)
        inputs = jnp.concatenate([noise, wanted], axis=-1)
        return self.out(jax.nn.relu(self.norm(self.hidden(inputs))))


class Lesson(NamedTuple):
    """What a generator learns from: the heads of K models, and what each has seen."""

    teachers: Callable[[Float[Array, "B D"]], Float[Array, "K B L"]]  # features -> logits
    student: Callable[[Float[Array, "B D"]], Float[Array, "B L"]]  # of the model that they had
    counts: Float[Array, "K L"]  # labels
    present: Float[Array, " K"]  # 1 or 0


class Learner(NamedTuple):
    """A generator in training, and its optimiser's state."""

    model: Variables
    opt: Any


class Generator(NamedTuple):
    """A generator's functions, from `feature_generator`."""

    init: Callable[[Key], Learner]
    # (key, learner, lesson, shares of the classes [L]) -> learner
    train: Callable[[Key, Learner, Lesson, Array], Learner]
    # (key, model, labels [B]) -> features [B, D], in evaluation mode
    draw: Callable[[Key, Variables, Array], Array]


def feature_generator(
    width: int,
    classes: int,
    *,
    teacher: Teacher = "ensemble",
    noise: Noise = "normal",
    diversity: Scalar = 1.0,
    student: Scalar = 0.0,
    generator_lr: Scalar = 3e-4,
    generator_decay: Scalar = 1e-2,
    generator_steps: int = 50,
    generator_batch: int = 32,
    generator_hidden: int = 256,
    generator_noise: int = 32,
) -> Generator:
    """A generator of features and its training by Adam.

    Args:
      width: features D.
      classes: L.
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
    losses.check_choice("teacher", teacher, Teacher)
    losses.check_choice("noise", noise, Noise)
    _check(locals())
    network = from_nnx(
        lambda rngs: Network(generator_noise, classes, width, generator_hidden, rngs=rngs)
    )
    opt = optax.chain(optax.add_decayed_weights(generator_decay), optax.adam(generator_lr))
    draw_noise = jax.random.normal if noise == "normal" else jax.random.uniform

    def noise_for(key: Key, labels: Array) -> Array:
        return draw_noise(cheap(key), (*labels.shape, generator_noise))

    def init(key: Key) -> Learner:
        model = network.init(key)
        return Learner(model, opt.init(model.params))

    def train(key: Key, learner: Learner, lesson: Lesson, shares: Array) -> Learner:
        def step(i: Array, learner: Learner) -> Learner:
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
            with jax.numpy_dtype_promotion("standard"):  # optax's Adam needs it
                change, state = opt.update(grads, learner.opt, learner.model.params)
            params = optax.apply_updates(learner.model.params, change)
            return Learner(Variables(params, stats), state)

        return jax.lax.fori_loop(0, generator_steps, step, learner)

    def draw(key: Key, model: Variables, labels: Array) -> Array:
        return network.apply(model, (noise_for(key, labels), labels))[0]

    return Generator(init, train, draw)


def with_generated(
    task: Task,
    generator: Generator,
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
    for name, value in {"alpha": alpha, "beta": beta}.items():
        check_range(name, value, "it weighs generated features.")
    check_range("decay", decay, "it is a factor on their weight after each round.", most=1)
    check_range("generated", generated, "it is a number of features a step.", least=1)
    classify = classifier(task)

    def objective(model_of: Variables, shares: Array, round: Round) -> Objective:
        weight = jnp.asarray(decay) ** round.number.astype(float)
        weight = jnp.where(shares.sum() > 0, weight, 0)

        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            logits, stats = task.apply(model, batch.x, key)
            supervised = losses.batch_mean(task.score(logits, batch.y), batch)
            key_labels, key_drawn, key_alike = jax.random.split(jax.random.fold_in(key, 1), 3)
            labels = draw_labels(key_labels, shares, generated)
            drawn = classify(model, generator.draw(key_drawn, model_of, labels))
            alike = classify(model, generator.draw(key_alike, model_of, batch.y))
            apart = losses.kl_divergence(logits, jax.lax.stop_gradient(alike), scaled=False)
            known = losses.cross_entropy(drawn, labels).mean()
            terms = alpha * known + beta * losses.batch_mean(apart, batch)
            return supervised + weight.astype(terms.dtype) * terms, stats

        return loss

    return objective


def lesson_of(
    task: Task, model: Variables, changes: PyTree, counts: Float[Array, "K L"], present: Array
) -> Lesson:
    """What clients teach whose heads differ by ``changes``, leaves ``[K, ...]``, from a model's."""
    classify = classifier(task)
    rest, own = split(head(task), model)
    heads = jax.tree.map(lambda value, change: value[None] + change, own, changes)
    return Lesson(
        lambda z: jax.vmap(lambda head: classify(join(rest, head), z))(heads),
        lambda z: classify(model, z),
        counts,
        present,
    )


def draw_labels(key: Key, shares: Float[Array, " L"], count: int) -> Int[Array, " B"]:
    """Labels by their shares, which need not sum to 1."""
    return jax.random.categorical(key, jnp.log(shares), shape=(count,)).astype(jnp.int32)


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
    z, stats = network.apply(model, given, jax.random.key(0))
    logits = lesson.teachers(z)
    shares = _shares(lesson, labels, teacher).astype(logits.dtype)
    together = jnp.einsum("kb,kbl->bl", shares, logits)
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
    """How much each head has to say of each feature; over the heads the sum is 1."""
    if teacher == "ensemble":
        votes = jnp.broadcast_to(lesson.present[:, None], (len(lesson.present), len(labels)))
    else:
        votes = (lesson.counts * lesson.present[:, None])[:, labels]
    return votes / jnp.maximum(votes.sum(0), 1)[None]


def _check(given: dict[str, Any]) -> None:
    """Raises ValueError if a number of a generator is out of its range."""
    for name in ("diversity", "student", "generator_lr", "generator_decay"):
        check_range(name, given[name], "it is a weight or a rate of the generator's training.")
    for name in ("generator_steps", "generator_hidden", "generator_noise"):
        check_range(name, given[name], "it is a number of steps, units or numbers.", least=1)
    advice = "batch normalisation makes all features of a batch of one the same."
    check_range("generator_batch", given["generator_batch"], advice, least=2)
