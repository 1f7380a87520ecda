"""Golden vectors of pFedHN and pFedHN-PC: whole rounds of the authors' code."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from federations import task_of
from vectors import golden

from fedjax_kd import tree
from fedjax_kd.algorithms._generated import HypernetServer, OwnPart
from fedjax_kd.algorithms.pfedhn import pfedhn
from fedjax_kd.algorithms.pfedhn_pc import pfedhn_pc
from fedjax_kd.components.hypernet import Dense, Hypernet, HypernetState, pulled_back
from fedjax_kd.core import Data, Key, Round, Variables
from fedjax_kd.local import Fitted, local_training
from fedjax_kd.losses.objectives import Objective, gradient
from fedjax_kd.task import Task

CLOSE = {"rtol": 1e-4, "atol": 1e-6}  # torch sums convolutions in another order


NODES = 3


LR, MOMENTUM, DECAY, CLIP, STEPS = 5e-3, 0.9, 5e-5, 50.0, 2  # of the authors' local training


LAYERS = {"c1": "conv1", "c2": "conv2", "l1": "fc1", "l2": "fc2", "l3": "fc3"}


SHAPES = {  # of the target network, as torch has them: [out, in, height, width] and [out, in]
    "c1": (1, 3, 5, 5),
    "c2": (2, 1, 5, 5),
    "l1": (120, 50),
    "l2": (84, 120),
    "l3": (10, 84),
}


def torch_net(params: dict[str, Any], x: jax.Array) -> jax.Array:
    """The target network on ``[B, channels, height, width]``: a LeNet, up to its last layer."""
    for name in ("c1", "c2"):
        x = jax.lax.conv(x, params[f"{name}_weights"], (1, 1), "VALID")
        x = jax.nn.relu(x + params[f"{name}_bias"][None, :, None, None])
        x = x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max((3, 5))
    x = x.reshape(len(x), -1)
    for name in ("l1", "l2"):
        x = jax.nn.relu(x @ params[f"{name}_weights"].T + params[f"{name}_bias"][None])
    return x @ params["l3_weights"].T + params["l3_bias"][None]


def torch_task(velocity: Any = ()) -> Task:
    def init(key: Key) -> Variables:
        params = {f"{name}_weights": jnp.zeros(shape) for name, shape in SHAPES.items()}
        biases = {f"{name}_bias": jnp.zeros(shape[0]) for name, shape in SHAPES.items()}
        return Variables(params | biases, velocity)

    return task_of(init, lambda model, x, key=None: (torch_net(model.params, x), model.stats))


def as_layer(weight: np.ndarray, bias: np.ndarray, shape: tuple[int, ...] = ()) -> tuple[Any, Any]:
    """Kernel and bias from torch's ``[out, in]`` and ``[out]``."""
    shape = shape or bias.shape
    return weight.T.reshape(-1, *shape), bias.reshape(shape)


def as_net(vectors: dict[str, np.ndarray], prefix: str) -> Hypernet:
    """The hypernetwork whose tensors are stored; gradients have the same structure."""

    def layer(name: str, shape: tuple[int, ...] = ()) -> Dense:
        pair = (vectors[f"{prefix}{name}.{kind}"] for kind in ("weight", "bias"))
        return Dense(*as_layer(*pair, shape))

    names = [name for name in SHAPES if f"{prefix}{name}_weights.weight" in vectors]
    heads = {f"{name}_weights": layer(f"{name}_weights", SHAPES[name]) for name in names}
    heads |= {f"{name}_bias": layer(f"{name}_bias") for name in names}
    every = [f"{name}_{kind}" for name in SHAPES for kind in ("weights", "bias")]
    kernels, biases = (
        {name: heads[name][i] if name in heads else None for name in every} for i in (0, 1)
    )
    trunk = tuple(layer(f"mlp.{i}") for i in (0, 2, 4, 6))
    embeddings = vectors[f"{prefix}embeddings.weight"]
    return Hypernet(embeddings, trunk, Dense(kernels, biases))


def stored(net: Hypernet) -> dict[str, np.ndarray]:
    """The tensors of a hypernetwork by torch's names."""
    flat = {f"mlp.{2 * i}": layer for i, layer in enumerate(net.trunk)}
    made = [name for name, kernel in net.heads.kernel.items() if kernel is not None]
    flat |= {name: Dense(net.heads.kernel[name], net.heads.bias[name]) for name in made}
    named = {"embeddings.weight": np.asarray(net.embeddings)}
    for name, layer in flat.items():
        named[f"{name}.weight"] = np.asarray(layer.kernel).reshape(len(layer.kernel), -1).T
        named[f"{name}.bias"] = np.asarray(layer.bias).reshape(-1)
    return named


def compare(net: Hypernet, vectors: dict[str, np.ndarray], prefix: str) -> int:
    """Compares all tensors that are stored under this prefix; how many these were."""
    compared = 0
    for name, tensor in stored(net).items():
        if f"{prefix}{name}" in vectors:
            np.testing.assert_allclose(tensor, vectors[f"{prefix}{name}"], **CLOSE, err_msg=name)
            compared += 1
        elif f"{prefix}sum_{name}" in vectors:
            wide = tensor.astype(float)
            for kind, value in (("sum", wide.sum()), ("sq", (wide**2).sum())):
                np.testing.assert_allclose(
                    value, vectors[f"{prefix}{kind}_{name}"], rtol=1e-4, atol=1e-3
                )
            compared += 1
    return compared


def zeros_of(algorithm: Any) -> HypernetServer:
    """A server of zeros."""
    types = jax.eval_shape(algorithm.server_init, jax.random.key(0))
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), types)


def replay(algorithm: Any, vectors: dict[str, np.ndarray], clients: list[Any], stats: Any) -> Any:
    """The authors' server steps, one client each, compared as they go; clients in the end."""
    pool, labels = (np.concatenate([vectors[f"in_{a}{k}"] for k in range(NODES)]) for a in "xy")
    labels, size = labels.astype(np.int32), len(pool) // NODES
    first = zeros_of(algorithm)
    net = as_net(vectors, "in_hn_")
    server = HypernetServer(HypernetState(net, first.learning.opt), stats, first.initial)

    @jax.jit
    def turn(server: HypernetServer, client: Any, number: Any) -> Any:
        data = Data(
            jnp.asarray(pool),
            jnp.asarray(labels),
            jnp.arange(len(pool)),
            size * number,
            jnp.int32(size),
        )
        round = Round(jnp.int32(0), number[None], jnp.ones(1), jnp.ones(1), NODES, None)
        sent = algorithm.broadcast(server, number, round)
        upload, client = algorithm.client_update(jax.random.key(0), sent, client, data, round)
        update = Variables(
            jax.tree.map(lambda a: a[None], upload.message.params), upload.message.stats
        )
        grads = tree.neg(pulled_back(server.learning.net, number[None], update.params))
        server = algorithm.server_update(jax.random.key(0), server, update, round)
        return server, client, tree.neg(upload.message.params), grads

    for step, node in enumerate(vectors["in_node_sequence"]):
        at = f"out_step{step}_"
        server, clients[node], delta, grads = turn(server, clients[node], np.int32(node))
        for name, value in delta.items():
            layer, kind = name.split("_")
            key = f"{at}delta_{LAYERS[layer]}.{kind.removesuffix('s')}"
            if value is not None and key in vectors:
                np.testing.assert_allclose(value, vectors[key], **CLOSE, err_msg=key)
        norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
        np.testing.assert_allclose(norm, vectors[f"{at}gradnorm_preclip"], rtol=1e-4)
        assert compare(grads, vectors, f"{at}grad_") > 15
    assert compare(server.learning.net, vectors, "out_final_") == len(stored(net))
    return clients


def test_golden_steps_of_pfedhn():
    vectors = golden("pfedhn_steps")
    fit = local_training(
        client_lr=LR,
        batch_size=4,
        steps=STEPS,
        client_momentum=MOMENTUM,
        weight_decay=DECAY,
        clip_norm=CLIP,
    )
    algorithm = pfedhn(torch_task(), fit, population=NODES, hidden=6)
    nothing = zeros_of(algorithm).initial
    replay(algorithm, vectors, [OwnPart(nothing, np.int32(-1))] * NODES, ())


def two_optimisers(key: Key, model: Variables, data: Data, loss: Objective, round: Round) -> Fitted:
    """The authors' local training: the head's momentum is in its statistics, and not clipped."""
    batch = data.take(jnp.arange(4, dtype=jnp.int32), jnp.ones(4))
    momentum = tree.zeros_like(model.params) | model.stats
    params = model.params
    for _ in range(STEPS):
        value, _, grads = gradient(loss, Variables(params, model.stats), batch, key)
        body = {n: g for n, g in grads.items() if n not in model.stats}
        body = tree.scale(jnp.minimum(1, CLIP / jnp.sqrt(tree.sq_norm(body))), body)
        grads = tree.add_scaled(grads | body, DECAY, params)
        momentum = tree.add_scaled(grads, MOMENTUM, momentum)
        params = tree.add_scaled(params, -LR, momentum)
    after = Variables(params, {name: momentum[name] for name in model.stats})
    return Fitted(after, value, jnp.int32(STEPS), jnp.float32(STEPS * LR))


def test_golden_steps_of_pfedhn_pc():
    vectors = golden("pfedhn_pc_steps")
    head = {"l3_weights": np.zeros(SHAPES["l3"], np.float32), "l3_bias": np.zeros(10, np.float32)}

    def personal(shapes: Variables) -> Variables:
        return Variables(
            {name: name in head for name in shapes.params}, dict.fromkeys(shapes.stats, True)
        )

    algorithm = pfedhn_pc(
        torch_task(head), two_optimisers, population=NODES, hidden=6, personal=personal
    )

    def client(kind: str, k: int) -> dict[str, Any]:
        names = {"l3_weights": "weight", "l3_bias": "bias"}
        return {n: vectors[f"{kind}_local{k}_layer.0.{t}"] for n, t in names.items()}

    every = zeros_of(algorithm).initial.params
    clients = [
        OwnPart(Variables(every | client("in", k), head), np.int32(-1)) for k in range(NODES)
    ]
    shared = dict.fromkeys(head)
    for k, after in enumerate(replay(algorithm, vectors, clients, shared)):
        for name, expected in client("out", k).items():
            np.testing.assert_allclose(after.model.params[name], expected, **CLOSE)
