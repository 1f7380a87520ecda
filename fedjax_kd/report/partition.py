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
    clients, towards 1 for clients of one label each. ``largest_share`` is the largest client's
    share of all rows.
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
    """Training rows of each label (of each symbol, in sequences) that each client holds.

    Args:
      dataset: whose training labels are counted; ignored positions (-1) are not.
      parts: training rows of each client.

    Example:
      >>> from fedjax_kd.data import from_arrays
      >>> data = from_arrays(np.zeros((4, 1)), np.array([0, 1, 1, 2]), np.zeros((1, 1)), [0])
      >>> label_table(data, [np.array([0, 1]), np.array([2, 3])]).tolist()
      [[1, 1, 0], [0, 1, 1]]
    """
    labels = dataset.train.y
    return np.stack(
        [
            np.bincount(held[held >= 0], minlength=dataset.num_classes)
            for held in (labels[part].reshape(-1) for part in parts)
        ]
    )


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
    counts = label_table(dataset, parts)
    held = counts[sizes > 0]
    overall = held.sum(axis=0) / held.sum()
    distances = np.abs(held / held.sum(axis=1, keepdims=True) - overall[None]).sum(axis=1) / 2
    return PartitionStatistics(
        clients=len(parts),
        rows=int(sizes.sum()),
        smallest=int(sizes.min()),
        median=float(np.median(sizes)),
        largest=int(sizes.max()),
        labels_per_client=float((counts > 0).sum(axis=1).mean()),
        label_skew=float(distances.mean()),
        largest_share=float(sizes.max() / sizes.sum()),
    )


def draw_partition(
    dataset: Dataset,
    parts: Sequence[np.ndarray],
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
) -> Path:
    """A picture of who holds what, as PNG.

    Up to 50 clients: a bar of label counts each. More: a heat map of each client's label
    distribution, clients sorted by size, beside their sizes.

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

    numbers, counts = describe(dataset, parts), label_table(dataset, parts)
    few = len(parts) <= _MOST_BARS
    height = 1.9 + 0.19 * max(len(parts), 8) if few else 6.5
    figure = Figure(figsize=(10.5, height), dpi=110, layout=ConstrainedLayoutEngine(wspace=0.06))
    FigureCanvasAgg(figure)
    figure.suptitle(
        f"{title or dataset.name}\n{numbers.rows:,} rows; clients: {numbers.clients}, of "
        f"{numbers.smallest} to {numbers.largest} rows; label skew {numbers.label_skew:.2f}",
        fontsize=11,
    )
    sizes = np.array([len(part) for part in parts])
    if few:
        _draw_bars(figure, counts)
    else:
        _draw_map(figure, counts, sizes)
    content = io.BytesIO()
    figure.savefig(content, format=Path(path).suffix[1:] or "png")
    run_folder.replace(Path(path), content.getvalue())
    return Path(path)


def _draw_bars(figure: Figure, counts: Int[np.ndarray, "C L"]) -> None:
    """One bar a client, divided by label."""
    import matplotlib

    axes = figure.subplots()
    clients, labels = counts.shape
    named = labels <= len(_COLOURS)
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 1, labels))
    colours = _COLOURS if named else shades
    ends = np.cumsum(counts, axis=1)
    for label in range(labels):
        axes.barh(
            np.arange(clients),
            counts[:, label],
            left=ends[:, label] - counts[:, label],
            color=colours[label],
            edgecolor="white",
            linewidth=0.4 if named else 0,
            label=str(label),
        )
    axes.set(xlabel="training rows", ylabel="client", ylim=(clients - 0.4, -0.6))
    _whole_numbers(axes.yaxis)
    _plain(axes)
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
    _whole_numbers(left.xaxis, left.yaxis, right.xaxis, right.yaxis)
    figure.colorbar(image, ax=left, label="share of the client's labels", pad=0.03)
    # Bins of a whole width: others hold now one size and now two, and look like gaps.
    width = -(-(np.ptp(sizes) + 1) // _MOST_BINS)
    edges = np.arange(sizes.min(), sizes.max() + width + 1, width) - 0.5
    right.hist(sizes, bins=edges.tolist(), color=_COLOURS[0])
    right.axvline(float(np.median(sizes)), color="black", linestyle="--", linewidth=1)
    right.set(xlabel="training rows (dashed: median)", ylabel="clients")
    right.set_xlim(left=0)
    _plain(right)


def _plain(axes: Axes) -> None:
    """Takes away the frame's upper and right lines."""
    axes.spines[["top", "right"]].set_visible(False)


def _whole_numbers(*axes: Axis) -> None:
    """Ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    for axis in axes:
        axis.set_major_locator(MaxNLocator(12, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
