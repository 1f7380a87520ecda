"""What a sweep was made with: versions, device and data, noted whenever it begins or goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedjax_kd.runs import provenance
from fedjax_kd.runs.data_config import DataConfig, source_of
from fedjax_kd.runs.fingerprint import fingerprint
from fedjax_kd.sweeps import runner as sweep_runner
from fedjax_kd.sweeps.shard import FederationLoader, Shard
from fedjax_kd.sweeps.study import Study


def begin_stretch(
    folder: Path,
    study: Study,
    groups: Sequence[Sequence[Shard]],
    load: FederationLoader,
    *,
    changed_data: bool,
) -> None:
    """Checks the data of what is to be trained, and notes them with the versions in sweep.json.

    Args:
      folder: of the sweep, which is ours.
      study: of that folder.
      groups: that are not finished.
      load: from `fedjax_kd.sweeps.shard.federation_loader`.
      changed_data: whether other data than before are as good.

    Raises:
      ValueError: if data have changed since the sweep was trained, and are not to.
    """
    record = sweep_runner.sweep_record(folder)
    begins = {"finished_points": _finished_points(folder, study)}
    known: dict[int, tuple[Any, str]] = {}
    fingerprints = dict(record.get("fingerprints", {}))
    for data in _data_of(study, groups):
        found, earlier = fingerprint(load(data), known), fingerprints.get(_key(data), ())
        if not changed_data:
            provenance.check_data(folder, earlier, found, source_of(data))
        fingerprints[_key(data)] = provenance.with_stretch(earlier, begins, {"digests": found})
    provenance.warn_of_versions(folder, record)
    here, before = provenance.environment(), provenance.environments(record, {"finished_points": 0})
    stretch = {
        "environment": here,
        "environments": provenance.with_stretch(before, begins, here),
        "fingerprints": fingerprints,
    }
    sweep_runner.write_study(folder, study, stretch)


def _finished_points(folder: Path, study: Study) -> int:
    """Points that need no more training, as far as the sweep is."""
    each = [sweep_runner.outcomes(study, group) for group in sweep_runner.shards(folder, study)]
    return sum(status != "running" for found in each for status in found.values())


def _data_of(study: Study, groups: Sequence[Sequence[Shard]]) -> list[DataConfig]:
    """The different data of some groups; those of one group differ by the seed alone."""
    each = [
        study.config(group[0].configs[0], seed).data for group in groups for seed in study.seeds
    ]
    return list({_key(data): data for data in each}.values())


def _key(data: DataConfig) -> str:
    """The name of data in the record, which options that are younger than it do not change."""
    usual = asdict(DataConfig())
    own = {k: v for k, v in asdict(data).items() if v != usual[k] and k != "data_dir"}
    return json.dumps(own, sort_keys=True)
