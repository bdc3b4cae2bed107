"""What the pages for contributors say works, and takes as many places as they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
from pages import ROOT, blocks, changed, do
from test_packaging import CORE, HOUSES

from skipstone.core.models.diffusers_unet import DIFFUSERS_UNET
from skipstone.core.plan.block_plan import even_timesteps, rule_mask
from skipstone.core.recipe.block_skip import BlockSkip

DOCS = ROOT / "docs"
TOUCHED = {
    "write_a_host": (0, {}),
    "add_a_model": (1, {"core/models/__init__.py": 2}),
    "add_a_rule": (1, {"core/plan/rules/__init__.py": 2, "core/recipe/block_skip.py": 5}),
    "add_a_predictor": (0, {"core/forecast/predictors.py": 7, "core/forecast/names.py": 1}),
    "add_a_node": (1, {"nodes/__init__.py": 1}),
}
"""Page -> new files, and lines added to files that are there."""


@pytest.mark.parametrize("page", TOUCHED)
def test_a_page_for_contributors_works_as_written(page: str, tmp_path: Path) -> None:
    names = do(DOCS / f"{page}.md", tmp_path)
    assert any(name.startswith("test_") for name in names) or page == "write_a_host"


@pytest.mark.parametrize("page", TOUCHED)
def test_a_page_touches_as_few_places_as_it_says(page: str) -> None:
    found = blocks(DOCS / f"{page}.md")
    files = [b for b in found if b.language == "python" and b.path and not b.path.startswith("tests/")]
    lines = {
        b.path: sum(line.startswith("+") for line in b.text.splitlines()[1:]) for b in found if b.language == "diff"
    }
    assert (len(files), lines) == TOUCHED[page]


def test_a_hunk_that_does_not_fit_is_an_error() -> None:
    assert changed("a\nb\n", "+++ x.py\n@@\n a\n+c\n") == "a\nc\nb\n"
    with pytest.raises(AssertionError, match="not there once"):
        changed("a\nb\n", "+++ x.py\n@@\n z\n+c\n")


@pytest.mark.parametrize(("picture", "table"), [(0, HOUSES), (1, CORE)], ids=["folders", "core"])
def test_the_architectures_arrows_are_those_that_the_packaging_test_allows(
    picture: int, table: dict[str, set[str]]
) -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    drawn = re.findall(
        r"^    (\w+) --> (\w+)$", re.findall(r"flowchart TD\n((?:    .*\n)+)", text)[picture], re.MULTILINE
    )
    assert all(room in table[above] for above, room in drawn)
    below = {room: {b for a, b in drawn if a == room} for room in table}
    assert {room: reached(room, below) for room in table} == {room: reached(room, table) for room in table}


def reached(room: str, below: dict[str, set[str]]) -> set[str]:
    """All rooms below one, also through others."""
    return below[room].union(*(reached(other, below) for other in below[room]))


def test_the_architecture_lists_every_folder_and_only_files_that_exist() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    files = [path.relative_to(ROOT) for house in (*HOUSES, "tests") for path in (ROOT / house).rglob("*.py")]
    rooms = {path.parent for path in files if path.parts[0] != "tests"}
    assert [str(room) for room in sorted(rooms) if f"{room.name}/ " not in text.split("```")[1]] == []
    named = re.findall(r"`([\w/]+\.py)`", text)
    assert [name for name in named if not any(f"/{path.as_posix()}".endswith(f"/{name}") for path in files)] == []


PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_the_documentation_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("Token merging", "| balanced 0.9 | 88.0%"),
        ("Block rules", "| FORA 3, forecast | 34.5%"),
        ("Token pruning", "| dato_coco |"),
    ],
)
def test_the_readmes_figures_are_those_of_the_benchmarks(method: str, row: str) -> None:
    readme, benchmarks = (
        (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/benchmarks/pictures.md")
    )
    (shown,) = re.findall(rf"^\| \*\*{method}.*$", readme, re.MULTILINE)
    (measured,) = [line for line in benchmarks.splitlines() if line.startswith(row)]
    share, error, fewer = (float(re.split("[%±]", cell)[0]) for cell in measured.split("|")[2:5])
    cells = [float(re.sub(r"[^\d.]", "", cell)) for cell in shown.split("|")[-4:-1]]
    assert cells == [pytest.approx(share, abs=0.5), round(error, 3), round(fewer, 3)]


@pytest.mark.parametrize("page", ["README.md", "docs/user_guide.md"])
def test_the_python_examples_for_users_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"pipe": prompted(tiny.sd_pipeline())}
    graph = DIFFUSERS_UNET.graph(names["pipe"].unet)
    rule_mask(BlockSkip(every=2), graph, DIFFUSERS_UNET.name, even_timesteps(6)).save(tmp_path / "mask.safetensors")
    for block in blocks(ROOT / page):
        exec(compile(block.text, page, "exec"), names)


def prompted(pipe: Any) -> Any:
    """The tiny pipeline, called with a text as its first argument."""

    class Prompted(type(pipe)):  # type: ignore[misc]
        def __call__(self, prompt: str) -> Any:
            conds = {
                "prompt_embeds": tiny.noise(1, *tiny.CONTEXT),
                "negative_prompt_embeds": tiny.noise(1, *tiny.CONTEXT),
            }
            return super().__call__(num_inference_steps=4, output_type="latent", **conds)

    pipe.__class__ = Prompted
    return pipe
