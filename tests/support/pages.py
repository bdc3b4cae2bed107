"""Documentation pages that are done as they say: their files are written into a copy of the package, their code is run."""

from __future__ import annotations

import importlib
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("core", "pipelines", "nodes")

_BLOCK = re.compile(r"^```(python|diff)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of code on a page. path: the file that its first line names; empty for code to run."""

    language: str
    text: str

    @property
    def path(self) -> str:
        """The file that the first line names."""
        found = re.match(r"(?:# |\+\+\+ )(\S+\.py)\n", self.text)
        return found[1] if found else ""


def blocks(page: Path) -> list[Block]:
    """The Python and diff blocks of a page."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def do(page: Path, folder: Path) -> dict[str, Any]:
    """Follow a page in a copy of the package below `folder`; its tests are called.

    Returns the names that the page's code defined.
    """
    package = folder / "skipstone"
    for room in ROOMS:
        shutil.copytree(ROOT / room, package / room)  # compiled files too: Python takes those whose source is unchanged
    shutil.copy(ROOT / "__init__.py", package)
    names: dict[str, Any] = {"__name__": page.stem}
    with _imported_from(folder):
        for block in blocks(page):
            _do(block, package, names)
        for name, value in list(names.items()):
            if name.startswith("test_"):
                value()
    return names


def _do(block: Block, package: Path, names: dict[str, Any]) -> None:
    if block.language == "diff":
        path = package / block.path
        path.write_text(changed(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
    elif block.path and not block.path.startswith("tests/"):
        (package / block.path).write_text(block.text, encoding="utf-8")
    else:
        exec(compile(block.text, "page", "exec"), names)


def changed(text: str, diff: str) -> str:
    """A file's text after a diff whose hunks begin with `@@`, without line numbers."""
    for hunk in re.split(r"^@@\n", diff, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
        assert text.count(old) == 1, f"not there once:\n{old}"
        text = text.replace(old, new)
    return text


@contextmanager
def _imported_from(folder: Path) -> Iterator[None]:
    """The package is that of a folder."""
    before = _ours()
    for name in before:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in _ours():
            del sys.modules[name]
        sys.modules.update(before)


def _ours() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "skipstone"}
