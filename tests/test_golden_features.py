"""Golden vectors of losses on features, and of metrics."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from compiled import losses
from precise import EXACT, arrays, close, value_and_grad
from vectors import keys_of

from fedjax_kd import metrics
from fedjax_kd.core import Batch, Variables
from fedjax_kd.metrics import fidelity

pytestmark = pytest.mark.usefixtures("float64")

FRSKD = {"alpha": 2.0, "beta": 100.0, "tau": 4.0}


INTERPOLATION_RATIO = 0.375  # of the fresh model


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


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
    for name, seen in fidelity.fidelity_summary(sums).items():
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
