"""LocalKD: FedAvg whose clients are distilled from the received model by a loss given by name."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.local_distillation import KdLoss, output_loss
from fedjax_kd.components.sharp_edges import temperature_is_not_read, warns_of
from fedjax_kd.core import Algorithm, Batch, Key, PyTree, Scalar, Variables
from fedjax_kd.local import Fit
from fedjax_kd.losses.objectives import Objective
from fedjax_kd.options import extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"])
@warns_of(temperature_is_not_read)
def localkd(
    task: Task,
    fit: Fit,
    *,
    kd: KdLoss = "kl",
    beta: Scalar = 1.0,
    tau: Scalar = 1.0,
    **options: Any,
) -> Algorithm:
    """LocalKD: any loss of knowledge distillation, with the received model as the teacher.

    Against FedAvg: the local loss, which costs one more forward pass.
    Down: the model. Up: its change. Keeps: nothing.

        s, t = outputs on x of w, of the received model: logits, features z, or the maps a, b before
        and after the last block
        loss_k(w) + beta * mean_x D(s, t)

    D is the loss that ``kd`` names, of `fedjax_kd.losses`; sizes differ, and with them the ``beta``
    that suits. The received model is constant, in evaluation mode, on the same augmented inputs.

        kl, mse           of logits: kl_divergence at temperature tau, logit_mse
        features, cosine  of z: feature_mse, feature_cosine
        similarity        similarity_preserving of z, example with example
        rkd               relational_distances + 2 relational_angles of z
        tokens            kl_divergence of the token_relations of z [B, T, D]
        attention         attention_transfer of a + that of b
        frskd             feature_refinement by (a, b), alpha = 1, beta = 50, squares' mean
        fsp, svd, eid     flow_matching, singular_distillation of (a, b)

    Equals FedAvg when ``beta == 0``.

    Args:
      task: a model and its loss; "kl" and "frskd" need a classifier, the last five a last block.
      fit: local training, from `fedjax_kd.local.local_training`.
      kd: what is compared, and how.
      beta: weight of the distillation, >= 0; the authors have 25 for RKD, 2 for FRSKD.
      tau: temperature of "kl" and "frskd", > 0; FRSKD's authors have 4. Others do not read it.

    Raises:
      ValueError: if ``kd`` is unknown, ``beta`` or ``tau`` is a number out of its range, or the
        model does not have the features or maps that ``kd`` compares.

    Departs from the paper: there is none of this method; the losses are of papers in which a larger
    network, trained before, teaches a smaller one. There, FSP trains in two stages, KD-SVD and
    KD-EID clip the gradient of the distillation by that of the task, and FRSKD's teacher is a
    second network on top of the first, in training itself. Maps are those of one block, not of all.
    Source: Park, Kim, Lu, Cho, CVPR 2019, arXiv:1904.05068 (RKD); Yim, Joo, Bae, Kim, CVPR 2017
    (FSP); Lee, Kim, Song, ECCV 2018, arXiv:1807.06819 (KD-SVD); Ji, Shin, Hwang, Park, Moon, CVPR
    2021, arXiv:2103.08273 (FRSKD); others in `fedjax_kd.losses`.
    """
    distilled = output_loss(task, kd)

    def objective(received: Variables) -> Objective:
        def loss(model: Variables, batch: Batch, key: Key) -> tuple[Array, PyTree]:
            values, logits, stats = distilled(model, received, batch, key, tau)
            supervised = losses.batch_mean(task.example_loss(logits, batch.y), batch)
            return supervised + beta * losses.batch_mean(values, batch), stats

        return loss

    of_classes = "LocalKD distils classes by " + kd if kd in ("kl", "frskd") else ""
    made = fedavg(task, fit, objective=objective, **options)
    return made._replace(needs_classes=of_classes)
