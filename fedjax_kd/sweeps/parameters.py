"""The parameters that a sweep may vary: options of a run by name, and values for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.errors import InputError
from fedjax_kd.models import MODELS
from fedjax_kd.options import Option, named, nearest, options
from fedjax_kd.runs.build import local_options, takes_local
from fedjax_kd.runs.config import Config, TrainingConfig, from_json, to_json
from fedjax_kd.runs.data_config import DataConfig, counts_clients, partitioner_options
from fedjax_kd.runs.option_values import parse_value
from fedjax_kd.sweeps.axes import AxisValue, Setting
from fedjax_kd.wrappers import WRAPPERS

METHOD = "method"

# All points have these in common; seeds have an option of their own.
_FIXED = (
    "num_rounds",
    "eval_every",
    "seed",
    "chunk",
    "rounds_per_dispatch",
    "devices",
    "engine",
    "patience",
    "min_delta",
    "keep_best",
    "init_from",
)
# These decide which other options there are.
_FIRST = ("partition", "model")


_PLACES: dict[str, tuple[str, ...]] = {
    "top": (),
    "method": ("method_options",),
    "local": ("local",),
    "training": ("training",),
    "data": ("data",),
    "partition": ("data", "partition_options"),
    "model": ("model_options",),
}


class Parameter(NamedTuple):
    """One option of a run, and the part of the configuration in which it stands."""

    part: str
    option: Option

    @property
    def traced(self) -> bool:
        """Whether numbers for it are arguments of a compiled program."""
        return self.part in ("method", "local") or self.part in WRAPPERS

    @property
    def key(self) -> str:
        """Its name among all options of a run; that of a wrapper stands before its options'."""
        name = self.option.name
        return f"{self.part}.{name}" if self.part in WRAPPERS else name


def known_parameters(config: Config) -> dict[str, Parameter]:
    """The options of a run that may vary, by name; ``server_lr`` is any method's server rate.

    Example:
      >>> [name for name in known_parameters(Config("fedadam")) if name.startswith("server_l")]
      ['server_lr']
    """
    found = dict(_parameters(config))
    if "eta" in found and "server_lr" not in found:
        found["server_lr"] = found["eta"]
    return found


def _parameters(config: Config) -> Iterator[tuple[str, Parameter]]:
    method = REGISTRY[config.method]
    model = [] if config.model is None else options(named("model", config.model, MODELS))
    kinds: dict[Any, list[Option]] = {
        "model": model,
        "partition": partitioner_options(config.data.partition),
        "data": _data_options(config),
        "training": [o for o in options(TrainingConfig) if o.name not in _FIXED],
        "local": local_options(method) if takes_local(method) else [],
        "method": options(method),
    }
    yield "model", Parameter("top", Option("model", str, None, ""))
    kinds |= {name: options(WRAPPERS[name]) for name in config.wrappers}
    for part, own in kinds.items():
        for option in own:
            parameter = Parameter(part, option)
            yield parameter.key, parameter


def _data_options(config: Config) -> list[Option]:
    skipped = {"seed"} if counts_clients(config.data.partition) else {"seed", "num_clients"}
    return [o for o in options(DataConfig) if o.name not in skipped]


def applied(config: Config, setting: Setting) -> Config:
    """The configuration with other values for some of its options.

    Raises:
      ValueError: if an option is unknown, or a value none that it can have.
    """
    for name in sorted(setting, key=lambda name: name not in _FIRST):
        if name == METHOD:
            continue
        parameter = known_parameters(config).get(name)
        if parameter is None:
            raise InputError(unknown_parameter(name, {config.method: config}))
        config = _with(config, parameter, parse_value(parameter.option, setting[name], name))
    return config


def _with(config: Config, parameter: Parameter, value: AxisValue) -> Config:
    values, name = to_json(config), parameter.option.name
    _place(values, parameter)[name] = value
    if name in _FIRST:  # the options of another one
        _place(values, Parameter(name, parameter.option)).clear()
    return from_json(values)


def value_in(config: Config, name: str) -> AxisValue:
    """The value of an option in a configuration."""
    parameter = known_parameters(config)[name]
    return _place(to_json(config), parameter).get(parameter.option.name, parameter.option.default)


def plain_with(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as plain values, with others for some parameters, named by their keys."""
    plain, by_key = to_json(config), {p.key: p for p in known_parameters(config).values()}
    for key, value in values.items():
        _place(plain, by_key[key])[by_key[key].option.name] = value
    return plain


def _place(values: dict[str, Any], parameter: Parameter) -> dict[str, Any]:
    """Where a parameter's value stands in a configuration as plain values."""
    for key in _PLACES.get(parameter.part, ("wrappers", parameter.part)):
        values = values[key]
    return values


def unknown_parameter(name: str, configs: Mapping[str, Config]) -> str:
    """The message for a parameter that none of these methods has."""
    names = sorted({n for config in configs.values() for n in known_parameters(config)})
    return (
        f"There is no parameter {name!r} of {', '.join(configs)} to vary{nearest(name, names)}. "
        f"There are: {', '.join(names)}."
    )
