"""One style for all figures of reports, and how they are saved or put into a page."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjax_kd.errors import InputError
from fedjax_kd.metrics import JUDGED, metric_of
from fedjax_kd.runs import folder as run_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY, ACCENT = "#777777", "#D55E00"

# Okabe and Ito's colours, which colour-blind readers can tell apart; yellow is too faint for lines.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")

_KINDS = (".png", ".pdf", ".svg")
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "fedjax-kd",  # the same picture is the same file
}
_NAMES = {
    "train_loss": "loss of local training",
    "client_lr": "client learning rate",
    "server_lr": "server learning rate",
}
_INCHES_OF_MARK, _INCHES_OF_LETTER = 0.6, 0.065  # in a legend
_SLACK = 0.03  # of a decade: 0.03 and 0.3 stand for half decades


def label_of(name: str) -> str:
    """A metric or a parameter in words.

    Example:
      >>> label_of("test_accuracy"), label_of("judged_dice"), label_of("batch_size")
      ('accuracy on the test set', 'dice', 'batch size')
    """
    if name in _NAMES or name == (metric := metric_of(name)):
        return _NAMES.get(name, name.replace("_", " "))
    where = {"test_": " on the test set", "validation_": " on the validation rows", JUDGED: ""}
    for prefix, words in where.items():
        if name == f"{prefix}{metric}":
            return metric.replace("_", " ") + words
    return name.replace("_", " ")


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of line ``number`` of a picture; 28 lines can be told apart."""
    return {
        "color": _COLOURS[number % len(_COLOURS)],
        "linestyle": _DASHES[number // len(_COLOURS) % len(_DASHES)],
        "linewidth": 1.6,
    }


@contextmanager
def style() -> Iterator[None]:
    """The settings of Matplotlib while a figure is made."""
    import matplotlib.style

    with matplotlib.style.context(_STYLE):
        yield


def add_names(figure: Figure) -> None:
    """A legend of the first panel's lines below all panels, in as many columns as fit."""
    marks, names = figure.axes[0].get_legend_handles_labels()
    inches = _INCHES_OF_MARK + _INCHES_OF_LETTER * max(map(len, names))
    columns = min(len(names), max(1, int(figure.get_figwidth() / inches)))
    figure.legend(marks, names, loc="outside lower center", ncols=columns, frameon=False)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Writes a figure, whole or not at all.

    Args:
      figure: to write.
      path: of a PNG, PDF or SVG.

    Raises:
      ValueError: if the picture's kind is another one.
    """
    file = Path(path)
    if file.suffix not in _KINDS:
        raise InputError(f"The picture is {path}, but must end in {', '.join(_KINDS)}: rename it.")
    run_folder.replace(file, _encoded(figure, file.suffix[1:]))
    return file


def embedded(figure: Figure) -> str:
    """A figure as the address of an image that holds its own data."""
    return data_address(_encoded(figure, "svg"), "svg+xml")


def data_address(content: bytes, kind: str = "png") -> str:
    """An image file as an address that holds its data.

    Example:
      >>> data_address(b"abc")
      'data:image/png;base64,YWJj'
    """
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _encoded(figure: Figure, kind: str) -> bytes:
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def is_log(values: Sequence[float]) -> bool:
    """Whether values are better shown on a logarithmic axis: positive, and over a decade.

    Example:
      >>> is_log([0.01, 0.1, 1.0]), is_log([1, 2, 3]), is_log([0.0, 1.0])
      (True, False, False)
    """
    return min(values, default=0) > 0 and max(values) >= 9.99 * min(values)


def tick_labels(values: Sequence[float | None]) -> list[str]:
    """The tick labels of values: powers of ten if all are (half) decades.

    Example:
      >>> tick_labels([None, 0.1, 0.3, 1.0])
      ['none', '$10^{-1}$', '$10^{-0.5}$', '$10^{0}$']
      >>> tick_labels([0.05, 0.2])
      ['0.05', '0.2']
    """
    known = [value for value in values if value is not None]
    if not is_log(known) or not all(_is_half_decade(value) for value in known):
        return ["none" if value is None else f"{value:.3g}" for value in values]
    powers = [None if value is None else round(2 * math.log10(value)) / 2 for value in values]
    return ["none" if power is None else f"$10^{{{power:g}}}$" for power in powers]


def _is_half_decade(value: float) -> bool:
    twice = 2 * math.log10(value)
    return abs(twice - round(twice)) < 2 * _SLACK
