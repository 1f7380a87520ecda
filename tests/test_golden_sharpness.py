"""Golden vectors of the methods that take gradients beside the model.

The steps are of clients of the authors' code, the servers of FL-Simulator's FedSpeed and FedGamma.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, in_round, rounds, task_of
from vectors import golden, keys_of, number

from fedjax_kd import algorithms as methods
from fedjax_kd.algorithms._duals import Drifted
from fedjax_kd.algorithms._lesam import Remembered
from fedjax_kd.algorithms.mofedsam import Heading
from fedjax_kd.algorithms.scaffold import Controlled
from fedjax_kd.components.sharpness import adaptive_ascent, sharp_ascent
from fedjax_kd.core import Batch, Key, Pool, State, Variables
from fedjax_kd.local import Fitted
from fedjax_kd.losses.objectives import Objective, gradient
from fedjax_kd.task import Task

FAMILY, STEP = golden("sam_family_steps"), golden("sam_step")
INPUTS = FAMILY["in_x"].shape[-1]
STEP_LR, STEP_DECAY = 0.1, 4e-4  # of `sam_step`, which does not say
TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
DATA = federation((1,)).train.of(jnp.int32(0))  # which no fit here looks at


def layer(flat: Any) -> dict[str, jax.Array]:
    """The parameters that a flat vector holds: rows of the weights, then the biases."""
    classes = len(flat) // (INPUTS + 1)
    weights = jnp.asarray(flat[: classes * INPUTS], jnp.float32).reshape(classes, INPUTS)
    return {"kernel": weights, "bias": jnp.asarray(flat[classes * INPUTS :], jnp.float32)}


def flat(params: dict[str, jax.Array]) -> np.ndarray:
    """The inverse of `layer`, of one layer or a stack of them."""
    kernel = np.asarray(params["kernel"])
    rows = kernel.reshape(*kernel.shape[:-2], -1)
    return np.concatenate([rows, np.asarray(params["bias"])], -1)


def softmax_task(params: dict[str, jax.Array]) -> Task:
    """Softmax regression that starts with these parameters."""
    return task_of(
        lambda key: Variables(params),
        lambda v, x, key=None: (x @ v.params["kernel"].T + v.params["bias"][None], ()),
    )


def plain_steps(batches: list[Batch], lr: float, decay: float) -> Callable[..., Fitted]:
    """SGD with weight decay on the batches in their order."""

    def fit(key: Key, model: Variables, data: Any, objective: Objective, round: Any) -> Fitted:
        for batch in batches:
            loss, _, grads = gradient(objective, model, batch, key)
            moved = jax.tree.map(lambda w, g: w - lr * (g + decay * w), model.params, grads)
            model = Variables(moved)
        return Fitted(model, loss, jnp.int32(len(batches)), jnp.float32(lr * len(batches)))

    return fit


def batches_of(x: np.ndarray, y: np.ndarray) -> list[Batch]:
    """Batches ``[S, B, D]`` with their labels, one by one."""
    ones = jnp.ones(x.shape[1])
    pairs = zip(x, y, strict=True)
    return [Batch(jnp.asarray(a), jnp.asarray(b, jnp.int32), ones) for a, b in pairs]


def local(method: Any, received: Any, client: Any, **options: Any) -> np.ndarray:
    """The parameters of a client after its local steps on the vectors' batches."""
    fit = plain_steps(
        batches_of(FAMILY["in_x"], FAMILY["in_y"]), float(FAMILY["in_lr"]), float(FAMILY["in_wd"])
    )
    start = layer(FAMILY["in_w"])
    algorithm = method(softmax_task(start), fit, **options)
    key = jax.random.key(0)
    upload, _ = algorithm.client_update(key, received, client, DATA, in_round())
    message = upload.message
    change = message.base if isinstance(message, Controlled) else message
    return flat(jax.tree.map(jnp.add, start, change.params))


@pytest.mark.parametrize(("key", "parts"), keys_of("sam_step", r"out_sam_rho(\w+)_perturbed_W"))
def test_sam_ascent(key: str, parts: tuple[str]):
    check_ascent(key, sharp_ascent(number(*parts)))


@pytest.mark.parametrize(
    ("key", "parts"), keys_of("sam_step", r"out_asam_rho(\w+)_eta(\w+)_perturbed_W")
)
def test_asam_ascent(key: str, parts: tuple[str, str]):
    check_ascent(key, adaptive_ascent(*map(number, parts)))


def one_layer(prefix: str) -> dict[str, jax.Array]:
    """The parameters in `sam_step` whose keys start so."""
    return {"kernel": jnp.asarray(STEP[f"{prefix}W"]), "bias": jnp.asarray(STEP[f"{prefix}b"])}


def step_batch() -> Batch:
    """The one batch of `sam_step`."""
    return batches_of(STEP["in_x"][None], STEP["in_y"][None])[0]


def check_ascent(key: str, ascent: Any) -> None:
    """Compares the point whose gradient counts."""
    start = one_layer("in_")
    loss = softmax_task(start).loss
    _, _, slope = gradient(loss, Variables(start), step_batch(), jax.random.key(0))
    there = jax.tree.map(jnp.add, start, ascent(start, slope))
    np.testing.assert_allclose(flat(there), flat(one_layer(key.removesuffix("W"))), **TORCH)


def stepped(method: Any, received: Any = None, **options: Any) -> np.ndarray:
    """The parameters after the one step of `sam_step`."""
    start, fit = one_layer("in_"), plain_steps([step_batch()], STEP_LR, STEP_DECAY)
    algorithm = method(softmax_task(start), fit, **options)
    received = Variables(start) if received is None else received
    upload, _ = algorithm.client_update(jax.random.key(0), received, (), DATA, in_round())
    change = getattr(upload.message, "change", upload.message)
    return flat(jax.tree.map(jnp.add, start, change.params))


SAM_STEPS = keys_of("sam_step", r"out_sam_rho([\dpem]+)_W")


@pytest.mark.parametrize(("key", "parts"), SAM_STEPS)
def test_fedsam_step(key: str, parts: tuple[str]):
    found = stepped(methods.fedsam, rho=number(*parts))
    np.testing.assert_allclose(found, flat(one_layer(key[:-1])), **TORCH)


@pytest.mark.parametrize(("key", "parts"), keys_of("sam_step", r"out_asam_rho(\w+)_eta([\dp]+)_W"))
def test_fedasam_step(key: str, parts: tuple[str, str]):
    rho, eta = map(number, parts)
    found = stepped(methods.fedasam, rho=rho, eta=eta)
    np.testing.assert_allclose(found, flat(one_layer(key[:-1])), **TORCH)


@pytest.mark.parametrize("beta", [1.0, 0.3])
@pytest.mark.parametrize(("key", "parts"), SAM_STEPS)
def test_mofedsam_step(key: str, parts: tuple[str], beta: float):
    start, direction = one_layer("in_"), layer(np.linspace(-1, 1, FAMILY["in_w"].size))
    w = flat(start)
    slope = (w - flat(one_layer(key[:-1]))) / STEP_LR - STEP_DECAY * w  # at the perturbed point
    mixed = beta * slope + (1 - beta) * flat(direction)
    received = Heading(Variables(start), direction)
    found = stepped(methods.mofedsam, received, rho=number(*parts), beta=beta)
    np.testing.assert_allclose(found, w - STEP_LR * (mixed + STEP_DECAY * w), **TORCH)


def variables(name: str) -> Variables:
    """A vector of the family as a model."""
    return Variables(layer(FAMILY[f"in_{name}"]))


def negated(name: str) -> dict[str, jax.Array]:
    return layer(-FAMILY[f"in_{name}"])


NONE = jax.tree.map(jnp.zeros_like, layer(FAMILY["in_w"]))
RHO, LAMB = float(FAMILY["in_rho"]), float(FAMILY["in_lamb"])


def test_fedsam_steps():
    found = local(methods.fedsam, variables("w"), (), rho=RHO)
    np.testing.assert_allclose(found, FAMILY["out_fedsam_local"], **TORCH)


def test_fedasam_steps():
    options = {name: float(FAMILY[f"in_asam_{name}"]) for name in ("rho", "eta")}
    found = local(methods.fedasam, variables("w"), (), **options)
    np.testing.assert_allclose(found, FAMILY["out_asam_local"], **TORCH)


def dual() -> dict[str, jax.Array]:
    """h_k, of which the authors' correction is what the received model is taken off."""
    return layer(FAMILY["in_correction"] + FAMILY["in_w"])


def test_fedspeed_steps():
    options = {"rho": RHO, "lamb": LAMB, "variant": "code"}
    found = local(methods.fedspeed, variables("w"), dual(), **options)
    np.testing.assert_allclose(found, FAMILY["out_fedspeed_local"], **TORCH)


def test_fedgamma_steps():
    received = Controlled(variables("w"), NONE)
    found = local(methods.fedgamma, received, negated("correction"), rho=RHO)
    np.testing.assert_allclose(found, FAMILY["out_fedgamma_local"], **TORCH)


def remembered(own: Any, name: str = "global_update") -> Remembered:
    """A client that received a model before, from which the present one is that far."""
    return Remembered(own, Variables(layer(FAMILY["in_w"] - FAMILY[f"in_{name}"])))


def test_fedlesam_steps():
    found = local(methods.fedlesam, variables("w"), remembered(()), rho=RHO)
    np.testing.assert_allclose(found, FAMILY["out_fedlesam_paper"], **TORCH)


def test_fedlesam_first_round_is_plain():
    client = Remembered((), variables("w"))
    found = local(methods.fedlesam, variables("w"), client, rho=RHO)
    np.testing.assert_allclose(found, FAMILY["out_fedlesam_first_round"], **TORCH)


def test_fedlesam_s_steps():
    client = remembered(negated("correction"))
    found = local(methods.fedlesam_s, Controlled(variables("w"), NONE), client, rho=RHO)
    np.testing.assert_allclose(found, FAMILY["out_fedlesam_s_paper"], **TORCH)


def test_fedlesam_d_steps():
    found = local(methods.fedlesam_d, variables("w"), remembered(dual()), rho=RHO, lamb=LAMB)
    np.testing.assert_allclose(found, FAMILY["out_fedlesam_d_paper"], **TORCH)


def stacked(name: str) -> dict[str, jax.Array]:
    """A vector of the family for each client."""
    return jax.tree.map(lambda *rows: jnp.stack(rows), *map(layer, FAMILY[f"in_{name}"]))


def to_given_locals(key: Key, model: Variables, data: Any, *_: Any) -> Fitted:
    """Local training that ends where the vectors say."""
    there = jax.tree.map(lambda a: a[data.client], stacked("locals"))
    steps = jnp.int32(FAMILY["in_K"])
    travel = jnp.float32(FAMILY["in_K"] * FAMILY["in_lr"])
    return Fitted(Variables(there), jnp.float32(0), steps, travel)


def after_a_round(method: Any, server: Any, clients: Any, **options: Any) -> State:
    """The state after a round of the vectors' servers."""
    algorithm = method(softmax_task(layer(FAMILY["in_w"])), to_given_locals, **options)
    base = algorithm.server_init(jax.random.key(0)).base
    pool: Pool = federation((1,) * len(FAMILY["in_locals"])).train
    start = State(server(base), (clients,))
    ((state, _),) = rounds(algorithm, pool, [FAMILY["in_selected"]], state=start)
    return state


@pytest.mark.parametrize(
    "method_options",
    [(methods.fedspeed, {"variant": "code"}), (methods.fedlesam_d, {})],
    ids=["fedspeed", "fedlesam_d"],
)
def test_fedspeed_server(method_options: Any):
    method, options = method_options
    old = layer(FAMILY["in_h"].mean(0))
    clients = stacked("h")
    if method is methods.fedlesam_d:
        models = jax.tree.map(lambda a: jnp.stack([a] * len(FAMILY["in_h"])), variables("w"))
        clients = Remembered(clients, models)
    state = after_a_round(method, lambda base: Drifted(base, old), clients, **options)
    h = getattr(state.clients[0], "own", state.clients[0])
    model = flat(state.server.base.model.params)
    np.testing.assert_allclose(model, FAMILY["out_fedspeed_server"], **TORCH)
    np.testing.assert_allclose(flat(h), FAMILY["out_fedspeed_h"], **TORCH)
    correction = flat(h)[1] - FAMILY["in_w"]  # the authors' client is given the older model
    np.testing.assert_allclose(correction, FAMILY["out_fedspeed_correction_client1"], **TORCH)


def test_fedgamma_server():
    c = layer(FAMILY["in_c"])
    state = after_a_round(methods.fedgamma, lambda base: Controlled(base, c), stacked("ci"))
    model, control = flat(state.server.base.model.params), flat(state.server.control)
    np.testing.assert_allclose(model, FAMILY["out_fedgamma_server"], **TORCH)
    np.testing.assert_allclose(control, FAMILY["out_fedgamma_c"], **TORCH)
    np.testing.assert_allclose(flat(state.clients[0]), FAMILY["out_fedgamma_ci"], **TORCH)
    correction = control - flat(state.clients[0])[1]
    np.testing.assert_allclose(correction, FAMILY["out_fedgamma_correction_client1"], **TORCH)
