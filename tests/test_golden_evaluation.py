"""Golden vectors of FedPAV: votes by distance, their average, and what a student is to see."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from federations import in_round, task_of
from vectors import golden

from fedjax_kd import tree
from fedjax_kd.algorithms import fedpav
from fedjax_kd.components.feature_distillation import mean_features
from fedjax_kd.core import Data, Key, Variables
from fedjax_kd.local import Fit, Fitted

CLOSE = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32


def linear(vectors: dict[str, np.ndarray], name: str) -> dict[str, jax.Array]:
    """A dense layer of the vectors, which store kernels as PyTorch does."""
    kernel, bias = (np.float32(vectors[f"in_{name}_{part}"]) for part in ("W", "b"))
    return {"w": jnp.asarray(kernel.T), "b": jnp.asarray(bias)}


def two_layers(start: Variables) -> Any:
    """A body and a head that are linear."""

    def features(model: Variables, x: jax.Array, key: Key | None = None) -> jax.Array:
        return x @ model.params["body"]["w"] + model.params["body"]["b"][None]

    def apply(model: Variables, x: jax.Array, key: Key | None = None) -> tuple[jax.Array, Any]:
        head = model.params["head"]
        return features(model, x) @ head["w"] + head["b"][None], ()

    width = start.params["body"]["w"].shape[0]
    example = jax.ShapeDtypeStruct((1, width), jnp.float32)
    return task_of(lambda key: start, apply)._replace(features=features, input_types=example)


def test_golden_distance_and_whose_vote_it_is():
    known = golden("fedreid_cdw")
    x = jnp.asarray(known["in_x_batch0"], jnp.float32)
    old = Variables({"body": linear(known, "old"), "head": linear(known, "oldclf")})
    new = Variables({"body": linear(known, "new0"), "head": linear(known, "new1")})

    def trained(*args: Any) -> Fitted:
        return Fitted(new, jnp.float32(0), jnp.int32(1), jnp.float32(1))

    fit = Fit(trained, lambda sizes, *_: sizes, batch_size=len(x))
    algorithm = fedpav(two_layers(old), fit, weighting="distance")
    server = algorithm.server_init(jax.random.key(0))
    own = algorithm.client_init(jax.random.key(0), server)
    received = algorithm.broadcast(server, jnp.int32(0), in_round())
    data = Data.all_of(x, jnp.zeros(len(x), jnp.int32))
    upload, _ = algorithm.client_update(jax.random.key(1), received, own, data, in_round())
    np.testing.assert_allclose(upload.weight, known["out_cdw"], **CLOSE)


def test_golden_average():
    known = golden("fedreid_cdw")
    models = [linear(known, f"m{k}") for k in range(len(known["in_weights"]))]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    found = tree.weighted_mean(stacked, jnp.asarray(known["in_weights"], jnp.float32))
    np.testing.assert_allclose(found["w"].T, known["out_agg_W"], **CLOSE)
    np.testing.assert_allclose(found["b"], known["out_agg_b"], **CLOSE)


def test_golden_features_of_teachers():
    known = golden("fedreid_cdw")
    seen = jnp.asarray(known["in_feat"], jnp.float32)[None]
    for normalise, name in ((False, "out_soft_label"), (True, "out_soft_label_reg")):
        found = mean_features(seen, jnp.ones(1), normalise=normalise)
        np.testing.assert_allclose(found, known[name], **CLOSE)
