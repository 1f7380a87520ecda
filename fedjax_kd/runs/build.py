"""From a configuration to what it describes: the task, the algorithm, the simulation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from numpy.typing import NDArray

from fedjax_kd.algorithms import GROUPS, REGISTRY
from fedjax_kd.core import Algorithm
from fedjax_kd.data import sampling
from fedjax_kd.data.augment import AUGMENTATIONS
from fedjax_kd.data.federation import Federation
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import Simulation, simulate
from fedjax_kd.errors import InputError, collected_warnings, warn
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS, default_model
from fedjax_kd.options import (
    FACTS,
    REQUIRED,
    Option,
    check_finite,
    check_options,
    fixed_local,
    named,
    options,
)
from fedjax_kd.runs import model_config
from fedjax_kd.runs.config import Config
from fedjax_kd.runs.data_config import federation_of
from fedjax_kd.runs.text_config import text_options
from fedjax_kd.runs.wrapper_config import wrapped
from fedjax_kd.task import Augment, Prepare, Task, from_nnx

OF_TASK = ("precision", "augment")  # fields of TrainingConfig that `task_of` uses, not `simulate`


def takes_local(factory: Callable[..., Algorithm]) -> bool:
    """Whether clients of this method train locally as `local_training` says."""
    return "fit" in inspect.signature(factory).parameters


def local_options(factory: Callable[..., Algorithm]) -> list[Option]:
    """The options of local training, without those that a method sets itself."""
    return [o for o in options(local_training) if o.name not in fixed_local(factory)]


def build(config: Config, federation: Federation | None = None) -> Simulation:
    """The simulation that a configuration describes.

    Args:
      config: of the run.
      federation: the clients that ``config.data`` describes, if they are loaded already.

    Raises:
      ValueError: if a name or an option is unknown, or a value is out of its range.
      TypeError: if the method breaks the contract.

    Example:
      >>> from fedjax_kd.runs.config import TrainingConfig
      >>> build(Config("fedavg", training=TrainingConfig(num_rounds=3))).federation.num_clients
      100
    """
    check_finite("training", asdict(config.training))
    for seed in (config.training.seed, config.data.seed or 0):
        if not 0 <= seed < 2**32:
            raise InputError(f"seed is {seed}, but must be from 0 to 2**32 - 1: take another one.")
    if federation is None:
        _, federation = federation_of(config.data)
    algorithms, group_of = _groups(config, federation)
    chosen = asdict(config.training)
    for name in OF_TASK:
        chosen.pop(name)
    mesh = _mesh(chosen.pop("devices"))
    sampler = sampling.sampler_named(
        chosen.pop("sampling"), federation.sizes, chosen["cohort_size"]
    )
    return simulate(algorithms, federation, group_of=group_of, mesh=mesh, sampler=sampler, **chosen)


def warned_build(
    config: Config, federation: Federation | None = None
) -> tuple[Simulation, list[str]]:
    """`build`, and the sharp edges that it warns of, which are kept with the run."""
    with collected_warnings() as found:
        simulation = build(config, federation)
    for message in found:
        warn(message)
    return simulation, found


def _groups(
    config: Config, federation: Federation
) -> tuple[Algorithm | Sequence[Algorithm], NDArray[np.int64] | None]:
    """The algorithm, or one for each of several networks and which clients have which."""
    if not config.models:
        return algorithm_of(config, task_of(config, federation), federation), None
    if config.model is not None:
        raise InputError(
            f"Both model {config.model!r} and models {', '.join(config.models)} are given: give "
            "either one network for all clients, or several."
        )
    if config.wrappers:
        raise InputError(
            f"Wrappers ({', '.join(config.wrappers)}) go around one algorithm, but models "
            f"{', '.join(config.models)} make one each: give one model."
        )
    given = [model_config.parse_model(text) for text in config.models]
    each = [replace(config, model=name, model_options=own) for name, own in given]
    tasks = [task_of(one, federation) for one in each]
    factory = named("method for several models", config.method, GROUPS)
    owners = model_config.model_of_clients(config.model_of, len(each), federation.num_clients)
    return _made(factory, config, tasks, federation), owners


def task_of(config: Config, federation: Federation) -> Task:
    """The model of a run, made for its data."""
    config = with_model(config, federation)
    factory = named("model", str(config.model), MODELS)
    check_options(f"model {config.model}", config.model_options, options(factory))
    shape, prepare, augment = _images(config, federation)
    make = factory(shape, federation.num_classes, **config.model_options)
    return from_nnx(
        make,
        prepare=prepare,
        augment=augment,
        example_loss=federation.example_loss,
        precision=config.training.precision,
        example_x=jax.tree.map(lambda pool: pool[:1], federation.train.x),
    )


def _images(
    config: Config, federation: Federation
) -> tuple[tuple[int, ...], Prepare, Augment | None]:
    """The shape of the model's input, and what is done to examples before."""
    name = config.training.augment
    if name is None:
        return federation.input_shape, federation.prepare, None
    if federation.target == "input":
        raise InputError(
            f"augment is {name!r}, but the inputs are the targets, which would stay as they were: "
            "train without augment, or with target 'label'."
        )
    augmentation = named("augmentation", name, AUGMENTATIONS)(federation.input_shape)
    return augmentation.shape, augmentation.then(federation.prepare), augmentation.augment


def with_model(config: Config, federation: Federation) -> Config:
    """The configuration, with the model that suits the data if none was chosen."""
    f = federation
    if config.models:
        return config
    name, given = config.model, config.model_options
    if name is None:
        pooled = f.train.y.ndim == 1
        name, given = default_model(f.input_shape, f.train.x.dtype, f.target, pooled=pooled)
    return replace(config, model=name, model_options=text_options(name, given, f))


def algorithm_of(config: Config, task: Task, federation: Federation) -> Algorithm:
    """The method of a run on its task.

    Raises:
      ValueError: if the method or an option is unknown, or a value is out of its range.
    """
    made = _made(named("method", config.method, REGISTRY), config, task, federation)
    return wrapped(made, config.wrappers, task, federation)


def _made(factory: Callable[..., Any], config: Config, tasks: Any, federation: Federation) -> Any:
    """What a factory of methods makes of its task, or tasks, and of its options."""
    check_options(f"method {config.method}", config.method_options, options(factory))
    given = dict(config.method_options) | facts_of(factory, federation)
    if not takes_local(factory):
        return factory(tasks, **given)
    check_options("local training", config.local, local_options(factory))
    local: dict[str, Any] = dict(config.local)
    return factory(tasks, local_training(**local), **given)


def facts_of(factory: Callable[..., Any], federation: Federation) -> dict[str, int]:
    """What a factory of methods asks of the federation, see `fedjax_kd.options.FACTS`."""
    known = {
        "population": lambda: federation.num_clients,
        "capacity": lambda: int(federation.sizes.max(initial=1)),
        "classes": lambda: federation.num_classes,
    }
    asked = inspect.signature(factory).parameters
    return {n: known[n]() for n in FACTS if n in asked and asked[n].default is REQUIRED}


def _mesh(devices: int) -> Mesh | None:
    """The devices of a run; None for the first one alone. Of several processes all take part."""
    if devices == 1 and jax.process_count() == 1:
        return None
    return make_mesh(None if devices == 1 else devices)
