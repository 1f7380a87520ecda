"""Classifier calibration with virtual representations (CCVR), around any algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from fedjax_kd import losses, tree
from fedjax_kd.batching import draw, over_rows
from fedjax_kd.components import class_statistics
from fedjax_kd.components.class_statistics import Moments
from fedjax_kd.components.model_parts import (
    classifier,
    combine,
    head_types,
    models_like,
    nonempty_head,
    partition,
)
from fedjax_kd.components.sharp_edges import checked_too
from fedjax_kd.core import (
    Algorithm,
    Batch,
    Client,
    Data,
    Key,
    Message,
    Plan,
    PyTree,
    Round,
    Scalar,
    Server,
    Upload,
    Variables,
    Wire,
    stack,
    total,
)
from fedjax_kd.errors import InputError
from fedjax_kd.local import stepped
from fedjax_kd.options import check_choice, checks_options
from fedjax_kd.task import Task
from fedjax_kd.wrappers._beside import Beside, beside_server, wire_of

Shares = Literal["counts", "equal"]

ModelOf = Callable[[Server], Variables]
WithModel = Callable[[Server, Variables], Server]


class Received(NamedTuple):
    """What the algorithm sends down, and the model where that does not hold it."""

    base: Message
    model: Variables | tuple[()]


class WithMoments(NamedTuple):
    """What the algorithm's clients send up, and the moments of their features."""

    base: Message
    features: Moments


class Retraining(NamedTuple):
    """How the head is trained on virtual features."""

    virtual: int
    shares: Shares
    tukey: Scalar | None
    lr: Scalar
    momentum: Scalar
    epochs: int
    batch: int


@checks_options
def with_ccvr(
    algorithm: Algorithm,
    task: Task,
    *,
    after: int = 99,
    virtual: int = 200,
    shares: Shares = "counts",
    tukey: Scalar | None = None,
    head_lr: Scalar = 0.01,
    head_momentum: Scalar = 0.9,
    head_epochs: int = 10,
    head_batch: int = 64,
    model_of: ModelOf | None = None,
    with_model: WithModel | None = None,
) -> Algorithm:
    """``after`` rounds of an algorithm, then calibration of its global model's head.

    In a round of calibration the algorithm rests, and no client trains or changes. Clients send the
    moments of each class's features, of the model in evaluation mode on inputs without
    augmentation; the server pools them, exactly, draws virtual features, and trains the head alone
    on these. Each further round calibrates once more, by all that was described so far: whoever is
    in two of these cohorts counts twice.

    Args:
      algorithm: whose server holds a global model.
      task: its model.
      after: rounds of the algorithm before the calibration, >= 0; 99 calibrates in the last of 100.
      virtual: virtual features of each class, >= 1; the paper draws 100 (CIFAR-10) to 1000.
      shares: classes weigh by their examples ("counts", as N_c / N features of each would) or all
        alike ("equal").
      tukey: exponent in (0, 1] under which features are taken for Gaussian, sign(z) |z|^tukey; the
        paper has 0.5 for features after a ReLU. As they are if not given.
      head_lr: learning rate of the head, >= 0.
      head_momentum: its momentum, in [0, 1).
      head_epochs: passes over the virtual features, >= 1.
      head_batch: virtual features in a batch, >= 1.
      model_of: server -> its global model; by default found by its shapes.
      with_model: (server, model) -> the server with that model in place of its own.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if a number is out of its range, ``shares`` is unknown, the task cannot tell its
        head, or the global model is not found.
    """
    how = Retraining(virtual, shares, tukey, head_lr, head_momentum, head_epochs, head_batch)
    check_choice("shares", shares, Shares)
    nonempty_head(task)
    features, logits = head_types(task)
    empty = class_statistics.nothing(logits.shape[-1], features.shape[-1], features.dtype)
    read, write, within = _places(algorithm, task, model_of, with_model)

    base = beside_server(algorithm, lambda key, server: empty)

    def edge(plan: Plan) -> str | None:
        if plan.num_rounds > after:
            return None
        return (
            f"after is {after} and num_rounds {plan.num_rounds}, so that there is no round of "
            f"calibration: take after={plan.num_rounds - 1} for one, the last."
        )

    def broadcast(server: Beside, number: Array, round: Round) -> Received:
        message = algorithm.broadcast(server.base, number, round)
        return Received(message, () if within else read(server.base))

    def client_update(
        key: Key, received: Received, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        def learn() -> tuple[Upload, Client]:
            upload, new = algorithm.client_update(key, received.base, client, data, round)
            sent = WithMoments(upload.message, empty)
            weight = jnp.asarray(upload.weight, jnp.float32)
            wire = _counted(wire_of(received.base, upload))
            return Upload(sent, weight, upload.metrics, wire), new

        def describe() -> tuple[Upload, Client]:
            resting, _ = tree.zeros_like(jax.eval_shape(learn))
            model: Any = within(received.base) if within else received.model
            found, loss = _described(task, model, data, empty, tukey)
            message, metrics = resting.message._replace(features=found), resting.metrics
            if "loss" in metrics:
                metrics = metrics | {"loss": loss.astype(metrics["loss"].dtype)}
            wire = _counted(Wire(up=tree.num_bytes(found), down=tree.num_bytes(model)))
            return Upload(message, data.size.astype(jnp.float32), metrics, wire), client

        # The round's number is the same for all clients, so that only one branch runs.
        return jax.lax.cond(round.number < after, learn, describe)

    def server_update(key: Key, server: Beside, update: WithMoments, round: Round) -> Beside:
        def calibrate() -> Beside:
            everyone = class_statistics.pooled(*update.features)
            known = class_statistics.merged(server.extra, everyone)
            model = retrained(key, task, read(server.base), known, how)
            return Beside(write(server.base, model), known)

        def go_on() -> Beside:
            return base.server_update(key, server, update.base, round)

        return jax.lax.cond(round.number < after, go_on, calibrate)

    return base._replace(
        needs_classes="CCVR calibrates a classifier",
        broadcast=broadcast,
        client_update=client_update,
        aggregate=WithMoments(algorithm.aggregate, Moments._make((stack, stack, total))),
        server_update=server_update,
        check=checked_too(algorithm, edge),
    )


def virtual_features(
    key: Key, of: Moments, count: int, tukey: Scalar | None = None
) -> Float[Array, "L V D"]:
    """Draws from a Gaussian of each class's mean and covariance, and brings them back."""
    noise = jax.random.normal(key, (len(of.means), count, of.means.shape[-1]), of.means.dtype)
    roots = class_statistics.square_roots(class_statistics.covariances(of))
    exact = jax.lax.Precision.HIGHEST
    drawn = of.means[:, None] + jnp.einsum("lvd,lde->lve", noise, roots, precision=exact)
    return drawn if tukey is None else _power(drawn, 1 / tukey)


def retrained(key: Key, task: Task, model: Variables, of: Moments, how: Retraining) -> Variables:
    """The model, its head trained on virtual features; classes with fewer than two have none."""
    key_features, key_order = jax.random.split(key)
    drawn = virtual_features(key_features, of, how.virtual, how.tukey)
    z = drawn.reshape(-1, drawn.shape[-1])
    y = jnp.repeat(jnp.arange(len(drawn), dtype=jnp.int32), how.virtual)
    share = of.counts if how.shares == "counts" else jnp.ones_like(of.counts)
    share = jnp.where(of.counts > 1, share, 0)
    weights = share * len(share) / jnp.maximum(share.sum(), 1)
    classify, (rest, own) = classifier(task), partition(nonempty_head(task), model)
    opt = optax.sgd(how.lr, how.momentum)
    seed = jax.random.bits(key_order, dtype=jnp.uint32)

    def loss(params: PyTree, rows: Array) -> Array:
        logits = classify(combine(rest, own._replace(params=params)), z[rows])
        return (losses.cross_entropy(logits, y[rows]) * weights[y[rows]]).mean()

    def step(i: Array, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        params, state = carry
        rows, _ = draw(seed, jnp.asarray(i), jnp.int32(len(z)), how.batch, "wrap")
        return stepped(opt, params, jax.grad(loss)(params, rows), state)

    steps = -(-len(z) * how.epochs // how.batch)
    params, _ = jax.lax.fori_loop(0, steps, step, (own.params, opt.init(own.params)))
    return combine(rest, own._replace(params=params))


def _described(
    task: Task, model: Variables, data: Data, empty: Moments, tukey: Scalar | None
) -> tuple[Moments, Array]:
    """The moments of a client's features, and the model's mean loss."""
    classify = classifier(task)

    def add(carry: tuple[Moments, Array], batch: Batch, _: Array) -> tuple[Moments, Array]:
        z = task.features(model, batch.x)
        z, y = z.reshape(-1, z.shape[-1]), batch.y.reshape(-1)
        weights = losses.label_weights(batch.y, batch.mask).reshape(-1).astype(z.dtype)
        values = losses.cross_entropy(classify(model, z), y).astype(z.dtype)
        seen = z if tukey is None else _power(z, tukey)
        found = class_statistics.moments(seen, y, weights, len(empty.counts))
        return class_statistics.merged(carry[0], found), carry[1] + (values * weights).sum()

    start = empty, jnp.zeros((), empty.counts.dtype)
    found, loss = over_rows(data, class_statistics.AT_ONCE, add, start)
    return found, loss / jnp.maximum(found.counts.sum(), 1)


def _power(z: Array, exponent: Scalar) -> Array:
    """Tukey's transformation, odd, so that negative values have one, too."""
    return jnp.sign(z) * jnp.abs(z) ** jnp.asarray(exponent, z.dtype)


def _counted(wire: Wire) -> Wire:
    """Bytes as arrays of one type, whichever branch they come from."""
    return Wire(*(jnp.asarray(size, jnp.int32) for size in wire))


def _places(
    algorithm: Algorithm, task: Task, model_of: ModelOf | None, with_model: WithModel | None
) -> tuple[ModelOf, WithModel, Callable[[Message], Variables] | None]:
    """Where the model is: read and written in the server's state, read in what clients receive."""
    if (model_of is None) != (with_model is None):
        raise InputError("Of `model_of` and `with_model` one alone is given: give both or neither.")
    key = jax.random.key(0)
    server = jax.eval_shape(algorithm.server_init, key)
    models, put = models_like(jax.eval_shape(task.init, key))
    if model_of is None and len(models(server)) != 1:
        raise InputError(
            f"The server of this algorithm holds {len(models(server))} models of the task's "
            "shapes, but CCVR calibrates one: say which by `model_of` and `with_model`."
        )
    nowhere = Round(jnp.int32(0), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones(1), 1, None)
    message = jax.eval_shape(lambda s: algorithm.broadcast(s, jnp.int32(0), nowhere), server)
    sent = models(message)
    within = (lambda message: models(message)[0]) if len(sent) == 1 else None
    return model_of or (lambda server: models(server)[0]), with_model or put, within
