"""The examples in docstrings run, and every public name has a docstring with its arguments and an example."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toy_denoiser import ToyDenoiser
from toys import toy

from skipstone.core.calibrate.profiling import dense, profile

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(
    p.relative_to(ROOT)
    for folder in ("", "core", "pipelines", "lab", "cli")
    for p in ((ROOT / folder).rglob("*.py") if folder else ROOT.glob("*.py"))
)
HOSTED = sorted(p.relative_to(ROOT) for folder in ("nodes", "a1111_extension") for p in (ROOT / folder).glob("*.py"))
"""Files that import a host's own modules: their arguments are listed, and their examples are the hosts' tests."""
TOOLS = sorted(p.relative_to(ROOT) for p in (ROOT / "tools").glob("*.py"))
"""Files that write other files of this repository: their arguments are listed, and examples run where there are some."""

Definition = ast.FunctionDef | ast.ClassDef


def import_name(path: Path) -> str:
    """`core/tokens/grid.py` -> `skipstone.core.tokens.grid`."""
    return ".".join(("skipstone", *path.with_suffix("").parts)).removesuffix(".__init__")


def names_for(path: Path) -> dict[str, Any]:
    """Names that the examples of a file may use without making them: `model` in the room of mask training, a `denoiser`."""
    if path.as_posix() in {f"core/calibrate/{name}.py" for name in ("profiling", "proposals", "judging")}:
        return {"denoiser": ToyDenoiser(steps=12), "dense": dense, "profile": profile}
    return {"model": toy(calls=4)} if path.as_posix().startswith("core/calibrate/masks") else {}


@pytest.mark.parametrize("path", [*MODULES, *(p for p in TOOLS if ">>>" in (ROOT / p).read_text())], ids=str)
def test_the_examples_of_a_module_run(path: Path) -> None:
    module = importlib.import_module(import_name(path))
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    done = doctest.testmod(module, optionflags=flags, extraglobs=names_for(path))
    assert done.failed == 0, f"{done.failed} of {done.attempted} examples of {path} fail: run python -m doctest"


def is_public(node: ast.stmt) -> bool:
    """True for classes and functions whose names have no underscore in front."""
    return isinstance(node, Definition) and not node.name.startswith("_")


def needs_no_example(node: Definition) -> bool:
    """True for errors, which have one example in the head of their file, and for interfaces, which only name methods."""
    bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    return any(base.endswith(("Error", "Exception", "Protocol", "ABC")) for base in bases)


def is_elsewhere(text: str) -> bool:
    """True for a method whose docstring names the interface that describes it."""
    return text.startswith("See :class:")


def methods_of(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """The public methods of a class, written out in it."""
    return [n for n in node.body if isinstance(n, ast.FunctionDef) and is_public(n)]


def arguments(node: ast.FunctionDef) -> list[str]:
    """Names of a function's arguments, without self, cls, and a throw-away underscore."""
    a = node.args
    found = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]
    return [x.arg for x in found if x.arg not in ("self", "cls")]


def parameters(node: Definition) -> list[str]:
    """What a reader passes: arguments of a function or of `__init__`, or the fields of a dataclass.

    Fields made by `setting`, `shared` or a window function carry their own help, which `documented` adds to the docstring.
    """
    if isinstance(node, ast.FunctionDef):
        return arguments(node)
    made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if made is not None:
        return arguments(made)
    if "documented" in (ast.unparse(d) for d in node.decorator_list):
        return []
    return [n.target.id for n, after in zip(node.body, [*node.body[1:], None], strict=True) if is_field(n, after)]


def is_field(node: ast.stmt, after: ast.stmt | None) -> bool:
    """True for a field that the class's docstring has to list: public, no help in its annotation, no docstring below it."""
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name) or node.target.id.startswith("_"):
        return False
    described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    return not described and "helped(" not in ast.unparse(node.annotation)


def docstring(node: Definition) -> str:
    """A function's or class's docstring, that of `__init__` added."""
    inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    return "\n".join(ast.get_docstring(n) or "" for n in (node, *inits))


def listed(text: str) -> set[str]:
    """Names in a docstring's Args list."""
    entries = re.findall(r"^ {4}([\w*]+(?:, [\w*]+)*):", text.partition("Args:\n")[2], re.MULTILINE)
    return {name.strip("*") for entry in entries for name in entry.split(", ")}


def inherited(node: Definition, tree: ast.Module) -> set[str]:
    """Names of methods that a base class of the same file describes."""
    bases = [ast.unparse(base) for base in node.bases] if isinstance(node, ast.ClassDef) else []
    above = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name in bases]
    return {m.name for n in above for m in methods_of(n)}.union(*(inherited(n, tree) for n in above))


def gaps(path: Path) -> Iterator[str]:
    """What the docstrings of a file lack."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for node in tree.body:
        if not is_public(node) or not isinstance(node, Definition):
            continue
        described = inherited(node, tree)
        inner = [m for m in (methods_of(node) if isinstance(node, ast.ClassDef) else []) if m.name not in described]
        for part in (node, *inner):
            text, needs = docstring(part), parameters(part)
            if not ast.get_docstring(part):
                yield f"{part.name} has no docstring"
            elif len(needs) > 1 and not is_elsewhere(text) and (missing := set(needs) - listed(text)):
                yield f"{part.name} does not list {', '.join(sorted(missing))}"
        if not needs_no_example(node) and ">>>" not in "".join(map(docstring, (node, *inner))):
            yield f"{node.name} has no example"


def test_public_names_have_docstrings_with_arguments_and_an_example() -> None:
    assert {str(path): found for path in MODULES if (found := list(gaps(path)))} == {}


def test_public_names_of_the_hosts_rooms_and_the_tools_have_docstrings_with_arguments() -> None:
    missing = {path: [gap for gap in gaps(path) if not gap.endswith("no example")] for path in (*HOSTED, *TOOLS)}
    assert {str(path): found for path, found in missing.items() if found} == {}
