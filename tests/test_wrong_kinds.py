"""What looks right and is of another kind: optimisers, images, states and texts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import pytest
from federations import federation, logistic

from fedjax_kd.algorithms import fedadam, fedavg, fedgkt, fedmd, fedper, pfedhn
from fedjax_kd.data.augment import crop_flip
from fedjax_kd.data.dataset import from_arrays
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.evaluation import make_evaluation
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.errors import InputError, InputTypeError
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS, default_model
from fedjax_kd.runs.build import task_of, with_model
from fedjax_kd.runs.config import Config
from fedjax_kd.train import blocks

FIT = local_training(client_lr=0.1, batch_size=4)
MADE = optax.sgd(0.1)
OPTIMISERS: dict[str, Callable[[Any], Any]] = {
    "client_opt": lambda opt: local_training(client_opt=opt),
    "server_opt": lambda opt: fedavg(logistic(), FIT, server_opt=opt),
    "server_opt of pFedHN": lambda opt: pfedhn(logistic(), FIT, population=6, server_opt=opt),
    "server_opt of FedGKT": lambda opt: fedgkt(
        logistic(2), FIT, population=6, capacity=12, classes=3, server_opt=opt
    ),
    "public_opt": lambda opt: fedmd(logistic(), FIT, classes=3, public_opt=opt),
}


@pytest.mark.parametrize("name", OPTIMISERS)
def test_an_optimiser_in_place_of_a_function(name: str):
    give, argument = OPTIMISERS[name], name.split(maxsplit=1)[0]
    with pytest.raises(InputTypeError, match=rf"^{argument} .*give optax\.sgd, not optax\.sgd\(0"):
        give(MADE)
    with pytest.raises(InputTypeError, match=f"^{argument} makes a float"):
        give(lambda rate: 0.1)
    give(partial(optax.sgd, momentum=0.9))


def test_a_name_that_is_no_optimiser_of_a_rate():
    with pytest.raises(InputTypeError, match="client_opt cannot be called with a learning rate"):
        local_training(client_opt="masked")


def test_a_rule_of_fedadam_too():
    with pytest.raises(InputTypeError, match=r"^rule is an optimiser"):
        fedadam(logistic(), FIT, rule=MADE)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 30), (4, 64, 64)])
def test_channels_first(shape: tuple[int, int, int]):
    words = r"channels first.*x\.transpose\(0, 2, 3, 1\)"
    with pytest.raises(InputError, match=words):
        default_model(shape, np.uint8)
    with pytest.raises(InputError, match=words):
        crop_flip(shape)
    for name in ("cnn_mcmahan", "cnn_emnist", "cnn_small", "lenet", "resnet8", "resnet18"):
        with pytest.raises(InputError, match=words):
            MODELS[name](shape, 10)
    MODELS["mlp"](shape, 10)


@pytest.mark.parametrize("shape", [(32, 32, 3), (3, 32, 3), (1, 128, 9), (16, 16, 16), (28, 28, 1)])
def test_channels_last(shape: tuple[int, int, int]):
    default_model(shape, np.float32)
    MODELS["resnet8"](shape, 10)


def test_a_state_of_another_method_or_model():
    plain, other, wide, personal = (
        simulate(algorithm, federation(), num_rounds=1, cohort_size=2, chunk=1)
        for algorithm in (
            fedavg(logistic(8), FIT),
            fedadam(logistic(8), FIT),
            fedavg(logistic(9), FIT),
            fedper(logistic(8), FIT),
        )
    )
    fewer = simulate(fedper(logistic(8), FIT), federation((7, 5)), num_rounds=1, cohort_size=2)
    words = r"^A state must be of the same method, model and number of clients .* at "
    with pytest.raises(InputTypeError, match=words + r"\.server\.opt"):
        next(blocks(other, initial_state(plain)))
    with pytest.raises(InputTypeError, match=words + r"\.server\.opt.* absent"):
        next(blocks(other, initial_state(plain), first=1))
    with pytest.raises(InputTypeError, match=words + r"\.server\.model.*float32\[8\] instead"):
        make_evaluation(wide, initial_state(plain))
    with pytest.raises(InputTypeError, match=words + r"\.clients\[0\].*\[2,.* instead of .*\[6,"):
        next(blocks(personal, initial_state(fewer)))
    assert next(blocks(plain, initial_state(plain))).finished == 0


def texts(labels: tuple[int, ...] = (), most: int = 40) -> Federation:
    rng = np.random.default_rng(0)
    x = rng.integers(0, most + 1, (12, 6)).astype(np.int32)
    x[0, 0] = most
    y = rng.integers(0, 2, (12, *labels)).astype(np.int32)
    problem = "tokens" if labels else "classification"
    dataset = from_arrays(x, y, x, y, num_classes=2, problem=problem)
    return federate(dataset, [np.arange(6), np.arange(6, 12)])


def outputs(config: Config, clients: Federation) -> tuple[int, ...]:
    task = task_of(config, clients)
    model = jax.eval_shape(task.init, jax.random.key(0))
    return jax.eval_shape(lambda m, x: task.apply(m, x)[0], model, clients.train.x).shape


@pytest.mark.parametrize("model", [None, "transformer", "char_lstm"])
def test_texts_with_one_label_each(model: str | None):
    """No symbol is past the vocabulary, which is larger than the number of classes."""
    config = with_model(Config("fedavg", model=model), texts())
    assert config.model == (model or "transformer")
    assert config.model_options == {"output": "pooled", "vocabulary": 41}
    assert outputs(config, texts()) == (12, 2)


def test_texts_with_a_label_a_position():
    config = with_model(Config("fedavg"), texts((6,), most=1))
    assert (config.model, config.model_options) == ("char_lstm", {})
    assert outputs(config, texts((6,), most=1)) == (12, 6, 2)


def test_what_was_said_of_a_text_stays():
    told = {"vocabulary": 50, "output": "positions"}
    config = Config("fedavg", model="transformer", model_options=told)
    assert with_model(config, texts()).model_options == told
    small = Config("fedavg", model="transformer", model_options={"vocabulary": 40})
    with pytest.raises(InputError, match=r"vocabulary is 40.* symbol 40.* at least 41"):
        with_model(small, texts())


def test_integers_that_are_no_text():
    x = np.array([[-3, 5], [2, 900]])
    clients = federate(from_arrays(x, [0, 1], x, [0, 1]), lambda data: [np.arange(2)])
    with pytest.raises(InputError, match=r"int32 and hold -3.*as float32"):
        with_model(Config("fedavg"), clients)
    mlp = Config("fedavg", model="mlp")
    assert with_model(mlp, clients) == mlp
