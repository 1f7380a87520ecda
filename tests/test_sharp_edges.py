"""Settings that run and are seldom meant: each is warned of once, and the one beside it is not."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from commandline import command
from federations import FEATURES, dataset, federation, logistic, normed
from flax import nnx

from fedjax_kd.algorithms import (
    fedadagrad,
    fedalign,
    fedavg,
    fedmixup,
    fedntd,
    fedper,
    fedprox,
    localkd,
    perfedavg,
    scaffold,
)
from fedjax_kd.commands import run
from fedjax_kd.core import Algorithm
from fedjax_kd.data import sampling
from fedjax_kd.data.dataset import from_arrays
from fedjax_kd.data.federation import Federation, federate
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.errors import InputError, SharpEdge, collected_warnings, warn
from fedjax_kd.local import local_training
from fedjax_kd.task import Task, from_nnx
from fedjax_kd.wrappers import with_bulyan, with_ccvr, with_krum, with_median

PLAIN = {"client_lr": 0.1, "batch_size": 4}
FIT = local_training(**PLAIN)
SIZES = (7, 5, 12, 3)


def warned(make: Callable[[], Any]) -> list[str]:
    with collected_warnings() as found:
        make()
    return found


def fit(**options: Any) -> Any:
    return local_training(**(PLAIN | options))


def two_classes() -> Task:
    return from_nnx(lambda rngs: nnx.Linear(FEATURES, 2, rngs=rngs), example_x=np.ones((1, 4)))


OF_FACTORIES: dict[str, tuple[str, Callable[[], Any], list[Callable[[], Any]]]] = {
    "momentum under SCAFFOLD's option II": (
        "option II .* client_momentum 0.9 ",
        lambda: scaffold(logistic(), fit(client_momentum=0.9)),
        [
            lambda: scaffold(logistic(), fit(client_momentum=0.9), option="I"),
            lambda: scaffold(logistic(), fit(client_momentum=0.0)),
            lambda: scaffold(logistic(), fit(client_opt=optax.sgd)),
        ],
    ),
    "Adam under SCAFFOLD's option II": (
        "option II .* client_opt 'adam' ",
        lambda: scaffold(logistic(), fit(client_opt="adam")),
        [lambda: fedavg(logistic(), fit(client_opt="adam"))],
    ),
    "FedAlign without clipping": (
        "clip_norm=10",
        lambda: fedalign(logistic(8), FIT),
        [
            lambda: fedalign(logistic(8), fit(clip_norm=10.0)),
            lambda: fedalign(logistic(8), FIT, mu=0.0),
        ],
    ),
    "a stiff spring": (
        "client_lr times mu is 2,",
        lambda: fedprox(logistic(), FIT, mu=20.0),
        [lambda: fedprox(logistic(), FIT, mu=19.0)],
    ),
    "a tiny difference": (
        "delta is 1e-05",
        lambda: perfedavg(logistic(), FIT, delta=1e-5),
        [lambda: perfedavg(logistic(), FIT, delta=1e-5, hessian="exact")],
    ),
    "nothing to mix": (
        "batch_size is 1",
        lambda: fedmixup(logistic(), fit(batch_size=1)),
        [lambda: fedmixup(logistic(), FIT)],
    ),
    "two classes": (
        "this is FedAvg",
        lambda: fedntd(two_classes(), FIT),
        [lambda: fedntd(logistic(), FIT)],
    ),
    "a temperature that is not read": (
        "kd='mse' has no temperature",
        lambda: localkd(logistic(8), FIT, kd="mse", tau=2.0),
        [lambda: localkd(logistic(8), FIT, tau=2.0)],
    ),
    "a moment that is not read": (
        "beta_1 is given",
        lambda: fedadagrad(logistic(), FIT, variant="tff", beta_1=0.9),
        [lambda: fedadagrad(logistic(), FIT, beta_1=0.9)],
    ),
    "steps and epochs": (
        "steps and epochs=3",
        lambda: fit(steps=5, epochs=3),
        [lambda: fit(steps=5), lambda: fit(epochs=3)],
    ),
    "bfloat16 on a CPU": (
        "biases of convolutions",
        lambda: from_nnx(lambda rngs: nnx.Linear(2, 2, rngs=rngs), precision="bfloat16"),
        [lambda: from_nnx(lambda rngs: nnx.Linear(2, 2, rngs=rngs), precision="float32")],
    ),
}


@pytest.mark.parametrize("name", OF_FACTORIES)
def test_options_of_a_factory(name: str):
    words, edge, beside = OF_FACTORIES[name]
    (found,) = warned(edge)
    assert re.search(words, found)
    assert [warned(make) for make in beside] == [[]] * len(beside)


def simulated(algorithm: Algorithm, clients: Federation | None = None, **options: Any) -> list[str]:
    given = {"num_rounds": 3, "cohort_size": 3, "chunk": 1} | options
    return warned(lambda: simulate(algorithm, clients or federation(SIZES), **given))


def odds(*weights: float) -> sampling.Sampler:
    return sampling.weighted(weights, 3)


def test_examples_count_twice():
    by_size = {"sampler": odds(*SIZES)}
    (found,) = simulated(fedavg(logistic(), FIT), **by_size)
    assert "large clients count twice" in found
    assert not simulated(fedavg(logistic(), FIT, weighting="uniform"), **by_size)
    assert not simulated(scaffold(logistic(), FIT), **by_size)  # votes uniformly by default
    assert not simulated(fedavg(logistic(), FIT), sampler=odds(1, 2, 3, 4))
    assert not simulated(fedavg(logistic(), FIT))


def test_an_algorithm_of_ones_own_is_seen_through():
    """By what its weight depends on, whatever it calls that."""
    base = fedavg(logistic(), FIT, weighting="uniform")

    def client_update(*args: Any) -> Any:
        upload, client = base.client_update(*args)
        return upload._replace(weight=args[3].size.astype(np.float32) ** 2), client

    by_size = {"sampler": odds(*SIZES)}
    assert simulated(base._replace(client_update=client_update), **by_size)
    assert not simulated(base, **by_size)


def test_models_of_newcomers():
    personal = fedper(logistic(8), FIT)
    (found,) = simulated(personal, replace(federation(SIZES), client_test=None))
    assert "a newcomer's model" in found
    (found,) = simulated(personal, num_rounds=1, cohort_size=3)
    assert "At least 1 of 4 clients" in found
    assert not simulated(personal, num_rounds=2, cohort_size=3)
    assert not simulated(perfedavg(logistic(), FIT), num_rounds=1)  # clients keep nothing


def test_rules_that_need_a_cohort():
    base = fedavg(logistic(8), FIT)
    assert "median of one or two" in simulated(with_median(base), cohort_size=2)[0]
    assert not simulated(with_median(base))
    with pytest.raises(ValueError, match="of more than 4, but cohort_size is 3: ask more"):
        simulated(with_krum(base, malicious=1))
    with pytest.raises(ValueError, match="of at least 7, but cohort_size is 3: ask more"):
        simulated(with_bulyan(base, malicious=1))
    assert "selects everyone" in simulated(with_krum(base, select=3))[0]
    assert not simulated(with_krum(base, select=2))


def test_a_calibration_that_never_comes():
    base = fedavg(logistic(8), FIT)
    assert "take after=2 for one" in simulated(with_ccvr(base, logistic(8)))[0]
    assert not simulated(with_ccvr(base, logistic(8), after=2))
    assert "median of one or two" in "".join(
        simulated(with_ccvr(with_median(base), logistic(8), after=2), cohort_size=2)
    ), "a wrapper asks what it goes around"


class Conv(nnx.Module):
    """Batch normalisation over the places of a map, of as many pixels as there are left."""

    def __init__(self, rngs: nnx.Rngs, stride: int) -> None:
        self.conv = nnx.Conv(1, 4, (3, 3), strides=stride, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.norm(self.conv(x)).mean((1, 2)))


def images(*sizes: int) -> Federation:
    rng, count = np.random.default_rng(0), sum(sizes)
    x = rng.normal(size=(count, 4, 4, 1)).astype(np.float32)
    y = rng.integers(0, 3, count).astype(np.int32)
    ends = np.cumsum([0, *sizes])
    parts = [np.arange(a, b) for a, b in pairwise(ends)]
    return federate(from_arrays(x, y, x, y, num_classes=3), lambda data: parts)


def convolutional(stride: int) -> Task:
    return from_nnx(lambda rngs: Conv(rngs, stride))


@pytest.mark.parametrize("options", [{}, {"batch_size": 0}, {"last_batch": "wrap"}, {"steps": 3}])
def test_a_client_of_one_example_cannot_be_normalised(options: dict[str, Any]):
    algorithm = fedavg(normed(), fit(**options))
    with pytest.raises(InputError, match=r"^1 of 3 clients \(1\) have one.*min_partition_size=2"):
        simulate(algorithm, federation((7, 1, 5)), num_rounds=1, cohort_size=3)
    assert not simulated(algorithm, federation((7, 0, 2)))


def test_nor_one_that_holds_out_all_but_one():
    parts = [np.arange(4), np.arange(4, 6)]
    clients = federate(dataset(6), lambda data: parts, client_test_fraction=0.5)
    assert clients.sizes.tolist() == [2, 1]
    with pytest.raises(InputError, match="a smaller fraction held out"):
        simulate(scaffold(normed(), FIT), clients, num_rounds=1, cohort_size=2)


def test_over_the_places_of_an_image_it_is_noisy_and_no_more():
    """16 pixels of one image have a variance; a map of one pixel has none."""
    alone, others = images(1, 4, 4), images(4, 4, 4)
    (found,) = simulated(fedavg(convolutional(1), FIT), alone)
    assert "noisy" in found
    assert not simulated(fedavg(convolutional(1), FIT), others)
    with pytest.raises(InputError, match="takes the variance for 0"):
        simulate(fedavg(convolutional(4), FIT), alone, num_rounds=1, cohort_size=3)


def test_batches_of_one_are_refused_only_where_they_are_all_the_same():
    one = fit(batch_size=1)
    (found,) = simulated(fedavg(convolutional(1), one), images(4, 4, 4))
    assert "batch_size is 1" in found
    with pytest.raises(InputError, match="all batches of one the same"):
        simulate(fedavg(convolutional(4), one), images(4, 4, 4), num_rounds=1, cohort_size=3)
    known = from_nnx(lambda rngs: Conv(rngs, 4), example_x=np.ones((1, 4, 4, 1), np.float32))
    with pytest.raises(InputError, match="all batches of one the same"):
        fedavg(known, one)


def test_pieces_of_a_whole_batch():
    whole = fit(batch_size=0)
    (found,) = simulated(fedavg(normed(), whole), federation((70, 5)), cohort_size=2)
    assert "pieces of 64" in found
    assert not simulated(fedavg(normed(), whole), federation((64, 5)), cohort_size=2)
    assert not simulated(fedavg(logistic(), whole), federation((70, 5)), cohort_size=2)


def test_python_shows_a_warning_once():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            warn("the same")
    assert [w.category for w in caught] == [SharpEdge]


def test_other_warnings_are_shown():
    def both() -> None:
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        warn("sharp")

    with pytest.warns(DeprecationWarning, match="old"):
        assert warned(both) == ["sharp"]


def test_a_run_says_so_and_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "finish_runs", lambda *args, **options: 0)  # nothing is trained
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    arguments = f"run fedavg --sampling examples --model logistic --out {tmp_path / 'run'}"
    with pytest.warns(SharpEdge, match="Clients are asked with odds") as told:
        assert command(*arguments.split()) == 0
    (message,) = {str(warning.message) for warning in told}
    printed = warnings.formatwarning(message, SharpEdge, "build.py", 1)
    assert printed == f"fedjax-kd: warning: {message}\n"
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["warnings"] == [message]
