"""Writes the tables that are made from the code: options in `docs/user_guide.md`, and supported models in `README.md`.

`python -m skipstone.tools.option_tables` rewrites everything between `<!-- options TokenMerge -->` and `<!-- end -->`, the
same for the other settings of :data:`SETTINGS`, and everything between `<!-- models -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..core.calibrate.masks.settings import TrainSettings
from ..core.models import FAMILIES, HOST_FAMILIES, Family
from ..core.models.family import BLOCKS, DATO_SCHEDULE, KERNEL_TOKENS
from ..core.recipe.auto import Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.fields import table_rows
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs/user_guide.md")
SETTINGS: tuple[type[Any], ...] = (Auto, CallSkip, TokenMerge, TokenPrune, BlockSkip, TrainSettings)
MARKED = re.compile(r"(<!-- (?:options )?(\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

_ANY, _OTHERS = "call skip, Auto", "any other model that the host loads"
"""The column of the methods that serve every network, and the row of the networks that only they serve."""
_STACKS = "other transformers (Qwen-Image, Z-Image, Wan, LTX, ...)"
"""The row of networks of no family that have a stack of blocks."""
_TOKENS = (TokenMerge.kind, TokenPrune.kind)
_KERNEL_HOSTS = "ComfyUI, diffusers"
"""Hosts whose attention kernels are reached."""
_HOSTS = ("ComfyUI, A1111, Forge", "diffusers")
_HEAD = ("| option | default | values | what it does |", "|---|---|---|---|")


def option_table(settings: type[Any]) -> str:
    """One row for each field, as Markdown.

    Args:
        settings: a class whose fields are made by :func:`skipstone.core.recipe.fields.setting`.

    Example:
        >>> option_table(TokenMerge).splitlines()[2].split(" | ")[:3]
        ['| `threshold`', '0.7', '-1 to 1']
    """
    rows = (f"| `{name}` | {default} | {values} | {help} |" for name, default, values, help in table_rows(settings))
    return "\n".join((*_HEAD, *(row.replace("|  |", "| |") for row in rows)))


def model_table(families: Iterable[Family] = FAMILIES) -> str:
    """What works on which models, as Markdown; models of which the same is true share a row.

    Args:
        families: the model families.
    """
    served: dict[str, dict[str, None]] = {}
    hosts: dict[str, set[bool]] = {}
    for family in families:
        for model, kinds in family.serves.items():
            served.setdefault(model, {}).update(dict.fromkeys(kinds))
            hosts.setdefault(model, set()).add(family in HOST_FAMILIES)
    columns = [kind for kind in dict.fromkeys(k for kinds in served.values() for k in kinds) if kind != KERNEL_TOKENS]
    rows: dict[tuple[object, ...], list[str]] = {}
    for model, kinds in served.items():
        marks = *(_works(kind, kinds) for kind in columns), True in hosts[model], False in hosts[model]
        rows.setdefault(marks, []).append(model)
    for row, kinds in ((_STACKS, (*BLOCKS, KERNEL_TOKENS)), (_OTHERS, ())):
        cells = (*(_works(kind, kinds) for kind in columns), True, True, row)
        rows[cells] = [row]
    titles = ["DaTo's schedules" if kind == DATO_SCHEDULE else kind.replace("_", " ") for kind in columns]
    lines = [["model", _ANY, *titles, *_HOSTS], ["---"] * (2 + len(columns) + len(_HOSTS))]
    lines += [[", ".join(models), "yes", *_cells(cells[: len(titles) + 2])] for cells, models in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _works(kind: str, kinds: Iterable[str]) -> str:
    if kind in kinds:
        return "yes"
    return _KERNEL_HOSTS if kind in _TOKENS and KERNEL_TOKENS in kinds else ""


def _cells(works: Iterable[object]) -> list[str]:
    return ["yes" if cell is True else str(cell or "-") for cell in works]


def filled(text: str) -> str:
    """A page with its tables brought up to date. Raises :class:`KeyError` for a marker of unknown settings."""
    tables = {settings.__name__: option_table(settings) for settings in SETTINGS} | {"models": model_table()}
    return MARKED.sub(lambda found: f"{found[1]}\n{tables[found[2]]}\n\n{found[3]}", text)


def main() -> None:
    """Write the pages."""
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
