"""The record of every method, in the order of the registry."""

from __future__ import annotations

from functools import partial

import jax
from digits import network, normalised, softmax_regression
from federations import CLASSES, COHORTS, FEATURES, SIZES, logistic, normed
from methods import Digits, Limit, Record, numeric, uniformly
from records_clusters import CLUSTERS
from records_evaluation import EVALUATION
from records_labels import LABELS
from records_linear import LINEAR_CORRECTIONS
from records_partial import PARTIAL
from records_personal import PERSONAL
from records_prototypes import NO_WEIGHTS
from records_server import SERVER
from records_sharpness import SHARPNESS

from fedjax_kd.algorithms import REGISTRY, fedavg, fedper
from fedjax_kd.core import Algorithm
from fedjax_kd.local import Fit, local_training
from fedjax_kd.task import Task

hidden = partial(logistic, hidden=2)

MODEL = 4 * (FEATURES * CLASSES + CLASSES)  # bytes of float32 weights and biases
BODY, HEAD = 4 * (FEATURES * 2 + 2), 4 * (2 * CLASSES + CLASSES)  # of two hidden units
BOTH = BODY + HEAD
AS_FEDAVG, AS_FEDAVG_HIDDEN = (MODEL, MODEL, 0), (BOTH, BOTH, 0)

ALONE = [(4,)] * 3  # one client, who has all the votes
LINEAR = Digits(softmax_regression)
NETWORK = Digits(network, {"client_lr": 0.1})  # which needs longer steps

# The step is Delta / (1 + sqrt(v) / tau), and v starts at `initial`: off by |Delta| / 1e6.
LARGE_TAU = Limit({"eta": 1e6, "beta_1": 0.0, "tau": 1e6, "initial": 0.0}, gap=1e-6)
INITIAL = {"initial": 1e-6}  # tau squared

HYPERNET = {"population": len(SIZES), "hidden": 3, "layers": 1, "embedding": 2, "server_lr": 0.5}
# A hypernetwork of biases alone makes the same model for all.
ONE_MODEL = {"hidden": 0, "start": "model", "server_lr": 1.0}
ONE_MODEL |= {"server_momentum": 0.0, "server_decay": 0.0, "server_clip": 1e6}
HYPERNET_OF_DIGITS = {"population": 100, "hidden": 20, "server_lr": 0.3}


def one_step(task: Task, fit: Fit) -> Algorithm:
    """FedAvg whose clients take one step with all their examples."""
    return fedavg(task, local_training(client_lr=1.0, batch_size=0), server_lr=0.3)


def personal_head(task: Task, fit: Fit) -> Algorithm:
    """FedPer, which is FedAvg of the body."""
    return fedper(task, fit, weighting="uniform")


def same_start(task: Task) -> Task:
    """The task whose models all start as the server's."""
    return task._replace(init=lambda key: task.init(jax.random.key(0)))


RECORDS: dict[str, Record] = {
    "fedsgd": Record(
        task=logistic,
        bytes=AS_FEDAVG,
        limit=Limit({"eta": 0.3}, equals=one_step),
        digits=Digits(softmax_regression, options={"eta": 0.2}),
    ),
    "fedavg": Record(
        task=logistic,
        bytes=AS_FEDAVG,
        # One client has all the votes, however they are counted.
        limit=Limit({"weighting": "examples"}, 1e-7, uniformly, cohorts=[(4,), (0,)]),
        digits=LINEAR,
    ),
    "fedavgm": Record(
        task=logistic,
        bytes=AS_FEDAVG,
        # XLA fuses the multiplications differently when it must also keep the momentum.
        limit=Limit({"beta": 0.0}, gap=1e-7),
        digits=LINEAR,
    ),
    "fedadagrad": Record(
        task=logistic, bytes=AS_FEDAVG, limit=LARGE_TAU, digits=LINEAR, neutral=INITIAL
    ),
    "fedadam": Record(
        task=logistic,
        bytes=AS_FEDAVG,
        limit=LARGE_TAU,
        digits=Digits(softmax_regression, options={"eta": 0.03}),
        neutral=INITIAL,
    ),
    "fedyogi": Record(
        task=logistic,
        bytes=AS_FEDAVG,
        limit=LARGE_TAU,
        digits=Digits(softmax_regression, options={"eta": 0.03}),
        neutral=INITIAL,
    ),
    "fedprox": Record(task=logistic, bytes=AS_FEDAVG, limit=Limit({"mu": 0.0}), digits=LINEAR),
    "scaffold": Record(
        task=logistic,
        bytes=(2 * MODEL, 2 * MODEL, MODEL),
        limit=Limit({}, equals=uniformly, cohorts=COHORTS[:1]),
        digits=LINEAR,
    ),
    "standalone": Record(
        task=logistic, bytes=(0, 0, MODEL), limit=Limit({}, 1e-6, cohorts=ALONE), digits=LINEAR
    ),
    "fedntd": Record(task=logistic, bytes=AS_FEDAVG, limit=Limit({"beta": 0.0}), digits=LINEAR),
    "fedper": Record(
        task=hidden,
        bytes=(BODY, BODY, HEAD),
        # XLA fuses otherwise where the model is put together.
        limit=Limit({"personal": partial(jax.tree.map, lambda _: False)}, gap=1e-7),
        digits=NETWORK,
    ),
    "fedbn": Record(
        task=normed,
        bytes=(MODEL, MODEL, 4 * 4 * FEATURES),  # scale, bias, mean and variance stay
        limit=Limit({}, 1e-6, cohorts=ALONE),
        digits=Digits(normalised, {"client_lr": 0.1}),
    ),
    "perfedavg": Record(
        task=logistic,
        bytes=AS_FEDAVG,
        limit=Limit({"alpha": 0.0}, 1e-6, uniformly),
        digits=LINEAR,
        vary={"alpha": 0.5, "delta": 10.0},
    ),
    "fedlsd": Record(task=logistic, bytes=AS_FEDAVG, limit=Limit({"beta": 0.0}), digits=LINEAR),
    "localkd": Record(task=logistic, bytes=AS_FEDAVG, limit=Limit({"beta": 0.0}), digits=LINEAR),
    "moon": Record(
        task=hidden,
        bytes=(BOTH, BOTH, BOTH + 1),
        # XLA fuses otherwise where the model's features are kept.
        limit=Limit({"mu": 0.0}, gap=1e-7),
        digits=NETWORK,
    ),
    "fedalign": Record(
        task=hidden,
        bytes=AS_FEDAVG_HIDDEN,
        # XLA fuses otherwise where the block's output is kept.
        limit=Limit({"mu": 0.0}, gap=1e-7),
        digits=Digits(network, {"client_lr": 0.1, "clip_norm": 10.0}),
        vary={"width": 0.8},  # of two hidden units both in place of one
    ),
    "fedmixup": Record(
        task=logistic, bytes=AS_FEDAVG, limit=Limit({"gamma": 0.0}, gap=1e-7), digits=LINEAR
    ),
    "fedgradaug": Record(
        task=hidden,
        bytes=AS_FEDAVG_HIDDEN,
        limit=Limit({"mu": 0.0, "subnets": 1}, gap=1e-7),
        digits=NETWORK,
        options={"subnets": 2},
        vary={"width": 0.8},
    ),
    "fedkd": Record(
        task=hidden,
        bytes=(BOTH + 4, BOTH, BOTH + 4 * 2 * 2),  # a number; W_h
        limit=Limit({"beta": 0.0, "t_min": 1.0, "t_max": 1.0}, 1e-6, uniformly),
        digits=NETWORK,
        options={"t_min": 0.5, "t_max": 0.9, "rounds": 2},
        vary={"t_min": 0.9, "rounds": 1.0},
    ),
    "pfedhn": Record(
        task=logistic,
        bytes=(MODEL, MODEL, 4),  # the client's number
        limit=Limit(ONE_MODEL, 1e-6, uniformly),
        digits=Digits(softmax_regression, {"client_lr": 0.1}, HYPERNET_OF_DIGITS),
        options=HYPERNET,
        vary={"server_clip": 0.01},
    ),
    "pfedhn_pc": Record(
        task=hidden,
        bytes=(BODY, BODY, HEAD + 4),
        limit=Limit(ONE_MODEL, 1e-6, personal_head),
        digits=Digits(network, {"client_lr": 0.1}, HYPERNET_OF_DIGITS),
        options=HYPERNET,
        vary={"server_clip": 0.01},
    ),
    "feddf": Record(
        task=hidden,  # where teachers differ from their average
        bytes=AS_FEDAVG_HIDDEN,
        limit=Limit({"distil_steps": 0}, 1e-7, uniformly),  # the server averages
        digits=Digits(network, {"client_lr": 0.1}, {"distil_steps": 20}),
        options={"distil_steps": 2, "distil_batch": 4, "eta": 0.02, "best": False},
    ),
    "fedmd": Record(
        task=logistic,
        bytes=(4 * 6 * CLASSES + 9, 4 * 6 * CLASSES, MODEL + 1),  # two seeds and a boolean
        limit=Limit({"public_lr": 0.0}, 1e-6, cohorts=ALONE, prepare=same_start),
        digits=Digits(network, {"client_lr": 0.1}, {"classes": 10, "alignment": 100}),
        options={"classes": CLASSES, "alignment": 6, "public_batch": 4},
    ),
    "fedgkt": Record(
        task=hidden,
        # Of 12 rows: down logits; up two features, logits and a label.
        bytes=(4 * 12 * CLASSES + 1, 4 * (12 * (2 + CLASSES + 1) + 1), BOTH),
        limit=Limit({"alpha": 0.0}, 1e-6, cohorts=ALONE),
        digits=Digits(
            network,
            {"client_lr": 0.1},
            {"population": 100, "capacity": 61, "classes": 10, "server_hidden": (32,)},
        ),
        options={"population": 6, "capacity": 12, "classes": CLASSES, "server_hidden": ()},
        vary={"alpha": 0.5},
    ),
    "fedgen": Record(
        task=hidden,
        # Down the generator: (noise + classes) x 4 weights, 4 x 4 of its norm, an output of 2
        # features.
        bytes=(BOTH + 4 * (20 + 16 + 10 + CLASSES), BOTH + 4 * CLASSES, 0),
        limit=Limit({"alpha": 0.0, "beta": 0.0}, gap=1e-7),  # heads are averaged by the server
        digits=Digits(network, {"client_lr": 0.1}, {"generator_steps": 10, "generator_hidden": 32}),
        options={"generated": 4, "generator_steps": 2, "generator_batch": 4}
        | {"generator_hidden": 4, "generator_noise": 2},
        vary={"alpha": 0.5, "student": 100.0},
    ),
    "ccvr": Record(
        task=hidden,
        bytes=(BOTH, BOTH + 4 * CLASSES * (1 + 2 + 4), 0),
        limit=Limit({"after": len(COHORTS)}, gap=1e-7),
        digits=Digits(network, {"client_lr": 0.1}, {"after": 10}),
        options={"after": 2, "virtual": 4, "head_epochs": 2, "head_batch": 6},
        neutral={"tukey": 1.0},
    ),
    **SHARPNESS,
    **EVALUATION,
    **SERVER,
    **LINEAR_CORRECTIONS,
    **LABELS,
    **PARTIAL,
    **PERSONAL,
    **CLUSTERS,
    **NO_WEIGHTS,
}


def limit_is_numeric(name: str) -> bool:
    """Whether numbers alone make a method FedAvg, for the usual cohorts: a sweep may hold it."""
    limit = RECORDS[name].limit if name in RECORDS else None
    if not isinstance(limit, Limit) or limit.cohorts != COHORTS or limit.prepare is not None:
        return False
    return bool(limit.options) and limit.options.keys() <= numeric(REGISTRY[name]).keys()
