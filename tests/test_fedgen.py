"""FedGEN: the authors' numbers of both sides, what the generator learns, and of whom."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import SIZES, federation, gap, logistic, rounds, task_of
from flax import nnx
from vectors import golden

from fedjax_kd import tree
from fedjax_kd.algorithms import fedavg, fedgen
from fedjax_kd.components import generator
from fedjax_kd.components.feature_network import generator_network
from fedjax_kd.components.generator import (
    FeatureGenerator,
    GeneratorState,
    Lesson,
    draw_labels,
    feature_generator,
)
from fedjax_kd.components.model_parts import nonempty_head, partition
from fedjax_kd.core import Batch, Key, Round, Variables
from fedjax_kd.local import local_training
from fedjax_kd.losses.objectives import gradient
from fedjax_kd.task import from_nnx

KEY = jax.random.key(3)
TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
CLIENT = {"alpha": 10.0, "beta": 10.0, "decay": 0.98}
FIT = local_training(client_lr=0.1, batch_size=4)
SMALL: dict[str, int] = {
    "generated": 4,
    "generator_steps": 2,
    "generator_batch": 4,
    "generator_hidden": 4,
    "generator_noise": 2,
}


def arrays(name: str) -> dict[str, jax.Array]:
    """The arrays of one file, wide."""
    kinds = {"f": np.float64, "i": np.int32}
    return {k: jnp.asarray(v.astype(kinds[v.dtype.kind])) for k, v in golden(name).items()}


def parameters(vectors: dict[str, jax.Array], prefix: str) -> dict[str, Any]:
    """A generator's parameters in this project's names; its first bias is normalised away."""
    first, size = vectors[f"{prefix}fc_layers.0.weight"].T, vectors["in_eps"].shape[1]
    names = ("fc_layers.1.weight", "fc_layers.1.bias", "representation_layer.bias")
    scale, shift, bias = (vectors[prefix + name] for name in names)
    return {
        "noise": {"kernel": first[:size]},
        "label": {"embedding": first[size:]},
        "norm": {"scale": scale, "bias": shift},
        "out": {"kernel": vectors[f"{prefix}representation_layer.weight"].T, "bias": bias},
    }


def lesson(vectors: dict[str, jax.Array]) -> Lesson:
    """Three heads and a student, each a linear layer."""

    def linear(name: str, z: jax.Array) -> jax.Array:
        return z @ vectors[f"in_{name}_W"].T + vectors[f"in_{name}_b"][None]

    return Lesson(
        lambda z: jnp.stack([linear(f"user{k}", z) for k in range(3)]),
        partial(linear, "student"),
        vectors["in_label_counts"].astype(float),
        jnp.ones(3),
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("beta", [0, 1])
def test_golden_server(beta: int, monkeypatch: pytest.MonkeyPatch):
    """The authors' loss of the generator and its gradient on their noise, and a step."""
    vectors = arrays("fedgen_server")
    y, noise = vectors["in_y"], vectors["in_eps"]
    monkeypatch.setattr(generator, "draw_labels", lambda key, shares, count: y)
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape: noise)
    sizes = {"generator_steps": 1, "generator_hidden": 12, "generator_noise": 5}
    ours = feature_generator(6, 4, teacher="broadcast", noise="uniform", student=beta, **sizes)
    params, teaching = parameters(vectors, "in_gen_"), lesson(vectors)
    network = generator_network(5, 4, 12, 6)
    stats = {"norm": {"mean": jnp.zeros(12), "var": jnp.ones(12)}}

    def loss(params: Any, **options: Any) -> tuple[jax.Array, Any]:
        given = network, Variables(params, stats), teaching, (noise, y)
        return generator.generator_loss(*given, **options)

    @jax.jit
    def everything(params: Any) -> Any:
        weights = {"teacher": "broadcast", "student": beta}
        step = jax.value_and_grad(partial(loss, **weights), has_aux=True)(params)
        opt = jax.tree.map(lambda a: a.astype(float) if a.ndim else a, ours.init(KEY).opt)
        learner = GeneratorState(Variables(params, stats), opt)
        trained = ours.train(KEY, learner, teaching, jnp.ones(4)).model
        z, _ = network.apply(learner.model, (noise, y), KEY)
        intended, _ = loss(params, teacher="labels", diversity=0.0)
        return *step, trained, z, intended, generator._shares(teaching, jnp.arange(4), "labels")

    with jax.numpy_dtype_promotion("standard"):  # Flax's layers are not strict in float64
        (value, _), grads, trained, z, intended, shares = everything(params)
    np.testing.assert_allclose(value, vectors[f"out_total_beta{beta}"], **TORCH)
    expected = parameters(vectors, f"out_grad_beta{beta}_")
    assert gap(grads, expected) < 1e-6
    # The file's steps are its unchanged parameters: Adam's first step is that of a sign.
    decayed = jax.tree.map(lambda w, g: g + 1e-2 * w, params, expected)
    stepped = jax.tree.map(lambda w, g: w - 3e-4 * g / (abs(g) + 1e-8), params, decayed)
    assert gap(trained.params, stepped) < 1e-6
    np.testing.assert_allclose(z, vectors["out_z"], **TORCH)
    np.testing.assert_allclose(intended, vectors["out_teacher_intended_persample"], **TORCH)
    np.testing.assert_allclose(shares.T, vectors["out_label_weights"], **TORCH)


@pytest.mark.usefixtures("float64")
def test_golden_client(monkeypatch: pytest.MonkeyPatch):
    """The authors' local loss on their generated features."""
    vectors = arrays("fedgen_client")

    def dense(model: Variables, name: str, x: jax.Array) -> jax.Array:
        weight, bias = (model.params[f"{name}.{kind}"] for kind in ("weight", "bias"))
        return x @ weight.T + bias[None]

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[jax.Array, Any]:
        return dense(model, "fc", jax.nn.relu(dense(model, "body", x))), model.stats

    monkeypatch.setattr(generator, "draw_labels", lambda *given: vectors["in_sampled_y"])
    task = task_of(lambda key: Variables(()), apply)
    task = task._replace(classify=lambda model, z: dense(model, "fc", z))
    drawn = jnp.concatenate([vectors["in_z_sampled"], vectors["in_z_same"]])
    theirs = FeatureGenerator(lambda key: None, lambda *given: None, lambda *given: drawn)
    objective = generator.with_generated(task, theirs, generated=8, **CLIENT)
    number = vectors["in_glob_iter"]
    round = Round(number, jnp.zeros(1, int), jnp.ones(1), jnp.ones(1), 1, None)
    names = [f"{layer}.{kind}" for layer in ("body", "fc") for kind in ("weight", "bias")]
    model = Variables({name: vectors[f"in_model_{name}"] for name in names})
    batch = Batch(vectors["in_X"], vectors["in_y"], jnp.ones(8))
    at = Variables(()), jnp.ones(4), round
    loss = jax.jit(lambda shares: gradient(objective(at[0], shares, round), model, batch, KEY)[0])
    np.testing.assert_allclose(loss(jnp.ones(4)), vectors["out_loss"], **TORCH)
    np.testing.assert_allclose(loss(jnp.zeros(4)), vectors["out_ce"], **TORCH)


def test_a_generator_learns_what_heads_agree_on():
    """Features of the asked class, in evaluation mode, though the clients see them nowhere."""
    heads = jax.random.normal(jax.random.key(0), (1, 5, 3)) + 0.1 * jax.random.normal(
        jax.random.key(1), (4, 5, 3)
    )

    def teachers(z: jax.Array) -> jax.Array:
        return jnp.einsum("bd,kdl->kbl", z, heads)

    ours = feature_generator(5, 3, generator_lr=0.01, generator_steps=200, generator_hidden=16)
    taught = Lesson(teachers, lambda z: teachers(z)[0], jnp.ones((4, 3)), jnp.ones(4))
    labels = jnp.arange(60, dtype=jnp.int32) % 3

    @jax.jit
    def right(key: Key) -> tuple[jax.Array, jax.Array]:
        begun = ours.init(key)
        learnt = ours.train(key, begun, taught, jnp.ones(3) / 3)
        drawn = [ours.draw(KEY, learner.model, labels) for learner in (begun, learnt)]
        before, after = (teachers(z).sum(0).argmax(-1) == labels for z in drawn)
        return before.mean(), after.mean(), drawn[1].std(0).min()

    before, after, spread = right(jax.random.key(5))
    assert before < 0.9
    assert after > 0.95
    assert spread > 0.1


def test_labels_are_drawn_by_their_shares():
    shares = jnp.array([0.0, 0.7, 0.0, 0.3, 0.0])
    drawn = np.bincount(draw_labels(KEY, shares, 2000), minlength=5)
    np.testing.assert_array_equal(drawn[[0, 2, 4]], 0)
    assert abs(drawn[1] / 2000 - 0.7) < 0.05


def test_shares_are_those_of_the_cohort_and_nothing_is_generated_before():
    pool, task = federation().train, logistic(hidden=2)
    ((first, _), (second, _)), (plain, other) = (
        rounds(algorithm, pool, [(3, 5), (2,)])
        for algorithm in (fedgen(task, FIT, alpha=5.0, **SMALL), fedavg(task, FIT))
    )
    assert gap(first.server.base.model, plain[0].server.model) < 1e-6
    assert gap(second.server.base.model, other[0].server.model) > 1e-3
    ends = np.cumsum([0, *SIZES])
    own = [np.asarray(pool.y)[ends[k] : ends[k + 1]] for k in (3, 5)]
    held = np.bincount(np.concatenate(own), minlength=3)
    np.testing.assert_allclose(first.server.shares, held / held.sum(), rtol=1e-6)
    assert float(second.server.shares.max()) == 1, "one example has one label"


def test_held_labels_are_as_likely():
    task, given = logistic(hidden=2), SMALL | {"generator_steps": 1}
    algorithm = fedgen(task, FIT, labels="held", **given)
    server = algorithm.server_init(KEY)
    body, head = partition(nonempty_head(task), server.base.model)
    heads = jax.tree.map(lambda a: jnp.zeros((2, *a.shape)), head)
    counts = jnp.array([[0.0, 4.0, 1.0], [0.0, 9.0, 0.0]])
    round = Round(jnp.int32(0), jnp.arange(2), jnp.ones(2), jnp.ones(2), 2, None)
    update = (tree.zeros_like(body), heads, counts)
    after = jax.jit(lambda server: algorithm.server_update(KEY, server, update, round))(server)
    np.testing.assert_allclose(after.shares, [0, 0.5, 0.5])
    assert gap(after.base, server.base) == 0
    assert gap(after.generator.model, server.generator.model) > 0


WRONG = [
    ({"alpha": -1.0}, "alpha is -1.0, but must be >= 0"),
    ({"beta": -1.0}, "beta is -1.0"),
    ({"decay": 1.5}, r"decay is 1.5, but must be in \(0, 1\]"),
    ({"labels": "all"}, "labels is 'all', but must be one of counts, held"),
    ({"generated": 0}, "generated is 0"),
    ({"teacher": "mean"}, "teacher is 'mean', but must be one of ensemble, labels, broadcast"),
    ({"noise": "laplace"}, "noise is 'laplace'"),
    ({"diversity": -1.0}, "diversity is -1.0"),
    ({"generator_steps": 0}, "generator_steps is 0"),
    ({"generator_batch": 1}, "generator_batch is 1, but must be >= 2"),
]


@pytest.mark.parametrize(("wrong", "message"), WRONG)
def test_options_out_of_range(wrong: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        fedgen(logistic(2), FIT, **wrong)


def test_tasks_without_features():
    task, linear = logistic(2), lambda rngs: nnx.Linear(4, 3, rngs=rngs)
    with pytest.raises(TypeError, match="Linear has no method 'features'"):
        fedgen(from_nnx(linear, example_x=federation().train.x[:1]), FIT)
    with pytest.raises(ValueError, match="does not know the shape of its examples"):
        fedgen(task._replace(input_types=None), FIT)
    with pytest.raises(ValueError, match="does not give logits of features"):
        fedgen(task._replace(classify=None), FIT)
