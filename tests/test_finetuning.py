"""Evaluation after steps of each client's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import command
from federations import SIZES, federation, in_round, logistic, normed
from method_records import RECORDS
from methods import FIT, OF_A_KIND, each_method, make

from fedjax_kd import metrics
from fedjax_kd.algorithms import REGISTRY, fedavg, fedper
from fedjax_kd.core import Algorithm
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.evaluation import Evaluation, make_evaluation
from fedjax_kd.engine.finetuning import tuned, with_finetuning
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.losses import cross_entropy
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.build import build
from fedjax_kd.runs.config import Config, TrainingConfig
from fedjax_kd.sweeps.api import sweep
from fedjax_kd.wrappers import with_ema

STEPS = local_training(client_lr=0.5, batch_size=0, steps=3)  # whole batches: nothing is drawn
FIT_4 = local_training(**FIT)


def seen(*groups: Algorithm, **options: Any) -> Evaluation:
    """The evaluation of the initial state."""
    how = {"num_rounds": 1, "cohort_size": 2, "chunk": 2, **options}
    simulation = simulate(groups, federation(), **how)
    state = initial_state(simulation)
    return make_evaluation(simulation, state)(state)


def test_it_is_what_a_client_of_fedavg_would_reach():
    task, data = logistic(), federation()
    found = seen(with_finetuning(fedavg(task, FIT_4), STEPS))
    simulation = simulate(fedavg(task, FIT_4), data, num_rounds=1, cohort_size=2, chunk=2)
    model = initial_state(simulation).server.model
    for client, size in enumerate(SIZES):
        own, held = data.train.of(jnp.int32(client)), data.client_test.of(jnp.int32(client))
        after = STEPS(jax.random.key(0), model, own, task.loss, in_round()).model
        rows = np.asarray(held.rows[held.start : held.start + held.size])
        logits, y = task.apply(after, held.x[rows])[0], held.y[rows]
        loss = float(cross_entropy(logits, y).sum())
        assert float(found.finetuned["loss"][0][client]) == pytest.approx(loss, abs=1e-4)
        before = float(found.clients["loss"][0][client])
        assert (before == pytest.approx(loss, abs=1e-4)) == (size == 0 or len(rows) == 0)


def test_it_starts_from_the_personal_model():
    hardly = local_training(client_lr=1e-9, batch_size=0, steps=1)
    algorithm = with_finetuning(fedper(logistic(hidden=2), FIT_4), hardly)
    simulation = simulate(algorithm, federation(), num_rounds=1, cohort_size=2, chunk=2)
    state = initial_state(simulation)
    scale = jnp.arange(1.0, 1 + len(SIZES))
    apart = jax.tree.map(lambda a: jnp.einsum("c,c...->c...", scale, a), state.clients)
    found = make_evaluation(simulation, state)(state._replace(clients=apart))
    assert jax.tree.all(jax.tree.map(jnp.allclose, found.finetuned, found.personal))
    assert not jax.tree.all(jax.tree.map(jnp.allclose, found.finetuned, found.clients))


def test_statistics_stay():
    algorithm = tuned(with_finetuning(fedavg(normed(), FIT_4), STEPS), cross_entropy)
    server = algorithm.server_init(jax.random.key(0))
    data = federation().train.of(jnp.int32(0))
    after, _ = algorithm.personalise(jax.random.key(1), server, (), data)
    stats = server.model.stats, after.model.stats
    assert jax.tree.leaves(stats[0])
    assert jax.tree.all(jax.tree.map(jnp.array_equal, *stats))
    pairs = server.model.params, after.model.params
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), *pairs)))


def test_groups_and_wrappers():
    task = logistic()
    plain = fedavg(task, FIT_4)
    of_one = seen(with_finetuning(plain, STEPS)).finetuned
    of_two = seen(
        with_finetuning(plain, STEPS),
        plain,
        group_of=np.array([0, 0, 0, 1, 1, 1]),
    )
    for name in ("loss", "accuracy"):
        one, two = np.asarray(of_one[name][0]), np.asarray(of_two.finetuned[name][0])
        unchanged = np.asarray(of_two.clients[name][0])
        assert np.allclose(two[:3], one[:3], atol=1e-5)
        assert np.allclose(two[3:], unchanged[3:], atol=1e-5)
    wrapped = with_ema(with_finetuning(plain, STEPS), federation())
    found = seen(wrapped).finetuned
    assert jax.tree.all(jax.tree.map(lambda a, b: jnp.allclose(a, b, atol=1e-5), found, of_one))


def test_a_sweep_traces_its_learning_rate():
    def make(client_lr: Any) -> Algorithm:
        steps = local_training(client_lr=client_lr, batch_size=0, steps=3)
        return with_finetuning(fedavg(logistic(), FIT_4), steps)

    how = {"num_rounds": 1, "cohort_size": 2}
    points = sweep(make, federation(), [{"client_lr": 1e-9}, {"client_lr": 0.5}], **how)
    still, moved = (point.history[-1] for point in points)
    assert still["finetuned_accuracy_mean"] == still["client_accuracy_mean"]
    assert moved["finetuned_accuracy_mean"] > moved["client_accuracy_mean"]


@each_method(list(REGISTRY), thorough=OF_A_KIND)
def test_every_method_has_a_model_to_tune(name: str):
    known = RECORDS[name]
    base = make(name, known.task(), FIT_4, **known.options)
    algorithm = tuned(with_finetuning(base, STEPS), cross_entropy)
    data = federation().train.of(jnp.int32(0))

    def after(key: jax.Array) -> Any:
        server = base.server_init(key)
        client = base.client_init(key, server)
        both = algorithm.personalise(key, server, client, data)
        return algorithm.predict(server, both, data.x[:3])

    assert jax.eval_shape(after, jax.random.key(0)).shape == (3, 3)


def test_bad_input():
    with pytest.raises(TypeError, match="fit is 5, but must say how clients train"):
        with_finetuning(fedavg(logistic(), FIT_4), 5)
    streamed = replace(federation(), client_test=None)
    with pytest.raises(ValueError, match="needs test rows of each client"):
        simulate(
            with_finetuning(fedavg(logistic(), FIT_4), STEPS), streamed, num_rounds=1, cohort_size=2
        )
    with pytest.raises(ValueError, match=r"finetune_lr is 0\.1, but nothing is fine-tuned"):
        build(Config("fedavg", training=TrainingConfig(finetune_lr=0.1)))
    with pytest.raises(ValueError, match="finetune is 0, but must be >= 1"):
        TrainingConfig(finetune=0)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = "--num-clients 5 --cohort-size 2 --num-rounds 2 --eval-every 2 --model logistic"
    options = "--finetune 3 --finetune-lr 0.05 --client-test-fraction 0.2 --quiet"
    command(*f"run fedavg {words} {options} --out {tmp_path / 'run'}".split())
    row = run_folder.read_rows(tmp_path / "run")[-1]
    summary = run_folder.read_summary(tmp_path / "run")
    assert summary["final_finetuned_accuracy_mean"] == row["finetuned_accuracy_mean"]
    assert summary["final_client_accuracy_mean"] == row["client_accuracy_mean"]
    assert "finetuned accuracy" in " ".join(capsys.readouterr().out.split())
    command("evaluate", str(tmp_path / "run"))
    assert "finetuned_accuracy" in (tmp_path / "run" / "clients.csv").read_text()


def test_fairness_of_metrics():
    values = np.array([0.1, 0.4, 0.4, np.nan])
    spread, known = metrics.over_clients(values), values[:3]
    assert spread["variance"] == pytest.approx(np.mean((known - known.mean()) ** 2))
    assert spread["jain"] == pytest.approx(known.sum() ** 2 / (3 * (known**2).sum()))
    assert metrics.over_clients(np.array([0.0, 0.0, 0.7]))["jain"] == pytest.approx(1 / 3)
    assert metrics.over_clients(np.full(4, 0.3))["jain"] == pytest.approx(1)
    assert metrics.over_clients(np.zeros(2))["jain"] == 1
    assert metrics.metric_of("finetuned_accuracy_jain") == "accuracy"
