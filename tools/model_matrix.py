"""Writes `docs/models.md`, the table of model families and methods, from what the tests found in `docs/models.json`.

`python -m skipstone.tools.model_matrix` rewrites the page. The tests compare each cell with what they see; run them with
`SKIPSTONE_MODELS=write` to change the file to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
METHODS = {
    "calls": "call skipping",
    "blocks": "block skipping",
    "merge": "token merging",
    "prune": "token pruning",
    "train": "training a mask",
}
"""Name of a method in the file -> head of its column."""

Cells = Mapping[str, str]
"""Method -> "served", or why not."""

_INTRO = """# Models

Each family was built as a small network with random weights and run as itself, in the host of its table, by the tests
(`tests/pipelines/test_every_pipeline.py`, `tests/pipelines/test_observed.py`, `tests/hosts/test_comfyui_families.py`,
`tests/hosts/test_forge_networks.py`): off is bit-identical, what is served changes what it says, the report is true, and nothing is
left behind. *yes* is served; a number is the reason why it is not; - was not run. A family without a row is served like *other
transformers* in the README: whole calls always, blocks and tokens as the first call shows.
"""


def page(known: Mapping[str, Mapping[str, Cells]]) -> str:
    """Return the page, as Markdown.

    Args:
        known: host -> family -> method -> "served", or why not.

    Example:
        >>> page({"diffusers": {"Flux": {"calls": "served", "train": "its pipeline has no prompt"}}}).splitlines()[-3:]
        ['| Flux | yes | - | - | - | 1 |', '', '1. its pipeline has no prompt']
    """
    parts = [_INTRO]
    for host, families in known.items():
        reasons: dict[str, int] = {}
        rows = [f"| {family} | {' | '.join(_cells(cells, reasons))} |" for family, cells in sorted(families.items())]
        head = [f"| {host} | {' | '.join(METHODS.values())} |", "|---" * (1 + len(METHODS)) + "|"]
        notes = [f"{number}. {reason}" for reason, number in reasons.items()]
        parts.append("\n".join([f"## {host}", "", *head, *rows, "", *notes]).rstrip())
    return "\n".join(part if part.endswith("\n") else f"{part}\n" for part in parts).rstrip() + "\n"


def _cells(cells: Cells, reasons: dict[str, int]) -> list[str]:
    """Return a row's cells; new reasons get the next number."""
    found = []
    for method in METHODS:
        outcome = cells.get(method, "")
        if outcome in ("", "served"):
            found.append("yes" if outcome else "-")
        else:
            found.append(str(reasons.setdefault(outcome, len(reasons) + 1)))
    return found


def main() -> None:
    """Write the page."""
    known = json.loads((DOCS / "models.json").read_text(encoding="utf-8"))
    (DOCS / "models.md").write_text(page(known), encoding="utf-8")


if __name__ == "__main__":
    main()
