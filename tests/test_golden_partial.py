"""Golden vectors of methods of which a part of the model stays at home."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import play
from precise import arrays, close
from two_layers import two_layers
from vectors import keys_of

from fedjax_kd import batching
from fedjax_kd.algorithms import fedbabu
from fedjax_kd.components.model_parts import combine
from fedjax_kd.core import Algorithm, Data, Pool, State
from fedjax_kd.local import local_training

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
