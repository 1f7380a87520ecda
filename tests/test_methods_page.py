"""The table of methods says what the code does, and the docs hold it as it is now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedjax_kd.algorithms import REGISTRY
from fedjax_kd.report import methods

PAGE = Path(__file__).parent.parent / "docs" / "algorithms.md"


def test_the_page_is_current():
    expected = "run `fedjax-kd list methods --markdown > docs/algorithms.md`"
    assert PAGE.read_text(encoding="utf-8") == methods.methods_page(), expected


def test_every_method_has_a_row():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    assert [row.split("`")[1] for row in rows] == list(REGISTRY)


def test_what_travels_must_be_said():
    def silent(task: Any) -> None:
        """A method. Down: the model. Up: its change."""

    with pytest.raises(ValueError, match="silent does not say what travels"):
        methods.travels(silent)
