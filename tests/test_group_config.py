"""Clients with local training of their own: which they are, and that all else stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from commandline import command
from federations import gap

import fedjax_kd as fk
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.local import local_training
from fedjax_kd.options import options
from fedjax_kd.runs.build import build
from fedjax_kd.runs.config import Config, DataConfig, TrainingConfig, from_json, to_json
from fedjax_kd.runs.group_config import group_of_clients, local_of_groups, parse_client_options

KNOWN = options(local_training)


def test_words_name_clients_and_their_options() -> None:
    found = parse_client_options(["0-1+4:epochs=2,client-lr=0.5", "3:batch_size=0"], KNOWN)
    assert found == {"0-1+4": {"epochs": 2, "client_lr": 0.5}, "3": {"batch_size": 0}}
    each, owners = local_of_groups({"epochs": 1}, found, 6)
    assert each == [{"epochs": 2, "client_lr": 0.5}, {"epochs": 1, "batch_size": 0}, {"epochs": 1}]
    assert owners.tolist() == [0, 0, 2, 1, 0, 2]
    each, owners = local_of_groups({}, {"0": {"epochs": 2}, "1": {"epochs": 3}}, 2)
    assert (each, owners.tolist()) == ([{"epochs": 2}, {"epochs": 3}], [0, 1])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["epochs=1"], "client_options has 'epochs=1': write clients and their options as"),
        (["0-4"], "client_options has '0-4'"),
        (["-1:epochs=1"], "client_options has '-1:epochs=1'"),
        (["0:epoch=1"], "no option 'epoch'; near it: epochs"),
        (["0:epochs=x"], "epochs is 'x' in client_options '0:epochs=x', but must be a whole"),
        (["0:epochs"], "'epochs' in client_options '0:epochs' has no value"),
        (["0:epochs=1,epochs=2"], "names epochs twice"),
        (["0:epochs=1", "0:epochs=2"], "names the clients 0 twice"),
    ],
)
def test_wrong_words_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_client_options(texts, KNOWN)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["0-3", "3"], "names client 3 twice"),
        (["6"], "names the clients 6, but there are clients 0 to 5"),
        (["4-6"], "clients 4-6, but there are clients 0 to 5"),
        (["3-1"], "and a range ascends"),
    ],
)
def test_clients_are_in_one_group(groups: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        group_of_clients(dict.fromkeys(groups), 6)


def config(*texts: str, method: str = "fedavg", **given: Any) -> Config:
    return Config(
        method,
        local={"client_lr": 0.1, "batch_size": 30},
        data=DataConfig(partition="iid", num_clients=6),
        model="logistic",
        training=TrainingConfig(num_rounds=2, cohort_size=6, eval_every=2, chunk=2),
        client_options=parse_client_options(texts, KNOWN),
        **given,
    )


def trained(given: Config) -> fk.train.Progress:
    simulation = build(given)
    return list(fk.blocks(simulation, initial_state(simulation)))[-1]


@pytest.mark.thorough
def test_groups_alike_are_one_group_and_other_epochs_are_other_steps() -> None:
    plain, alike = trained(config()), trained(config("0-2:epochs=1"))
    assert gap(plain.state.server.model, alike.state.server.model) < 1e-6
    assert [r["steps"] for r in alike.rows] == [r["steps"] for r in plain.rows]
    one, two = trained(config("0-2:epochs=3,batch_size=60")), build(config())
    sizes = two.federation.sizes
    expected = 3 * np.ceil(sizes[:3] / 60).sum() + np.ceil(sizes[3:] / 30).sum()
    assert [row["steps"] for row in one.rows] == [expected] * 2
    assert gap(plain.state.server.model, one.state.server.model) > 1e-3
    assert one.rows[0]["steps_computed"] >= expected


def test_options_of_clients_stay_in_the_configuration() -> None:
    given = config("0-2:epochs=3", "5:client_lr=0.5")
    assert from_json(json.loads(json.dumps(to_json(given)))) == given
    older = to_json(config())
    del older["client_options"]
    assert from_json(older) == config()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: config("0:epochs=0"), "epochs is 0"),
        (lambda: config("9:epochs=2"), "clients 9, but there are clients 0 to 5"),
        (lambda: config("0:epochs=2", wrappers={"median": {}}), r"wrappers \(median\) are given"),
    ],
)
def test_what_cannot_be_is_refused(given: Callable[[], Config], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(given())


def test_a_sweep_of_several_groups_is_refused(capsys: pytest.CaptureFixture, tmp_path: Any) -> None:
    args = ("--model", "logistic", "--client-options", "0-4:epochs=2", "--num-rounds", "1")
    grid = ("--grid", "client-lr=0.1,1", "--out", str(tmp_path / "s"))
    assert command("sweep", "fedavg", *args, *grid) == 2
    assert "not several groups of clients" in capsys.readouterr().err
