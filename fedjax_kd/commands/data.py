"""``fedjax-kd data``: data sets of TensorFlow Datasets, and client stores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fedjax_kd.commands import _options
from fedjax_kd.commands._parser import Section, flag, parse
from fedjax_kd.commands.partition import data_config
from fedjax_kd.data import (
    ClientStore,
    load,
    pack,
    synthetic_clients,
    synthetic_test,
    tfds,
    write_store,
)
from fedjax_kd.errors import InputError
from fedjax_kd.options import REQUIRED, named, options
from fedjax_kd.runs.data_config import partitioner

_HELP = """Prepares data: `fedjax-kd data prepare NAME`, `fedjax-kd data pack` or `fedjax-kd data
synthetic`; each explains itself with --help.

prepare downloads a set of TensorFlow Datasets; pack and synthetic write client stores, federations
on disk that may be larger than the memory."""

_PREPARE = """Downloads a set of TensorFlow Datasets; reading what is written needs no TensorFlow.

Needs the extra: pip install 'fedjax-kd[tfds-prepare]'.

Example:
  fedjax-kd data prepare mnist --data-dir DIR
  fedjax-kd run fedavg --dataset tfds:mnist --data-dir DIR"""

_PACK = """Divides a data set among clients and writes a client store.

Example:
  fedjax-kd data pack --dataset digits --partition dirichlet --alpha 0.1 --out FOLDER"""

_SYNTHETIC = """Writes a client store of small pictures that can be learnt, for tests of scale.

A million clients of 10 rows take 0.7 GB.

Example:
  fedjax-kd data synthetic --num-clients 1000000 --out FOLDER"""

_STORE = Section(
    "output", "Where to", [flag("out", type=str, default=REQUIRED, help="a folder to be made")]
)
_TFDS = Section("output", "Where to", [flag("data_dir", help="folder; tfds's own by default")])


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    if not args or args[0].startswith("-"):
        parse("fedjax-kd data", _HELP, [], args)
        raise InputError(f"data does one of {', '.join(_KINDS)}: see `fedjax-kd data --help`.")
    return named("kind of data command", args[0], _KINDS)(args[1:])


def _prepare(args: Sequence[str]) -> int:
    """``fedjax-kd data prepare``."""
    names = args[:1] if args and not args[0].startswith("-") else []
    chosen = parse("fedjax-kd data prepare NAME", _PREPARE, [_TFDS], args[len(names) :])["output"]
    if not names:
        raise InputError("data prepare needs a name: `fedjax-kd data prepare mnist`.")
    print(tfds.prepare(names[0].removeprefix("tfds:"), chosen["data_dir"]))
    return 0


def _pack(args: Sequence[str]) -> int:
    """``fedjax-kd data pack``."""
    data, partition = _options.of_data(args)
    # Rows that are held out from a client would be lost: a store has a global test set alone. What
    # is done with inputs is decided by each run.
    skipped = ("client_test_fraction", "target", "standardise")
    kept = [o for o in data.options if o.name not in skipped]
    found = parse(
        "fedjax-kd data pack", _PACK, [data._replace(options=kept), partition, _STORE], args
    )
    config = data_config(found, seed=0)
    divide = partitioner(config)
    dataset = load(
        config.dataset, data_dir=config.data_dir, problem=config.problem, relabel=config.relabel
    )
    return _written(pack(found["output"]["out"], replace(dataset, name=config.dataset), divide))


def _synthetic(args: Sequence[str]) -> int:
    """``fedjax-kd data synthetic``."""
    counts = [
        flag("num_clients", type=int, default=REQUIRED, help="how many to make, >= 1"),
        flag("num_test_rows", type=int, default=10_000, help="rows of the global test set, >= 1"),
    ]
    pictures = Section("pictures", "The clients", [*counts, *options(synthetic_clients)])
    found = parse("fedjax-kd data synthetic", _SYNTHETIC, [pictures, _STORE], args)
    chosen: dict[str, Any] = found["pictures"]
    clients, tests = chosen.pop("num_clients"), chosen.pop("num_test_rows")
    shared = {name: chosen[name] for name in ("seed", "num_classes", "noise", "shape")}
    store = write_store(
        found["output"]["out"],
        synthetic_clients(clients, **chosen),
        name="synthetic",
        num_classes=chosen["num_classes"],
        test=synthetic_test(tests, **shared),
    )
    return _written(store)


def _written(store: ClientStore) -> int:
    """Says what was written; the folder comes last and alone."""
    size = sum(path.stat().st_size for path in store.folder.iterdir())
    print(f"{store.num_clients:,} clients with {store.num_rows:,} rows, {size / 1e6:,.1f} MB")
    print(store.folder)
    return 0


_KINDS: dict[str, Callable[[Sequence[str]], int]] = {
    "prepare": _prepare,
    "pack": _pack,
    "synthetic": _synthetic,
}
