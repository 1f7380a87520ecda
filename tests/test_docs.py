"""The Python that the documentation shows, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIRST_READ = ("README.md", "add_an_algorithm.md")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(p, id=p.name, marks=[pytest.mark.thorough] * (p.name not in FIRST_READ))
        for p in PAGES
        if BLOCK.search(p.read_text())
    ],
)
def test_python_of_a_page_runs_from_top_to_bottom(page: Path) -> None:
    code = "\n".join(BLOCK.findall(page.read_text()))
    names: dict[str, object] = {"__name__": "documentation"}
    # A reader has JAX's ordinary promotion rules.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(code, str(page), "exec"), names)


def test_pages_link_to_files_that_exist() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        prose = BLOCK.sub("", page.read_text())
        for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", prose):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"
