"""``fedjax-kd report``: a page of any mix of runs and sweeps that needs nothing but itself."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import chromium
import fake_sweeps
import matplotlib.image
import numpy as np
import pytest
from commandline import command
from labelled import labelled

from fedjax_kd.data import IidPartitioner
from fedjax_kd.report.load import read_runs, read_studies, read_sweep
from fedjax_kd.report.page import StudySection, page, study_section
from fedjax_kd.report.partition import draw_partition
from fedjax_kd.report.sections import Table, methods_compared, target_table
from fedjax_kd.runs import folder as run_folder

SMALL = ("--model", "logistic", "--num-clients", "10", "--cohort-size", "4", "--num-rounds", "4")
METHODS = ("fedavg", "fedadam")
IN_BROWSER = pytest.mark.skipif(chromium.PROGRAM is None, reason="no Chromium")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two methods, with two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    data = labelled()
    for seed in range(2):
        for method in METHODS:
            fake_sweeps.write_run(folder / str(seed) / method, fake_sweeps.with_seed(method, seed))
        draw_partition(data, IidPartitioner(9)(data), folder / str(seed) / "partition.png")
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, compared: Path) -> Path:
    """A sweep with early stopping, divergence and a picture of the split."""
    grid = fake_sweeps.parameters(METHODS, fake_sweeps.HALF_DECADES)
    folder = fake_sweeps.write(tmp_path_factory.mktemp("sweeps") / "rates", grid, halving=True)
    shutil.copy(compared / "0/partition.png", folder / "partition-seed0.png")
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, compared: Path, swept: Path) -> Path:
    """The page of both."""
    path = tmp_path_factory.mktemp("page") / "both.html"
    given = [str(swept), *(str(compared / seed) for seed in "01")]
    assert command("report", *given, "--target", "0.3", "--out", str(path)) == 0
    return path


class Tags(HTMLParser):
    """The tags of a page with their attributes; text by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.words.setdefault(self.found[-1][0], []).append(data.strip())

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def table(found: StudySection, title: str) -> Table:
    """The table of a study whose title begins so."""
    return next(b for b in found.blocks if isinstance(b, Table) and b.title.startswith(title))


def test_the_page_asks_for_nothing(written: Path) -> None:
    text = written.read_text()
    tags = Tags(text)
    for name in ("script", "iframe", "object", "video", "form"):
        assert not tags.of(name)
    addresses = [a[k] for _, a in tags.found for k in ("src", "href", "srcset") if a.get(k)]
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert not re.search(r"url\(|@import|https?://", text)
    (policy,) = [m["content"] for m in tags.of("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'")
    assert written.stat().st_size < 2_000_000


def test_the_page_can_be_read_by_everybody(written: Path) -> None:
    tags = Tags(written.read_text())
    assert tags.of("html")[0]["lang"] == "en"
    assert all(len(image["alt"] or "") > 20 for image in tags.of("img"))
    assert all(head.get("scope") in ("col", "row") for head in tags.of("th"))
    assert len(tags.of("caption")) == len(tags.of("table"))
    assert len(tags.of("img")) == 2 + 1 + 1 + 2 + 2  # curves, map, split; curves, splits
    headings = [int(tag[1]) for tag, _ in tags.found if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(headings))


def test_tables_of_a_sweep(swept: Path) -> None:
    study = read_sweep(swept)
    found = study_section(study)
    best = table(found, "Best configuration")
    assert [row[:4] for row in best.rows] == [
        ["fedavg", "0.1", "1", "-"],
        ["fedadam", "0.1", "0.01", "0.001"],
    ]
    assert best.rows[0][-1] == "3"
    assert best.rows[0][4].startswith("9")
    assert [row[0] for row in table(found, "Differences to fedavg").rows] == ["fedadam"]
    target = table(found, "Rounds to 80 % accuracy")
    assert [row[2] for row in target.rows] == ["3 of 3", "3 of 3"]
    never = target_table(study, methods_compared(study), 0.999)
    assert [row[1:] for row in never.rows] == [["-", "0 of 3", "-, -, -"]] * 2
    region = table(found, "Width of the good region")
    assert [row[2] for row in region.rows] == ["25", "25"]
    influence = table(found, "Influence of tau")
    assert [row[:2] for row in influence.rows] == [["fedadam", "0.001"], ["fedadam", "0.1"]]
    everything = found.unfolded[0]
    assert len(everything.rows) == 75
    assert {"finished", "stopped early", "diverged"} == {row[5] for row in everything.rows}


def test_tables_of_runs(compared: Path) -> None:
    study = read_runs([compared / seed / m for m in METHODS for seed in "01"])
    found = study_section(study, baseline="fedadam")
    first = table(found, "Runs")
    finals = [run_folder.read_summary(compared / s / "fedavg")["final_test_accuracy"] for s in "01"]
    assert [row[0] for row in first.rows] == ["fedavg", "fedadam"]
    assert first.rows[0][2].startswith(f"{100 * np.mean(finals):.2f} ± ")
    assert first.rows[0][4:] == ["2", "20", "2.0", "1.0", "0", "3.5"]
    assert [row[0] for row in table(found, "Differences to fedadam").rows] == ["fedavg"]
    assert set(study.pictures) == {"partition-seed0", "partition-seed1"}
    assert "Versions" in study.documents


def test_a_real_run_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run, out = tmp_path / "run", tmp_path / "page.html"
    assert command("run", "fedavg", *SMALL, "--out", str(run), "--quiet") == 0
    assert command("report", str(run), "--out", str(out)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    final = run_folder.read_summary(run)["final_test_accuracy"]
    assert f"{100 * final:.2f}" in out.read_text()


def test_runs_are_compared_where_they_share_the_data(compared: Path, tmp_path: Path) -> None:
    config = fake_sweeps.with_seed("fedavg", 0, partition="iid")
    other = fake_sweeps.write_run(tmp_path / "iid", config)
    found = read_studies([compared / "0", other, compared / "1"])
    assert [len(study.points) for study in found] == [4, 1]
    assert [study.title for study in found] == [
        "Runs on digits, dirichlet partition",
        "Runs on digits, iid partition",
    ]
    alone = study_section(found[1])
    assert not any(b.title.startswith("Differences") for b in alone.blocks)


def test_a_repeated_run_is_no_second_seed(compared: Path, tmp_path: Path) -> None:
    shutil.copytree(compared / "0/fedavg", tmp_path / "again")
    study = read_runs([compared / "0/fedavg", tmp_path / "again"])
    assert [point["config"] for point in study.points] == [0, 1]
    assert study.points[0]["run"] != study.points[1]["run"]


def test_a_run_that_diverged_says_so(compared: Path, tmp_path: Path) -> None:
    shutil.copytree(compared / "0", tmp_path / "lost")
    path = tmp_path / "lost/fedadam/metrics.csv"
    lines = path.read_text().splitlines()
    place = lines[0].split(",").index("test_loss")
    cells = lines[-1].split(",")
    cells[place] = "nan"
    path.write_text("\n".join([*lines[:-1], ",".join(cells)]) + "\n")
    (study,) = read_studies([tmp_path / "lost"])
    found = study_section(study)
    statuses = {row[0]: row[1:3] for row in table(found, "Runs").rows}
    assert statuses["fedadam"] == ["diverged", "-"]
    assert table(found, "Differences").rows == [["fedadam", "-", "-", "0"]]


def test_another_metric_is_scored_from_the_rounds(swept: Path) -> None:
    study = read_sweep(swept, "train_loss")
    assert (study.metric, study.goal, study.target) == ("train_loss", "min", None)
    found = study_section(study)
    assert table(found, "Best").head[4] == "loss of local training"
    assert [row[1:3] for row in table(found, "Best").rows] == [["0.1", "1"], ["0.1", "0.01"]]


def test_a_sweep_of_one_method_and_one_parameter(tmp_path: Path) -> None:
    rates = [{"client_lr": lr} for lr in fake_sweeps.HALF_DECADES]
    folder = fake_sweeps.write(tmp_path / "one", rates, seeds=1, target=None)
    (folder / "results.parquet").unlink()
    study = read_sweep(folder)
    text = page([study])
    assert "Differences" not in text
    assert "Rounds to" not in text
    found = study_section(study)
    (row,) = table(found, "Best").rows
    assert (row[0], row[-2], row[-1]) == ("fedavg", "-", "1")
    assert table(found, "Width").rows[0][2:4] == ["5", "20 %"]


def test_a_sweep_in_which_all_diverged(tmp_path: Path) -> None:
    grid = fake_sweeps.parameters(["fedadam"], [10.0, 100.0])
    study = read_sweep(fake_sweeps.write(tmp_path / "lost", grid))
    assert table(study_section(study), "Best").rows[0][4] == "diverged"
    assert "diverged" in page([study])


def test_names_are_text_and_no_markup(swept: Path, tmp_path: Path) -> None:
    folder = tmp_path / "<b>bold<b>"
    shutil.copytree(swept, folder)
    assert "&lt;b&gt;bold" in page([read_sweep(folder)])


@pytest.fixture
def places(tmp_path: Path, swept: Path, compared: Path) -> dict[str, str]:
    """Folders that are good, absent, empty or wrong."""
    about = json.loads((swept / "sweep.json").read_text())
    files = {
        "BEGUN": json.dumps(about),
        "OTHER": json.dumps(about | {"format": 2}),
        "DAMAGED": "{",
    }
    for name, text in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_text(text)
    (tmp_path / "EMPTY").mkdir()
    wrong = {name: str(tmp_path / name) for name in (*files, "EMPTY", "ABSENT")}
    return wrong | {"SWEEP": str(swept), "RUNS": str(compared / "0")}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ABSENT", "There is no folder"),
        ("EMPTY", "is neither a run nor a sweep"),
        ("SWEEP --metric acuracy", "no metric 'acuracy'"),
        ("RUNS --metric acuracy", "no metric 'acuracy'"),
        ("SWEEP --baseline fedprox", "what is compared is fedavg, fedadam"),
        ("SWEEP --out EMPTY/report.pdf", "must be a file that ends in .html"),
        ("SWEEP --out EMPTY/none/report.html", "There is no folder"),
        (f"SWEEP --out EMPTY/{300 * 'x'}.html", "File name too long"),
        ("SWEEP --target high", "target"),
        ("BEGUN", "no point of it has finished a round"),
        ("OTHER", "use the version that wrote it"),
        ("DAMAGED", "is damaged"),
        ("", "needs a run folder"),
    ],
)
def test_bad_input(
    words: str, message: str, places: Mapping[str, str], capsys: pytest.CaptureFixture
) -> None:
    names = re.compile(f"^({'|'.join(places)})")
    args = [names.sub(lambda found: places[found[0]], word) for word in words.split()]
    page = Path(places["EMPTY"]) / "page.html"
    assert command("report", *args, *([] if "--out" in args else ["--out", str(page)])) == 2
    shown = capsys.readouterr()
    assert message in " ".join((shown.err + shown.out).split())
    assert not page.exists()


@IN_BROWSER
def test_the_page_is_seen(written: Path) -> None:
    picture = chromium.screenshot(written, written.with_suffix(".png"), width=1000, height=2400)
    seen = matplotlib.image.imread(picture)[..., :3]
    assert seen.shape[:2] == (2400, 1000)
    inked = (np.abs(seen - seen[0, 0]) > 0.1).any(axis=-1)
    assert 0.05 < inked.mean() < 0.7
    quarters = inked.reshape(4, 600, 1000).mean(axis=(1, 2))
    assert (quarters > 0.01).all()
    assert len(np.unique((seen * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 100


@IN_BROWSER
def test_all_pictures_decode_nothing_is_fetched_and_a_phone_need_not_scroll(written: Path) -> None:
    found = chromium.measured(
        written,
        "[document.images.length,"
        "[...document.images].filter(i => i.complete && i.naturalWidth > 100).length,"
        "performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:')).length,"
        "document.documentElement.scrollWidth - innerWidth]",
        width=500,
    )
    images, decoded, fetched, overflow = map(int, found.split(","))
    assert images == decoded == 8
    assert fetched == 0
    assert overflow <= 0
