"""Writes what the ComfyUI nodes' schemas determine: the locales, and parts of the help pages.

`python -m skipstone.tools.node_texts` rewrites `locales/*/nodeDefs.json` and, in `web/docs/*.md`, everything between the
markers `<!-- description -->` or `<!-- inputs -->` and `<!-- end -->`. A node without a page gets one. The pictures are drawn by
:mod:`skipstone.tools.help_pictures`. ComfyUI need not be installed: the schemas are made with the doubles of the tests.

`tools/translations/<language>.json` maps each English text to its translation, once for all nodes, and
`tools/translations/help/<language>.json` what else the help pages say. A text without one stays English. ComfyUI shows
`web/docs/<node>/<language>.md` where it exists, else `web/docs/<node>.md`.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .figure_list import FIGURES
from .page_texts import translated_page

ROOT = Path(__file__).resolve().parents[1]
LOCALES = ROOT / "locales"
TRANSLATIONS = ROOT / "tools/translations"
PAGES = ROOT / "web/docs"

_NEW_PAGE = "# {title}\n\n<!-- description -->\n<!-- end -->\n\n## Inputs\n\n<!-- inputs -->\n<!-- end -->\n"


def locale(schemas: Iterable[Any], translation: Mapping[str, str] = MappingProxyType({})) -> str:
    """The text of a locale file: names and tooltips of all inputs and outputs.

    Args:
        schemas: the nodes'.
        translation: English text -> text of the language; what it lacks stays English.
    """
    nodes = {schema.node_id: _translated(_texts(schema), translation) for schema in schemas}
    return json.dumps(nodes, indent=2, ensure_ascii=False) + "\n"


def _translated(texts: Any, translation: Mapping[str, str]) -> Any:
    if isinstance(texts, dict):
        return {key: _translated(part, translation) for key, part in texts.items()}
    return translation.get(texts, texts)


def texts_of(schemas: Iterable[Any]) -> set[str]:
    """The English texts of nodes."""
    return set(_leaves({schema.node_id: _texts(schema) for schema in schemas}))


def _leaves(texts: Any) -> Iterator[str]:
    for part in texts.values():
        yield from _leaves(part) if isinstance(part, dict) else (part,)


def translations() -> dict[str, dict[str, str]]:
    """Of each language but English, by ComfyUI's code: English text -> its translation."""
    return _by_language(TRANSLATIONS)


def help_translations() -> dict[str, dict[str, str]]:
    """Like :func:`translations`, of what the help pages have beside the schemas' texts."""
    return _by_language(TRANSLATIONS / "help")


def _by_language(folder: Path) -> dict[str, dict[str, str]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}


def _texts(schema: Any) -> dict[str, Any]:
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {one.id: {"name": one.id, "tooltip": one.tooltip} for one in schema.inputs},
        "outputs": {
            str(place): {"name": one.display_name or one.io_type, "tooltip": one.tooltip}
            for place, one in enumerate(schema.outputs)
        },
    }


def page(schema: Any, text: str) -> str:
    """A help page with its generated parts filled in.

    Args:
        schema: the node's.
        text: the page as it is; empty for a node without one.
    """
    text = text or _NEW_PAGE.format(title=schema.display_name)
    for name, part in (("description", schema.description + _picture(schema.node_id)), ("inputs", _inputs(schema))):
        text = _filled(text, name, part)
    return text


def _picture(node: str) -> str:
    """The picture of a node's page, where the tool draws one. The page finds it from `web/docs`, whatever its language."""
    return f"\n\n![{FIGURES[node].caption}](img/{node}.webp)" if node in FIGURES else ""


def _filled(text: str, name: str, part: str) -> str:
    """The text with `part` between the markers of a name."""
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    return marked.sub(lambda found: f"{found[1]}\n{part}\n\n{found[2]}", text)


def _inputs(schema: Any) -> str:
    """A list, because ComfyUI's help panel is narrow and cuts tables off."""
    rare = [one for one in schema.inputs if one.as_dict().get("advanced")]
    common = [one for one in schema.inputs if one not in rare]
    advanced = ["", "Advanced:", "", *map(_item, rare)] if rare else []
    return "\n".join([*map(_item, common), *advanced])


def _item(one: Any) -> str:
    default = _shown(getattr(one, "default", None))
    return f"- **{one.id}**{default and f' ({default})'}: {one.tooltip}"


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, str):
        return f"`{default}`" if default else ""
    return "" if default is None else f"{default:g}"


def written(schemas: Iterable[Any]) -> dict[Path, str]:
    """Files that the schemas determine, and their texts."""
    schemas = list(schemas)
    pages = {PAGES / f"{schema.node_id}.md": schema for schema in schemas}
    texts = {path: page(schema, path.read_text("utf-8") if path.exists() else "") for path, schema in pages.items()}
    languages: dict[str, dict[str, str]] = {"en": {}, **translations()}
    locales = {LOCALES / code / "nodeDefs.json": locale(schemas, language) for code, language in languages.items()}
    other = {
        path.with_suffix("") / f"{code}.md": translated_page(text, page_translation(schemas, code), code)
        for code in help_translations()
        for path, text in texts.items()
    }
    return locales | texts | other


def page_translation(schemas: Iterable[Any], code: str) -> dict[str, str]:
    """English text -> text of a language, for help pages. An input has its id after the name that the node shows.

    Args:
        schemas: the nodes'.
        code: ComfyUI's, of the language.
    """
    language = translations()[code]
    ids = {one.id for schema in schemas for one in schema.inputs}
    named = {one: f"{language[one]} `{one}`" for one in ids if language.get(one, one) != one}
    return language | help_translations()[code] | named


def schemas_of(extension: Any) -> list[Any]:
    """Schemas of an extension's nodes, in menu order."""
    return [node.define_schema() for node in asyncio.run(extension.get_node_list())]


@contextmanager
def comfyui() -> Iterator[None]:
    """ComfyUI's modules as the doubles of the tests have them, so that the nodes can be imported."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    import pytest
    from doubles import comfy

    with pytest.MonkeyPatch.context() as patch, comfy.installed(patch):
        yield


def main() -> None:
    """Write the files."""
    with comfyui():
        from ..nodes import SkipstoneExtension

        for path, text in written(schemas_of(SkipstoneExtension())).items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
