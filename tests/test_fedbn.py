"""FedBN: batch normalisation stays at home, by type."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import FEATURES, SIZES, federation, gap, in_round, logistic, normed, play, task_of
from vectors import golden

from fedjax_kd.algorithms import fedavg, fedbn
from fedjax_kd.core import Data, Key, Pool, Round, Variables
from fedjax_kd.local import Fit, Fitted, local_training
from fedjax_kd.models import MODELS
from fedjax_kd.task import from_nnx

FIT = local_training(client_lr=0.1, batch_size=4)
CLIENTS = 3
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
CLOSE = {"rtol": 1e-6, "atol": 1e-6}  # the authors' code ran in float32


def stored(prefix: str) -> Variables:
    """The model of that name in the vectors, a flat dict each of parameters and statistics."""
    vectors = golden("fedbn_aggregate")
    own = {k.removeprefix(prefix): v for k, v in vectors.items() if k.startswith(prefix)}
    arrays = {k: jnp.asarray(v, jnp.float32) for k, v in own.items()}
    stats = {k: a for k, a in arrays.items() if k.endswith(STATISTICS)}
    return Variables({k: a for k, a in arrays.items() if k not in stats}, stats)


def trained(key: Key, model: Variables, data: Data, objective: Any, round: Round) -> Fitted:
    """The local training of the vectors: each client ends where they say."""
    locals_ = [stored(f"in_c{k}_") for k in range(CLIENTS)]
    client = data.take(jnp.zeros(1, jnp.int32), jnp.ones(1)).y[0]
    fitted = jax.tree.map(lambda *a: jnp.stack(a)[client], *locals_)
    return Fitted(fitted, jnp.float32(0), jnp.int32(1), jnp.float32(1))


def aggregated(method: Any, how: str, shares: Any) -> Any:
    """The state after the vectors' round; a client's votes are its rows."""
    init = stored("in_server_")
    names = jax.tree_util.tree_map_with_path(
        lambda path, _: "batch" if "bn" in path[-1].key else "", init
    )
    task = task_of(lambda key: init, lambda model, x, key=None: (x, model.stats))
    task = task._replace(norm_kinds=lambda: names)
    sizes = np.asarray(shares, np.int32)
    owner = np.repeat(np.arange(CLIENTS, dtype=np.int32), sizes)
    starts = jnp.asarray(np.cumsum(sizes) - sizes, jnp.int32)
    rows = jnp.arange(len(owner), dtype=jnp.int32)
    pool = Pool(jnp.asarray(owner), jnp.asarray(owner), rows, starts, jnp.asarray(sizes))
    weighting = "uniform" if how == "uniform" else "examples"
    algorithm = method(task, Fit(trained, lambda sizes, *_: sizes), weighting=weighting)
    return play(algorithm, pool, [range(CLIENTS)])[0]


def same(model: Any, expected: Variables, where: Any = lambda name: True) -> int:
    """Compares the values that a model has, at ``where``; returns their number."""
    pairs = [(a[k], e[k], k) for a, e in zip(model, expected, strict=True) for k in a]
    found = [(a, e) for a, e, k in pairs if a is not None and where(k)]
    for given, wanted in found:
        np.testing.assert_allclose(given, wanted, **CLOSE)
    return len(found)


WEIGHTS = {"uniform": (1, 1, 1), "weighted": (2, 1, 1)}  # as the vectors were made with


@pytest.mark.parametrize("how", WEIGHTS)
def test_golden_aggregate(how: str):
    server, (clients,), _ = aggregated(fedbn, how, WEIGHTS[how])
    expected = f"out_fedbn_{how}_"
    assert same(server.base.model, stored(f"{expected}server_"), lambda k: "bn" not in k) == 4
    assert same(server.initial, stored(f"{expected}server_"), lambda k: "bn" in k) == 10
    for k in range(CLIENTS):
        own = jax.tree.map(lambda a, k=k: a[k], clients)
        assert same(own, stored(f"{expected}c{k}_")) == 10


@pytest.mark.parametrize("how", WEIGHTS)
def test_golden_fedavg_averages_statistics(how: str):
    server, *_ = aggregated(fedavg, how, WEIGHTS[how])
    expected = stored(f"out_fedavg_{how}_server_")
    assert same(server.model, expected, lambda k: "num_batches" not in k) == 12


def test_what_travels_and_what_stays():
    task, pool = normed(), federation().train
    algorithm = fedbn(task, FIT)
    state, _ = play(algorithm, pool, [(0, 4), (4, 5)])
    sent = algorithm.broadcast(state.server, jnp.int32(0), in_round())
    assert [a.shape for a in jax.tree.leaves(sent)] == [(3,), (FEATURES, 3)]
    own = state.clients[0]
    start = algorithm.client_init(jax.random.key(3), state.server)
    assert len(jax.tree.leaves(start)) == 4
    for k, changed in enumerate([True, False, False, False, True, True]):
        assert (gap(jax.tree.map(lambda a, k=k: a[k], own), start) > 1e-3) == changed
    logits = [
        algorithm.predict(state.server, jax.tree.map(lambda a, k=k: a[k], own), pool.x[:3])
        for k in (0, 4)
    ]
    assert gap(*logits) > 1e-3, "clients are judged by their own layers"


@pytest.mark.parametrize("method", [fedavg, fedbn])
def test_a_batch_of_one_cannot_be_normalised(method: Any):
    one = local_training(client_lr=0.1, batch_size=1)
    with pytest.raises(ValueError, match="batch_size is 1, but the network has batch normalis"):
        method(normed(), one)


def test_a_client_of_one_example_and_an_empty_one():
    few = local_training(client_lr=0.1, batch_size=4)
    state, reports = play(fedbn(normed(), few), federation().train, [(1, 2, 4)] * 2)
    assert all(bool(jnp.isfinite(a).all()) for a in jax.tree.leaves(state))
    assert [float(r.used.sum()) for r in reports] == [2, 2]
    assert SIZES[1] == 0


def test_other_normalisation_only_if_asked():
    task = from_nnx(MODELS["resnet8"]((8, 8), 3))
    with pytest.raises(ValueError, match="no batch normalisation layer"):
        fedbn(task, FIT)
    fedbn(task, FIT, layers="all")


def test_bad_input_is_said():
    with pytest.raises(ValueError, match="layers is 'group', but must be one of batch, all"):
        fedbn(normed(), FIT, layers="group")
    with pytest.raises(ValueError, match="does not know which values"):
        fedbn(logistic(), FIT)
