"""Configurations survive as JSON, and build what they say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.data import PARTITIONERS
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.options import options
from fedjax_kd.runs import build, config, data_config
from fedjax_kd.runs.config import Config, DataConfig, TrainingConfig

SMALL = DataConfig(partition="iid", num_clients=5)
SHORT = TrainingConfig(num_rounds=2, cohort_size=2)

values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
some_options = st.dictionaries(st.text(min_size=1), values | st.tuples(st.integers()), max_size=3)


@settings(max_examples=30, deadline=None)
@given(
    st.text(),
    some_options,
    some_options,
    st.integers(1, 2**32 - 1),
    st.floats(0, 1, exclude_max=True),
)
def test_json_gives_the_same_configuration(
    method: str, one: dict[str, Any], two: dict[str, Any], number: int, share: float
) -> None:
    given = Config(
        method,
        method_options=one,
        local=two,
        data=DataConfig(partition_options=two, client_test_fraction=share),
        model_options=one,
        training=TrainingConfig(seed=number, chunk=number),
    )
    written = json.dumps(config.to_json(given))
    assert config.from_json(json.loads(written)) == given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, r"has format 2, but this version of fedjax_kd reads format 1: use"),
        ({"training": None}, "lacks TrainingConfig: start a new run"),
        (
            {"data": {"datasets": "digits"}},
            "DataConfig of the configuration .* differs in datasets",
        ),
        ({"method": ...}, "Config of the configuration .* differs in method"),
    ],
)
def test_a_wrong_file_is_refused(change: dict[str, Any], message: str) -> None:
    written = {**config.to_json(Config("fedavg")), **change}
    written = {key: value for key, value in written.items() if value is not ...}
    with pytest.raises(ValueError, match=message):
        config.from_json(written)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Config("fedavgg"), "no method 'fedavgg'; near it: fedavg"),
        (Config("fedavg", {"mu": 0.1}), "method fedavg has no option 'mu'. It has: server_lr"),
        (Config("fedavg", local={"client_lrr": 1.0}), "near it: client_lr"),
        (
            Config("fedavg", local={"client_lr": float("nan")}),
            "client_lr is nan, but must be finite and > 0",
        ),
        (Config("fedavg", model="mpl"), "no model 'mpl'; near it: mlp"),
        (Config("fedavg", model="mlp", model_options={"width": 3}), "model mlp has no option"),
        (Config("fedavg", training=replace(SHORT, devices=99)), "devices is 99, but must be betw"),
    ],
)
def test_bad_options_are_named(given: Config, message: str) -> None:
    given = replace(given, data=SMALL)
    with pytest.raises(ValueError, match=message):
        build.build(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seed": -1}, r"seed is -1, but must be in \[0, 2\*\*32\)"),
        ({"seed": 2**32}, "seed is 4294967296"),
        ({"devices": 0}, "devices is 0, but must be >= 1"),
    ],
)
def test_bad_training_is_named_before_it_is_built(given: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SHORT, **given)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(partition="dirichlett"), "near it: dirichlet"),
        (DataConfig(partition="iid", partition_options={"alpha": 1.0}), "has no option 'alpha'"),
        (DataConfig(partition="iid", num_clients=2000), "2000"),
    ],
)
def test_bad_partitions_are_named(data: DataConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_config.federation_of(data)


def test_the_seed_of_the_data_decides_the_split_alone() -> None:
    def sizes(seed: int) -> list[int]:
        data = DataConfig(num_clients=10, seed=seed)
        return data_config.federation_of(data)[1].sizes.tolist()

    assert sizes(1) == sizes(1)
    assert sizes(1) != sizes(2)


def test_what_is_built_is_what_was_said() -> None:
    training = TrainingConfig(7, 3, 2, 11, "examples", 0.25, 2, devices=2)
    simulation = build.build(Config("fedprox", {"mu": 0.5}, data=SMALL, training=training))
    assert simulation.num_rounds == 7
    assert simulation.eval_every == 2
    assert simulation.seed == 11
    assert simulation.dropout_rate == 0.25
    assert simulation.layout.devices == 2
    assert simulation.layout.num_slots(0) == 2  # of each device
    assert simulation.federation.num_clients == 5


def test_a_method_without_local_training_takes_no_such_options() -> None:
    assert not build.takes_local(REGISTRY["fedsgd"])
    assert build.build(Config("fedsgd", local={"epochs": 3}, data=SMALL, training=SHORT))


@pytest.mark.parametrize("name", [*REGISTRY, *PARTITIONERS, *MODELS, "local_training"])
def test_every_option_is_explained(name: str) -> None:
    registry = {**REGISTRY, **PARTITIONERS, **MODELS, "local_training": local_training}
    for option in options(registry[name]):
        assert option.help, f"{name} does not explain {option.name}"
