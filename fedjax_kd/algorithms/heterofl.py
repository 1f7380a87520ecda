"""HeteroFL: FedAvg of clients that train as much of the width as they can bear."""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from fedjax_kd import losses
from fedjax_kd.algorithms.fedavg import fedavg
from fedjax_kd.components import width_slices
from fedjax_kd.components.class_statistics import own_counts
from fedjax_kd.components.model_parts import head
from fedjax_kd.components.pooling import summed
from fedjax_kd.components.width_slices import SliceChange, within
from fedjax_kd.core import Algorithm, Client, Data, Key, Round, Upload, Variables, Wire
from fedjax_kd.local import Fit, local_change
from fedjax_kd.losses.label_skew import AbsentLogits
from fedjax_kd.options import check_choice, extends
from fedjax_kd.task import Task

Assignment = Literal["fixed", "dynamic"]


@extends(fedavg, fixes=["objective", "weighting"], needs_classes="HeteroFL masks absent classes")
def heterofl(
    task: Task,
    fit: Fit,
    *,
    rates: tuple[float, ...] = (1.0, 0.5, 0.25, 0.125, 0.0625),
    assignment: Assignment = "fixed",
    absent: AbsentLogits = "excluded",
    scaler: bool = True,
    **options: Any,
) -> Algorithm:
    """HeteroFL: each client trains the first channels of every layer (Diao et al., 2021).

    Against FedAvg: a slice of the model in place of all of it.
    Down: the slice. Up: its change, and which classes it has ``[L]``. Keeps: nothing.

        w_k = w[:ceil(r_k I), :ceil(r_k O)]    layer by layer; the head keeps all classes
        loss_k = CE over the classes of client k, with hidden layers' outputs / r_k
        w = w + server_lr * mean of the changes of each value, over the clients that hold it

    A client holds the head's rows of its own classes. What nobody holds stays as it was.

    Equals FedAvg with ``weighting="uniform"`` when ``rates == (1,)`` and ``absent == "kept"``.

    Args:
      task: a classifier with ``features``, without layer or group normalisation.
      fit: local training, from `fedjax_kd.local.local_training`.
      rates: share of the channels of each kind of client, each in (0, 1].
      assignment: client k has the rate of number k modulo their count, or ("dynamic") draws one of
        them anew in every round.
      absent: what becomes of the logits of classes that a client lacks: they are left out of its
        softmax, as in the paper, are 0 in it as in the authors' code, or stay. If they stay, all
        clients hold all rows of the head.
      scaler: whether to divide hidden layers' outputs by the rate in training.

    Raises:
      TypeError: if the module has no ``features``.
      ValueError: if a number is out of its range, a choice unknown, there is no rate, or the
        network cannot be cut.

    Departs from the paper: BatchNorm's running statistics are averaged like other values, not
    computed anew from clients' data before a test. Channels beyond the rate are set to zero, since
    shapes are fixed in a compiled program: a narrow client takes as long as a wide one.
    Source: Diao, Ding, Tarokh, ICLR 2021, arXiv:2010.01264.
    """
    check_choice("assignment", assignment, Assignment)
    check_choice("absent", absent, AbsentLogits)
    base, change = fedavg(task, fit, **options), local_change(fit)
    slices, last = width_slices.slices(task, rates), head(task)
    hidden, widths = width_slices.hidden_layers(task), jnp.array(rates, jnp.float32)
    sizes = width_slices.slice_bytes(slices, task)

    def client_update(
        key: Key, received: Variables, client: Client, data: Data, round: Round
    ) -> tuple[Upload, Client]:
        drawn = jax.random.randint(jax.random.fold_in(key, 1), (), 0, len(rates))
        kind = drawn if assignment == "dynamic" else data.client % len(rates)
        held, counts = slices.at(kind), own_counts(task, received, data)
        rate = widths[kind] if scaler else jnp.ones((), widths.dtype)
        by = losses.absent_classes(counts, absent)
        loss = width_slices.loss_of_slice(task, held, hidden, rate, by)
        upload, _ = change(key, within(held, received), data, loss, round)
        present = counts > 0 if absent != "kept" else jnp.ones(counts.shape, bool)
        mine = width_slices.of_classes(held, last, present)
        clients = jax.nn.one_hot(kind, len(rates), dtype=jnp.float32)
        classes = jnp.outer(clients, present.astype(jnp.float32))
        message = SliceChange(within(mine, upload.message), clients, classes)
        wire = Wire(sizes[kind] + counts.shape[0], sizes[kind])
        return upload._replace(message=message, wire=wire), client

    def server_update(key: Key, server: Any, update: SliceChange, round: Round) -> Any:
        mean = width_slices.mean_of_holders(update, slices, last)
        return base.server_update(key, server, mean, round)

    return base._replace(client_update=client_update, aggregate=summed, server_update=server_update)
