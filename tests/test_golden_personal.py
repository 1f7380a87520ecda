"""Golden vectors of methods whose clients have a second model, and what is special about them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import rounds, start, task_of
from test_golden import EXACT, TORCH
from vectors import golden, keys_of

from fedjax_kd import batching
from fedjax_kd.algorithms import apfl, fedala, fml, knnper, pfedme
from fedjax_kd.core import Algorithm, Key, Pool, State, Variables
from fedjax_kd.local import local_training
from fedjax_kd.task import Task

SHARES = {"rtol": 1e-6, "atol": 1e-6}  # votes are float32


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients see their examples in the order in which the vectors hold them."""
    monkeypatch.setattr(batching, "shuffled", lambda seed, positions, size: positions)


def pool_of(*clients: tuple[np.ndarray, np.ndarray]) -> Pool:
    """Clients with these examples ``[N, D]`` and labels ``[N]``."""
    sizes = np.array([len(y) for _, y in clients], np.int32)
    x, y = (np.concatenate(part) for part in zip(*clients, strict=True))
    starts = np.cumsum(sizes, dtype=np.int32) - sizes
    rows = np.arange(len(y), dtype=np.int32)
    return Pool(*map(jnp.asarray, (x.astype(float), y.astype(np.int32), rows, starts, sizes)))


def linear(weights: np.ndarray, bias: np.ndarray) -> Task:
    """Softmax regression from PyTorch's parameters, which are the initial ones."""

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any]:
        return x @ model.params["W"].T + model.params["b"][None], model.stats

    params = {"W": jnp.asarray(weights, float), "b": jnp.asarray(bias, float)}
    return task_of(lambda key: Variables(params), apply)


def with_own(algorithm: Algorithm, **own: np.ndarray) -> State:
    """The first state of one client, whose own model has these parameters."""
    state = start([algorithm], np.zeros(1))
    stacked = {name: jnp.asarray(value, float)[None] for name, value in own.items()}
    return state._replace(clients=(state.clients[0]._replace(params=stacked),))


@pytest.mark.usefixtures("float64", "in_order")
@pytest.mark.parametrize(
    ("key", "parts"), keys_of("apfl_local", r"out_paper_(fixed|adaptive_first|adaptive_every)_W")
)
def test_apfl_of_one_client(key: str, parts: tuple[str]):
    vectors, (how,), name = golden("apfl_local"), parts, key.removesuffix("_W")
    lr, (batches, size, width) = float(vectors["in_lr"]), vectors["in_x"].shape
    algorithm = apfl(
        linear(vectors["in_W"], vectors["in_b"]),
        local_training(client_lr=lr, batch_size=size, steps=batches),
        alpha=float(vectors["in_alpha0"]),
        alpha_lr=0.0 if how == "fixed" else lr,
        adapt="every" if how == "adaptive_every" else "first",
    )
    pool = pool_of((vectors["in_x"].reshape(-1, width), vectors["in_y"].reshape(-1)))
    first = with_own(algorithm, W=vectors["in_V"], b=vectors["in_c"])
    ((state, _),) = rounds(algorithm, pool, [[0]], state=first)
    (own,) = jax.tree.map(lambda a: a[0], state.clients)
    for model, names in ((state.server.model, "Wb"), (own, "Vc")):
        for ours, theirs in zip("Wb", names, strict=True):
            np.testing.assert_allclose(model.params[ours], vectors[f"{name}_{theirs}"], **EXACT)
    (alpha,) = algorithm.traits(state.server, own).values()
    np.testing.assert_allclose(alpha, vectors[f"{name}_alpha"][-1], **EXACT)
    mixed = alpha * vectors[f"{name}_V"] + (1 - alpha) * vectors[f"{name}_W"]
    bias = alpha * vectors[f"{name}_c"] + (1 - alpha) * vectors[f"{name}_b"]
    logits = algorithm.predict(state.server, own, pool.x)
    np.testing.assert_allclose(logits, pool.x @ mixed.T + bias[None], **EXACT)


@pytest.mark.usefixtures("float64", "in_order")
def test_apfl_of_fedjax():
    vectors = golden("apfl_fedjax")
    lr = float(vectors["in_lr"])
    algorithm = apfl(
        linear(vectors["in_W"], vectors["in_b"]),
        local_training(
            client_lr=lr,
            batch_size=int(vectors["in_batch_size"]),
            epochs=int(vectors["in_epochs"]),
            last_batch="wrap",
        ),
        alpha=float(vectors["in_alpha0"]),
        alpha_lr=lr,
        adapt="every",
        variant="fedjax",
        weighting="examples",
        server_lr=float(vectors["in_server_lr"]),
    )
    pool = pool_of(*((vectors[f"in_x{k}"], vectors[f"in_y{k}"]) for k in range(2)))
    for r, (state, _) in enumerate(rounds(algorithm, pool, [[0, 1], [0]])):
        for name, value in state.server.model.params.items():
            np.testing.assert_allclose(value, vectors[f"out_r{r}_{name}"], **SHARES)
        for k in (0, 1) if r == 0 else (0,):
            own, shares = state.clients[0].params, state.clients[0].stats.share
            for name in ("W", "b"):
                at = f"out_r{r}_c{k}"
                np.testing.assert_allclose(own[name][k], vectors[f"{at}_v_{name}"], **SHARES)
                np.testing.assert_allclose(shares[name][k], vectors[f"{at}_alpha_{name}"], **SHARES)


@pytest.mark.usefixtures("float64", "in_order")
def test_pfedme():
    """Three local rounds of five inner steps, with what the authors' code ran with."""
    vectors = golden("pfedme_local")
    local_rounds, size = 3, vectors["in_x"].shape[1]
    algorithm = pfedme(
        linear(vectors["in_W"], vectors["in_b"]),
        local_training(client_lr=0.005, batch_size=size, steps=local_rounds),
        lamb=15.0,
        inner_steps=5,
        inner_lr=0.09,
        decay=0.001,
    )
    x, y = vectors["in_x"][:local_rounds], vectors["in_y"][:local_rounds]
    pool = pool_of((x.reshape(-1, x.shape[-1]), y.reshape(-1)))
    ((state, _),) = rounds(algorithm, pool, [[0]])
    for name, value in state.server.model.params.items():
        np.testing.assert_allclose(value, vectors[f"out_w_{name}"], **TORCH)


@pytest.mark.usefixtures("float64", "in_order")
@pytest.mark.parametrize(("key", "parts"), keys_of("fml_step", r"out_(pfllib_)?local_W"))
def test_fml(key: str, parts: tuple[str | None]):
    vectors, prefix = golden("fml_step"), key.removesuffix("local_W")
    batches, size, width = vectors["in_x"].shape
    algorithm = fml(
        linear(vectors["in_meme_W"], vectors["in_meme_b"]),
        local_training(client_lr=float(vectors["in_lr"]), batch_size=size, steps=batches),
        alpha=float(vectors["in_alpha"]),
        beta=float(vectors["in_beta"]),
        variant="pfllib" if parts[0] else "paper",
    )
    pool = pool_of((vectors["in_x"].reshape(-1, width), vectors["in_y"].reshape(-1)))
    first = with_own(algorithm, W=vectors["in_local_W"], b=vectors["in_local_b"])
    ((state, _),) = rounds(algorithm, pool, [[0]], state=first)
    (own,) = jax.tree.map(lambda a: a[0], state.clients)
    for model, name in ((own, "local"), (state.server.model, "meme")):
        for leaf in ("W", "b"):
            np.testing.assert_allclose(
                model.params[leaf], vectors[f"{prefix}{name}_{leaf}"], **TORCH
            )
    np.testing.assert_array_equal(
        algorithm.predict(state.server, own, pool.x),
        linear(own.params["W"], own.params["b"]).apply(own, pool.x)[0],
    )


@pytest.mark.usefixtures("float64", "in_order")
def test_fml_reports_the_sum_of_both_losses():
    vectors, x = golden("fml_step"), golden("fml_step")["in_x"][0]
    own, divergence, meme, other = vectors["out_first_losses"]
    alpha, beta = float(vectors["in_alpha"]), float(vectors["in_beta"])
    algorithm = fml(
        linear(vectors["in_meme_W"], vectors["in_meme_b"]),
        local_training(client_lr=float(vectors["in_lr"]), batch_size=len(x)),
        alpha=alpha,
        beta=beta,
    )
    first = with_own(algorithm, W=vectors["in_local_W"], b=vectors["in_local_b"])
    pool = pool_of((x, vectors["in_y"][0]))
    ((_, report),) = rounds(algorithm, pool, [[0]], state=first)
    expected = alpha * own + (1 - alpha) * divergence + beta * meme + (1 - beta) * other
    np.testing.assert_allclose(report.metrics["loss"], expected, rtol=1e-5)


def two_layers(params: dict[str, np.ndarray]) -> Task:
    """A network without a nonlinearity, whose head reads ``h``."""

    def features(model: Variables, x: jax.Array, key: Key | None = None) -> jax.Array:
        return x @ model.params["Wb"].T + model.params["bb"][None]

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any]:
        h = features(model, x)
        return h @ model.params["Wh"].T + model.params["bh"][None], model.stats

    width = params["Wb"].shape[1]
    task = task_of(lambda key: Variables(jax.tree.map(jnp.asarray, params)), apply)
    example = jax.ShapeDtypeStruct((1, width), jnp.result_type(float))
    return task._replace(features=features, input_types=example)


NAMES = ("Wb", "bb", "Wh", "bh")


@pytest.mark.usefixtures("float64", "in_order")
@pytest.mark.parametrize(("key", "parts"), keys_of("fedala_step", r"out_(one0|converge0|all0)_Wb"))
def test_fedala(key: str, parts: tuple[str]):
    # Not of "one1": the authors' code leaves a client as it is whose first array is the received
    # one, which is so there and never after local training.
    vectors, (how,) = golden("fedala_step"), parts
    received, own = (
        {n: vectors[f"in_{side}_{n}"].astype(float) for n in NAMES} for side in ("global", "local")
    )
    learnt = NAMES if how == "all0" else NAMES[-int(vectors["in_layer_idx"]) :]
    weights = {n: np.ones_like(own[n]) if n in learnt else None for n in NAMES}
    algorithm = fedala(
        two_layers(received),
        local_training(client_lr=1e-30, batch_size=int(vectors["in_batch_size"])),
        eta=float(vectors["in_eta"]),
        share=1.0,
        merged="all" if how == "all0" else "head",
        threshold=float(vectors["in_threshold"]),
        window=int(vectors["in_num_pre_loss"]),
    )
    pool, state = pool_of((vectors["in_x"], vectors["in_y"])), start([algorithm], np.zeros(1))
    (client,) = state.clients
    kept = client._replace(
        model=Variables(jax.tree.map(lambda a: jnp.asarray(a)[None], own)),
        weights=jax.tree.map(lambda a: jnp.asarray(a)[None], weights),
        started=jnp.array([how != "converge0"]),
    )
    ((state, _),) = rounds(algorithm, pool, [[0]], state=state._replace(clients=(kept,)))
    (after,) = state.clients
    for name in NAMES:
        np.testing.assert_allclose(
            after.model.params[name][0], vectors[f"out_{how}_{name}"], **TORCH
        )
    for i, name in enumerate(learnt):
        np.testing.assert_allclose(after.weights[name][0], vectors[f"out_{how}_w{i}"], **TORCH)
    assert after.started.tolist() == [True]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("stored", [8, 20])
def test_knnper(stored: int):
    """An example is the vectors' features, and their probabilities in place of a model's."""
    vectors = golden("server_rules")
    width, classes = vectors["in_knn_test"].shape[1], vectors["in_knn_model"].shape[1]

    def both(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[Any, Any, Any]:
        return x[:, :width], jnp.log(x[:, width:]), model.stats

    task = task_of(lambda key: Variables(()), lambda v, x, key=None: both(v, x)[1:])
    task = task._replace(
        features=lambda model, x, key=None: x[:, :width],
        features_and_logits=both,
        classify=lambda model, z: z[:, :classes],
        input_types=jax.ShapeDtypeStruct((1, width + classes), jnp.result_type(float)),
    )
    train, labels = vectors["in_knn_train"], vectors["in_knn_labels"]
    data = pool_of((np.pad(train, ((0, 0), (0, classes))), labels)).of(jnp.int32(0))
    x = jnp.concatenate([vectors["in_knn_test"].astype(float), vectors["in_knn_model"]], axis=1)
    algorithm = knnper(
        task,
        local_training(),
        lamb=float(vectors["in_knn_lambda"]),
        k=int(vectors["in_knn_k"]),
        stored=stored,
    )
    server = algorithm.server_init(jax.random.key(0))
    client = algorithm.personalise(jax.random.key(1), server, (), data)
    found = jnp.exp(algorithm.predict(server, client, x))
    np.testing.assert_allclose(found, vectors["out_knn_mixed"], rtol=1e-6)
    alone = knnper(task, local_training(), lamb=1.0, k=int(vectors["in_knn_k"]), stored=stored)
    found = jnp.exp(alone.predict(server, client, x))
    np.testing.assert_allclose(found, vectors["out_knn"], rtol=1e-6)
    np.testing.assert_allclose(found, vectors["out_knn_official"], rtol=1e-6)
