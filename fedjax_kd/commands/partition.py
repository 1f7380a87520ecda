"""``fedjax-kd partition``: how examples are divided among clients."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedjax_kd.commands import _options
from fedjax_kd.commands._parser import Section, flag, parse
from fedjax_kd.data import is_store
from fedjax_kd.data.natural import ids_in_file
from fedjax_kd.data.sources import DATA_DIR_VARIABLE
from fedjax_kd.errors import InputError
from fedjax_kd.report import partition, tables
from fedjax_kd.runs.data_config import STORED, DataConfig, federation_of

HELP = """Shows how examples are divided among clients, as a table and a picture.

Examples:
  fedjax-kd partition --partition dirichlet --alpha 0.1 --num-clients 100
  fedjax-kd partition --partition pathological --num-classes-per-partition 2 --out split.png"""

_OUTPUT = Section("output", "The picture", [flag("out", help="a PNG, none if not given")])


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    found = parse("fedjax-kd partition", HELP, [*_options.of_data(args), _OUTPUT], args)
    data = data_config(found, seed=0)
    dataset, federation = federation_of(data)
    if dataset is None:
        raise InputError(
            f"{data.dataset} is a client store, whose clients are read as they take part: there is "
            "no picture of it. Give a data set and a partition."
        )
    numbers = partition.describe(dataset, federation.parts)
    tables.show(tables.pairs(numbers._asdict()), f"{data.dataset}, {data.partition}")
    if out := found["output"]["out"]:
        print(partition.draw_partition(dataset, federation.parts, out))
    return 0


def data_config(found: Mapping[str, Any], seed: int) -> DataConfig:
    """The data that parsed options ask for.

    Args:
      found: the sections ``data`` and ``partition``.
      seed: of the division, unless the options say otherwise.
    """
    data = {"num_clients": None, **found["data"]}
    if is_store(data["dataset"]):
        store = str(Path(data["dataset"]).absolute())
        how = data["standardise"]
        return DataConfig(store, partition=STORED, num_clients=None, seed=seed, standardise=how)
    folder = data["data_dir"] or os.environ.get(DATA_DIR_VARIABLE)
    data |= {"data_dir": folder and str(Path(folder).expanduser().absolute())}
    data |= {"seed": seed if data["seed"] is None else data["seed"]}
    partition = dict(found["partition"])
    if "clients" in partition:
        partition["clients"] = ids_in_file(partition["clients"])
    return DataConfig(partition_options=partition, **data)
