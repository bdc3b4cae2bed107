"""The help pages in other languages: each is the English page, text by text.

A text is a heading, a paragraph, an item of a list, a cell of a table or the caption of a picture. Code stays as it is: reports,
and names of options and files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

_NOTE = "<!-- Written from the English page by tools/node_texts.py. Its translations: tools/translations/help/{code}.json -->\n"
_MARKER = re.compile(r"<!-- .*? -->\n?")
_CODE = re.compile(r"`[^`]*`")
_CAPTION = re.compile(r"(!\[)(.*)(\]\(.*\))")
_HEADING = re.compile(r"(#+ )(.*)()")
_INPUT = re.compile(r"- \*\*([a-z]\w*)\*\*(?: \((`.*?`|\w.*?)\))?: (.*)", re.DOTALL)
_ITEM = re.compile(r"((?:-|\d+\.) )(.*)()", re.DOTALL)
_PARAGRAPH = re.compile(r"()(.*)()", re.DOTALL)


def texts_of_page(page: str) -> list[str]:
    """The texts of a page in Markdown, lines joined. Numbers and code alone are none.

    Example:
        >>> texts_of_page("# Title\\n\\nTwo\\nlines.\\n\\n| a | 1 |\\n|---|---|\\n| `code` | b |\\n")
        ['Title', 'Two lines.', 'a', 'b']
    """
    texts: list[str] = []

    def keep(text: str) -> str:
        texts.append(text)
        return text

    _mapped(page, keep)
    return texts


def translated_page(page: str, translation: Mapping[str, str], code: str) -> str:
    """A page in another language, with the same headings, tables, pictures and code.

    Args:
        page: English.
        translation: English text -> text of the language; what it lacks stays English.
        code: ComfyUI's, of the language.

    Example:
        >>> translated_page("# Title\\n\\n- one\\n- `two`\\n", {"Title": "标题", "one": "一"}, "zh").splitlines()[:4]
        ['# 标题', '', '- 一', '- `two`']
    """
    return _mapped(page, lambda text: translation.get(text, text)) + "\n" + _NOTE.format(code=code)


def _mapped(page: str, change: Callable[[str], str]) -> str:
    """The page without markers, each text changed."""
    blocks = re.split(r"\n{2,}", _MARKER.sub("", page).strip())
    return "\n\n".join(_block(block, change) for block in blocks) + "\n"


def _block(block: str, change: Callable[[str], str]) -> str:
    if block.startswith("```"):
        return block
    if block.startswith("|"):
        return "\n".join(_row(line, change) for line in block.splitlines())
    return "\n".join(_line(part, change) for part in re.split(r"\n(?=(?:-|\d+\.) )", block))


def _row(line: str, change: Callable[[str], str]) -> str:
    return "|".join(f" {_changed(cell.strip(), change)} ".replace("  ", " ") for cell in line.split("|")).strip()


def _line(part: str, change: Callable[[str], str]) -> str:
    """A heading, the caption of a picture, an item of a list, or a paragraph."""
    if of_input := _INPUT.fullmatch(part):
        name, default, tooltip = (_changed(" ".join((text or "").split()), change) for text in of_input.groups())
        return f"- **{name}**{default and f' ({default})'}: {tooltip}"
    found = next(filter(None, (form.fullmatch(part) for form in (_CAPTION, _HEADING, _ITEM, _PARAGRAPH))))
    before, text, after = found.groups()
    return before + _changed(" ".join(text.split()), change) + after


def _changed(text: str, change: Callable[[str], str]) -> str:
    return change(text) if re.search("[A-Za-z]", _CODE.sub("", text)) else text
