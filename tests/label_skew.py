"""Clients of given class counts, who train on given batches in their order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_kd.core import Algorithm, Batch, Data, Key, Round, Upload, Variables
from fedjax_kd.local import Fit, Fitted
from fedjax_kd.losses.objectives import Objective, gradient

ROUND = Round(jnp.int32(0), jnp.zeros(1, jnp.int32), jnp.ones(1), jnp.ones(1), 1, None)


def of_counts(counts: np.ndarray, x: Any) -> Data:
    """A client who holds so many examples of each class, all of them like the first row of x."""
    y = np.repeat(np.arange(len(counts), dtype=np.int32), counts.astype(int))
    return Data.all_of(jnp.broadcast_to(x[:1], (len(y), *x.shape[1:])), jnp.asarray(y))


def in_order(xs: Any, ys: Any, lr: float) -> Fit:
    """Plain SGD on these batches ``[S, B, ...]``, whatever the client holds."""

    def run(key: Key, model: Variables, data: Data, loss: Objective, round: Round) -> Fitted:
        params, seen = model.params, []
        for x, y in zip(xs, ys, strict=True):
            batch = Batch(jnp.asarray(x), jnp.asarray(y, jnp.int32), jnp.ones(len(y)))
            value, stats, grads = gradient(loss, Variables(params, model.stats), batch, key)
            params = optax.apply_updates(params, jax.tree.map(lambda g: -lr * g, grads))
            seen.append(value)
        steps = jnp.int32(len(xs))
        return Fitted(Variables(params, stats), jnp.stack(seen).mean(), steps, jnp.float32(lr))

    return Fit(run, lambda sizes, clients, round: sizes)


def after(
    make: Callable[[Fit], Algorithm], fit: Fit, received: Any, client: Any, data: Data
) -> tuple[Upload, Any]:
    """What a client sends, and what it keeps."""
    update = jax.jit(lambda *args: make(fit).client_update(*args, ROUND))
    return update(jax.random.key(3), received, client, data)
