"""``fedjax-kd describe``: what a method or a wrapper does, and what travels."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.commands._options import WRAPPING
from fedjax_kd.commands._parser import parse
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.errors import InputError, collected_warnings
from fedjax_kd.options import named, network_of, options
from fedjax_kd.report import tables
from fedjax_kd.runs.build import algorithm_of, task_of
from fedjax_kd.runs.config import Config
from fedjax_kd.runs.data_config import DataConfig, federation_of
from fedjax_kd.runs.wrapper_config import parse_wrappers
from fedjax_kd.wrappers import WRAPPERS

HELP = """Shows what a method does, its options, and what travels on the digits; or a wrapper.

Examples:
  fedjax-kd describe scaffold
  fedjax-kd describe scaffold --with top_k:keep=0.05
  fedjax-kd describe top_k"""


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    if not args or args[0].startswith("-"):
        parse("fedjax-kd describe METHOD", HELP, [WRAPPING], args)
        raise InputError(
            f"describe needs the name of a method or a wrapper. There are: {', '.join(REGISTRY)}; "
            f"{', '.join(WRAPPERS)}."
        )
    name = args[0]
    factory = named("method or wrapper", name, {**WRAPPERS, **REGISTRY})
    found = parse(f"fedjax-kd describe {name}", HELP, [WRAPPING], args[1:])
    wrappers = parse_wrappers(found["wrappers"]["wrappers"])
    print(inspect.getdoc(factory))
    print()
    given = {f"--{o.name.replace('_', '-')}": str(o.default) for o in options(factory)}
    tables.show(tables.definitions(given), "options, and their defaults")
    if name in REGISTRY:
        config = Config(name, wrappers=wrappers, **network_of(factory))
        tables.show(tables.definitions(_travels(config)), "what travels")
    return 0


def _travels(config: Config) -> dict[str, str]:
    """The types of a method's messages and states on the digits."""
    config = replace(config, data=DataConfig(public="holdout", validation_fraction=0.1))
    _, federation = federation_of(config.data)
    with collected_warnings():  # nothing is trained
        algorithm = algorithm_of(config, task_of(config, federation), federation)
    types = check_algorithm(algorithm, federation.train, federation.public)
    cohort = config.training.cohort_size
    counted = [way for way, size in types.upload.wire._asdict().items() if size is not None]
    model = config.model or "the model that is the default there"
    return {
        "down, to a client": tables.type_lines(types.message),
        "up, from a client": tables.type_lines(types.upload.message),
        "kept by a client": tables.type_lines(types.client),
        "kept by the server": tables.type_lines(types.server),
        "bytes a client and round": f"{types.bytes_down:,} down, {types.bytes_up:,} up",
        f"bytes a round of {cohort} clients": (
            f"{cohort * types.bytes_down:,} down, {cohort * types.bytes_up:,} up"
        ),
        **({"at most; a run counts what is sent": " and ".join(counted)} if counted else {}),
        "on": f"digits, with {model}",
    }
