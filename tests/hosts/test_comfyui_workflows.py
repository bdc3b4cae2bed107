"""The workflows that we ship, opened in ComfyUI's page, on its classic canvas and in Nodes 2.0.

Needs what test_comfyui_page.py needs. With `SKIPSTONE_SCREENSHOTS`, a folder, a picture of each is written there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts.browser import browser
from hosts.comfy_page import RENDERERS, Page, opened
from hosts.comfyui import ROOT, ComfyUI, places
from hosts.test_comfyui_demo import FILES, shipped
from hosts.test_comfyui_page import host

__all__ = ["browser", "host"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

NAMES = sorted(path.stem for path in (ROOT / "workflows").glob("*.json"))


@pytest.fixture(scope="module", params=RENDERERS)
def page(browser: Any, host: ComfyUI, request: pytest.FixtureRequest) -> Iterator[Page]:
    """One page for all of them."""
    with opened(browser, host, request.param) as page:
        yield page


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_whole_and_is_the_prompt_beside_it(page: Page, name: str) -> None:
    page.load(name)
    page.fit()
    if folder := os.environ.get("SKIPSTONE_SCREENSHOTS"):
        page.page.wait_for_timeout(1000)
        page.page.screenshot(path=Path(folder) / f"{name} {page.renderer}.png")
    nodes = page.get("app.graph.nodes.map((node) => [node.id, node.type])")
    assert {kind for _, kind in nodes} <= set(page.get("Object.keys(LiteGraph.registered_node_types)"))
    assert page.get("look.overlaps()") == []
    wrong = {
        kind: found
        for number, kind in nodes
        for found in page.get("look.wrong(id)", id=number)
        if found[0] not in FILES
    }
    assert wrong == {} or wrong == {"LoadImage": ["image", "example.png"]}
    sent = page.get("(await app.graphToPrompt()).output")
    given = {number: one["inputs"] for number, one in shipped(name).items()}
    assert {number: {key: sent[number]["inputs"][key] for key in inputs} for number, inputs in given.items()} == given
    assert set(sent) == set(given)
    names = [text for one in sent.values() for item in one["inputs"].items() if item[0] in FILES for text in item]
    cut = {kind: texts for number, kind in nodes if (texts := page.get("look.cut(id)", id=number))}
    assert {kind: texts for kind, texts in cut.items() if not all(_begins(text, names) for text in texts)} == {}


def _begins(text: str, names: list[str]) -> bool:
    """Whether a text is the beginning of one of these: long names of models are shortened, and what stands before them."""
    return any(name.startswith(text.rstrip("…")) for name in names)
