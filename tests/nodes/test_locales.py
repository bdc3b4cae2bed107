"""Texts of the ComfyUI nodes in other languages: complete, up to date, and true to the English."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import pytest
from doubles import comfy
from languages import HOSTS_NODES, LANGUAGES, numbers

from skipstone.tools.node_texts import locale, schemas_of, texts_of

ROOT = Path(__file__).resolve().parents[2]
each_language = pytest.mark.parametrize("code", LANGUAGES)


@pytest.fixture
def schemas(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Any]]:
    """Of all nodes."""
    with comfy.installed(monkeypatch, tmp_path):
        from skipstone.nodes import SkipstoneExtension

        yield schemas_of(SkipstoneExtension())


def keys(texts: Any) -> Any:
    return {key: keys(part) for key, part in texts.items()} if isinstance(texts, dict) else None


def test_chinese_and_japanese_are_there_under_the_codes_of_comfyui() -> None:
    assert {"ja", "zh"} <= set(LANGUAGES)


@each_language
def test_every_text_has_a_translation_and_every_translation_a_text(schemas: list[Any], code: str) -> None:
    english, translated = texts_of(schemas), LANGUAGES[code]
    assert sorted(english - set(translated)) == [], f"translate these in tools/translations/{code}.json"
    assert sorted(set(translated) - english) == [], f"remove these from tools/translations/{code}.json"


def test_a_text_without_a_translation_stays_english(schemas: list[Any]) -> None:
    (node,) = json.loads(locale(schemas[:1], {"model": "模型"})).values()
    assert node["inputs"]["model"]["name"] == "模型" and node["inputs"]["threshold"]["name"] == "threshold"
    assert node["display_name"] == schemas[0].display_name


@each_language
def test_a_locale_has_the_keys_of_the_english_one(code: str) -> None:
    english, other = (json.loads((ROOT / f"locales/{one}/nodeDefs.json").read_text("utf-8")) for one in ("en", code))
    assert keys(other) == keys(english)


@each_language
def test_a_translation_keeps_the_numbers(code: str) -> None:
    for english, text in LANGUAGES[code].items():
        assert numbers(english) <= numbers(text), text


@each_language
def test_a_tooltip_keeps_the_names_of_options(schemas: list[Any], code: str) -> None:
    combos = [one for schema in schemas for one in schema.inputs if getattr(one, "options", None)]
    for one in combos:
        named = {option for option in one.options if re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", one.tooltip)}
        assert [option for option in named if option not in LANGUAGES[code][one.tooltip]] == [], one.tooltip


@each_language
def test_a_tooltip_quotes_names_that_people_see(code: str) -> None:
    shown = {*LANGUAGES[code].values(), *HOSTS_NODES[code].values()}
    quoted = {name for text in shown for name in re.findall("[“「](.+?)[”」]", text)}
    assert quoted and quoted <= shown


@each_language
def test_the_inputs_of_a_node_have_different_names(code: str) -> None:
    nodes = json.loads((ROOT / f"locales/{code}/nodeDefs.json").read_text("utf-8"))
    for name, node in nodes.items():
        labels = [one["name"] for one in node["inputs"].values()]
        assert len(set(labels)) == len(labels), name


@each_language
def test_the_name_of_an_input_is_short_enough_for_a_node(code: str) -> None:
    nodes = json.loads((ROOT / f"locales/{code}/nodeDefs.json").read_text("utf-8")).values()
    labels = {one["name"] for node in nodes for one in node["inputs"].values()}
    assert [label for label in labels if sum(1 + (east_asian_width(c) in "WF") for c in label) > 24] == []


@each_language
def test_no_translation_is_read_as_markup_by_the_page(code: str) -> None:
    assert [text for text in LANGUAGES[code].values() if re.search(r"[@|$]|\{|\}", text)] == []
