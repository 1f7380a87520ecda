"""A partition described: counts, statistics, a picture."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Int

from fedjax_kd.data.dataset import Dataset
from fedjax_kd.errors import InputError
from fedjax_kd.problems import MULTILABEL, SEGMENTATION, TOKENS
from fedjax_kd.runs import folder as run_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_MOST_BARS = 50  # more clients than this are drawn as a heat map
_MOST_BINS = 30  # of the histogram of sizes
# Ten colours that colour-blind readers tell apart: P. Tol's "muted" scheme (2021).
_COLOURS = (
    "#332288",
    "#88ccee",
    "#44aa99",
    "#117733",
    "#999933",
    "#ddcc77",
    "#cc6677",
    "#882255",
    "#aa4499",
    "#bbbbbb",
)


class PartitionStatistics(NamedTuple):
    """A partition in numbers.

    ``labels_per_client`` is a mean. ``label_skew`` is the mean over clients of the total variation
    distance between a client's label distribution and that of all clients together: 0 for alike
    clients, towards 1 for clients of one label each. Both are NaN where targets are no classes.
    ``largest_share`` is the largest client's share of all rows.
    """

    clients: int
    rows: int
    smallest: int
    median: float
    largest: int
    labels_per_client: float
    label_skew: float
    largest_share: float


def label_table(dataset: Dataset, parts: Sequence[np.ndarray]) -> Int[np.ndarray, "C L"]:
    """Training rows of each class (of each symbol or pixel, where these have one) of each client.

    Of several labels an example, the rows in which each holds.

    Args:
      dataset: whose training labels are counted; ignored places (-1) are not.
      parts: training rows of each client.

    Raises:
      ValueError: if targets are no classes.

    Example:
      >>> from fedjax_kd.data import from_arrays
      >>> data = from_arrays(np.zeros((4, 1)), np.array([0, 1, 1, 2]), np.zeros((1, 1)), [0])
      >>> label_table(data, [np.array([0, 1]), np.array([2, 3])]).tolist()
      [[1, 1, 0], [0, 1, 1]]
    """
    labels, classes = _labels_of(dataset), dataset.num_classes
    if labels is None:
        raise InputError(
            f"The targets of {dataset.name} are {dataset.problem.says}, and have no classes to "
            "count: look at the sizes of clients alone."
        )
    if dataset.problem is MULTILABEL:
        return np.stack([(labels[part] > 0).sum(axis=0) for part in parts])
    return np.stack(
        [
            np.bincount(held[held >= 0], minlength=classes)
            for held in (labels[part].reshape(-1) for part in parts)
        ]
    )


def _labels_of(dataset: Dataset) -> np.ndarray | None:
    """Training targets whose values can be counted."""
    countable = dataset.problem.are_classes or dataset.problem is MULTILABEL
    return dataset.train.y if countable else None


def _count_table(dataset: Dataset, parts: Sequence[np.ndarray]) -> Int[np.ndarray, "C L"] | None:
    return None if _labels_of(dataset) is None else label_table(dataset, parts)


def describe(dataset: Dataset, parts: Sequence[np.ndarray]) -> PartitionStatistics:
    """Sizes and skew of a partition.

    Args:
      dataset: that was divided.
      parts: training rows of each client.

    Raises:
      ValueError: if there is no client, or no client has a row.

    Example:
      >>> from fedjax_kd.data import IidPartitioner, load
      >>> data = load("digits")
      >>> numbers = describe(data, IidPartitioner(num_partitions=10)(data))
      >>> numbers.clients, numbers.rows, numbers.smallest, numbers.largest
      (10, 1437, 143, 144)
    """
    if not sum(len(part) for part in parts):
        raise InputError(
            f"{len(parts)} clients hold no row together, but at least one row is needed: check the "
            "partition."
        )
    sizes = np.array([len(part) for part in parts])
    counts = _count_table(dataset, parts)
    return PartitionStatistics(
        clients=len(parts),
        rows=int(sizes.sum()),
        smallest=int(sizes.min()),
        median=float(np.median(sizes)),
        largest=int(sizes.max()),
        labels_per_client=np.nan if counts is None else float((counts > 0).sum(axis=1).mean()),
        label_skew=np.nan if counts is None else _skew(counts),
        largest_share=float(sizes.max() / sizes.sum()),
    )


def _skew(counts: Int[np.ndarray, "C L"]) -> float:
    """The mean distance of clients that have labels from all of them together."""
    held = counts[counts.sum(axis=1) > 0]
    overall = held.sum(axis=0) / max(held.sum(), 1)
    distances = np.abs(held / held.sum(axis=1, keepdims=True) - overall[None]).sum(axis=1) / 2
    return float(distances.mean()) if len(held) else np.nan


def draw_partition(
    dataset: Dataset,
    parts: Sequence[np.ndarray],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
) -> Path:
    """A picture of who holds what, as PNG.

    Up to 50 clients: a bar of label counts each. More: a heat map of each client's label
    distribution, clients sorted by size, beside their sizes. Where targets are no classes, sizes
    alone.

    Args:
      dataset: that was divided.
      parts: training rows of each client.
      path: file to write.
      title: first line of the title; the data set's name if None.

    Returns:
      The path of the file.

    Raises:
      ValueError: if no client has a row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    numbers, counts = describe(dataset, parts), _count_table(dataset, parts)
    few = len(parts) <= _MOST_BARS
    height = 1.9 + 0.19 * max(len(parts), 8) if few else 6.5
    figure = Figure(figsize=(10.5, height), dpi=110, layout=ConstrainedLayoutEngine(wspace=0.06))
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{title or dataset.name}\n{numbers.rows:,} rows; clients: {numbers.clients}, of "
        f"{numbers.smallest} to {numbers.largest} rows"
        + ("" if counts is None else f"; label skew {numbers.label_skew:.2f}"),
        fontsize=11,
    )
    sizes = np.array([len(part) for part in parts])
    if few:
        _draw_bars(figure, sizes[:, None] if counts is None else counts, dataset)
    elif counts is None:
        _draw_sizes(figure.subplots(), sizes)
    else:
        _draw_map(figure, counts, sizes)
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:] or "png")
    run_folder.replace(Path(path), content.getvalue())
    return Path(path)


def _draw_bars(figure: Figure, counts: Int[np.ndarray, "C L"], dataset: Dataset) -> None:
    """One bar a client, divided by label; in one piece where nothing is counted."""
    import matplotlib

    axes = figure.subplots()
    clients, labels = counts.shape
    named = labels <= len(_COLOURS)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 1, labels))
    colours = _COLOURS if named else shades
    names = dataset.class_names or [str(label) for label in range(labels)]
    ends = np.cumsum(counts, axis=1)
    for label in range(labels):
        axes.barh(
            np.arange(clients),
            counts[:, label],
            left=ends[:, label] - counts[:, label],
            color=colours[label],
            edgecolor="white",
            linewidth=0.4 if named else 0,
            label=names[label],
        )
    unit = {MULTILABEL: "labels that hold", SEGMENTATION: "pixels", TOKENS: "symbols"}
    counted = unit.get(dataset.problem, "training rows")
    axes.set(xlabel=counted, ylabel="client", ylim=(clients - 0.4, -0.6))
    _whole_numbers(axes.yaxis)
    _plain(axes)
    if _labels_of(dataset) is None:
        return
    if named:
        axes.legend(title="label", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    else:
        scale = matplotlib.cm.ScalarMappable(
            matplotlib.colors.Normalize(0, labels - 1), matplotlib.colormaps["viridis"]
        )
        figure.colorbar(scale, ax=axes, label="label", pad=0.02)


def _draw_map(figure: Figure, counts: Int[np.ndarray, "C L"], sizes: Int[np.ndarray, " C"]) -> None:
    """Label distributions of all clients, the largest first, and a histogram of their sizes."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    order = np.lexsort((counts.argmax(axis=1), -sizes))
    shares = counts[order] / np.maximum(counts[order].sum(axis=1, keepdims=True), 1)
    image = left.imshow(shares, aspect="auto", cmap="magma_r", interpolation="nearest", vmin=0)
    left.set(xlabel="label", ylabel="clients, the largest first")
    _whole_numbers(left.xaxis, left.yaxis, right.yaxis)
    figure.colorbar(image, ax=left, label="share of the client's labels", pad=0.03)
    _draw_sizes(right, sizes)


def _draw_sizes(axes: Axes, sizes: Int[np.ndarray, " C"]) -> None:
    """A histogram of the clients' sizes."""
    _whole_numbers(axes.xaxis)
    # Bins of a whole width: others hold now one size and now two, and look like gaps.
    width = -(-(np.ptp(sizes) + 1) // _MOST_BINS)
    edges = np.arange(sizes.min(), sizes.max() + width + 1, width) - 0.5
    axes.hist(sizes, bins=edges.tolist(), color=_COLOURS[0])
    axes.axvline(float(np.median(sizes)), color="black", linestyle="--", linewidth=1)
    axes.set(xlabel="training rows (dashed: median)", ylabel="clients")
    axes.set_xlim(left=0)
    _plain(axes)


def _plain(axes: Axes) -> None:
    """Takes away the frame's upper and right lines."""
    axes.spines[["top", "right"]].set_visible(False)


def _whole_numbers(*axes: Axis) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
