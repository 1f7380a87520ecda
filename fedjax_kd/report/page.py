"""One self-contained HTML page: tables, curves, maps and partitions of sweeps and runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

from fedjax_kd.errors import InputError
from fedjax_kd.report import bands, figures, formatting, landscape, sections, traits
from fedjax_kd.report.axes import COSTS, NAMES, is_known
from fedjax_kd.report.sections import Chosen, Table
from fedjax_kd.report.studies import FURTHER, StudyPoints
from fedjax_kd.report.table_files import CellValue

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Image(NamedTuple):
    """An image as an address that holds its data, and what it shows in words."""

    address: str
    alt: str


class Picture(NamedTuple):
    """Images that stand together."""

    title: str
    images: Sequence[Image]
    note: str = ""


class StudySection(NamedTuple):
    """What the page shows of one study; ``documents`` are texts to be unfolded."""

    title: str
    facts: Mapping[str, str]
    blocks: Sequence[Table | Picture]
    partitions: Sequence[Picture]
    unfolded: Sequence[Table]
    documents: Mapping[str, str]


def page(
    studies: Sequence[StudyPoints], *, target: float | None = None, baseline: str | None = None
) -> str:
    """A page that needs nothing but itself: no network, no script, no other file.

    Args:
      studies: from `fedjax_kd.report.load.read_studies`.
      target: of the tables of rounds; by default that of each sweep, and none for runs.
      baseline: method (in runs: run) that others are compared with; by default "fedavg" or the
        first.

    Raises:
      ValueError: if no study has the baseline.
    """
    from jinja2 import Environment, StrictUndefined

    _check_baseline(studies, baseline)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(
        files("fedjax_kd.report").joinpath("page.html").read_text(encoding="utf-8")
    )
    return template.render(parts=[study_section(study, target, baseline) for study in studies])


def study_section(
    study: StudyPoints, target: float | None = None, baseline: str | None = None
) -> StudySection:
    """What the page shows of a study; see `page`."""
    chosen = sections.methods_compared(study)
    axes = landscape.axes_of(study.points, study.parameters) if study.is_sweep else ()
    wanted = study.target if target is None else target
    first = sections.best_table(study, chosen) if study.is_sweep else sections.runs_table(study)
    blocks: list[Table | Picture] = [first, *_curves(study, chosen, wanted)]
    blocks += _traits(study, chosen)
    if len(chosen) > 1:
        base = _baseline(chosen, baseline)
        blocks.append(sections.differences_table(study, chosen, base))
    if wanted is not None:
        blocks.append(sections.target_table(study, chosen, wanted))
    if axes:
        blocks.append(_landscape(study, chosen, axes))
        blocks.append(sections.region_table(study, axes))
        blocks += sections.influence_tables(study, axes)
    return StudySection(
        study.title,
        sections.facts(study),
        blocks,
        [_partition(name, content) for name, content in study.pictures.items()],
        [sections.configurations_table(study)] if study.is_sweep else [],
        {name: json.dumps(value, indent=2) for name, value in study.documents.items()},
    )


def _check_baseline(studies: Sequence[StudyPoints], baseline: str | None) -> None:
    """Raises ValueError if the baseline is in no study."""
    names = dict.fromkeys(str(point[s.by]) for s in studies for point in s.points)
    if baseline is not None and baseline not in names:
        raise InputError(
            f"The baseline is {baseline!r}, but what is compared is {', '.join(names)}: name one."
        )


def _baseline(chosen: Chosen, wanted: str | None) -> CellValue:
    """The method or run that the others of a study are compared with."""
    return next((name for name in (wanted, "fedavg") if name in chosen), next(iter(chosen)))


def _curves(study: StudyPoints, chosen: Chosen, target: float | None) -> list[Picture]:
    """Curves of what is compared; none if nothing is left."""
    lines = sections.seeds_of(study, chosen)
    if not lines:
        return []
    known = {n for row in study.rounds for n, cell in row.items() if cell is not None}
    further = [name for name in FURTHER if name in known and name != study.metric][:1]
    images = []
    for metric in (study.metric, *further):
        goal = target if metric == study.metric else None
        figure = bands.draw_curves(lines, [metric], target=goal, size=(5.0, 3.4))
        images.append(_image(figure, f"{figures.label_of(metric)} by round", study, chosen))
    for along in COSTS:
        if all(is_known(rows, along) for seeds in lines.values() for rows in seeds):
            figure = bands.draw_curves(lines, [study.metric], along=along, size=(5.0, 3.4))
            alt = f"{figures.label_of(study.metric)} by {NAMES[along]}"
            images.append(_image(figure, alt, study, chosen))
    note = f"Each {study.by} with its best configuration. " if study.is_sweep else ""
    if any(len(seeds) > 1 for seeds in lines.values()):
        note += "Lines are means over seeds, bands their range."
    return [Picture("Curves", images, note)]


def _traits(study: StudyPoints, chosen: Chosen) -> list[Table | Picture]:
    """What clients found out about themselves; nothing if no method tells."""
    lines = sections.seeds_of(study, chosen)
    table = traits.traits_table(lines, study.by)
    if table is None:
        return []
    image = Image(
        figures.embedded(traits.draw_traits(lines, (6.4, 3.4))), f"{table.title}, by round"
    )
    return [table, Picture(f"{table.title}, by round", [image], "")]


def _landscape(study: StudyPoints, chosen: Chosen, axes: Sequence[str]) -> Picture:
    """The picture of scores over parameters."""
    figure = landscape.draw_landscape(
        study.points, axes, by=study.by, metric=study.metric, goal=study.goal
    )
    rest = [p for p in study.parameters if p not in (*axes, study.by)]
    note = "Means over seeds."
    if rest:
        note += f" Over {', '.join(map(figures.label_of, rest))} the best value is taken."
    title = f"{figures.label_of(study.metric)} over {' and '.join(map(figures.label_of, axes))}"
    return Picture(title.capitalize(), [_image(figure, title, study, chosen)], note)


def _image(figure: Figure, title: str, study: StudyPoints, chosen: Chosen) -> Image:
    """A figure, with the final scores as its text for readers who do not see it."""
    percent = " %" if formatting.unit_of(study.metric) else ""
    ends = (f"{name} {formatting.outcome(c, study.metric)}{percent}" for name, c in chosen.items())
    alt = f"{title.capitalize()}. Best {figures.label_of(study.metric)}: {'; '.join(ends)}."
    return Image(figures.embedded(figure), alt)


def _partition(name: str, content: bytes) -> Picture:
    """The picture of a split."""
    title = f"Split of the data, {name.removeprefix('partition-').replace('seed', 'seed ')}"
    alt = f"{title}: how many training rows of each label each client holds"
    return Picture(title, [Image(figures.data_address(content), alt)])
