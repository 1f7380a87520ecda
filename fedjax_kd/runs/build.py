"""From a configuration to what it describes: the task, the algorithm, the simulation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
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
from fedjax_kd.engine.early_stopping import patience_of
from fedjax_kd.engine.finetuning import with_finetuning
from fedjax_kd.engine.mesh import make_mesh
from fedjax_kd.engine.simulation import Simulation, simulate
from fedjax_kd.errors import InputError, collected_warnings, warn
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS, default_model
from fedjax_kd.options import FACTS, REQUIRED, Option, check_options, fixed_local, named, options
from fedjax_kd.runs import model_config, provenance
from fedjax_kd.runs.clock_config import clock_of
from fedjax_kd.runs.config import Config, TrainingConfig
from fedjax_kd.runs.data_config import federation_of
from fedjax_kd.runs.group_config import local_of_groups
from fedjax_kd.runs.privacy_config import accountant_of, check_budget
from fedjax_kd.runs.schedule_config import with_schedule
from fedjax_kd.runs.text_config import text_options
from fedjax_kd.runs.user_functions import named_loss, named_metrics
from fedjax_kd.runs.warm_start import model_at, start_from
from fedjax_kd.runs.wrapper_config import wrapped
from fedjax_kd.task import Augment, Prepare, Task, from_nnx

# Fields of TrainingConfig with which task and algorithm are made, or by which a run ends and what
# it keeps: `simulate` has none of them.
NOT_SIMULATED = (
    *("precision", "augment", "loss", "client_schedule", "server_schedule"),
    *("finetune", "finetune_lr"),
    *("patience", "min_delta", "keep_best", "init_from"),
)


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
    _check_keeping(config.training)
    if federation is None:
        _, federation = federation_of(config.data)
    algorithms, group_of = _groups(config, federation)
    chosen = asdict(config.training)
    for name in NOT_SIMULATED:
        chosen.pop(name)
    mesh = _mesh(chosen.pop("devices"))
    batch_size = config.local.get("batch_size", 20)
    clock = clock_of(config.clock, federation.num_clients, batch_size, config.files)
    cohort_size = chosen["cohort_size"]
    sampler = sampling.sampler_named(
        chosen.pop("sampling"),
        federation.sizes,
        clock.asked(cohort_size, federation.num_clients) if clock else cohort_size,
        config.files,
    )
    chosen["tiers"] |= config.data.imbalance_factor is not None
    check_budget(config.privacy, config.wrappers)
    accountant = accountant_of(
        config.privacy,
        config.wrappers,
        sampling=config.training.sampling if clock is None else "clocked",
        cohort_size=cohort_size,
        population=federation.num_clients,
    )
    return simulate(
        algorithms,
        federation,
        group_of=group_of,
        mesh=mesh,
        sampler=sampler,
        clock=clock,
        accountant=accountant,
        metrics=named_metrics(chosen.pop("metrics")),
        **chosen,
    )


def _check_keeping(training: TrainingConfig) -> None:
    """Raises ValueError if a run cannot stop, or keep its best state, as asked."""
    patience_of(training.patience, training.min_delta)
    block = training.rounds_per_dispatch or 1
    if training.keep_best and block > training.eval_every:
        raise InputError(
            f"keep_best needs the state of each evaluation, but with rounds_per_dispatch {block} "
            f"these are inside a dispatch: give a divisor of eval_every={training.eval_every}."
        )


def warned_build(
    config: Config, federation: Federation | None = None
) -> tuple[Simulation, list[str]]:
    """`build`, and the warnings that are kept with the run: of sharp edges, and of a compiled
    convolution that cannot be used, which is said once for all runs.
    """
    with collected_warnings() as found:
        simulation = build(config, federation)
    for message in found:
        warn(message)
    return simulation, list(dict.fromkeys([*found, *provenance.faults()]))


def _groups(
    config: Config, federation: Federation
) -> tuple[Algorithm | Sequence[Algorithm], NDArray[np.int64] | None]:
    """The algorithm, or one for each of several networks and which clients have which."""
    if config.client_options:
        return _groups_of_one_model(config, federation)
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
    owners = model_config.model_of_clients(
        config.model_of, len(each), federation.num_clients, config.files
    )
    return _made(factory, config, tasks, federation), owners


def _groups_of_one_model(
    config: Config, federation: Federation
) -> tuple[Sequence[Algorithm], NDArray[np.int64]]:
    """The algorithm of each group of clients that train locally in another way."""
    several = config.models and f"models {', '.join(config.models)}"
    around = config.wrappers and f"wrappers ({', '.join(config.wrappers)})"
    if several or around:
        raise InputError(
            f"Both client_options and {several or around} are given, but each group of clients has "
            "an algorithm of its own, and these need one: leave either out."
        )
    factory, task = named("method", config.method, REGISTRY), task_of(config, federation)
    if not takes_local(factory):
        raise InputError(f"Clients of {config.method} have no options: leave out client_options.")
    each, owners = local_of_groups(config.local, config.client_options, federation.num_clients)
    return [_made(factory, replace(config, local=own), task, federation) for own in each], owners


def task_of(config: Config, federation: Federation) -> Task:
    """The model of a run, made for its data."""
    config = with_model(config, federation)
    factory = named("model", str(config.model), MODELS)
    check_options(f"model {config.model}", config.model_options, options(factory))
    shape, prepare, augment = _images(config, federation)
    make = factory(shape, federation.num_classes, **config.model_options)
    loss = config.training.loss
    task = from_nnx(
        make,
        prepare=prepare,
        augment=augment,
        example_loss=named_loss(loss) if loss else federation.example_loss,
        precision=config.training.precision,
        example_x=jax.tree.map(lambda pool: pool[:1], federation.train.x),
    )
    if config.training.init_from is None:
        return task
    types = jax.eval_shape(task.init, jax.random.key(0))
    return start_from(task, model_at(Path(config.training.init_from), types))


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
        dtype = getattr(f.train.x, "dtype", None)
        name, given = default_model(f.input_shape, dtype, f.problem.name)
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
    rates, known = config.training, local_options(factory) if takes_local(factory) else []
    given = with_schedule("server", rates.server_schedule, config.method_options, options(factory))
    given |= facts_of(factory, federation)
    local = with_schedule("client", rates.client_schedule, config.local, known)
    if not takes_local(factory):
        return _finetuned(config, factory(tasks, **given))
    check_options("local training", config.local, known)
    return _finetuned(config, factory(tasks, local_training(**local), **given))


def _finetuned(config: Config, made: Any) -> Any:
    """Algorithms, with fine-tuned evaluation if the configuration asks for it."""
    steps, rate = config.training.finetune, config.training.finetune_lr
    if steps is None:
        if rate is not None:
            raise InputError(
                f"finetune_lr is {rate}, but nothing is fine-tuned: give the number of steps as "
                "finetune, or leave finetune_lr out."
            )
        return made
    own: dict[str, Any] = {**config.local, "steps": steps, "epochs": 1, "lr_decay": 1.0}
    fit = local_training(**own if rate is None else {**own, "client_lr": rate})
    if isinstance(made, Algorithm):
        return with_finetuning(made, fit)
    return tuple(with_finetuning(algorithm, fit) for algorithm in made)


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
