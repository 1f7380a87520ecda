"""Pictures of sweeps: which is chosen, what is in it, and that it can be saved."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from fake_sweeps import HALF_DECADES, final, parameters
from matplotlib.patches import Rectangle

from fedjax_kd.report import bands, figures, landscape
from fedjax_kd.report.sweeps import AXES


def points(grid: list[dict[str, Any]], seeds: int = 2) -> list[dict[str, Any]]:
    """The points of a sweep over settings."""
    table = []
    for (config, setting), seed in itertools.product(enumerate(grid), range(seeds)):
        top = final(setting, seed)
        status = "diverged" if math.isnan(top) else "stopped" if top < 0.3 else "finished"
        row = {"config": config, "seed": seed, "status": status, "finished_rounds": 9}
        table.append(setting | row | {"score": None if math.isnan(top) else top})
    return table


GRID = points(parameters(["fedavg", "fedadam"], HALF_DECADES))
LINE = points([{"method": "fedavg", "client_lr": lr} for lr in (*HALF_DECADES, 1000.0)])
CLOUD = points(
    [
        {"method": "fedadam", "client_lr": 1.3**-n, "server_lr": 0.7 ** (n * 7 % 20)}
        for n in range(20)
    ]
)


def texts(axes: Any) -> list[str]:
    return [text.get_text() for text in axes.texts if text.get_text()]


def test_axes_are_numbers_that_vary_rates_first() -> None:
    names = ["method", "tau", "server_lr", "client_lr"]
    assert landscape.axes_of(GRID, names) == AXES
    assert landscape.axes_of(GRID, ["method", "tau", "server_lr"]) == ("server_lr", "tau")
    assert landscape.axes_of(LINE, names) == ("client_lr",)
    assert landscape.axes_of(LINE[:1], names) == ()
    assert landscape.axes_of([{"model": "mlp"}, {"model": "cnn"}], ["model"]) == ()


def test_a_heat_map_has_a_panel_a_method_and_one_frame_each() -> None:
    figure = landscape.draw_landscape(GRID, AXES)
    panels, (scale,) = figure.axes[:2], figure.axes[2:]
    assert [panel.get_title() for panel in panels] == ["fedavg", "fedadam"]
    assert scale.get_ylabel() == "accuracy on the test set (%)"
    for panel in panels:
        assert len(panel.get_xticks()) == len(panel.get_yticks()) == 5
        frames = [p for p in panel.patches if isinstance(p, Rectangle) and not p.get_fill()]
        assert len(frames) == 1
    assert panels[0].get_xticklabels()[0].get_text() == "$10^{-3}$"
    top = [final({"method": "fedavg", "client_lr": 0.1, "server_lr": 1.0}, s) for s in range(2)]
    assert f"{100 * sum(top) / 2:.1f}" in texts(panels[0])
    assert "(10.3)" in texts(panels[0])  # stopped
    hatched = [p for p in panels[1].patches if p.get_hatch()]
    assert len(hatched) == 6  # diverged
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words == ["best", "( ) stopped early or unfinished", "diverged with a seed"]


def test_losses_that_differ_much_have_a_logarithmic_scale_and_the_least_is_brightest() -> None:
    table = [p | {"score": p["score"] and 10 ** (-3 * p["score"])} for p in GRID]
    figure = landscape.draw_landscape(table, AXES, metric="test_loss")
    assert figure.axes[-1].get_yscale() == "log"
    panel = figure.axes[0]
    frame = next(p for p in panel.patches if not p.get_fill())
    cells = {p.get_xy(): p.get_facecolor() for p in panel.patches if p.get_fill()}
    assert sum(cells[frame.get_xy()][:2]) == max(sum(colour[:2]) for colour in cells.values())


def test_a_method_without_a_parameter_has_a_line_of_cells() -> None:
    plain = [{"method": "fedavg", "client_lr": lr} for lr in HALF_DECADES]
    figure = landscape.draw_landscape(
        points([*plain, *parameters(["fedadam"], HALF_DECADES)]), AXES
    )
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["none"]


def test_one_parameter_is_a_line_on_an_axis_that_suits_it() -> None:
    figure = landscape.draw_landscape(LINE, ["client_lr"])
    (axes,) = figure.axes
    assert axes.get_xscale() == "log"
    low, high = axes.get_xlim()
    assert low < 0.001
    assert high > 1000  # where it diverged
    assert axes.lines[0].get_xdata().tolist() == [0.01, 0.1, 1.0]
    even = [{"method": "fedavg", "client_lr": 0.1, "mu": n / 10} for n in range(5)]
    assert landscape.draw_landscape(points(even), ["mu"]).axes[0].get_xscale() == "linear"


def test_a_random_sample_is_a_cloud() -> None:
    figure = landscape.draw_landscape(CLOUD, AXES)
    assert not texts(figure.axes[0])
    assert len(figure.axes[0].collections) == 21  # every configuration, and a ring


@pytest.mark.parametrize("table", [GRID, LINE, CLOUD], ids=["map", "line", "cloud"])
@pytest.mark.parametrize("by", ["method", pytest.param(None, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("what", ["as it is", "one seed", "all diverged", "one point"])
def test_every_picture_can_be_saved(tmp_path: Path, table: list, by: str | None, what: str) -> None:
    if what == "one seed":
        table = [point for point in table if point["seed"] == 0]
    elif what == "one point":
        table = table[:1]
    elif what == "all diverged":
        table = [point | {"status": "diverged", "score": None} for point in table]
    axes = AXES if "server_lr" in table[0] else AXES[:1]
    path = figures.save_figure(
        landscape.draw_landscape(table, axes, by=by), tmp_path / "picture.png"
    )
    assert path.read_bytes().startswith(b"\x89PNG")


def test_bad_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No point has a number 'method'"):
        landscape.draw_landscape(GRID, ["method"])
    with pytest.raises(ValueError, match="there is no point"):
        landscape.draw_landscape([], AXES)
    with pytest.raises(ValueError, match="one or two"):
        landscape.draw_landscape(GRID, [*AXES, "tau"])
    with pytest.raises(ValueError, match=r"must end in \.png, \.pdf, \.svg"):
        figures.save_figure(landscape.draw_landscape(LINE, ["client_lr"]), tmp_path / "picture.gif")


def test_the_same_picture_is_the_same_text() -> None:
    one, two = (figures.embedded(landscape.draw_landscape(LINE, ["client_lr"])) for _ in range(2))
    assert one == two
    assert one.startswith("data:image/svg+xml;base64,")


SEEDS = [
    [{"round": n, "test_accuracy": seed / 10 + n / 20} for n in range(0, 9, 2)] for seed in range(3)
]


def test_bands_hold_the_rounds_that_all_seeds_have() -> None:
    short = [*SEEDS[:2], [*SEEDS[2][:3], {"round": 6, "test_accuracy": math.nan}, {"round": 7}]]
    found = bands.band(short, "test_accuracy")
    assert found.rounds == [0, 2, 4]
    assert found.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert found.low.tolist() == pytest.approx([0.0, 0.1, 0.2])
    assert found.high.tolist() == pytest.approx([0.2, 0.3, 0.4])
    spread = bands.band(SEEDS, "test_accuracy", "deviation")
    assert (spread.high - spread.mean).tolist() == pytest.approx([0.1] * 5)
    assert bands.band([], "test_accuracy").rounds == []
    assert bands.band(SEEDS, "test_loss").rounds == []


@pytest.mark.parametrize("length", [4, 30])
def test_names_stand_below_the_panel_and_inside_the_picture(length: int) -> None:
    figure = bands.draw_curves({str(n).rjust(length, "n"): SEEDS for n in range(9)})
    figure.draw_without_rendering()
    names, panel = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert names.y1 < panel.y0
    assert 0 < names.x0 < names.x1 < figure.bbox.x1
    assert panel.height > figure.bbox.height / 3


def test_curves_leave_the_untrained_model_out() -> None:
    lines = {"a": SEEDS, "b": SEEDS[:1], "none": [[]]}
    figure = bands.draw_curves(lines, ("test_accuracy", "test_loss"), target=0.3, title="both")
    assert figure.axes[0].lines[0].get_xdata().tolist() == [2, 4, 6, 8]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["a", "b", "none"]
    assert figure.axes[0].get_yscale() == "linear"
    steep = [[{"round": n, "test_loss": 10.0**-n} for n in range(6)]]
    assert bands.draw_curves({"a": steep}, ["test_loss"]).axes[0].get_yscale() == "log"
    figures.embedded(figure)


def test_curves_of_one_run_have_no_band_and_may_begin_untrained() -> None:
    figure = bands.draw_curves({"a": SEEDS[:1], "b": SEEDS[1:]}, untrained=True)
    assert figure.axes[0].lines[0].get_xdata().tolist() == [0, 2, 4, 6, 8]
    assert len(figure.axes[0].collections) == 1


def test_losses_have_units() -> None:
    labels, values = (
        [[{"round": 1, "test_loss": 1.0, **more}]] for more in ({"test_accuracy": 0.5}, {})
    )
    for rows, unit in ((labels, "(nats)"), (values, "(mean squared error)")):
        figure = bands.draw_curves({"a": rows}, ["test_loss"])
        assert figure.axes[0].get_ylabel().endswith(unit)
