"""``fedjax-kd data prepare``: TensorFlow Datasets in a form that is read without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

from fedjax_kd.commands.parser import Section, flag, parse
from fedjax_kd.data import tfds

HELP = """Downloads a set of TensorFlow Datasets; reading what is written needs no TensorFlow.

Needs the extra: pip install 'fedjax-kd[tfds-prepare]'.

Example:
  fedjax-kd data prepare mnist --data-dir DIR
  fedjax-kd run fedavg --dataset tfds:mnist --data-dir DIR"""

_OUTPUT = Section("output", "Where to", [flag("data_dir", help="folder; tfds's own by default")])


def main(args: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    prepares = len(args) > 1 and args[0] == "prepare" and not args[1].startswith("-")
    rest = args[2:] if prepares else [a for a in args if a in ("-h", "--help")]
    chosen = parse("fedjax-kd data prepare NAME", HELP, [_OUTPUT], rest)["output"]
    if not prepares:
        raise ValueError("data does one thing: `fedjax-kd data prepare NAME --data-dir DIR`.")
    print(tfds.prepare(args[1].removeprefix("tfds:"), chosen["data_dir"]))
    return 0
