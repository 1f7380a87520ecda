"""Several networks in one federation, in Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from federations import federation, logistic

from fedjax_kd.algorithms import GROUPS, REGISTRY
from fedjax_kd.cli import main
from fedjax_kd.core import Algorithm, Upload, mean
from fedjax_kd.local import Fit
from fedjax_kd.options import options
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs import model_config
from fedjax_kd.runs.build import build, facts_of
from fedjax_kd.runs.config import Config, TrainingConfig, from_json, to_json
from fedjax_kd.runs.data_config import DataConfig
from fedjax_kd.task import Task

SMALL = {"data": DataConfig(num_clients=6), "training": TrainingConfig(num_rounds=2, cohort_size=3)}


def alone_groups(tasks: list[Task], fit: Fit, *, population: int) -> tuple[Algorithm, ...]:
    """Clients train their own models and tell the server nothing but that they did."""

    def of(task: Task) -> Algorithm:
        def client_update(key: Any, message: Any, own: Any, data: Any, round: Any) -> Any:
            fitted = fit(key, own, data, task.loss, round)
            upload = {"there": jnp.ones(population)}
            return Upload(upload, jnp.float32(1), {"loss": fitted.loss}), fitted.model

        return Algorithm(
            server_init=lambda key: jnp.zeros(population),
            client_init=lambda key, server: task.init(key),
            broadcast=lambda server, number, round: server,
            client_update=client_update,
            aggregate=mean,
            server_update=lambda key, server, update, round: server + update["there"],
            predict=lambda server, own, x: task.apply(own, x)[0],
        )

    return tuple(of(task) for task in tasks)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GROUPS, "alone", alone_groups)
    monkeypatch.setitem(
        REGISTRY,
        "alone",
        lambda task, fit, *, population: alone_groups([task], fit, population=6)[0],
    )


@pytest.mark.parametrize(
    ("model_of", "expected"),
    [("turns", [0, 1, 0, 1, 0, 1]), ("blocks", [0, 0, 0, 1, 1, 1]), ("file", [1, 1, 0, 1, 0, 0])],
)
def test_clients_have_their_models(alone: None, tmp_path: Path, model_of: str, expected: list[int]):
    if model_of == "file":
        model_of = str(tmp_path / "who.json")
        Path(model_of).write_text(json.dumps(expected))
    models = ("mlp:hidden=8", "mlp:hidden=4x5")
    simulation = build(Config("alone", models=models, model_of=model_of, **SMALL))
    members = [np.asarray(m).tolist() for m in simulation.layout.members]
    assert members == [[c for c in range(6) if expected[c] == g] for g in (0, 1)]
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(t.client)) for t in simulation.types]
    assert sizes == [64 * 8 + 8 + 80 + 10, 64 * 4 + 4 + 20 + 5 + 50 + 10]
    assert simulation.types[0].server.shape == (6,), "a fact of the federation"


def test_a_run_from_the_command_line(alone: None, tmp_path: Path, capsys: Any):
    words = "run alone --models mlp:hidden=8 logistic --model-of blocks --num-clients 6 --quiet"
    more = f"--cohort-size 3 --num-rounds 8 --eval-every 8 --out {tmp_path / 'run'}"
    with pytest.raises(SystemExit) as exit:
        main([*words.split(), *more.split()])
    assert exit.value.code == 0, capsys.readouterr().err
    (folder,) = run_folder.members(tmp_path / "run")
    known = run_folder.read_config(folder)
    assert (known.models, known.model_of, known.model) == (
        ("mlp:hidden=8", "logistic"),
        "blocks",
        None,
    )
    assert from_json(json.loads(json.dumps(to_json(known)))) == known
    last = run_folder.read_rows(folder)[-1]
    assert last["personal_accuracy_mean"] > 0.3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"models": ("mlp", "mpl")}, "no model 'mpl'; near it: mlp"),
        ({"models": ("mlp", "mlp:hiden=3")}, "no option 'hiden'; near it: hidden"),
        ({"models": ("mlp", "mlp:hidden=wide")}, "hidden is 'wide' in the model"),
        ({"models": ("mlp", "mlp:hidden")}, "has no value"),
        ({"models": ("mlp", "mlp"), "model": "mlp"}, "either one network"),
        ({"models": ("mlp",) * 7}, "7 models but 6 clients"),
        ({"models": ("mlp", "mlp"), "model_of": "odd"}, "'odd', but must be 'turns'"),
        ({"models": ("mlp", "mlp"), "method": "fedprox"}, "no method for several models 'fedprox'"),
    ],
)
def test_bad_input_is_explained(alone: None, given: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        build(Config(**{"method": "alone", **SMALL, **given}))


@pytest.mark.parametrize(("text", "words"), [("[0, 1", "no JSON"), ("[0, 0, 0]", "list 3 numb")])
def test_a_file_that_says_too_little(tmp_path: Path, text: str, words: str):
    (tmp_path / "who.json").write_text(text)
    with pytest.raises(ValueError, match=words):
        model_config.model_of_clients(str(tmp_path / "who.json"), 2, 3)


def test_facts_are_no_options():
    assert "population" not in [o.name for o in options(alone_groups)]
    facts = facts_of(alone_groups, federation())
    assert facts == {"population": 6}
    made = alone_groups([logistic()], lambda *args: None, **facts)
    assert made[0].server_init(jax.random.key(0)).shape == (6,)
