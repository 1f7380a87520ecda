"""Golden vectors of the losses and the field's metrics: values and gradients, in float64.

Vectors that the authors' code made in float32 are compared at float32's precision. Numbers that a
set of vectors was made with, and does not say, are written here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
import pytest
from compiled import losses
from vectors import golden, keys_of, number

from fedjax_kd import fidelity, metrics
from fedjax_kd.core import Batch, Variables

TORCH = {"rtol": 1e-5, "atol": 1e-6}  # the authors' code ran in float32
EXACT = {"rtol": 1e-12, "atol": 1e-12}
FEDDF_WEIGHTS = (0.5, 0.3, 0.2)
FEDDF_LR, FEDDF_CLIP = 1e-3, 5.0
FRSKD = {"alpha": 2.0, "beta": 100.0, "tau": 4.0}
MOON_FIT = {"lr": 0.1, "decay": 1e-5}
INTERPOLATION_RATIO = 0.375  # of the fresh model


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def arrays(name: str) -> dict[str, np.ndarray]:
    """A file's arrays, floats in float64 and labels in int32."""

    def wide(a: np.ndarray) -> np.ndarray:
        return a.astype(np.float64 if a.dtype.kind == "f" else np.int32)

    return {key: wide(a) for key, a in golden(name).items()}


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def value_and_grad(fun: Callable[..., Any], *at: Any, **options: Any) -> Any:
    """Value and gradient at a point, compiled."""
    return jax.jit(jax.value_and_grad(fun, **options))(*at)


def close(seen: Any, expected: Any, **tolerance: float) -> None:
    np.testing.assert_allclose(seen, expected, **(tolerance or TORCH))


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


@differentiated("form", "scaled")
def lsd(logits: Any, teacher: Any, y: Any, tau: Any, beta: Any, **options: Any) -> jax.Array:
    return losses.self_distillation(logits, teacher, y, tau, beta, **options).mean()


@pytest.mark.parametrize(("key", "parts"), keys_of("lsd_loss", LSD_KEY))
def test_fedlsd(key: str, parts: tuple[str, ...]):
    vectors, (form, factor, tau, beta) = arrays("lsd_loss"), parts
    logits, teacher, y = (vectors[f"in_{n}"] for n in ("logits", "global_logits", "targets"))
    options = {"form": {"kl": "kl", "xe": "cross_entropy"}[form], "scaled": factor == "tau2"}
    value, gradient = lsd(logits, teacher, y, number(tau), number(beta), **options)
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


def test_fsp():
    vectors = arrays("kdsvd_fsp")
    teacher = [vectors[f"in_fsp_t{i}"] for i in range(3)]

    def loss(student: list[jax.Array]) -> jax.Array:
        return losses.flow_matching(student, teacher).mean() / 2  # as this code does

    value, gradients = value_and_grad(loss, [vectors[f"in_s{i}"] for i in range(3)])
    close(value, vectors["out_fsp"])
    for i, gradient in enumerate(gradients):
        close(gradient, vectors[f"out_fsp_grad_s{i}"])


@pytest.mark.parametrize("decomposition", ["svd", "eid"])
def test_kd_svd(decomposition: str):
    vectors, stages = arrays("kdsvd_eq"), range(3)
    given = [vectors[f"out_{decomposition}_VT{i}"] for i in stages]

    def loss(student: list[jax.Array]) -> jax.Array:
        found = [losses.right_singular_vectors(s, 4, decomposition)[1] for s in student]
        own = [losses.aligned(f, g) for f, g in zip(found, given, strict=True)]
        return losses.singular_correlation(own, given).sum()

    value, gradients = value_and_grad(loss, [vectors[f"in_s{i}"] for i in stages])
    close(value, vectors[f"out_kd{decomposition}"])
    for i in stages:
        found = [vectors[f"out_{decomposition}_{name}"] for name in (f"VS4_{i}", f"VSaligned{i}")]
        np.testing.assert_array_equal(losses.aligned(found[0], given[i]), found[1])
        _, mine = losses.right_singular_vectors(vectors[f"in_t{i}"], 1, decomposition)
        close(np.abs(mine), np.abs(given[i]), rtol=1e-4)
        # The authors' own rule for the gradient gives twice the derivative of their loss.
        expected = vectors[f"out_kd{decomposition}_grad_s{i}"] / 2
        close(gradients[i], expected, rtol=1e-3, atol=1e-5)


def test_kd_svd_up_to_the_signs_of_the_teachers_vectors():
    vectors = arrays("kdsvd_eq")
    student, teacher = ([vectors[f"in_{who}{i}"] for i in range(3)] for who in "st")
    values = losses.singular_distillation(student, teacher)
    own, given = [], []
    for s, t in zip(student, teacher, strict=True):
        given.append(losses.right_singular_vectors(t, 1)[1])
        own.append(losses.aligned(losses.right_singular_vectors(s, 4)[1], given[-1]))
    close(values, losses.singular_correlation(own, given), **EXACT)
    flips = [np.sign((g * vectors[f"out_svd_VT{i}"]).sum(1)[:, None]) for i, g in enumerate(given)]
    own, given = ([v * f for v, f in zip(side, flips, strict=True)] for side in (own, given))
    close(losses.singular_correlation(own, given).sum(), vectors["out_kdsvd"])


def test_frskd():
    vectors = arrays("frskd_loss")
    teacher = [channels_last(vectors[f"in_ft{i}"]) for i in range(2)]

    # The teacher's maps are arguments: folding them as constants takes XLA minutes.
    def loss(
        logits: jax.Array, taught: jax.Array, features: list[jax.Array], teacher: list[jax.Array]
    ) -> jax.Array:
        return losses.refined_self_distillation(
            logits, taught, vectors["in_y"], features, teacher, measure="mean", **FRSKD
        ).mean()

    features = [channels_last(vectors[f"in_fs{i}"]) for i in range(2)]
    given = vectors["in_logit_s"], vectors["in_logit_t"], features, teacher
    value, gradients = value_and_grad(loss, *given, argnums=(0, 1, 2))
    close(value, vectors["out_total"])
    close(gradients[0], vectors["out_grad_logit_s"])
    close(gradients[1], vectors["out_grad_logit_t"])
    for i in range(2):
        close(gradients[2][i], channels_last(vectors[f"out_grad_fs{i}"]))
        apart = losses.attention_transfer(features[i], teacher[i], measure="mean")
        close(apart.mean(), vectors[f"out_at{i}"])


@pytest.mark.parametrize(("key", "parts"), keys_of("datadam_attention", r"out_att_syn0_exp(\d)"))
def test_attention_maps(key: str, parts: tuple[str]):
    vectors = arrays("datadam_attention")
    maps = losses.attention_map(channels_last(vectors["in_syn0"]), int(*parts))
    close(maps, vectors[key])


def test_fedalign():
    vectors = arrays("fedalign_lipschitz")
    s2, s3, t2, t3 = (channels_last(vectors[f"in_{name}"]) for name in ("s2", "s3", "t2", "t3"))
    for side, maps in (("s", (s2, s3)), ("t", (t2, t3))):
        matrices = losses.transmitting_matrix(*maps)
        close(matrices, vectors[f"out_tm_{side}"])
        close(losses.spectral_norm(matrices), vectors[f"out_eig_{side}"][:, 0, 0])
        close(losses.spectral_norm(matrices, 100), vectors[f"out_exact_sigma_{side}"])

    def loss(s3: jax.Array) -> tuple[jax.Array, jax.Array]:
        raw = losses.lipschitz_alignment((s2, s3), (t2, t3)).mean()
        return vectors["in_mu"] * losses.as_large_as(raw, vectors["in_loss_ce"]), raw

    (value, raw), gradient = value_and_grad(loss, s3, has_aux=True)
    close(raw, vectors["out_raw_mse"])
    close(value, vectors["out_scaled"])
    close(gradient, channels_last(vectors["out_grad_s3"]))


def test_mixup():
    vectors = arrays("mixup")
    batch = Batch(vectors["in_x"], vectors["in_y"], np.ones(len(vectors["in_y"])))
    mixed = losses.mixed_with(batch, vectors["in_perm"], vectors["in_lam"])
    close(mixed.batch.x, vectors["out_x"])
    np.testing.assert_array_equal(mixed.batch.y, vectors["out_ya"])
    np.testing.assert_array_equal(mixed.partner_y, vectors["out_yb"])
    first, second = (
        losses.cross_entropy(vectors["in_pred"], y) for y in (mixed.batch.y, mixed.partner_y)
    )
    close(losses.mixed_loss(first, second, mixed.share).mean(), vectors["out_loss"])
    unmixed = losses.mixed_with(batch, vectors["in_perm"], float(vectors["out_lam_gamma0"]))
    np.testing.assert_array_equal(unmixed.batch.x, vectors["out_x_gamma0"])


def test_fedgen_client():
    # The file's steps are its unchanged parameters: only the loss and its parts can be compared.
    vectors = arrays("fedgen_client")
    y, coefficient = vectors["in_y"], vectors["out_coef"]
    body, fc = (
        [vectors[f"in_model_{name}.{kind}"] for kind in ("weight", "bias")]
        for name in ("body", "fc")
    )

    def dense(layer: list[jax.Array], x: jax.Array) -> jax.Array:
        return x @ layer[0].T + layer[1][None]

    logits = dense(fc, jax.nn.relu(dense(body, vectors["in_X"])))
    ce = losses.cross_entropy(logits, y).mean()
    kl = losses.kl_divergence(logits, dense(fc, vectors["in_z_same"]), scaled=False).mean()
    sampled_y = vectors["in_sampled_y"]
    nll = losses.cross_entropy(dense(fc, vectors["in_z_sampled"]), sampled_y).mean()
    close(ce, vectors["out_ce"])
    close(kl, vectors["out_latent_kl"])
    close(nll, vectors["out_teacher_nll"])
    total = ce + coefficient * (len(sampled_y) / len(y) * nll + kl)
    close(total, vectors["out_loss"])


def test_fedgen_diversity():
    vectors = arrays("fedgen_server")
    close(losses.diversity(vectors["in_eps"], vectors["out_z"]), vectors["out_diversity"])


def test_forgetting_and_weight_divergence():
    vectors = arrays("fl_metrics")
    seen = jax.jit(metrics.forgetting)(vectors["in_classwise_acc"])
    close(seen, vectors["out_forgetting"], **EXACT)
    seen = jax.jit(metrics.weight_divergence)(vectors["in_w_fed"], vectors["in_w_sgd"])
    close(seen, vectors["out_weight_divergence"], **EXACT)


def test_fidelity():
    vectors = arrays("fidelity")
    student, y = vectors["in_student"], vectors["in_y"]
    members = np.moveaxis(vectors["in_teacher"], 1, 0)
    teacher = losses.ensemble_logits(members, average="probabilities")
    close(teacher, vectors["out_ens"])
    sums = jax.jit(fidelity.fidelity)(student, teacher, y, np.ones(len(y)))
    for name, seen in fidelity.summary(sums).items():
        close(seen, vectors[f"out_{name}"])
    for row, name in enumerate(("count", "prob", "correct")):
        close(sums.bins[row], vectors[f"out_bin_{name}"])


def test_fidelity_losses():
    vectors = arrays("fidelity")
    student, teacher = vectors["in_student"], vectors["out_ens"]
    tau = 4.0  # of the keys' names
    close(losses.soft_cross_entropy(student, teacher, tau).mean(), vectors["out_fwd_T4"])
    close(losses.soft_cross_entropy(teacher, student, tau).mean(), vectors["out_rev_T4"])
    both = sum(losses.kl_divergence(student, teacher, direction=d) for d in ("forward", "reverse"))
    close(both.mean(), vectors["out_symm_kl"])
    probabilities = (jax.nn.softmax(logits) for logits in (student, teacher))
    close(losses.feature_mse(*probabilities).mean(), vectors["out_brier"])


def test_interpolated_initialisation():
    vectors = arrays("fidelity")
    models = (Variables(vectors[f"in_{who}_w"], vectors[f"in_{who}_rm"]) for who in ("ckpt", "net"))
    start = fidelity.interpolated(*models, 1 - INTERPOLATION_RATIO)
    close(start.params, vectors["out_interp_w"])
    close(start.stats, vectors["out_interp_rm"])
