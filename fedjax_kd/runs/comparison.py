"""The runs of a comparison: ``comparison.json`` names all of them before the first one begins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedjax_kd.runs import folder as run_folder
from fedjax_kd.runs.config import Config, from_json, longer, to_json

COMPARISON = "comparison.json"


def write_comparison(parent: Path, configs: Mapping[str, Config]) -> None:
    """Writes the configuration of each run, by the name of its folder."""
    runs = {name: to_json(config) for name, config in configs.items()}
    run_folder.write_json(parent / COMPARISON, {"kind": "comparison", "runs": runs})


def is_comparison(parent: Path) -> bool:
    """Whether a folder says which runs belong to it; those of older versions do not."""
    return (parent / COMPARISON).is_file()


def configs_in(parent: Path) -> dict[Path, Config]:
    """The runs of a folder and their configurations: itself, or all of a comparison.

    A run whose folder was not written before a kill is among them. One that was to get more rounds
    than its own configuration says gets them.

    Raises:
      ValueError: if there is none, or a file is damaged or of another version.
    """
    planned: dict[Path, Config] = {}
    if is_comparison(parent):
        runs = run_folder.read_json(parent, COMPARISON)["runs"]
        planned = {parent / name: from_json(values) for name, values in runs.items()}
    begun = sorted(path.parent for path in parent.glob("*/config.json"))
    found = dict(planned)
    for folder in begun if planned else run_folder.members(parent):
        own = run_folder.read_config(folder)
        asked = planned.get(folder, own).training.num_rounds
        found[folder] = longer(own, max(own.training.num_rounds, asked))
    return found
