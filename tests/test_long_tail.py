"""Long-tailed training rows, and the accuracy of head, middle and tail classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commandline import command
from federations import federation, logistic

from fedjax_kd import metrics
from fedjax_kd.algorithms import fedavg
from fedjax_kd.data import IidPartitioner, from_arrays, load, long_tailed
from fedjax_kd.data.federation import federate
from fedjax_kd.data.long_tail import tiers_of
from fedjax_kd.engine.client_checks import class_tiers
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.data_config import STORED, DataConfig, federation_of
from fedjax_kd.task import from_nnx
from fedjax_kd.train import class_accuracies, train


def balanced(classes: int, each: int):
    x, y = np.arange(classes * each, dtype=np.float32)[:, None], np.arange(classes * each) % classes
    return from_arrays(x, y, x, y)


# The numbers of training images of CIFAR-10-LT and CIFAR-100-LT in the literature.
@pytest.mark.parametrize(
    ("classes", "each", "factor", "total"),
    [(10, 5000, 100, 12406), (10, 5000, 0.02, 13996), (100, 500, 0.01, 10847)],
)
def test_as_large_as_cifar_lt(classes: int, each: int, factor: float, total: int):
    counts = np.bincount(long_tailed(balanced(classes, each), factor).train.y)
    assert counts.sum() == total
    assert (counts[0], counts[-1]) == (each, round(each * min(factor, 1 / factor)))
    assert (np.diff(counts) <= 0).all()


def test_a_step():
    made = long_tailed(balanced(5, 40), 10, profile="step")
    assert np.bincount(made.train.y).tolist() == [40, 40, 4, 4, 4]


def test_rows_are_some_of_those_before():
    whole = load("digits")
    made = long_tailed(whole, 0.1, seed=3)
    rows = {(x.tobytes(), int(y)) for x, y in zip(whole.train.x, whole.train.y, strict=True)}
    assert {(x.tobytes(), int(y)) for x, y in zip(made.train.x, made.train.y, strict=True)} < rows
    assert made.test is whole.test
    again, other = (long_tailed(whole, 0.1, seed=seed) for seed in (3, 4))
    assert np.array_equal(made.train.x, again.train.x)
    assert not np.array_equal(made.train.x, other.train.x)
    assert np.array_equal(long_tailed(whole, 1.0).train.x, whole.train.x)


def test_classes_that_are_small_already_or_absent():
    x, y = np.zeros((13, 1)), np.array([0] * 10 + [2] * 3)
    data = from_arrays(x, y, x, y, num_classes=4)
    assert np.bincount(long_tailed(data, 0.5).train.y, minlength=4).tolist() == [10, 0, 3, 0]
    assert np.bincount(long_tailed(data, 0.001).train.y).tolist() == [10, 0, 1]


def test_tiers():
    assert tiers_of(np.full(10, 7)) == (tuple(range(8)), (8, 9), ())
    assert tiers_of(np.array([96, 4])) == ((0,), (), (1,))
    assert tiers_of(np.array([1, 0, 80, 19])) == ((2,), (3,), (0, 1))


def test_tiers_are_means_over_their_classes():
    made = long_tailed(load("digits"), 0.02)
    data = federate(made, IidPartitioner(num_partitions=4))
    task = from_nnx(MODELS["logistic"](data.input_shape, 10), prepare=data.prepare)
    algorithm = fedavg(task, local_training(client_lr=0.1))
    how = {"num_rounds": 2, "cohort_size": 2, "chunk": 2, "per_class": True, "tiers": True}
    row = train(algorithm, data, **how).history[-1]
    (each,) = class_accuracies([row])
    tiers = tiers_of(np.bincount(made.train.y))
    for name, classes in zip(("head", "middle", "tail"), tiers, strict=True):
        assert row[f"{name}_accuracy"] == pytest.approx(each[list(classes)].mean(), abs=1e-6)
    assert row["head_accuracy"] > row["tail_accuracy"]
    assert metrics.rises("tail_accuracy")


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    words = "--num-clients 5 --cohort-size 2 --num-rounds 2 --eval-every 2 --model logistic --quiet"
    thin = f"--imbalance-factor 50 --imbalance-profile step --out {tmp_path / 'run'}"
    assert command(*f"run fedavg {words} {thin}".split()) == 0
    row = run_folder.read_rows(tmp_path / "run")[-1]
    assert "class_0_accuracy" not in row
    summary = run_folder.read_summary(tmp_path / "run")
    assert summary["final_tail_accuracy"] == row["tail_accuracy"]
    assert "head accuracy" in " ".join(capsys.readouterr().out.split())


def test_bad_input():
    with pytest.raises(ValueError, match=r"imbalance_factor is 0.*, but must be > 0"):
        long_tailed(balanced(2, 2), 0.0)
    with pytest.raises(ValueError, match="profile is 'cliff'"):
        long_tailed(balanced(2, 2), 0.5, profile="cliff")
    x, y = np.zeros((4, 1)), np.array([0.5, 1.5, 2.5, 3.5])
    with pytest.raises(ValueError, match="no classes to thin out"):
        long_tailed(from_arrays(x, y, x, y), 0.5)
    with pytest.raises(ValueError, match="is divided already"):
        federation_of(DataConfig("folder", partition=STORED, imbalance_factor=0.1))
    streamed = replace(federation(), store=object())
    with pytest.raises(ValueError, match="tiers needs the classes of all training rows"):
        class_tiers(streamed)
    values = federate(from_arrays(x, y, x, y), IidPartitioner(num_partitions=2))
    with pytest.raises(ValueError, match="tiers needs one class an example"):
        simulate(fedavg(logistic(), local_training()), values, num_rounds=1, tiers=True)
