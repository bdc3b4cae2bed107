"""Writes the tables of options in `docs/user_guide.md` from the settings' own descriptions.

`python -m skipstone.tools.option_tables` rewrites everything between `<!-- options TokenMerge -->` and `<!-- end -->`, and the
same for the other settings of :data:`SETTINGS`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..core.calibrate.masks.settings import TrainSettings
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.fields import table_rows
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune

GUIDE = Path(__file__).resolve().parents[1] / "docs/user_guide.md"
SETTINGS: tuple[type[Any], ...] = (TokenMerge, TokenPrune, BlockSkip, TrainSettings)
MARKED = re.compile(r"(<!-- options (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

_HEAD = ("| option | default | values | what it does |", "|---|---|---|---|")


def option_table(settings: type[Any]) -> str:
    """One row for each field, as Markdown.

    Args:
        settings: a class whose fields are made by :func:`skipstone.core.recipe.fields.setting`.
    """
    rows = (f"| `{name}` | {default} | {values} | {help} |" for name, default, values, help in table_rows(settings))
    return "\n".join((*_HEAD, *(row.replace("|  |", "| |") for row in rows)))


def filled(text: str) -> str:
    """A page with its option tables brought up to date. Raises :class:`KeyError` for a marker of unknown settings."""
    tables = {settings.__name__: option_table(settings) for settings in SETTINGS}
    return MARKED.sub(lambda found: f"{found[1]}\n{tables[found[2]]}\n\n{found[3]}", text)


def main() -> None:
    """Write the page."""
    GUIDE.write_text(filled(GUIDE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
