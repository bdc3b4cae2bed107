"""Help pages in other languages: each node has one, with the structure, figures and pictures of the English page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles import comfy
from languages import HOSTS_NODES, LANGUAGES, numbers

from skipstone.tools.node_texts import PAGES, help_translations, page_translation, schemas_of, texts_of
from skipstone.tools.page_texts import texts_of_page, translated_page

HELP = help_translations()
each_language = pytest.mark.parametrize("code", HELP)


@pytest.fixture
def schemas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    """Of all nodes."""
    with comfy.installed(monkeypatch, tmp_path):
        from skipstone.nodes import SkipstoneExtension

        yield schemas_of(SkipstoneExtension())


def english_pages() -> dict[str, str]:
    """By node."""
    return {path.stem: path.read_text("utf-8") for path in sorted(PAGES.glob("*.md"))}


def structure(page: str) -> list[str]:
    """What remains of a page without its texts: marks of headings and items, the cells of tables, pictures, code blocks."""
    page = re.sub(r"<!--.*?-->\n?", "", page)
    lines = [line for line in page.splitlines() if re.match(r"#|\||!|```|- |\d+\. ", line)]
    return [re.match(r"#+|!|```|-|\d+", line)[0] if line[0] != "|" else "|" * line.count("|") for line in lines]  # type: ignore[index]


def test_the_languages_are_those_of_the_nodes_texts() -> None:
    assert set(HELP) == set(LANGUAGES)


@each_language
def test_every_text_of_a_page_has_a_translation_and_every_translation_a_text(schemas: list[Any], code: str) -> None:
    ours = {text for page in english_pages().values() for text in texts_of_page(page)} - texts_of(schemas)
    assert sorted(ours - set(HELP[code])) == [], f"translate these in tools/translations/help/{code}.json"
    assert sorted(set(HELP[code]) - ours) == [], f"remove these from tools/translations/help/{code}.json"


@each_language
def test_every_node_has_a_page_of_its_language_and_no_other_page_is_there(schemas: list[Any], code: str) -> None:
    there = {path.relative_to(PAGES).as_posix() for path in PAGES.rglob(f"{code}.md")}
    assert there == {f"{schema.node_id}/{code}.md" for schema in schemas}
    assert {path.stem for path in PAGES.glob("*/*.md")} == set(HELP)


@each_language
def test_a_translated_page_has_the_headings_tables_pictures_and_numbers_of_the_english_one(code: str) -> None:
    for node, english in english_pages().items():
        page = (PAGES / node / f"{code}.md").read_text("utf-8")
        assert structure(page) == structure(english), node
        assert numbers(english) - numbers(page) == set(), node
        assert re.findall(r"```.*?```", page, re.DOTALL) == re.findall(r"```.*?```", english, re.DOTALL)
        (picture,) = re.findall(r"!\[.*\]\((.*)\)", page)
        assert picture in english and (PAGES / picture).is_file()


@each_language
def test_a_translated_text_keeps_the_numbers_and_names_inputs_and_nodes_as_people_see_them(code: str) -> None:
    names = LANGUAGES[code] | HOSTS_NODES[code]
    for english, text in HELP[code].items():
        assert numbers(english) <= numbers(text), text
        for name in re.findall(r"`([^`]*)`", english) + re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", english):
            quoted = re.escape(names.get(name, name))
            assert f"`{name}`" in text or re.search(f"[“「*]{quoted}[”」*]", text), (name, text)


@each_language
def test_a_help_page_quotes_names_that_people_see(code: str) -> None:
    shown = {*LANGUAGES[code].values(), *HOSTS_NODES[code].values()}
    quoted = {name for text in HELP[code].values() for name in re.findall("[“「](.+?)[”」]", text)}
    assert quoted and quoted <= shown


@each_language
def test_inputs_have_the_name_on_the_node_and_their_id(schemas: list[Any], code: str) -> None:
    for schema in schemas:
        page = (PAGES / schema.node_id / f"{code}.md").read_text("utf-8")
        for one in schema.inputs:
            name = LANGUAGES[code][one.id]
            head = f"{name} `{one.id}`" if name != one.id else name
            assert re.search(
                rf"^- \*\*{head}\*\*( \(.*\))?: {re.escape(LANGUAGES[code][one.tooltip])}$", page, re.MULTILINE
            ), name


def test_a_changed_english_text_stays_english_until_it_is_translated(schemas: list[Any]) -> None:
    translation = page_translation(schemas, "zh")
    page = english_pages()["SkipstoneAuto"]
    assert "## 使用档案" in translated_page(page, translation, "zh")
    assert "## With a file" in translated_page(page.replace("With a profile", "With a file"), translation, "zh")
