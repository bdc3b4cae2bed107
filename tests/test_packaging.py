"""The package as a whole: what importing costs, what is shipped, and which arrows between rooms exist."""

from __future__ import annotations

import ast
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
HOSTS = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "nodes", "server", "execution"}
HOSTS |= {"modules", "modules_forge", "backend", "gradio", "launch"}
OPTIONAL = {"diffusers", "transformers", "accelerate", "matplotlib", "torchmetrics", "rich", "tyro", "PIL"}
HOUSE = ("core", "pipelines", "lab", "cli", "nodes", "a1111_extension")
"""What is shipped; `tools` made what is shipped, and is not."""
ROOMS = (*HOUSE, "tools", "scripts")
ENGINE = ("forecast", "tokens", "measure", "models", "plan", "engine", "recipe", "errors.py", "files.py")
"""What every host loads; the other rooms of core measure and calibrate."""


def sources(*rooms: str) -> list[Path]:
    """Python files of the given rooms."""
    return sorted(p for room in rooms for p in (ROOT / room).rglob("*.py"))


def all_sources() -> list[Path]:
    """Python files of the package, its own root files included."""
    return [*sorted(ROOT.glob("*.py")), *sources(*ROOMS)]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(top-level name of an absolute import, line)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0], node.lineno


def at_import_time(tree: ast.Module) -> ast.Module:
    """The tree without the bodies of functions, and without what only type checkers read."""

    class Shallow(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
            return None

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            return None

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Shallow().visit(tree)


@cache
def parsed(path: Path) -> ast.Module:
    """The file's syntax tree, to read."""
    return fresh(path)


def fresh(path: Path) -> ast.Module:
    """The file's syntax tree, to change."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def offenders(paths: Iterable[Path], found: Callable[[Path], Any]) -> dict[str, Any]:
    """What is found in each file, where anything is."""
    return {str(path.relative_to(ROOT)): what for path in paths if (what := found(path))}


def engine_sources() -> list[Path]:
    """Python files that every host loads."""
    return [p for p in sources("core") if p.relative_to(ROOT / "core").parts[0] in ENGINE]


def test_there_is_something_to_look_at() -> None:
    assert len(sources("core")) > 20
    assert ROOT / "core" / "recipe" / "recipe.py" in all_sources()


@pytest.mark.parametrize(
    "statement",
    [
        "import skipstone",
        "import skipstone; skipstone.__version__; skipstone.__all__; dir(skipstone)",
        "from skipstone.core.recipe import presets; presets.preset('ca_tome').to_json()",
        "import skipstone; skipstone.TokenMerge(); skipstone.preset('balanced')",
    ],
)
def test_importing_loads_no_heavy_library_and_no_host(statement: str) -> None:
    heavy = {"torch", "numpy", *OPTIONAL, *HOSTS}
    code = f"{statement}\nimport sys\nprint(','.join(sorted(set(m.partition('.')[0] for m in sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert not set(done.stdout.strip().split(",")) & heavy


def test_importing_writes_nothing_and_changes_no_global(tmp_path: Path) -> None:
    code = "import random; s = random.getstate(); import skipstone; skipstone.accelerate; assert random.getstate() == s"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_public_names_exist_and_others_do_not() -> None:
    import skipstone

    for name in skipstone.__all__:
        assert getattr(skipstone, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'accelerator'"):
        _ = skipstone.accelerator


def test_every_package_folder_is_shipped() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {
        "skipstone" + "".join(f".{part}" for part in p.parent.relative_to(ROOT).parts)
        for room in HOUSE
        for p in (ROOT / room).rglob("__init__.py")
    }
    assert set(listed) == {"skipstone", *folders}
    with_code = {p.parent for p in sources(*HOUSE)}
    assert all((folder / "__init__.py").exists() for folder in with_code)


def test_the_licence_is_an_spdx_expression_with_its_file() -> None:
    """setuptools reads a table until February 2027 only; it reads the expression from version 77 on."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert (data["project"]["license"], data["project"]["license-files"]) == ("MIT", ["LICENSE"])
    assert data["build-system"]["requires"] == ["setuptools>=77"]
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")


def test_the_version_is_said_once() -> None:
    import skipstone

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == skipstone.__version__


def registry() -> tuple[dict[str, Any], dict[str, Any]]:
    """What the Comfy registry reads of pyproject.toml: the project, and its own table."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return data["project"], data["tool"]["comfy"]


def test_the_comfy_registry_finds_all_that_it_asks_for() -> None:
    """https://docs.comfy.org/registry/specifications"""
    project, comfy = registry()
    assert re.fullmatch(r"[a-z]\w{0,99}", project["name"]) and re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["description"] and project["urls"]["Repository"].startswith("https://github.com/")
    assert comfy["PublisherId"] and comfy["DisplayName"] and comfy["requires-comfyui"] == ">=0.3.64"
    known = "Operating System ::", "Environment :: GPU ::"
    assert all(any(one.startswith(start) for one in project["classifiers"]) for start in known)
    assert not {"tools/", "tests/", "docs/"} - set((ROOT / ".comfyignore").read_text().split())


@pytest.mark.parametrize(("picture", "ratio", "most"), [("Icon", 1, 400), ("Banner", 21 / 9, 1260)])
def test_the_registrys_pictures_exist_and_have_its_shapes(picture: str, ratio: float, most: int) -> None:
    project, comfy = registry()
    place = project["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    assert comfy[picture].startswith(place)
    file = ROOT / comfy[picture].removeprefix(place)
    data = file.read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # PNG's header
    assert data[:4] == b"\x89PNG" and len(data) < 100_000
    assert width <= most and width / height == pytest.approx(ratio, rel=0.01)


def test_a_version_tag_publishes_what_the_tag_names() -> None:
    text = (ROOT / ".github/workflows/publish.yml").read_text()
    assert 'tags: ["v*"]' in text and "Comfy-Org/publish-node-action@v1" in text and "branches" not in text
    assert 'grep -qx "version = \\"${GITHUB_REF_NAME#v}\\"" pyproject.toml' in text


def imported(path: Path, *libraries: str) -> list[tuple[str, int]]:
    """Which of some libraries a file imports anywhere in it, and in which line."""
    return [(name, line) for name, line in imports(parsed(path)) if name in libraries]


def test_core_imports_no_host() -> None:
    assert offenders(sources("core"), lambda path: imported(path, *HOSTS)) == {}


def test_optional_libraries_are_imported_only_when_used() -> None:
    files = [*engine_sources(), *sources("pipelines")]
    assert offenders(files, lambda p: {name for name, _ in imports(at_import_time(fresh(p)))} & OPTIONAL) == {}


def test_the_package_imports_itself_relatively() -> None:
    files = [path for path in all_sources() if path.relative_to(ROOT).parts[0] != "scripts"]
    assert offenders(files, lambda path: imported(path, "skipstone", "core", "a1111_extension")) == {}


CORE = {
    "forecast": set(),
    "recipe": {"forecast"},
    "tokens": set(),
    "measure": set(),
    "models": {"recipe"},
    "plan": {"forecast", "recipe", "models"},
    "engine": {"forecast", "recipe", "models", "tokens", "measure", "plan"},
    "calibrate": {"forecast", "recipe", "models", "tokens", "measure", "plan", "engine"},
}
"""Room of core -> rooms of core below it. Its two files of ground, errors and files, are open to all."""

HOUSES = {
    "core": set(),
    "pipelines": {"core"},
    "nodes": {"core", "lab"},
    "a1111_extension": {"core"},
    "lab": {"core", "pipelines"},
    "cli": {"core", "pipelines", "lab"},
    "tools": {"core", "pipelines", "lab", "nodes"},
}
"""Folder -> folders that it may import from."""


@cache
def targets(path: Path) -> set[tuple[str, ...]]:
    """Modules of the package that a file imports anywhere in it, as their places from the root; types alone do not count."""
    here = path.relative_to(ROOT).parts[:-1]
    found = set()
    for node in ast.walk(without_types(fresh(path))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*here[: len(here) - (node.level - 1)], *(node.module or "").split("."))
            found |= {tuple(part for part in (*base, alias.name) if part) for alias in node.names}
    return found


def without_types(tree: ast.Module) -> ast.Module:
    """The tree without what only type checkers read."""

    class Typeless(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Typeless().visit(tree)


def upward(path: Path) -> set[str]:
    """Houses, and for core rooms, that a file imports from and may not."""
    house, *rest = path.relative_to(ROOT).parts
    found = {target[0] for target in targets(path)} - {house, *HOUSES[house]}
    if house == "core" and len(rest) > 1:
        rooms = {target[1] for target in targets(path) if target[0] == "core" and target[1] in CORE}
        found |= rooms - {rest[0], *CORE[rest[0]]}
    return found


def test_arrows_point_down() -> None:
    """Also those of imports inside functions: what is loaded late is a library of others, never a room upstairs."""
    assert offenders(sources(*HOUSES), upward) == {}


def test_every_room_of_core_has_its_floor() -> None:
    assert {p.parent.name for p in (ROOT / "core").glob("*/*.py")} == set(CORE)


def test_no_file_imports_itself_in_a_circle() -> None:
    files = {p.relative_to(ROOT).with_suffix("").parts: p for p in sources(*HOUSES) if p.name != "__init__.py"}
    reads = {
        place: {t[:n] for t in targets(p) for n in (len(t), len(t) - 1)} & set(files) for place, p in files.items()
    }
    settled: set[tuple[str, ...]] = set()
    while ready := {place for place in reads if place not in settled and reads[place] <= settled}:
        settled |= ready
    assert set(files) == settled, "these import each other"


FORBIDDEN_NAMES = {"eval", "exec", "__import__"}
FORBIDDEN_MODULES = {"pickle", "dill", "cloudpickle", "shelve", "marshal", "socket", "urllib", "requests", "httpx"}
FORBIDDEN_CALLS = {"torch.load", "np.load", "numpy.load"}
GLOBAL_SEEDS = {"torch.manual_seed", "torch.seed", "torch.cuda.manual_seed_all", "random.seed", "np.random.seed"}


@cache
def calls(path: Path) -> set[str]:
    """Everything that a file calls, as written."""
    return {ast.unparse(node.func) for node in ast.walk(parsed(path)) if isinstance(node, ast.Call)}


def test_no_pickle_no_eval_no_network() -> None:
    assert offenders(all_sources(), lambda path: imported(path, *FORBIDDEN_MODULES)) == {}
    assert offenders(all_sources(), lambda path: calls(path) & {*FORBIDDEN_NAMES, *FORBIDDEN_CALLS}) == {}


def test_no_global_seed() -> None:
    files = [*engine_sources(), *sources("pipelines", "nodes", "a1111_extension")]
    assert offenders(files, lambda path: calls(path) & GLOBAL_SEEDS) == {}


def bare_handlers(path: Path) -> list[int]:
    """Lines of handlers that catch everything."""
    handlers = [n for n in ast.walk(parsed(path)) if isinstance(n, ast.ExceptHandler)]
    return [h.lineno for h in handlers if h.type is None or ast.unparse(h.type) == "BaseException"]


def test_no_exception_is_swallowed_bare() -> None:
    """A bare except around a sampler swallows Cancel."""
    assert offenders(all_sources(), bare_handlers) == {}
