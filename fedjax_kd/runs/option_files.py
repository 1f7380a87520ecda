"""Files and folders that options name: a run has their content, wherever it is resumed.

Small files go into the configuration as text, under their absolute paths; folders of data stay
where they are, and only their paths are made absolute.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from fedjax_kd.data import sampling
from fedjax_kd.errors import InputError
from fedjax_kd.runs import model_config
from fedjax_kd.runs.clock_config import with_clock_files
from fedjax_kd.runs.config import Config


def with_files(config: Config) -> Config:
    """The configuration with what the files hold that it names by relative or absolute paths.

    What is no file stays as it is, for whoever reads it to say so.

    Raises:
      ValueError: if a file is no text.

    Example:
      >>> with_files(Config("fedavg")).files
      {}
    """
    files = dict(config.files)

    def settled(given: str, words: Collection[str]) -> str:
        path = Path(given)
        if given in words or given in files or not path.is_file():
            return given
        try:
            files[str(path.absolute())] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{given} is no text file ({error}): give a JSON file.") from error
        return str(path.absolute())

    clock = with_clock_files(config.clock, files)
    data_dir = config.data.data_dir
    return replace(
        config,
        data=replace(config.data, data_dir=data_dir and str(Path(data_dir).absolute())),
        training=replace(
            config.training, sampling=settled(config.training.sampling, sampling.RULES)
        ),
        model_of=settled(config.model_of, model_config.DEALS),
        clock=clock,
        files=files,
    )
