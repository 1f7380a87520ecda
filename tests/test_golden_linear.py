"""Golden vectors of methods that correct local gradients, or let their rate fall within a round.

Those of FedDC, FedSWA and FedMoSWA are of the authors' code, those of MIME of FedJAX, and where the
key says so, or the file's name, of the paper's formulas.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from federations import rounds, task_of
from test_golden import EXACT, TORCH, one_row_a_client, quadratic, softmax_task
from vectors import golden, keys_of

from fedjax_kd import batching
from fedjax_kd.algorithms import feddc, fedmoswa, fedswa, mime, mimelite
from fedjax_kd.components.model_parts import model_in
from fedjax_kd.core import Pool, Variables
from fedjax_kd.local import Fit, local_training
from fedjax_kd.task import Task

CLIPPED = {"weight_decay": 1e-3, "clip_norm": 10.0}  # of the authors' code
FIT = local_training(batch_size=0)
SUMS = {"rtol": 1e-7, "atol": 1e-7}  # shares of clients are float32


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Epochs take the examples as they lie."""
    monkeypatch.setattr(batching, "shuffled", lambda seed, positions, size: positions)


def pool_of(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray]) -> Pool:
    """Clients with these examples ``[N, ...]``."""
    sizes = np.array([len(y) for y in ys], np.int32)
    rows, starts = np.arange(sizes.sum(), dtype=np.int32), (np.cumsum(sizes) - sizes)
    owned = (jnp.asarray(a, jnp.int32) for a in (rows, starts, sizes))
    labels = np.concatenate(ys).astype(np.int32)
    return Pool(jnp.asarray(np.concatenate(xs)), jnp.asarray(labels), *owned)


def layer_task(weights: np.ndarray, bias: np.ndarray) -> Task:
    """Softmax regression that starts with these parameters."""
    start = Variables({"W": jnp.asarray(weights), "b": jnp.asarray(bias)})
    return task_of(
        lambda key: start,
        lambda v, x, key=None: (x @ v.params["W"].T + v.params["b"][None], v.stats),
    )


@pytest.fixture
def drifting() -> tuple[dict[str, np.ndarray], Task, Pool, dict[str, Any]]:
    """FedDC's vectors, the task, the clients' data, and how they train."""
    vectors = golden("feddc_rounds")
    numbers = range(sum(key.startswith("in_y") for key in vectors))
    xs, ys = ([vectors[f"in_{part}{k}"] for k in numbers] for part in "xy")
    how = {"client_lr": float(vectors["in_lr"]), "epochs": int(vectors["in_epochs"])}
    task = softmax_task(vectors["in_w0"], xs[0].shape[1])
    return vectors, task, pool_of(xs, [y[:, 0] for y in ys]), {"batch_size": 0, **how}


def test_feddc_as_the_authors_run_it(drifting: Any):
    vectors, task, pool, how = drifting
    decay = float(vectors["in_weight_decay"])
    fit = local_training(**how, weight_decay=decay, clip_norm=CLIPPED["clip_norm"])
    examples = int(pool.sizes.sum())
    options = {"alpha": float(vectors["in_alpha"]), "variant": "code", "total_examples": examples}
    algorithm, before = feddc(task, fit, **options), None
    cohorts = cohorts_of(vectors, r"out_r(\d+)_theta(\d+)")
    for r, (state, _) in enumerate(rounds(algorithm, pool, cohorts)):
        at, server, (kept,) = f"out_r{r}", state.server, state.clients
        model, controls = server.base.base.model.params, vectors[f"{at}_state"]
        np.testing.assert_allclose(model, vectors[f"{at}_cloud"], **TORCH)
        np.testing.assert_allclose(kept.base, vectors[f"{at}_h"], **TORCH)
        np.testing.assert_allclose(kept.control, controls[:-1], **TORCH)
        np.testing.assert_allclose(server.control, controls[-1], **TORCH)
        received = vectors["in_w0"] if before is None else before.server.base.base.model.params
        drift = 0 if before is None else before.clients[0].base
        for k in cohorts[r]:
            local = received + (kept.base - drift)[k]
            np.testing.assert_allclose(local, vectors[f"{at}_theta{k}"], **TORCH)
        before = state


def test_feddc_of_the_paper(drifting: Any, float64: None):
    vectors, task, pool, how = drifting
    start = Variables(jnp.asarray(vectors["in_w0"], float))
    task = task._replace(init=lambda key: start)
    pool = pool._replace(x=jnp.asarray(pool.x, float))
    algorithm = feddc(task, local_training(**how), alpha=float(vectors["in_alpha"]))
    gradients = -1 / (how["client_lr"] * how["epochs"])
    cohorts = cohorts_of(vectors, r"out_r(\d+)_theta(\d+)")
    for r, (state, _) in enumerate(rounds(algorithm, pool, cohorts)):
        at, server, (kept,) = f"out_paper_r{r}", state.server, state.clients
        np.testing.assert_allclose(server.base.base.model.params, vectors[f"{at}_x"], **SUMS)
        np.testing.assert_allclose(kept.base, vectors[f"{at}_h"], **SUMS)
        np.testing.assert_allclose(kept.control, gradients * vectors[f"{at}_gi"], **SUMS)
        np.testing.assert_allclose(server.control, gradients * vectors[f"{at}_g"], **SUMS)


def cohorts_of(vectors: Any, pattern: str) -> list[list[int]]:
    """The clients of each round, of which the names of the vectors tell."""
    found = [re.fullmatch(pattern, key) for key in vectors]
    pairs = [tuple(map(int, match.groups())) for match in found if match]
    return [[k for at, k in pairs if at == r] for r in range(1 + max(pairs)[0])]


MIME_COHORTS = ([0, 1, 2], [0, 2], [1, 2])  # which the file does not say


@pytest.fixture
def mimicking(float64: None, in_order: None) -> tuple[dict[str, np.ndarray], Task, Pool, Fit]:
    """The vectors, the task, the clients' data, and local training."""
    vectors = golden("mime_rounds")
    numbers = range(sum(key.startswith("in_y") for key in vectors))
    xs, ys = ([vectors[f"in_{part}{k}"] for k in numbers] for part in "xy")
    fit = local_training(
        client_lr=float(vectors["in_lr"]),
        batch_size=int(vectors["in_batch_size"]),
        epochs=int(vectors["in_epochs"]),
        last_batch="wrap",
    )
    start = (vectors[f"in_{name}"].astype(float) for name in "Wb")
    return vectors, layer_task(*start), pool_of([x.astype(float) for x in xs], ys), fit


MIME_KEY = r"out_(mime|lite)_(sgd|mom|adam)_?(clip)?_r0_W"


@pytest.mark.parametrize(("key", "parts"), keys_of("mime_rounds", MIME_KEY))
def test_mime_as_fedjax_has_it(mimicking: Any, key: str, parts: tuple[str, str, str | None]):
    vectors, task, pool, fit = mimicking
    (b1, b2, eps), (method, rule, clip) = vectors["in_adam"].tolist(), parts
    adam = partial(optax.adam, b1=b1, b2=b2, eps=eps)
    algorithm = (mime if method == "mime" else mimelite)(
        task,
        fit,
        base_opt=adam if rule == "adam" else "sgd",
        momentum=float(vectors["in_momentum"]) if rule == "mom" else 0.0,
        server_lr=float(vectors["in_server_lr"]),
        weighting="examples",
        **({"clip_change": float(vectors["in_clip"])} if clip else {}),
    )
    exchanges = 2 if method == "mime" else 1
    cohorts = [ids for ids in MIME_COHORTS for _ in range(exchanges)]
    played = [state for state, _ in rounds(algorithm, pool, cohorts)][exchanges - 1 :: exchanges]
    for r, state in enumerate(played):
        for name, found in model_in(state.server).params.items():
            expected = vectors[f"{key.removesuffix('_r0_W')}_r{r}_{name}"]
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def swa_problem(name: str) -> tuple[dict[str, np.ndarray], Task, Pool, Fit]:
    """The vectors, the task, the clients' data, and their steps on batches in order."""
    vectors = golden(name)
    numbers = range(sum(key.startswith("in_y") for key in vectors))
    xs, ys = ([vectors[f"in_{part}{k}"] for k in numbers] for part in "xy")
    flat = [x.reshape(-1, x.shape[-1]) for x in xs], [y.reshape(-1) for y in ys]
    fit = local_training(
        client_lr=float(vectors["in_lr"]),
        batch_size=ys[0].shape[1],
        epochs=int(vectors["in_E"]),
        **CLIPPED,
    )
    return vectors, layer_task(vectors["in_W"], vectors["in_b"]), pool_of(*flat), fit


@pytest.mark.usefixtures("in_order")
def test_fedswa_as_the_authors_run_it():
    vectors, task, pool, fit = swa_problem("fedswa_round")
    twice = fit.but(client_lr=2 * fit.options["client_lr"])
    algorithm = fedswa(task, twice, rho=0.0, alpha=1.0)
    everyone = range(len(pool.sizes))
    for cohort, at in [(everyone, "global"), *(([k], f"delta{k}") for k in everyone)]:
        ((state, _),) = rounds(algorithm, pool, [cohort])
        for name, found in state.server.model.params.items():
            change = found - vectors[f"in_{name}"] if at != "global" else found
            np.testing.assert_allclose(change, vectors[f"out_{at}_{name}"], **TORCH)


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize(
    ("tag", "options"),
    [
        ("mo", {"variant": "code", "rho": 0.0}),
        ("dispatched", {"variant": "dispatched", "rho": 1.0}),
    ],
)
def test_fedmoswa_as_the_authors_run_it(tag: str, options: Any):
    vectors, task, pool, fit = swa_problem("fedmoswa_rounds")
    algorithm = fedmoswa(task, fit, alpha=1.0, gamma=0.4, **options)
    clients = range(len(pool.sizes))
    played = sum(key.startswith(f"out_{tag}_") and "_global_fc.bias" in key for key in vectors)
    for r, (state, _) in enumerate(rounds(algorithm, pool, [clients] * played), start=1):
        server, (controls,), _ = state
        for name, key in (("W", "fc.weight"), ("b", "fc.bias")):
            at = f"out_{tag}_r{r}"
            model = server.base.model.params[name]
            np.testing.assert_allclose(model, vectors[f"{at}_global_{key}"], **TORCH)
            np.testing.assert_allclose(server.control[name], vectors[f"{at}_m_{key}"], **TORCH)
            for k in clients:
                found = controls[name][k]
                np.testing.assert_allclose(found, vectors[f"{at}_ci{k}_{key}"], **TORCH)


@pytest.fixture
def averaging(float64: None) -> tuple[dict[str, np.ndarray], Task, Pool, Fit, Any]:
    """The paper's vectors, the task, the clients' data, local training, and options."""
    vectors = golden("fedswa_paper_quadratic")
    x = (jnp.asarray(vectors["in_A"]), jnp.asarray(vectors["in_b"]))
    pool = one_row_a_client(len(vectors["in_b"]), x)
    fit = local_training(
        client_lr=float(vectors["in_lr"]), batch_size=0, epochs=int(vectors["in_K"])
    )
    options = {"rho": float(vectors["in_rho"]), "alpha": float(vectors["in_alpha"])}
    return vectors, quadratic(vectors["in_x0"]), pool, fit, options


def test_fedswa_of_the_paper(averaging: Any):
    vectors, task, pool, fit, options = averaging
    cohorts = [range(len(pool.sizes))] * len(vectors["out_fedswa_x"])
    played = rounds(fedswa(task, fit, **options), pool, cohorts)
    found = [state.server.model.params for state, _ in played]
    np.testing.assert_allclose(found, vectors["out_fedswa_x"], **EXACT)


def test_fedmoswa_of_the_paper(averaging: Any):
    vectors, task, pool, fit, options = averaging
    algorithm = fedmoswa(task, fit, gamma=float(vectors["in_gamma"]), **options)
    everyone = range(len(pool.sizes))
    cohorts = [[0, 2] if r == 1 else everyone for r in range(len(vectors["out_fedmoswa_x"]))]
    for r, (state, _) in enumerate(rounds(algorithm, pool, cohorts)):
        server, (controls,), _ = state
        model = server.base.model.params
        np.testing.assert_allclose(model, vectors["out_fedmoswa_x"][r], **EXACT)
        np.testing.assert_allclose(server.control, vectors["out_fedmoswa_m"][r], **EXACT)
        np.testing.assert_allclose(controls, vectors["out_fedmoswa_c"][r], **EXACT)
