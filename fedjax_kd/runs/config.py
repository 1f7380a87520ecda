"""A run as plain data: what is written to ``config.json``, and built again from it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
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
from fedjax_kd.engine.simulation import Engine, Simulation, simulate
from fedjax_kd.local import local_training
from fedjax_kd.models import MODELS, default_model
from fedjax_kd.nn.precision import Precision
from fedjax_kd.options import FACTS, REQUIRED, check_finite, check_options, named, options
from fedjax_kd.runs import model_config
from fedjax_kd.runs.data_config import DataConfig, Options, federation_of
from fedjax_kd.task import Augment, Prepare, Task, from_nnx

FORMAT = 1
OF_TASK = ("precision", "augment")  # fields of TrainingConfig that `task_of` uses, not `simulate`


@dataclass(frozen=True)
class TrainingConfig:
    """How long, with whom and on what a federation is trained.

    Args:
      num_rounds: rounds to train, >= 1.
      cohort_size: clients K asked in each round, 1 to C.
      eval_every: rounds between two evaluations, >= 1; the last round is always evaluated.
      seed: of everything that is random.
      sampling: who is asked: "uniform", "examples" (odds by the number of examples), or a JSON file
        with a list of client numbers for each round.
      dropout_rate: probability in [0, 1) that a client which was asked does not answer.
      chunk: clients trained at the same time on one device; measured or by rule if not given.
      rounds_per_dispatch: rounds that run in one program on the device: a divisor or a multiple of
        eval_every (evaluation then runs inside); by default a divisor up to 25.
      devices: devices to divide each cohort over, >= 1; of several processes all devices take part.
      engine: "jit"; or "python", slow, which names the round, client and stage of a mistake.
      precision: of the clients' arithmetic: "float32"; "tf32", faster on GPUs; or "bfloat16", where
        weights and averages stay float32.
      augment: how training images are changed at random: "crop_flip", or "crop24_flip", whose
        models see 24 x 24 pixels, in evaluation the central ones; by default not at all.
      per_class: tell the accuracy of each class at every evaluation, and how much was forgotten.
    """

    num_rounds: int = 100
    cohort_size: int = 10
    eval_every: int = 10
    seed: int = 0
    sampling: str = "uniform"
    dropout_rate: float = 0.0
    chunk: int | None = None
    rounds_per_dispatch: int | None = None
    devices: int = 1
    engine: Engine = "jit"
    precision: Precision = "float32"
    augment: str | None = None
    per_class: bool = False


@dataclass(frozen=True)
class Config:
    """One run: everything that decides its numbers.

    ``models`` are several networks in place of one, as `fedjax_kd.runs.model_config` reads them,
    and ``model_of`` says which clients have which.

    Example:
      >>> config = Config("fedadam", method_options={"eta": 0.1})
      >>> from_json(to_json(config)) == config
      True
    """

    method: str
    method_options: Options = field(default_factory=dict)
    local: Options = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    model: str | None = None
    model_options: Options = field(default_factory=dict)
    models: tuple[str, ...] = ()
    model_of: str = model_config.TURNS
    training: TrainingConfig = field(default_factory=TrainingConfig)


def to_json(config: Config) -> dict[str, Any]:
    """The configuration as a tree of plain values."""
    return {"format": FORMAT, **asdict(config)}


def from_json(values: Mapping[str, Any]) -> Config:
    """The configuration that `to_json` wrote; further keys at the top are ignored.

    Raises:
      ValueError: if the format is another one, or a part is missing or has an unknown key.
    """
    if values.get("format") != FORMAT:
        raise ValueError(
            f"The configuration has format {values.get('format')!r}, but this version of fedjax_kd "
            f"reads format {FORMAT}: use the version that wrote it, which it names."
        )
    top = {f.name: _tuples(values[f.name]) for f in fields(Config) if f.name in values}
    data = _part(DataConfig, top.get("data"))
    training = _part(TrainingConfig, top.get("training"))
    return _part(Config, top | {"data": data, "training": training})


def _tuples(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples again."""
    if isinstance(value, Mapping):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _part(kind: type[Any], values: Any) -> Any:
    """A dataclass from a mapping; a field that is younger than the mapping has its default."""
    if not isinstance(values, Mapping):
        raise ValueError(f"The configuration lacks {kind.__name__}: start a new run.")
    known = [f.name for f in fields(kind)]
    needed = {f.name for f in fields(kind) if f.default is f.default_factory is MISSING}
    wrong = sorted(({*values} - {*known}) | (needed - {*values}))
    if wrong:
        raise ValueError(
            f"{kind.__name__} of the configuration must have {', '.join(known)} and no more, but "
            f"differs in {', '.join(wrong)}: start a new run with these options."
        )
    return kind(**values)


def longer(config: Config, num_rounds: int | None) -> Config:
    """The configuration with another number of rounds, if one is given."""
    if num_rounds is None:
        return config
    return replace(config, training=replace(config.training, num_rounds=num_rounds))


def takes_local(factory: Callable[..., Algorithm]) -> bool:
    """Whether clients of this method train locally as `local_training` says."""
    return "fit" in inspect.signature(factory).parameters


def build(config: Config, federation: Federation | None = None) -> Simulation:
    """The simulation that a configuration describes.

    Args:
      config: of the run.
      federation: the clients that ``config.data`` describes, if they are loaded already.

    Raises:
      ValueError: if a name or an option is unknown, or a value is out of its range.
      TypeError: if the method breaks the contract.

    Example:
      >>> build(Config("fedavg", training=TrainingConfig(num_rounds=3))).federation.num_clients
      100
    """
    check_finite("training", asdict(config.training))
    for seed in (config.training.seed, config.data.seed or 0):
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed}, but must be from 0 to 2**32 - 1: take another one.")
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


def _groups(
    config: Config, federation: Federation
) -> tuple[Algorithm | Sequence[Algorithm], NDArray[np.int64] | None]:
    """The algorithm, or one for each of several networks and which clients have which."""
    if not config.models:
        return algorithm_of(config, task_of(config, federation), federation), None
    if config.model is not None:
        raise ValueError(
            f"Both model {config.model!r} and models {', '.join(config.models)} are given: give "
            "either one network for all clients, or several."
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
        raise ValueError(
            f"augment is {name!r}, but the inputs are the targets, which would stay as they were: "
            "train without augment, or with target 'label'."
        )
    augmentation = named("augmentation", name, AUGMENTATIONS)(federation.input_shape)
    return augmentation.shape, augmentation.then(federation.prepare), augmentation.augment


def with_model(config: Config, federation: Federation) -> Config:
    """The configuration, with the model that suits the data if none was chosen."""
    if config.model is not None or config.models:
        return config
    f = federation
    name, given = default_model(f.input_shape, f.train.x.dtype, f.target)
    return replace(config, model=name, model_options=given)


def algorithm_of(config: Config, task: Task, federation: Federation) -> Algorithm:
    """The method of a run on its task.

    Raises:
      ValueError: if the method or an option is unknown, or a value is out of its range.
    """
    return _made(named("method", config.method, REGISTRY), config, task, federation)


def _made(factory: Callable[..., Any], config: Config, tasks: Any, federation: Federation) -> Any:
    """What a factory of methods makes of its task, or tasks, and of its options."""
    check_options(f"method {config.method}", config.method_options, options(factory))
    given = dict(config.method_options) | facts_of(factory, federation)
    if not takes_local(factory):
        return factory(tasks, **given)
    check_options("local training", config.local, options(local_training))
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
