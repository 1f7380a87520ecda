"""Golden vectors of methods of which a part of the model stays at home."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import play, task_of
from precise import arrays, close
from two_layers import two_layers
from vectors import keys_of

from fedjax_kd import batching
from fedjax_kd.algorithms import fedbabu, fedloge
from fedjax_kd.algorithms.fedavg import GlobalModel
from fedjax_kd.components import simplex
from fedjax_kd.components.anchored import Adapted, Anchored
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Data, Pool, State, Variables
from fedjax_kd.local import local_training
from fedjax_kd.task import Task

pytestmark = pytest.mark.usefixtures("float64", "in_order")


@pytest.fixture
def in_order() -> Iterator[None]:
    """Batches of examples as they lie, as the vectors were made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "shuffled", lambda seed, positions, size: positions)
        yield


def pool_of(xs: list[np.ndarray], ys: list[np.ndarray]) -> Pool:
    """Clients of batches ``[S, B, ...]`` each."""
    flat = [x.reshape(-1, *x.shape[2:]) for x in xs]
    sizes = np.array([len(x) for x in flat], np.int32)
    rows, starts = np.arange(sizes.sum(), dtype=np.int32), (np.cumsum(sizes) - sizes)
    owned = (jnp.asarray(a, jnp.int32) for a in (rows, starts, sizes))
    labels = np.concatenate([y.reshape(-1) for y in ys]).astype(np.int32)
    return Pool(jnp.asarray(np.concatenate(flat)), jnp.asarray(labels), *owned)


def babu(vectors: dict[str, np.ndarray], **options: Any) -> Algorithm:
    """FedBABU as these vectors were made."""
    fit = local_training(
        client_lr=float(vectors["in_lr"]),
        client_momentum=float(vectors["in_momentum"]),
        weight_decay=float(vectors["in_wd"]),
        batch_size=vectors["in_x0"].shape[1],
        epochs=int(vectors["in_epochs"]),
    )
    return fedbabu(two_layers(vectors, "Wh", "bh"), fit, **options)


def babu_round(cohort: list[int], **options: Any) -> tuple[Algorithm, State]:
    """The state after a round with these clients."""
    vectors = arrays("fedbabu_round")
    algorithm = babu(vectors, weighting="uniform", **options)
    pool = pool_of(*([vectors[f"in_{name}{k}"] for k in (0, 1)] for name in "xy"))
    return algorithm, play(algorithm, pool, [cohort])[0]


@pytest.mark.parametrize(
    ("part", "cohort"), [("c0", [0]), ("c1", [1]), ("global", [0, 1])], ids=["0", "1", "both"]
)
def test_fedbabu_round(part: str, cohort: list[int]):
    vectors = arrays("fedbabu_round")
    _, state = babu_round(cohort)
    own = jax.tree.map(lambda a: a[cohort[0]], state.clients[0])
    whole = combine(own, state.server.base.model).params
    for name, weight in whole.items():
        close(weight, vectors[f"out_{part}_{name}"])
    for name in ("Wh", "bh"):
        np.testing.assert_array_equal(whole[name], vectors[f"in_{name}"])


@pytest.mark.parametrize(("key", "parts"), keys_of("fedbabu_round", r"out_ft_head_(\w+)"))
def test_fedbabu_is_tuned_before_evaluation(key: str, parts: tuple[str]):
    vectors = arrays("fedbabu_round")
    algorithm, state = babu_round([0], tune_epochs=1, tunes="head")
    x, y = (vectors[f"in_ft_{name}"] for name in "xy")
    data = Data.all_of(jnp.asarray(x.reshape(-1, x.shape[-1])), jnp.asarray(y.reshape(-1)))
    own = jax.tree.map(lambda a: a[0], state.clients[0])
    tuned = algorithm.personalise(jax.random.key(0), state.server, own, data)
    close(tuned.params[parts[0]], vectors[key])


SSE_NORM, SSE_STEPS = 0.1, 10000  # of the authors' code, as the optimisation's steps of 1e-4


def test_simplex_frame():
    vectors = arrays("fedloge_etf")
    frame = simplex.simplex_frame(jnp.asarray(vectors["in_a"]))
    close(frame, vectors["out_M"])
    close(frame.T @ frame, vectors["out_gram"])


def test_sparse_frame():
    vectors = arrays("fedloge_etf")
    mask = np.ones(vectors["in_a"].size)
    mask[vectors["in_zero_idx"]] = 0
    mask = mask.reshape(vectors["in_a"].shape)
    np.testing.assert_array_equal(mask, vectors["out_mask"])
    frame = simplex.simplex_frame(jnp.asarray(vectors["in_a"]))
    run = jax.jit(lambda *given: simplex.spread_out(*given, SSE_NORM, SSE_STEPS))
    sparse = np.asarray(run(frame, jnp.asarray(mask)))
    close(sparse, vectors["out_sse_c"], atol=5e-3)  # by float32 there
    lengths = np.linalg.norm(sparse, axis=0)
    close(lengths, vectors["out_sse_norms"], atol=5e-3)
    cosines = (sparse / lengths).T @ (sparse / lengths)
    close(cosines, vectors["out_sse_cos"], atol=2e-2)


def head_alone(shape: tuple[int, int]) -> Task:
    """A linear head, whose features are the inputs."""

    def classify(model: Variables, x: jax.Array) -> jax.Array:
        return x @ model.params["w"].T + model.params["b"][None]

    def init(key: jax.Array) -> Variables:
        return Variables({"w": jnp.zeros(shape), "b": jnp.zeros(shape[:1])})

    def both(model: Variables, x: jax.Array, key: Any = None) -> tuple[Any, Any, Any]:
        return x, classify(model, x), model.stats

    task = task_of(init, lambda *given: both(*given)[1:])
    types = jax.ShapeDtypeStruct((2, shape[1]), float)
    return task._replace(features_and_logits=both, classify=classify, input_types=types)


def test_fedloge_realigns_both_heads():
    vectors = arrays("fedloge_etf")
    generic, own = vectors["in_g_head"], vectors["in_l_head"]
    bias, its = np.arange(len(own)) + 1.0, np.arange(len(own)) - 7.0
    task = head_alone(own.shape)
    algorithm = fedloge(task, local_training(client_lr=0.1), variant="code")
    model = Variables({"w": jnp.asarray(generic), "b": jnp.asarray(bias)})
    server = Anchored(GlobalModel(model, ()), jnp.zeros(own.shape).T)
    each = jnp.eye(own.shape[1])
    found = algorithm.predict(server, algorithm.client_init(jax.random.key(0), server), each)
    close(found, vectors["out_glafr_global"].T + bias)
    head = Variables({"w": jnp.asarray(own), "b": jnp.asarray(its)})
    client = Adapted(head, jnp.ones(len(own), bool))
    found = algorithm.predict(server, client, each)
    close(found, (vectors["out_glafr_local"] + own).T + bias + its)
