"""Which options a run has: those of its methods, its local training, its data and its model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from types import MappingProxyType
from typing import Any

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.commands._parser import Section, flag
from fedjax_kd.data import is_store
from fedjax_kd.models import MODELS
from fedjax_kd.options import Option, named, options
from fedjax_kd.runs.build import local_options, takes_local
from fedjax_kd.runs.clock_config import ClockConfig
from fedjax_kd.runs.config import TrainingConfig
from fedjax_kd.runs.data_config import DataConfig, OptionValue, counts_clients, partitioner_options
from fedjax_kd.runs.model_config import TURNS
from fedjax_kd.runs.privacy_config import PrivacyConfig
from fedjax_kd.wrappers import WRAPPERS

WRAPPING = Section(
    "wrappers",
    "Wrappers around the method",
    [
        flag(
            "wrappers",
            type=tuple[str, ...],
            default=(),
            help="the innermost first, such as: top_k:keep=0.05 median. There are: "
            + "; ".join(
                f"{name} ({', '.join(o.name for o in options(factory)) or 'no options'})"
                for name, factory in WRAPPERS.items()
            ),
        )
    ],
    {"wrappers": "--with"},
)

BY_CLIENT = Section(
    "by_client",
    "Local training of some clients",
    [
        flag(
            "client_options",
            type=tuple[str, ...],
            default=(),
            help="options of local training that some clients have instead, such as: "
            "0-49:epochs=1 50-59+70:epochs=5,client_lr=0.05",
        )
    ],
)
CHANGED_DATA = flag(
    "changed_data",
    type=bool,
    default=False,
    help="go on with data that are not those of before; both are recorded",
)


def of_run(
    methods: Sequence[str], args: Sequence[str], aliases: Mapping[str, str] = MappingProxyType({})
) -> list[Section]:
    """The options of a run with these methods, and with the partition and model in ``args``.

    Args:
      methods: at least one.
      args: the command line after the methods.
      aliases: shorter names of options that say how it is trained.

    Raises:
      ValueError: if the partition or the model is unknown.
    """
    local = _merged({m: of_local(m) for m in methods})
    model = early_value(args, "model")
    model_options = [] if model is None else options(named("model", model, MODELS))
    training = Section(
        "training", "How long, with whom and on what", options(TrainingConfig), aliases
    )
    return [
        _of_methods(methods),
        Section("local", "Local training of every client", local),
        BY_CLIENT,
        WRAPPING,
        *of_data(args),
        Section("model", "The model", [*_models(), *model_options]),
        training,
        Section("clock", "Simulated time", options(ClockConfig)),
        Section("privacy", "What is told of differential privacy", options(PrivacyConfig)),
    ]


def of_data(args: Sequence[str]) -> list[Section]:
    """The options that decide the clients; a client store leaves nothing to decide."""
    if is_store(early_value(args, "dataset") or ""):
        stored = [o for o in options(DataConfig) if o.name in ("dataset", "standardise")]
        return [Section("data", "Data and clients", stored), Section("partition", "", [])]
    partition = early_value(args, "partition") or DataConfig.partition
    skipped = () if counts_clients(partition) else ("num_clients",)
    data = [o for o in options(DataConfig) if o.name not in skipped]
    data = [o._replace(type=int) if o.name == "num_clients" else o for o in data]
    own = partitioner_options(partition)
    return [
        Section("data", "Data and clients", data),
        Section("partition", f"Options of the partition {partition}", own),
    ]


def of_local(method: str) -> list[Option]:
    """The options of local training for a method; none if it has no such training."""
    return local_options(REGISTRY[method]) if takes_local(REGISTRY[method]) else []


def chosen(found: Mapping[str, Any], known: Sequence[Option]) -> dict[str, OptionValue]:
    """The values of one method's options from what was parsed; None stands for its own default."""
    return {o.name: o.default if found[o.name] is None else found[o.name] for o in known}


def with_defaults(section: Section, defaults: Mapping[str, OptionValue]) -> Section:
    """The section with other defaults for the options that ``defaults`` names."""
    changed = [o._replace(default=defaults.get(o.name, o.default)) for o in section.options]
    return section._replace(options=changed)


def early_value(args: Sequence[str], name: str) -> str | None:
    """The value of one option in a command line that is not parsed yet; the last one counts.

    Example:
      >>> early_value(["--alpha", "1", "--partition=iid"], "partition")
      'iid'
    """
    found = None
    for arg, following in zip_longest(args, args[1:]):
        if arg == f"--{name}":
            found = following
        elif arg.startswith(f"--{name}="):
            found = arg.split("=", 1)[1]
    return found


def _models() -> list[Option]:
    names = ", ".join(MODELS)
    return [
        flag("model", help=f"one of {names}; by default one that suits the data"),
        flag(
            "models",
            help="several in place of one, such as: cnn_small mlp:hidden=64x32",
            type=tuple[str, ...],
            default=(),
        ),
        flag(
            "model_of",
            help='which clients have which of several: "turns", "blocks", or a JSON file with a '
            "list of the number of each client's model",
            type=str,
            default=TURNS,
        ),
    ]


def _of_methods(methods: Sequence[str]) -> Section:
    """The options of one method, or of several together."""
    merged = _merged({m: options(REGISTRY[m]) for m in methods})
    names = [o.name for o in merged]
    alias = {"eta": "--server-lr"} if "eta" in names and "server_lr" not in names else {}
    return Section("method", f"Options of {' and '.join(methods)}", merged, alias)


def _merged(known: Mapping[str, Sequence[Option]]) -> list[Option]:
    """The options of several methods; where defaults differ, None stands for each one's own."""
    merged: dict[str, dict[str, Option]] = {}
    for method, own in known.items():
        for o in own:
            merged.setdefault(o.name, {})[method] = o
    return [_one_of(owners) for owners in merged.values()]


def _one_of(owners: Mapping[str, Option]) -> Option:
    first = next(iter(owners.values()))
    if all(o.default == first.default for o in owners.values()):
        return first
    each = ", ".join(f"{method} {o.default}" for method, o in owners.items())
    return Option(first.name, first.type | None, None, f"{first.help} ({each})")
