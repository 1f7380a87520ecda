"""FedLoGe: features below a fixed classifier, a head for all and one of each client's on top."""

from __future__ import annotations

from typing import Any

import jax

from fedjax_kd import tree
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components.anchored import Adapted, Anchored, anchored_loss, realigned_logits, room
from fedjax_kd.components.class_statistics import own_counts
from fedjax_kd.components.linear_head import Realignment
from fedjax_kd.components.model_parts import nonempty_head, partition
from fedjax_kd.components.own_head import change_of_both
from fedjax_kd.components.simplex import sparse_frame
from fedjax_kd.core import Algorithm, Data, Key, Round, Scalar, Upload, Variables, Wire
from fedjax_kd.local import Fit, Weighting
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task


@extends(fedavg, fixes=["objective"], needs_classes="FedLoGe places classes apart")
def fedloge(
    task: Task,
    fit: Fit,
    *,
    beta: Scalar = 0.6,
    length: Scalar = 0.1,
    anchor_steps: int = 10000,
    variant: Realignment = "paper",
    weighting: Weighting = "examples",
    **options: Any,
) -> Algorithm:
    """FedLoGe: generic and personal models of long-tailed data (Xiao et al., 2024).

    Against FedAvg: the body learns below a fixed sparse classifier psi (SSE-C); two heads are
    trained on its constant features, and rescaled for predictions (GLA-FR).
    Down: the model, body and head phi; psi, of one seed, is not counted. Up: its change. Keeps: a
    head phi_k.

        CE(psi f), f = body(x)                        gives the gradient of the body
        CE(phi constant(f)), CE(phi_k constant(f))    give those of both heads
        generic prediction: phi_c f / |phi_c| * 1.7
        of client k: (phi_c / |phi_c| * |phi_k,c| + phi_k,c) f for the classes c that it holds

    It is never FedAvg: psi takes the place of the head that teaches the body.

    Args:
      task: a classifier with ``features`` and a linear head, no more classes than features.
      fit: local training of all three, in one optimiser; ``clip_norm`` is of all gradients.
      beta: share of the entries of psi that are zero, in [0, 1).
      length: of its columns, about, > 0; short ones make large features, and want small steps.
      anchor_steps: of Adam by which they are spread, once, >= 0.
      variant: "code" does not divide phi_c by its length in a client's prediction.
      weighting: how clients vote.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if an option is out of its range, or features are fewer than classes.

    Departs from the paper: psi has no bias, which the code draws at random; phi_k starts as phi
    does; the classes that a client holds are those it trains on, in the code those of its test.
    Source: Xiao, Chen, Liu, Wang, Feng, Hao, Zhou, Wu, Yang, Liu, ICLR 2024, "FedLoGe: Joint Local
    and Generic Federated Learning under Long-tailed Data".
    """
    check_choice("variant", variant, Realignment)
    part, shape = nonempty_head(task), room(task, "FedLoGe")
    change, loss_below = change_of_both(fit, weighting), anchored_loss(task)
    logits = realigned_logits(task, variant)
    base = fedavg(task, fit, weighting=weighting, **options)

    def server_init(key: Key) -> Anchored:
        anchors = sparse_frame(jax.random.fold_in(key, 1), shape, beta, length, anchor_steps)
        return Anchored(base.server_init(key), anchors)

    def client_update(
        key: Key, received: Anchored, own: Variables, data: Data, round: Round
    ) -> tuple[Upload, Variables]:
        model, loss = received.base, loss_below(received.anchors)
        upload, own = change(key, (model, own), data, loss, round)
        return upload._replace(wire=Wire(down=tree.num_bytes(model))), own

    def server_update(key: Key, server: Anchored, update: Variables, round: Round) -> Anchored:
        return server._replace(base=base.server_update(key, server.base, update, round))

    def personalise(key: Key, server: Anchored, own: Variables, data: Data) -> Adapted:
        held = own_counts(task, server.base.model, data) > 0
        return Adapted(own, held | (data.size == 0))

    return base._replace(
        server_init=server_init,
        client_init=lambda key, server: partition(part, server.base.model)[1],
        broadcast=lambda server, number, round: Anchored(server.base.model, server.anchors),
        client_update=client_update,
        server_update=server_update,
        personalise=personalise,
        predict=lambda server, client, x: logits(server.base.model, client, x),
        judged_by="clients",
    )
