"""Networks and options that HeteroFL refuses."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from federations import logistic
from flax import nnx

from fedjax_kd.algorithms import heterofl
from fedjax_kd.errors import InputError
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.task import Task, from_nnx


class Gated(nnx.Module):
    """A network whose hidden units put out a half where they have no parameters."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.hidden, self.head = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)

    def features(self, x: jax.Array) -> jax.Array:
        return nnx.sigmoid(self.hidden(x))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))


def of_model(name: str, shape: tuple[int, ...], dtype: Any = jnp.float32, **options: Any) -> Task:
    return from_nnx(MODELS[name](shape, 10, **options), example_x=jnp.zeros((1, *shape), dtype))


class TwoLayers(Gated):
    """A network whose head has a layer of its own units."""

    def features(self, x: jax.Array) -> jax.Array:
        return x

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(nnx.relu(self.hidden(x)))


REFUSED: dict[str, tuple[Any, str]] = {
    "head": (lambda: from_nnx(TwoLayers, example_x=jnp.zeros((1, 4))), "last layer"),
    "sigmoid": (lambda: from_nnx(Gated, example_x=jnp.zeros((1, 4))), "ReLU"),
    "group": (lambda: of_model("resnet8", (8, 8, 3), norm="group"), "batch normalisation"),
    "lstm": (lambda: of_model("char_lstm", (5,), jnp.int32), "LSTM"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_cannot_be_cut(name: str):
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        heterofl(make(), local_training(client_lr=0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": ()}, "no rates"),
        ({"rates": (1.0, 0.0)}, "rates"),
        ({"absent": "gone"}, "absent"),
        ({"assignment": "random"}, "assignment"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        heterofl(logistic(hidden=2), local_training(client_lr=0.1), **options)
