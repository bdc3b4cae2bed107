"""What the pages for contributors say works, and takes as many places as they say."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.pages import ROOT, blocks, changed, do

DOCS = ROOT / "docs"
TOUCHED = {
    "write_a_host": (0, {}),
    "add_a_model": (1, {"core/models/__init__.py": 2}),
    "add_a_rule": (1, {"core/plan/rules/__init__.py": 2, "core/recipe/block_skip.py": 4}),
    "add_a_node": (1, {"nodes/__init__.py": 1}),
}
"""Page -> new files, and lines added to files that are there."""


@pytest.mark.parametrize("page", TOUCHED)
def test_a_page_for_contributors_works_as_written(page: str, tmp_path: Path) -> None:
    names = do(DOCS / f"{page}.md", tmp_path)
    assert any(name.startswith("test_") for name in names) or page == "write_a_host"


@pytest.mark.parametrize("page", TOUCHED)
def test_a_page_touches_as_few_places_as_it_says(page: str) -> None:
    found = blocks(DOCS / f"{page}.md")
    files = [b for b in found if b.language == "python" and b.path and not b.path.startswith("tests/")]
    lines = {
        b.path: sum(line.startswith("+") for line in b.text.splitlines()[1:]) for b in found if b.language == "diff"
    }
    assert (len(files), lines) == TOUCHED[page]


def test_a_hunk_that_does_not_fit_is_an_error() -> None:
    assert changed("a\nb\n", "+++ x.py\n@@\n a\n+c\n") == "a\nc\nb\n"
    with pytest.raises(AssertionError, match="not there once"):
        changed("a\nb\n", "+++ x.py\n@@\n z\n+c\n")
