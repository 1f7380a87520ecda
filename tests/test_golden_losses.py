"""Golden vectors of the losses and the field's metrics: values and gradients, in float64.

Vectors that the authors' code made in float32 are compared at float32's precision. Numbers that a
set of vectors was made with, and does not say, are written here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
import pytest
from compiled import losses
from precise import EXACT, arrays, close, value_and_grad
from vectors import keys_of, number

pytestmark = pytest.mark.usefixtures("float64")

FEDDF_WEIGHTS = (0.5, 0.3, 0.2)


FEDDF_LR, FEDDF_CLIP = 1e-3, 5.0


MOON_FIT = {"lr": 0.1, "decay": 1e-5}


def differentiated(*static: str, argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Makes a function one of its value and gradient, compiled once for all numbers."""

    def compiled(fun: Callable[..., jax.Array]) -> Callable[..., Any]:
        return jax.jit(jax.value_and_grad(fun, argnums), static_argnames=static)

    return compiled


@differentiated()
def ntd(logits: Any, teacher: Any, y: Any, tau: Any, beta: Any) -> jax.Array:
    term = losses.not_true(logits, teacher, y, tau)
    return (losses.cross_entropy(logits, y) + beta * term).mean()


@pytest.mark.parametrize(("key", "parts"), keys_of("ntd_loss", r"out_loss_tau(\w+)_beta(\w+)"))
def test_fedntd(key: str, parts: tuple[str, ...]):
    vectors, (tau, beta) = arrays("ntd_loss"), map(number, parts)
    given = [vectors[f"in_{name}"] for name in ("logits", "global_logits", "targets")]
    value, gradient = ntd(*given, tau, beta)
    close(value, vectors[key])
    close(gradient, vectors[key.replace("loss", "grad")])
    close(losses.not_true(*given, tau).mean(), vectors[key.replace("loss", "ntd")])


def test_fedntd_with_two_classes():
    vectors = arrays("ntd_loss")
    logits, y = vectors["in_edge2_logits"], vectors["in_edge2_targets"]
    term = losses.not_true(logits, vectors["in_edge2_global"], y)
    np.testing.assert_array_equal(term.mean(), vectors["out_edge2_ntd"])
    close(losses.cross_entropy(logits, y).mean(), vectors["out_edge2_loss"])


LSD_KEY = r"out_loss_(kl|xe)_(tau2|notau2)_tau(\w+)_beta(\w+)"


@differentiated("scaled")
def lsd(logits: Any, teacher: Any, y: Any, tau: Any, beta: Any, *, scaled: bool) -> jax.Array:
    term = losses.received_divergence(logits, teacher, y, tau, scaled=scaled)
    return ((1 - beta) * losses.cross_entropy(logits, y) + beta * term).mean()


@pytest.mark.parametrize(("key", "parts"), keys_of("lsd_loss", LSD_KEY))
def test_fedlsd(key: str, parts: tuple[str, ...]):
    vectors, (form, factor, tau, beta) = arrays("lsd_loss"), parts
    logits, teacher, y = (vectors[f"in_{n}"] for n in ("logits", "global_logits", "targets"))
    scaled = factor == "tau2"
    value, gradient = lsd(logits, teacher, y, number(tau), number(beta), scaled=scaled)
    if form == "kl":  # cross-entropy has the same gradient
        close(value, vectors[key], **EXACT)
    close(gradient, vectors[key.replace("loss", "grad")], **EXACT)
    term = losses.kl_divergence(logits, teacher, number(tau), scaled=False)
    close(term.mean(), vectors[f"out_klterm_tau{tau}_beta{beta}"], **EXACT)


def moon_net(net: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Projected features and logits of the net that the vectors were made with."""

    def dense(name: str, x: jax.Array) -> jax.Array:
        return x @ net[f"{name}.weight"].T + net[f"{name}.bias"][None]

    z = dense("l2", jax.nn.relu(dense("l1", jax.nn.relu(dense("f", x)))))
    return z, dense("l3", z)


@differentiated()
def moon(net: Any, batch: Any, others: Any, mu: Any, tau: Any) -> jax.Array:
    z, logits = moon_net(net, batch[0])
    contrast = losses.model_contrastive(z, *others, tau).mean()
    return losses.cross_entropy(logits, batch[1]).mean() + mu * contrast


@pytest.mark.parametrize(("key", "parts"), keys_of("moon_loss", r"out_loss_mu(\w+)_tau(\w+)"))
def test_moon(key: str, parts: tuple[str, ...]):
    vectors, (mu, tau) = arrays("moon_loss"), map(number, parts)
    net = {k.removeprefix("in_net_"): v for k, v in vectors.items() if k.startswith("in_net_")}
    z, *others = (vectors[f"in_z{suffix}"] for suffix in ("", "_glob", "_prev"))
    value, gradient = moon(net, (vectors["in_x"], vectors["in_y"]), others, mu, tau)
    close(value, vectors[key])
    contrast = losses.model_contrastive(z, *others, tau).mean()
    close(contrast, vectors[key.replace("loss", "con")])
    if key == "out_loss_mu5_tau0p5":
        return  # the file holds the other setting's steps in this one's place
    for name, weight in net.items():
        step = MOON_FIT["lr"] * (gradient[name] + MOON_FIT["decay"] * weight)
        close(weight - step, vectors[f"{key.replace('loss', 'step')}_{name}"])


FEDDF_KEY = r"out_loss_avg_(logits|probs|losses)_T(\d+)_(uniform|weighted)"


@differentiated("average")
def feddf(layer: Any, x: Any, teachers: Any, tau: Any, weights: Any, *, average: str) -> jax.Array:
    student = x @ layer[0].T + layer[1][None]
    return losses.ensemble_divergence(
        student, teachers, tau, weights, average=average, teacher_tau=1
    ).mean()


@jax.jit
def feddf_step(layer: Any, gradient: Any) -> tuple[Any, Any]:
    """The clipped gradient, and the layer after a step."""
    clip, adam = optax.clip_by_global_norm(FEDDF_CLIP), optax.adam(FEDDF_LR)
    with jax.numpy_dtype_promotion("standard"):
        clipped, _ = clip.update(gradient, clip.init(layer))
        step, _ = adam.update(clipped, adam.init(layer))
    return clipped, optax.apply_updates(layer, step)


@pytest.mark.parametrize(("key", "parts"), keys_of("feddf_distill", FEDDF_KEY))
def test_feddf(key: str, parts: tuple[str, ...]):
    vectors, (average, tau, votes) = arrays("feddf_distill"), parts
    weights = np.array(FEDDF_WEIGHTS if votes == "weighted" else (1.0, 1.0, 1.0))
    given = vectors["in_x"], vectors["in_teacher_logits"], float(tau), weights
    layer = vectors["in_W"], vectors["in_b"]
    value, gradient = feddf(layer, *given, average=average.replace("probs", "probabilities"))
    close(value, vectors[key])
    clipped, after = feddf_step(layer, gradient)
    close(clipped[0], vectors[key.replace("out_loss", "out_gradW")])
    close(after[0], vectors[key.replace("out_loss", "out_stepW")])


@differentiated()
def gkt(student: Any, teacher: Any, tau: Any) -> jax.Array:
    return losses.group_transfer(student, teacher, tau, variant="code").mean()


@pytest.mark.parametrize(("key", "parts"), keys_of("fedgkt_kl", r"out_kl_T(\d+)"))
def test_fedgkt(key: str, parts: tuple[str]):
    vectors, tau = arrays("fedgkt_kl"), float(*parts)
    tolerance = {"rtol": 0, "atol": 1e-3 if tau == 100 else 1e-5}
    student, teacher = vectors["in_student"], vectors["in_teacher"]
    value, gradient = gkt(student, teacher, tau)
    close(value, vectors[key], **tolerance)
    close(gradient, vectors[key.replace("kl", "grad")], **tolerance)
    soft = losses.soft_cross_entropy(student, teacher, tau).mean()
    close(soft, vectors[key.replace("kl", "ce_soft")], rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "parts"), keys_of("fedgkt_kl", r"out_client_loss_T(\d+)_alpha(\w+)")
)
def test_fedgkt_both_sides(key: str, parts: tuple[str, str]):
    vectors, (tau, alpha) = arrays("fedgkt_kl"), map(number, parts)
    student, teacher = vectors["in_student"], vectors["in_teacher"]
    kl = losses.group_transfer(student, teacher, tau, variant="code").mean()
    ce = losses.cross_entropy(student, vectors["in_targets"]).mean()
    close(ce + alpha * kl, vectors[key])
    close(kl + alpha * ce, vectors[key.replace("client", "server")])


def fedkd_hidden(vectors: dict[str, np.ndarray], kind: str) -> jax.Array:
    """Layer l of the student, counted from the top, is compared with layer 3 l of the teacher."""
    return sum(
        losses.feature_mse(
            vectors[f"in_s_{text}_{kind}"][:, -1 - layer],
            vectors[f"in_t_{text}_{kind}"][:, -1 - 3 * layer],
        ).mean()
        for text in ("cand", "log")
        for layer in range(vectors["in_s_cand_att"].shape[1])
    )


def test_fedkd_code():
    vectors = arrays("fedkd_losses")
    hidden, attention = (fedkd_hidden(vectors, kind) for kind in ("hid", "att"))
    close(hidden, vectors["out_mse_hidden"])
    close(attention, vectors["out_mse_att"])

    def total(teacher: jax.Array, student: jax.Array) -> jax.Array:
        both = losses.adaptive_mutual(
            teacher, student, vectors["in_y"], hidden + attention, variant="code"
        )
        return both.teacher.mean() + both.student.mean()

    scores = vectors["in_score_t"], vectors["in_score_s"]
    value, gradients = value_and_grad(total, *scores, argnums=(0, 1))
    close(value, vectors["out_total"])
    close(gradients[0], vectors["out_grad_score_t"])
    close(gradients[1], vectors["out_grad_score_s"])


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_fedkd_paper(side: str):
    vectors = arrays("fedkd_losses")
    hidden = fedkd_hidden(vectors, "hid") + fedkd_hidden(vectors, "att")

    def loss(teacher: jax.Array, student: jax.Array) -> jax.Array:
        both = losses.adaptive_mutual(teacher, student, vectors["in_y"], hidden)
        return getattr(both, side).mean()

    own, scores = side == "student", (vectors["in_score_t"], vectors["in_score_s"])
    value, gradients = value_and_grad(loss, *scores, argnums=(0, 1))
    close(value, vectors[f"out_paper_loss_{side[0]}"], rtol=1e-7)
    close(gradients[own], vectors[f"out_paper_grad_{side[0]}"], **EXACT)
    np.testing.assert_array_equal(gradients[not own], 0)
