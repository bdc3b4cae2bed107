"""What the tests find that a host's families are served with, kept in `docs/models.json`, from which `docs/models.md` is made."""

from __future__ import annotations

import json
import os
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "docs" / "models.json"
SERVED = "served"
DIFFUSERS = "diffusers"


def check(host: str, family: str, method: str, outcome: str) -> None:
    """Assert that the file says this outcome: "served", or why not. With SKIPSTONE_MODELS=write the file is changed to say it.

    Args:
        host: such as "diffusers 0.42".
        family: a model family, or a pipeline's class name.
        method: calls, blocks, merge, prune or train.
        outcome: what the test found.
    """
    known = json.loads(FILE.read_text(encoding="utf-8"))
    cells = known.setdefault(host, {}).setdefault(family, {})
    if os.environ.get("SKIPSTONE_MODELS") == "write":
        cells[method] = outcome
        FILE.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert cells.get(method) == outcome, f"{FILE.name} says {cells.get(method)!r} of {method} on {family} in {host}"
