"""Golden vectors of losses that know the client's labels."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import rounds
from label_skew import ROUND, after, in_order, of_counts
from objectives import table
from precise import EXACT, arrays, close
from test_golden import one_row_a_client
from two_layers import two_layers
from vectors import keys_of, number

from fedjax_kd import losses, tree
from fedjax_kd.algorithms import fedgkd, fedlc, fedrod, fedrs
from fedjax_kd.algorithms.fedgkd import WithTeacher
from fedjax_kd.core import Variables
from fedjax_kd.local import Fitted

pytestmark = pytest.mark.usefixtures("float64")

COUNTS = {"rtol": 1e-7}  # which are float32, and what is made of them


def of_logits(make: Any, logits: np.ndarray, y: np.ndarray, counts: np.ndarray) -> tuple[Any, Any]:
    """The loss of a client of these counts, and its gradient by the logits."""
    rows, received = np.arange(len(y))[None], Variables(jnp.asarray(logits))
    upload, _ = after(
        partial(make, table(*logits.shape)),
        in_order(rows, y[None], 1.0),
        received,
        (),
        of_counts(counts, rows[0]),
    )
    return upload.metrics["loss"], tree.neg(upload.message.params)


@pytest.mark.parametrize(("key", "parts"), keys_of("fedlc_loss", r"out_paper_(local|tau0)"))
def test_fedlc_of_each_example(key: str, parts: tuple[str]):
    vectors = arrays("fedlc_loss")
    tau = 0.0 if parts == ("tau0",) else float(vectors["in_tau"])
    for z, y, expected in zip(vectors["in_logits"], vectors["in_y"], vectors[key], strict=True):
        given = z[None], y[None], vectors["in_local_counts"]
        value, _ = of_logits(partial(fedlc, tau=tau), *given)
        close(value, expected, **COUNTS)


def test_fedlc_of_a_batch():
    vectors = arrays("fedlc_loss")
    given = (vectors[f"in_{name}"] for name in ("logits", "y", "local_counts"))
    value, grads = of_logits(partial(fedlc, tau=float(vectors["in_tau"])), *given)
    close(value, vectors["out_flbench"])
    close(grads, vectors["out_flbench_grad"])


def test_fedrs_by_the_authors():
    vectors = arrays("fedrs_loss")
    xs, ys, lr = (vectors[f"in_{name}"] for name in ("x", "y", "lr"))
    task = two_layers(vectors, "Wh")
    received = task.init(jax.random.key(0))
    make = partial(fedrs, task, alpha=float(vectors["in_alpha"]), variant="code")
    data = of_counts(vectors["in_counts"], xs[0])
    upload, _ = after(make, in_order(xs, ys, float(lr)), received, (), data)
    close(upload.metrics["loss"], vectors["out_code_mean_loss"])
    for name, weight in tree.add(received, upload.message).params.items():
        close(weight, vectors[f"out_code_{name}"])


@pytest.mark.parametrize(("key", "parts"), keys_of("fedrs_loss", r"out_(paper|code|alpha0)_loss0"))
def test_fedrs_before_any_step(key: str, parts: tuple[str]):
    vectors = arrays("fedrs_loss")
    xs, ys = vectors["in_x"][:1], vectors["in_y"][:1]
    options = {
        "alpha": 0.0 if parts == ("alpha0",) else float(vectors["in_alpha"]),
        "variant": "code" if parts == ("code",) else "paper",
    }
    task = two_layers(vectors, "Wh")
    make = partial(fedrs, task, **options)
    data = of_counts(vectors["in_counts"], xs[0])
    upload, _ = after(make, in_order(xs, ys, 1.0), task.init(jax.random.key(0)), (), data)
    close(upload.metrics["loss"], vectors[key], **COUNTS)


def test_fedrod_steps():
    vectors = arrays("fedrod_step")
    xs, ys, lr = (vectors[f"in_{name}"] for name in ("x", "y", "lr"))
    task = two_layers(vectors, "Wh", "bh")
    received = task.init(jax.random.key(0))
    head = {"Wb": None, "bb": None} | {
        name: jnp.asarray(vectors[f"in_{its}"]) for name, its in (("Wh", "P"), ("bh", "q"))
    }
    fit, data = in_order(xs, ys, float(lr)), of_counts(vectors["in_counts"], xs[0])
    upload, own = after(partial(fedrod, task), fit, received, Variables(head), data)
    for name, weight in tree.add(received, upload.message).params.items():
        close(weight, vectors[f"out_{name}"])
    close(own.params["Wh"], vectors["out_P"])
    close(own.params["bh"], vectors["out_q"])


@pytest.mark.parametrize(("key", "parts"), keys_of("fedrod_step", r"out_bsm(?:_gamma(\w+))?"))
def test_balanced_softmax(key: str, parts: tuple[str | None]):
    vectors, gamma = arrays("fedrod_step"), 1.0 if parts[0] is None else number(parts[0])
    balance = losses.class_priors(jnp.asarray(vectors["in_bsm_counts"]), gamma)

    def loss(logits: jax.Array) -> jax.Array:
        return losses.cross_entropy(losses.adjusted(logits, balance), vectors["in_bsm_y"]).mean()

    value, grads = jax.value_and_grad(loss)(jnp.asarray(vectors["in_bsm_z"]))
    close(value, vectors[key])
    if gamma == 1:
        close(grads, vectors["out_bsm_grad"])


def distilled(teacher: np.ndarray, **options: Any) -> tuple[Any, Any]:
    """What a client of FedGKD minimises, and its gradient by the logits."""
    vectors = arrays("fedgkd_loss")
    logits, y, rows = vectors["in_student"], vectors["in_y"], np.arange(len(vectors["in_y"]))[None]
    # The table that is trained is the student, where the received model would be the start.
    received = WithTeacher(Variables(jnp.asarray(logits)), Variables(jnp.asarray(teacher)))
    make = partial(fedgkd, table(*logits.shape), **options)
    data = of_counts(np.bincount(y), rows[0])
    upload, _ = after(make, in_order(rows, y[None], 1.0), received, (), data)
    return upload.metrics["loss"], tree.neg(upload.message.params)


GKD_KEYS = keys_of("fedgkd_loss", r"out_official_(T1|T2|round1)_loss")


@pytest.mark.parametrize(("key", "parts"), GKD_KEYS)
def test_fedgkd_by_the_authors(key: str, parts: tuple[str]):
    vectors = arrays("fedgkd_loss")
    options = {
        "gamma": float(vectors["in_gamma"]),
        "tau": float(vectors["in_T"]) if parts == ("T2",) else 1.0,
        "wait": int(parts == ("round1",)),
    }
    value, grads = distilled(vectors["in_teachers"][0], **options)
    close(value, vectors[key])
    close(grads, vectors[key.replace("loss", "grad")])


def test_fedgkd_of_the_paper():
    vectors = arrays("fedgkd_loss")
    gamma = float(vectors["in_gamma"])
    value, grads = distilled(vectors["in_teachers"][0], gamma=gamma)
    close(value, vectors["out_total_half_gamma"], **EXACT)
    close(grads, vectors["out_grad_half_gamma"])
    close(distilled(vectors["in_teachers"][0], gamma=0.0)[0], vectors["out_ce"], **EXACT)
    twice = distilled(vectors["in_teachers"][0], gamma=2 * gamma)[0]
    close(twice, vectors["out_total_gamma"], **EXACT)


def test_many_models_teach_by_their_losses():
    vectors = arrays("fedgkd_loss")
    votes = jax.nn.softmax(-vectors["in_valid_loss"] / vectors["in_loss_temperature"])
    close(votes, vectors["out_vote_weights"], **EXACT)
    given = vectors["in_student"], vectors["in_teachers"], float(vectors["in_T"]), votes
    value = losses.ensemble_divergence(*given, average="losses", scaled=True).mean()
    close(value, vectors["out_vote_kl_T2"], **EXACT)


def moved_to(models: np.ndarray) -> Any:
    """Local training that ends, in every round, at the next of these models."""

    def fit(key: Any, model: Variables, data: Any, objective: Any, round: Any) -> Fitted:
        there = Variables(jnp.asarray(models)[round.number + 1])
        return Fitted(there, jnp.float32(0), jnp.int32(1), jnp.float32(1))

    return fit


def teachers(models: np.ndarray, count: int) -> list[Any]:
    """What FedGKD's server sends beside each of these models, which it has one after the other."""
    task = table(*models.shape[1:])
    task = task._replace(init=lambda key: Variables(jnp.asarray(models[0])))
    algorithm = fedgkd(task, moved_to(models), history=count)
    servers = [algorithm.server_init(jax.random.key(0))]
    played = rounds(algorithm, one_row_a_client(1), [[0]] * (len(models) - 1))
    servers += [state.server for state, _ in played]
    return [algorithm.broadcast(s, jnp.int32(0), ROUND).teacher for s in servers]


def test_fedgkd_teaches_by_the_mean_of_its_last_models():
    vectors = arrays("fedgkd_loss")
    found = [teacher.params for teacher in teachers(vectors["in_history"], 2)]
    close(found, vectors["out_official_teacher_M2"])
    whole = teachers(vectors["in_buffer"], len(vectors["in_buffer"]))
    close(whole[-1].params, vectors["out_buffer_mean"], rtol=1e-7)
    assert teachers(vectors["in_history"], 1) == [()] * len(vectors["in_history"])
