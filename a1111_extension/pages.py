"""Pieces of HTML that the tab is made of. All text is escaped here."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO
from typing import Any

from .outlook import AMBER


def paragraph(*lines: str) -> str:
    """Lines of text.

    Args:
        lines: plain text.
    """
    return f"<p>{'<br>'.join(map(escape, lines))}</p>"


def amber(reason: str) -> str:
    """What was refused, and why.

    Args:
        reason: plain text.
    """
    return f"<p>{AMBER.format(escape(reason))}</p>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table.

    Args:
        head: plain text of the columns' heads.
        rows: plain text of the cells.
    """
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table class='skipstone-table'><tr>{''.join(f'<th>{escape(h)}</th>' for h in head)}</tr>{body}</table>"


def picture(image: Any, about: str) -> str:
    """A picture within the page, without a file.

    Args:
        image: of Pillow.
        about: plain text for those who cannot see it.
    """
    file = BytesIO()
    image.save(file, "PNG")
    return f"<img src='{_inline('image/png', file.getvalue())}' alt='{escape(about, quote=True)}'>"


def download(name: str, text: str, label: str) -> str:
    """A link that saves a text as a file.

    Args:
        name: of the file.
        text: its content.
        label: plain text of the link.
    """
    address = _inline("application/json", text.encode())
    return f"<a download='{escape(name, quote=True)}' href='{address}'>{escape(label)}</a>"


def _inline(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode('ascii')}"
