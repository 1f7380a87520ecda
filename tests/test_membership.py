"""Membership inference: what can be told, of models that have and have not learnt by heart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commandline import command
from hypothesis import given, settings
from hypothesis import strategies as st

from fedjax_kd.algorithms import fedavg
from fedjax_kd.data.dataset import from_arrays
from fedjax_kd.data.federation import federate
from fedjax_kd.engine.beginning import initial_state
from fedjax_kd.engine.membership import membership_inference, told_apart
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.task import from_nnx
from fedjax_kd.train import train

LOSSES = st.lists(st.integers(0, 9), min_size=1, max_size=20)


@given(LOSSES, LOSSES)
@settings(deadline=None)
def test_it_is_the_chance_that_a_member_has_the_smaller_loss(members: list[int], others: list[int]):
    a, b = np.array(members, float), np.array(others, float)
    smaller = (a[:, None] < b[None]).mean() + (a[:, None] == b[None]).mean() / 2
    found = told_apart(a, b)
    assert found.auc == pytest.approx(smaller)
    each = [(a <= t).mean() - (b <= t).mean() for t in range(-1, 10)]
    assert found.advantage == pytest.approx(max(each))


def test_a_model_that_learnt_by_heart_tells():
    """Labels by chance, which only memory tells; clients that never took part are left out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8)).astype(np.float32), rng.integers(0, 3, 64).astype(np.int32)
    parts = [np.arange(8 * k, 8 * k + 8) for k in range(4)]
    noise = from_arrays(x[:32], y[:32], x[32:], y[32:], num_classes=3)
    data = federate(noise, lambda data: parts)
    build = MODELS["mlp"](data.input_shape, 3, hidden=(64,))
    task = from_nnx(build, prepare=data.prepare)
    method = fedavg(task, local_training(client_lr=0.3, batch_size=8, epochs=40))
    given_to = {"num_rounds": 6, "cohort_size": 3, "eval_every": 6, "seed": 1}
    s = simulate(method, data, **given_to)
    before = membership_inference(s, initial_state(s), 1)
    after = membership_inference(s, train(method, data, **given_to).state, 6)
    assert before.members == 24
    assert after.members == 8 * len({i for n in range(6) for i in s.cohort(n).ids.tolist()})
    assert after.auc > max(before.auc, 0.7)
    with pytest.raises(ValueError, match="Nobody has taken part"):
        membership_inference(s, initial_state(s), 0)


def test_a_run_is_attacked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = ["--model", "logistic", "--num-rounds", "2", "--quiet", "--out", str(tmp_path / "a")]
    assert command("run", "fedavg", *options) == 0
    assert command("evaluate", str(tmp_path / "a"), "--membership") == 0
    said = capsys.readouterr().out
    assert "Membership inference" in said
    assert "at one percent" in said
