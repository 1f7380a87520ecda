"""``fedjax-kd describe``: what a method does, and what travels."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.commands._parser import parse
from fedjax_kd.engine.validation import check_algorithm
from fedjax_kd.options import named, options
from fedjax_kd.report import tables
from fedjax_kd.runs.config import Config, algorithm_of, task_of
from fedjax_kd.runs.data_config import DataConfig, federation_of

HELP = """Shows what a method does, its options, and what travels on the digits.

Example:
  fedjax-kd describe scaffold"""


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    if not args or args[0].startswith("-"):
        parse("fedjax-kd describe METHOD", HELP, [], args)
        raise ValueError(f"describe needs the name of a method. There are: {', '.join(REGISTRY)}.")
    name = args[0]
    factory = named("method", name, REGISTRY)
    parse("fedjax-kd describe METHOD", HELP, [], args[1:])
    print(inspect.getdoc(factory))
    print()
    given = {f"--{o.name.replace('_', '-')}": str(o.default) for o in options(factory)}
    tables.show(tables.definitions(given), "options, and their defaults")
    tables.show(tables.definitions(_travels(name)), "what travels")
    return 0


def _travels(name: str) -> dict[str, str]:
    """The types of a method's messages and states, on the digits' default model."""
    config = Config(name, data=DataConfig(public="holdout", validation_fraction=0.1))
    _, federation = federation_of(config.data)
    algorithm = algorithm_of(config, task_of(config, federation), federation)
    types = check_algorithm(algorithm, federation.train, federation.public)
    cohort = config.training.cohort_size
    return {
        "down, to a client": tables.type_lines(types.message),
        "up, from a client": tables.type_lines(types.upload.message),
        "kept by a client": tables.type_lines(types.client),
        "kept by the server": tables.type_lines(types.server),
        "bytes a client and round": f"{types.bytes_down:,} down, {types.bytes_up:,} up",
        f"bytes a round of {cohort} clients": (
            f"{cohort * types.bytes_down:,} down, {cohort * types.bytes_up:,} up"
        ),
        "on": "digits, with the model that is the default there",
    }
