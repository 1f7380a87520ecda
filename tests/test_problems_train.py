"""Several arrays as inputs and targets, trained by a loss of one's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import fedjax_kd as fk


class Two(nnx.Module):
    """A linear model of an image and a row."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.image = nnx.Linear(4, 2, rngs=rngs)
        self.row = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x: Any) -> jax.Array:
        return self.image(x["image"].reshape(-1, 4)) + self.row(x["row"])


def loss(outputs: jax.Array, y: Any) -> jax.Array:
    return (outputs[:, 0] - y["sum"]) ** 2 + (outputs[:, 1] - y["first"]) ** 2


def test_several_arrays_are_trained_with_an_own_loss() -> None:
    rng = np.random.default_rng(0)
    x = {
        "image": rng.integers(0, 256, (120, 2, 2)).astype(np.uint8),
        "row": rng.normal(7, 3, (120, 3)),
    }
    y = {
        "sum": (x["image"].sum((1, 2)) / 100 + x["row"].sum(1)) / 9,
        "first": x["row"][:, 0] / 3,
    }
    parts = [
        jax.tree.map(lambda a, rows=rows: a[rows], (x, y)) for rows in (range(90), range(90, 120))
    ]
    data = fk.from_arrays(*parts[0], *parts[1])
    assert data.problem.name == "none"
    federation = fk.federate(data, fk.IidPartitioner(6))
    task = fk.from_nnx(Two, prepare=federation.prepare, example_loss=loss)
    algorithm = fk.fedavg(task, fk.local_training(client_lr=0.1, batch_size=5, epochs=3))
    result = fk.train(algorithm, federation, num_rounds=8, cohort_size=6, eval_every=8, chunk=6)
    first, last = (result.history[n]["test_loss"] for n in (0, -1))
    assert first > 1
    assert last < 0.02
    outputs = task.apply(result.state.server.model, federation.test.x)[0]
    np.testing.assert_allclose(last, float(jnp.mean(loss(outputs, federation.test.y))), rtol=1e-4)
