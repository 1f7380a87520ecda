"""Every number that a user may give: its documented range, and the first values outside of it."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commandline import command
from docstring_parser import parse
from federations import federation
from method_records import RECORDS
from methods import FIT, make

import fedjax_kd
from fedjax_kd.algorithms import GROUPS, REGISTRY, fedavg, fedprox
from fedjax_kd.components import server_opt
from fedjax_kd.core import Scalar
from fedjax_kd.data import AUGMENTATIONS, PARTITIONERS, DirichletPartitioner
from fedjax_kd.engine.simulation import simulate
from fedjax_kd.errors import InputError
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS
from fedjax_kd.options import limits
from fedjax_kd.options.ranges import Interval, Limit, check_value, interval_of, limit_of
from fedjax_kd.runs.build import build
from fedjax_kd.runs.config import Config, TrainingConfig
from fedjax_kd.runs.data_config import DataConfig
from fedjax_kd.sweeps.api import sweep
from fedjax_kd.sweeps.axes import grid
from fedjax_kd.sweeps.halving import Halving
from fedjax_kd.sweeps.study import Search, Study, checked
from fedjax_kd.wrappers import WRAPPERS

FACTORIES: Mapping[str, Callable[..., Any]] = {
    **{f"method {name}": factory for name, factory in REGISTRY.items()},
    **{f"groups {name}": factory for name, factory in GROUPS.items()},
    **{f"wrapper {name}": factory for name, factory in WRAPPERS.items()},
    **{f"model {name}": factory for name, factory in MODELS.items()},
    **{f"augmentation {name}": factory for name, factory in AUGMENTATIONS.items()},
    **{f"partition {name}": factory for name, factory in PARTITIONERS.items()},
    **{f.__name__: f for f in (local_training, simulate, TrainingConfig, DataConfig)},
    **{f.__name__: f for f in (sweep, Halving, Search)},
    "fedavgm of the server": server_opt.fedavgm,
    "fedadam of the server": server_opt.fedadam,
}


def ranged() -> Iterator[Callable[..., Any]]:
    """Every public function and class of the package whose docstring names a range."""
    for module in pkgutil.walk_packages(fedjax_kd.__path__, "fedjax_kd."):
        if module.name.endswith(("__main__", "._convolution")):  # the latter is no Python
            continue
        for name, found in vars(importlib.import_module(module.name)).items():
            if callable(found) and getattr(found, "__module__", "") == module.name:
                documented = parse(inspect.getdoc(found) or "").params
                if name[0] != "_" and any(interval_of(p.description or "") for p in documented):
                    yield found


def outside(limit: Limit, interval: Interval) -> list[Any]:
    """The first numbers beyond both ends, and what is no number at all."""
    found: list[Any] = [math.nan, math.inf, -math.inf, True, "x", [[0.5]]]
    if math.isfinite(interval.low):
        step = np.nextafter(interval.low, -math.inf) if interval.has_low else interval.low
        found.append(int(interval.low) - interval.has_low if limit.whole else float(step))
    if math.isfinite(interval.high):
        step = np.nextafter(interval.high, math.inf) if interval.has_high else interval.high
        found.append(int(interval.high) + interval.has_high if limit.whole else float(step))
    found += [1.5] if limit.whole else []
    return [[value] for value in found] if not limit.single else found


def inside(limit: Limit, interval: Interval) -> list[Any]:
    """The ends that belong to a range, as Python's, NumPy's and JAX's numbers."""
    ends = [interval.low] * interval.has_low + [interval.high] * interval.has_high
    kinds: tuple[Any, ...] = (int, np.int64, jnp.int32) if limit.whole else (float, np.float32)
    found = [kind(end) for end in ends for kind in kinds]
    return found if limit.single else [tuple(found)]


@pytest.mark.parametrize("name", FACTORIES)
def test_every_number_has_a_range_that_is_enforced(name: str):
    """The range, its name and the value are said, before anything else is looked at."""
    factory = FACTORIES[name]
    for limit in limits(factory).values():
        assert limit.interval is not None, f"{name}: {limit.name} has no range: {limit.help!r}"
        for value in outside(limit, limit.interval):
            with pytest.raises(InputError) as refused:
                factory(**{limit.name: value})
            assert str(refused.value).startswith(f"{limit.name} is ")
            if limit.interval.words != "any number":
                assert limit.interval.words in str(refused.value)
        for value in inside(limit, limit.interval):
            check_value(limit, value)


def test_no_documented_range_is_a_promise_alone():
    found = [(f, limit) for f in ranged() for limit in limits(f).values() if limit.interval]
    assert len(found) > 300
    for factory, limit in found:
        with pytest.raises(InputError, match=f"^{limit.name} is nan|^{limit.name} is \\[nan"):
            factory(**{limit.name: math.nan if limit.single else [math.nan]})


@pytest.mark.parametrize("name", REGISTRY)
def test_methods_can_be_made_at_their_ends(name: str):
    """No further check contradicts what is documented."""
    record = RECORDS[name]
    fit = local_training(**FIT)
    for option, limit in limits(REGISTRY[name]).items():
        for value in inside(limit, limit.interval)[:: 3 if limit.whole else 2]:
            make(name, record.task(), fit, **{**record.options, option: value})


def weight(name: str = "mu", annotation: Any = Scalar, help: str = "a weight, in (0, 1].") -> Limit:
    found = limit_of(name, annotation, help, "demo")
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("annotation", "value", "words"),
    [
        (Scalar, 0, "mu is 0, but must be in (0, 1]: a weight (demo)."),
        (Scalar, np.float32(2), "mu is 2.0, but must be in (0, 1]"),
        (Scalar, jnp.float32(-1), "mu is -1.0, but must be in (0, 1]"),
        (Scalar, math.nan, "mu is nan, but must be finite and in (0, 1]"),
        (Scalar, [0.1, 0.1], "mu is [0.1, 0.1], but must be one number in (0, 1]"),
        (Scalar, np.ones(2), "mu is array([1., 1.]), but must be one number in (0, 1]"),
        (Scalar, "0.1", "mu is '0.1', but must be one number in (0, 1]"),
        (Scalar, True, "mu is True, but must be one number"),
        (Scalar, np.bool_(True), "but must be one number"),
        (Scalar, None, "mu is None, but must be one number"),
        (Scalar, math.sqrt, "but must be one number"),
        (int, 0.5, "mu is 0.5, but must be a whole number in (0, 1]"),
        (int, 1.0, "mu is 1.0, but must be a whole number in (0, 1]"),
        (int, [1], "mu is [1], but must be one whole number in (0, 1]"),
        (tuple[float, ...], 1.0, "mu is 1.0, but must be a sequence of numbers in (0, 1]"),
        (tuple[float, ...], (1.0, 2.0), "mu is (1.0, 2.0), but each must be in (0, 1]"),
        (tuple[int, ...], (1, 0.5), "mu is (1, 0.5), but each must be a whole number in (0, 1]"),
    ],
)
def test_what_is_refused_and_how(annotation: Any, value: Any, words: str):
    with pytest.raises(InputError) as refused:
        check_value(weight(annotation=annotation), value)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Scalar, 1),
        (Scalar, np.float64(0.5)),
        (Scalar, jnp.bfloat16(0.5)),
        (int, np.uint8(1)),
        (Scalar | None, None),
        (Scalar | Callable[[Any], Any], math.sqrt),
        (int | str, "many"),
        (tuple[float, ...], [0.5, 1.0]),
        (tuple[float, ...], ()),
        (int | tuple[int, ...], np.ones(2, int)),
    ],
)
def test_what_passes(annotation: Any, value: Any):
    check_value(weight(annotation=annotation), value)


def test_traced_numbers_pass_and_concrete_ones_among_them_do_not():
    task, fit = RECORDS["fedprox"].task(), local_training()

    def traced(mu: Any) -> Any:
        fedprox(task, fit, mu=mu)
        fedavg(task, local_training(client_lr=mu, clip_norm=mu), server_lr=mu)
        return mu

    jax.jit(traced)(-1.0)
    jax.vmap(traced)(jnp.array([-1.0, 0.0]))
    with pytest.raises(InputError, match="mu is -1"):
        jax.jit(lambda: fedprox(task, fit, mu=np.float32(-1)))()


@pytest.mark.parametrize(
    "text",
    ["tanh of x >= 0 is used", "2 < x", "see [0, 1]", "falls from 20 to 2", "", "with 0 nothing"],
)
def test_what_is_no_range(text: str):
    assert interval_of(text) is None


def test_ranges_are_read_from_sentences():
    assert interval_of("seeds, each in [0, 2**32); all").high == 2**32
    assert interval_of("of the difference, > 1e-12; small").low == 1e-12
    assert interval_of("shares, each >= -1.5.").low == -1.5
    assert interval_of("any number; 0 is even") == Interval("any number")


def test_a_list_of_alphas_is_refused_when_the_partitioner_is_built():
    with pytest.raises(InputError, match=r"alpha is \[0.1, 0.1\], but must be one number > 0"):
        DirichletPartitioner(2, [0.1, 0.1])


MU = grid(mu=[0.0, 0.1, -1.0, 0.2])
WIDE = grid(keep=[0.5, 2.0], lr=[0.1, 0.2])


def test_a_sweep_in_python_refuses_before_anything_is_traced():
    task, fit, made = RECORDS["fedprox"].task(), local_training(), []

    def make_prox(mu: Any) -> Any:
        made.append(mu)
        return fedprox(task, fit, mu=mu)

    with pytest.raises(InputError, match=r"mu is -1\.0, but must be >= 0"):
        sweep(make_prox, federation(), MU, num_rounds=2, cohort_size=2)
    assert all(isinstance(mu, float) for mu in made)


@pytest.mark.parametrize(
    ("base", "setting", "words"),
    [
        (Config("fedprox"), {"mu": -1.0}, "mu is -1.0"),
        (Config("fedavg"), {"client_lr": "0"}, "client_lr is 0.0"),
        (Config("fedadam"), {"server_lr": -1}, "server_lr is -1.0"),
        (Config("fedavg", wrappers={"top_k": {}}), {"top_k.keep": 2}, "top_k.keep is 2.0"),
        (Config("fedavg"), {"alpha": 0}, "alpha is 0.0"),
        (Config("fedavg"), {"dropout_rate": 1}, "dropout_rate is 1.0"),
        (Config("fedavg"), {"model": "mlp", "hidden": "64x0"}, r"hidden is \(64, 0\)"),
        (Config("fedavg"), {"epochs": True}, "epochs is True"),
    ],
)
def test_a_study_refuses_values_before_it_loads_any_data(base: Any, setting: Any, words: str):
    with pytest.raises(InputError, match=f"^{words}"):
        checked(Study({base.method: base}, ({"method": base.method, **setting},), (0,)))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config("fedprox", method_options={"mu": -1.0}), "mu is -1.0"),
        (Config("fedavg", local={"client_momentum": 1.5}), "client_momentum is 1.5"),
        (Config("fedavg", local={"epochs": 1.5}), "epochs is 1.5, but must be a whole number"),
        (Config("fedavg", wrappers={"ema": {"beta": 1.0}}), "beta is 1.0"),
        (Config("fedavg", model="mlp", model_options={"hidden": (0,)}), r"hidden is \(0,\)"),
    ],
)
def test_a_configuration_is_refused_when_it_is_built(config: Config, words: str):
    with pytest.raises(InputError, match=f"^{words}"):
        build(config, federation())


@pytest.mark.parametrize(
    "args",
    [
        "run fedprox --mu -1",
        "run fedadam --beta-1 1",
        "run fedadam --tau 0",
        "run fedavg --client-momentum 1.5",
        "run fedavg --lr-decay 2",
        "run fedavg --clip-norm 0",
        "run fedavg --server-lr inf",
        "run fedavg --with top_k:keep=2",
        "run fedavg --with krum:select=0",
        "run fedavg --model cnn_small --widths 4 0",
        "run fedavg --partition shard --shard-size 0",
        "run fedavg --public-size 0",
        "run fedavg --checkpoint-every 0",
        "sweep fedprox --grid mu=-1,0",
        "sweep fedprox --grid mu=-1:1:lin --trials 2",
        "sweep fedavg --grid client-lr=0.1 --samples 0",
        "sweep fedavg --grid client-lr=0.1 --halving 1",
        "sweep fedavg --with top_k --grid top_k.keep=0.1,2",
    ],
)
def test_the_command_line_refuses_it_too(args: str, capsys: pytest.CaptureFixture):
    assert command(*args.split()) == 2
    shown = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert "must be" in shown
    assert "Traceback" not in shown
