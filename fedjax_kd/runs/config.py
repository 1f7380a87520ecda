"""A run as plain data: what is written to ``config.json``, and built again from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from typing import Any

from fedjax_kd.engine.simulation import Engine
from fedjax_kd.errors import InputError
from fedjax_kd.nn.precision import Precision
from fedjax_kd.options import checks_options
from fedjax_kd.runs import model_config
from fedjax_kd.runs.clock_config import ClockConfig
from fedjax_kd.runs.data_config import DataConfig, Options
from fedjax_kd.runs.privacy_config import PrivacyConfig

FORMAT = 1


@checks_options
@dataclass(frozen=True)
class TrainingConfig:
    """How long, with whom and on what a federation is trained.

    Args:
      num_rounds: rounds to train, >= 1.
      cohort_size: clients K asked in each round, >= 1, at most C.
      eval_every: rounds between two evaluations, >= 1; the last round is always evaluated.
      seed: of everything that is random, in [0, 2**32).
      sampling: who is asked: "uniform", "examples" (odds by the number of examples), "poisson"
        (each independently of the others, cohort_size on average), or a JSON file with a list of
        client numbers for each round.
      dropout_rate: probability in [0, 1) that a client which was asked does not answer.
      chunk: clients trained at the same time on one device, >= 1; measured or by rule if not given.
      rounds_per_dispatch: rounds that run in one program on the device, >= 1: a divisor or a
        multiple of eval_every (evaluation then runs inside); by default a divisor up to 25.
      devices: devices to divide each cohort over, >= 1; of several processes all devices take part.
      engine: "jit"; or "python", slow, which names the round, client and stage of a mistake.
      precision: of the clients' arithmetic: "float32"; "tf32", faster on GPUs; or "bfloat16", where
        weights and averages stay float32.
      augment: how training images are changed at random: "crop_flip", or "crop24_flip", whose
        models see 24 x 24 pixels, in evaluation the central ones; by default not at all.
      per_class: tell the accuracy of each class at every evaluation, and how much was forgotten.
      tiers: tell the accuracy of head, middle and tail classes, which hold some 75 %, 20 % and 5 %
        of the training rows, at every evaluation; with imbalance_factor it is told in any case.
      finetune: local steps, >= 1, that each client takes before a further evaluation on its own
        test rows, with the other options of local training; no such evaluation if not given.
      finetune_lr: learning rate of these steps, > 0; that of local training if not given.
      metrics: what evaluation tells beside the metrics of the problem: names that `fedjax-kd list
        metrics` shows, or MODULE:NAME of a function (outputs, targets) -> a number an example.
      loss: of an example, MODULE:NAME of a function (outputs, targets) -> a number an example; that
        of the problem if not given.
      client_schedule: share of the client learning rate by round: constant, linear, warmup, cosine,
        step, exponential, or several in turn, such as "warmup:rounds=10+cosine:rounds=90,end=0.1";
        all of it if not given.
      server_schedule: share of the server's learning rate by round, likewise.
      patience: evaluations in a row without a better value of what the method is judged by, >= 1,
        after which a run stops; it goes on to its last round if not given.
      min_delta: by which a value must be better than the best one before it, >= 0, for `patience`.
      init_from: folder of a run whose global model a new run begins with, as after its newest
        checkpoint; RUN/best after its best one. That folder must stay until this run has ended.
      keep_best: keep a checkpoint of the best evaluation, for `fedjax-kd evaluate RUN --best`.
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
    tiers: bool = False
    finetune: int | None = None
    finetune_lr: float | None = None
    metrics: tuple[str, ...] = ()
    loss: str | None = None
    client_schedule: str | None = None
    server_schedule: str | None = None
    patience: int | None = None
    min_delta: float = 0.0
    keep_best: bool = False
    init_from: str | None = None


@dataclass(frozen=True)
class Config:
    """One run: everything that decides its numbers.

    ``wrappers`` are options by wrapper; they go around the method in their order. ``models`` are
    several networks in place of one, as `fedjax_kd.runs.model_config` reads them,
    and ``model_of`` says which clients have which. ``client_options`` are options of local training
    that some clients have instead, by their numbers, see `fedjax_kd.runs.group_config`. ``files``
    are texts of files that options name, by their absolute paths.

    Example:
      >>> config = Config("fedadam", method_options={"eta": 0.1})
      >>> from_json(to_json(config)) == config
      True
    """

    method: str
    method_options: Options = field(default_factory=dict)
    local: Options = field(default_factory=dict)
    wrappers: Mapping[str, Options] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    model: str | None = None
    model_options: Options = field(default_factory=dict)
    models: tuple[str, ...] = ()
    model_of: str = model_config.TURNS
    training: TrainingConfig = field(default_factory=TrainingConfig)
    clock: ClockConfig = field(default_factory=ClockConfig)
    privacy: PrivacyConfig = field(default_factory=PrivacyConfig)
    client_options: Mapping[str, Options] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


def to_json(config: Config) -> dict[str, Any]:
    """The configuration as a tree of plain values."""
    return {"format": FORMAT, **asdict(config)}


def from_json(values: Mapping[str, Any]) -> Config:
    """The configuration that `to_json` wrote; further keys at the top are ignored.

    Raises:
      ValueError: if the format is another one, or a part is missing or has an unknown key.
    """
    if values.get("format") != FORMAT:
        raise InputError(
            f"The configuration has format {values.get('format')!r}, but this version of fedjax_kd "
            f"reads format {FORMAT}: use the version that wrote it, which it names."
        )
    top = {f.name: _tuples(values[f.name]) for f in fields(Config) if f.name in values}
    data = _part(DataConfig, top.get("data"))
    training = _part(TrainingConfig, top.get("training"))
    later = {"clock": ClockConfig, "privacy": PrivacyConfig}  # than the first configurations
    rest = {name: _part(kind, top.get(name, {})) for name, kind in later.items()}
    return _part(Config, top | {"data": data, "training": training, **rest})


def _tuples(value: Any) -> Any:
    """Lists, which JSON makes of tuples, as tuples again."""
    if isinstance(value, Mapping):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _part(kind: type[Any], values: Any) -> Any:
    """A dataclass from a mapping; a field that is younger than the mapping has its default."""
    if not isinstance(values, Mapping):
        raise InputError(f"The configuration lacks {kind.__name__}: start a new run.")
    known = [f.name for f in fields(kind)]
    needed = {f.name for f in fields(kind) if f.default is f.default_factory is MISSING}
    wrong = sorted(({*values} - {*known}) | (needed - {*values}))
    if wrong:
        raise InputError(
            f"{kind.__name__} of the configuration must have {', '.join(known)} and no more, but "
            f"differs in {', '.join(wrong)}: start a new run with these options."
        )
    return kind(**values)


def longer(config: Config, num_rounds: int | None, patience: int | None = None) -> Config:
    """The configuration with another number of rounds, if one is given, and another patience.

    Without patience, which 0 stands for, nothing stops a run before its last round.
    """
    given: dict[str, Any] = {} if num_rounds is None else {"num_rounds": num_rounds}
    if patience is not None:
        given |= {"patience": patience} if patience else {"patience": None, "min_delta": 0.0}
    return replace(config, training=replace(config.training, **given))
