"""The page of model families is made from what the tests found."""

from __future__ import annotations

import json

from skipstone.tools.model_matrix import DOCS, METHODS, page


def test_the_page_is_up_to_date_and_has_a_cell_for_every_method() -> None:
    known = json.loads((DOCS / "models.json").read_text(encoding="utf-8"))
    assert (DOCS / "models.md").read_text(encoding="utf-8") == page(known), "run python -m skipstone.tools.model_matrix"
    assert all(cells.keys() <= METHODS.keys() for families in known.values() for cells in families.values())


def test_reasons_are_numbered_once() -> None:
    made = page(
        {"host": {"A": {"calls": "served", "merge": "no tokens"}, "B": {"merge": "no tokens", "prune": "no list"}}}
    )
    assert "| A | yes | - | 1 | - | - |" in made and "| B | - | - | 1 | 2 | - |" in made
    assert made.endswith("1. no tokens\n2. no list\n")
