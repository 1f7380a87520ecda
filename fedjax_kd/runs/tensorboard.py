"""Scalars for TensorBoard, through tensorboardX."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedjax_kd.errors import InputError
from fedjax_kd.train import Row


@contextmanager
def writer(
    folder: Path, finished: int = 0, *, enabled: bool = True
) -> Iterator[Callable[[Sequence[Row]], None]]:
    """A function that logs rows into the run folder; closed at the end.

    Args:
      folder: of the run.
      finished: rounds that are logged already; later ones of an earlier attempt are dropped.
      enabled: if not, nothing is written and tensorboardX is not needed.

    Raises:
      ValueError: if tensorboardX is not installed.
    """
    if not enabled:
        yield lambda rows: None
        return
    require()
    from tensorboardX import SummaryWriter

    with SummaryWriter(str(folder / "tensorboard"), purge_step=finished + 1) as board:

        def log(rows: Sequence[Row]) -> None:
            for row in rows:
                for name, value in row.items():
                    if name not in ("round", "seconds"):
                        board.add_scalar(name, value, int(row["round"]))

        yield log


def require() -> None:
    """Raises ValueError unless tensorboardX is installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "--tensorboard needs tensorboardX, which is not installed: "
            "run `pip install 'fedjax-kd[tensorboard]'`."
        )
