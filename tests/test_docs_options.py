"""The documentation's tables of options are those of the settings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from skipstone.core.models import FAMILIES
from skipstone.core.recipe.fields import fields_of
from skipstone.tools import option_tables
from skipstone.tools.option_tables import MARKED, SETTINGS, filled, model_table, option_table

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OPTIONS = {name for settings in SETTINGS for name in fields_of(settings)}


def test_the_tables_that_are_made_from_the_code_are_up_to_date() -> None:
    texts = [page.read_text(encoding="utf-8") for page in option_tables.PAGES]
    marked = [found[2] for text in texts for found in MARKED.finditer(text)]
    assert marked == ["models", *(settings.__name__ for settings in SETTINGS)]
    assert [filled(text) for text in texts] == texts, "run python -m skipstone.tools.option_tables"


def test_the_table_of_models_has_each_model_once_and_follows_its_family() -> None:
    rows = [row.strip("| ").split(" | ") for row in model_table().splitlines()]
    *named, stacks, other = rows[2:]
    known = [model for cells in named for model in cells[0].split(", ")]
    assert sorted(known) == sorted({model for family in FAMILIES for model in family.serves})
    by_model = {model: dict(zip(rows[0], cells, strict=True)) for cells in rows[2:] for model in cells[0].split(", ")}
    assert (
        by_model["SDXL"]["DaTo's schedules"] == by_model["Flux"]["block skip"] == by_model["DiT"]["diffusers"] == "yes"
    )
    assert {cells["call skip, Auto"] for cells in by_model.values()} == {"yes"}
    assert stacks.count("yes") == 4, "call and block skipping, in every host"
    assert other.count("yes") == 3, "call skipping alone, in every host"
    assert by_model["DDPM"]["token merge"] == by_model["DiT"]["ComfyUI, A1111, Forge"] == "-"
    assert by_model["Flux"]["token merge"] == "ComfyUI, diffusers", "hosts whose attention kernels are reached"


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_table_has_a_row_for_every_option(settings: type) -> None:
    rows = option_table(settings).splitlines()[2:]
    assert [row.split(" | ")[0] for row in rows] == [f"| `{name}`" for name in fields_of(settings)]
    assert all(row.count("|") == 5 for row in rows)


def test_ranges_are_short() -> None:
    assert not re.search(r"e\+", "".join(map(option_table, SETTINGS)))


def by_hand(text: str) -> set[str]:
    """Options that head rows of a table outside the markers, where that table has three of them or more."""
    tables = re.findall(r"(?:^\|.*\n)+", MARKED.sub("", text), re.MULTILINE)
    heads = (set(re.findall(r"^\| *`?(\w+)`? *\|", table, re.MULTILINE)) & OPTIONS for table in tables)
    return set().union(*(found for found in heads if len(found) > 2))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_table_of_options_is_written_by_hand(page: Path) -> None:
    assert not by_hand(page.read_text(encoding="utf-8")), "generate it: see tools/option_tables.py"


def test_a_table_of_options_outside_the_markers_is_found() -> None:
    assert by_hand(f"Text\n\n{option_table(SETTINGS[0])}\n\nmore\n") == set(fields_of(SETTINGS[0]))
