"""The scripts of the page in a browser, on a real ComfyUI, on its classic canvas and in Nodes 2.0.

Needs what test_comfyui.py needs, and what browser.py needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hosts.browser import browser
from hosts.comfy_page import CLASSIC, RENDERERS, Page, opened
from hosts.comfy_prompts import node, patched
from hosts.comfyui import ROOT, ComfyUI, places
from hosts.trust_methods import UNET, picture

__all__ = ["browser"]

pytestmark = pytest.mark.skipif(not places(), reason="needs a real ComfyUI: set COMFYUI_PATH")

SEEDS = count(1000)
"""A new one for each run: ComfyUI keeps pictures that it has drawn."""
GAIN = r"^\d\.\d\dx faster in multiply-adds, \d+\.\d s"
LOADER, AUTO, SAMPLER = 1, 2, 6
"""Ids in the workflows of the demo models."""


@pytest.fixture(scope="module", params=places(), ids=lambda path: path.name)
def host(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyUI]:
    """A running ComfyUI, with its cache as users have it."""
    with ComfyUI(request.param, tmp_path_factory.mktemp("page"), flags="") as host:
        yield host


@pytest.fixture(params=RENDERERS)
def page(browser: Any, host: ComfyUI, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that was just opened."""
    with opened(browser, host, request.param) as page:
        yield page


@pytest.fixture
def demo(page: Page) -> Page:
    """The page with the demo workflow, ready for a picture that was not drawn yet."""
    page.load("demo_skipstone")
    page.set(SAMPLER, seed=next(SEEDS))
    page.fit()
    return page


def report(page: Page, node: int) -> list[str]:
    """The lines that a node's report was sent in, without the spaces around them."""
    text = page.get("look.report(node)", node=node)
    return [line.strip() for line in text.replace(";", ";\n").splitlines() if line.strip()]


def drawn(page: Page) -> str:
    """Press Run; the fingerprint of the picture, or "rejected"."""
    prompt_id = page.queue()
    if not prompt_id:
        return "rejected"
    result = page.host.result(prompt_id)
    assert result.status == "success", result.detail
    return next(iter(result.outputs.values()))


def test_a_node_shows_the_run_while_it_goes_and_then_all_of_what_was_gained(demo: Page) -> None:
    demo.queue()
    assert demo.says(AUTO, r"^call \d+ of 20: ")[1:], "more than one line"
    lines = demo.says(AUTO, GAIN)
    assert "ran 11 of 20 calls" in " ".join(lines)
    assert {part.split()[0] for part in report(demo, AUTO)} <= {line.split()[0] for line in lines}, "each begins a line"


def test_the_gain_is_there_after_a_reload(demo: Page) -> None:
    demo.queue()
    lines = demo.says(AUTO, GAIN)
    demo.reload()
    demo.fit()
    assert demo.says(AUTO, GAIN) == lines


def test_a_subgraph_shows_what_its_nodes_show_and_so_do_they(demo: Page) -> None:
    outer = demo.get("look.pack([node])", node=AUTO)
    demo.queue()
    demo.says(outer, r"^call \d+ of 20: ")
    lines = demo.says(outer, GAIN)
    demo.reload()
    demo.fit()
    assert demo.says(outer, GAIN) == lines
    inner = demo.get("look.open(node)", node=outer)
    assert demo.says(inner, GAIN)


SHOWN = {
    "SkipstoneAuto": ("level", "custom", ("speedup",)),
    "SkipstoneTokenMerge": ("checkpoints", "custom", ("custom_checkpoints",)),
    "SkipstoneDaTo": ("preset", "custom", ("custom_depths", "custom_ratios")),
    "SkipstoneBlockMask": ("rule", "depths", ("depths",)),
}
"""Node -> the widget with a choice, the choice, and the widgets that appear with it."""


@pytest.mark.parametrize("kind", SHOWN)
def test_boxes_of_a_custom_choice_appear_with_it_alone(page: Page, kind: str) -> None:
    chooser, option, boxes = SHOWN[kind]
    page.load_prompt({"node": node(kind)})
    page.fit()
    first = page.values(1)[chooser]
    assert not set(boxes) & set(page.get("look.labels(1)"))
    page.choose(1, chooser, option)
    page.until("boxes.every((box) => look.labels(1).includes(box))", boxes=boxes)
    page.choose(1, chooser, first)
    page.until("!boxes.some((box) => look.labels(1).includes(box))", boxes=boxes)


def saved(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A graph as the first release saved it, with no widget at its default, and the widgets' values."""
    released = json.loads((ROOT / "tests/support/released_nodes.json").read_text())[kind]
    values = {one["id"]: other(one) for one in released if one["type"]}
    shown = {"id": 1, "type": kind, "pos": [100, 100], "size": [300, 400], "flags": {}, "order": 0, "mode": 0,
             "inputs": [], "outputs": [], "properties": {}, "widgets_values": list(values.values())}  # fmt: skip
    return {"last_node_id": 1, "last_link_id": 0, "nodes": [shown], "links": [], "groups": [], "version": 0.4}, values


def other(widget: dict[str, Any]) -> Any:
    """A value that is not the default."""
    if widget["type"] == "Combo":
        return next(one for one in reversed(widget["options"]) if one not in (widget["default"], "custom", "depths"))
    by_type = {"Boolean": not widget["default"], "String": "7, 1, 2, 0"}
    return by_type.get(widget["type"], widget["default"] + (widget.get("step") or 1))


@pytest.mark.parametrize("kind", ["SkipstoneTokenMerge", "SkipstoneDaTo", "SkipstoneBlockMask", "SkipstoneMaskRule"])
def test_an_old_workflow_keeps_its_values_in_their_places(page: Page, kind: str) -> None:
    graph, values = saved(kind)
    page.load_graph(graph)
    sent = page.get("(await app.graphToPrompt()).output[1].inputs")
    assert {name: sent[name] for name in values} == pytest.approx(values)


def test_the_wipe_follows_the_mouse_and_a_click_shows_the_next_pair(page: Page) -> None:
    compare, reported = 8, 12
    page.load("demo_compare")
    seed = next(SEEDS)
    for sampler in (SAMPLER, 10):
        page.set(sampler, seed=seed)
    page.fit()
    page.queue()
    page.until("look.texts(node).some((text) => /^PSNR/.test(text))", node=compare)
    figures = [text for text in page.get("look.texts(node)", node=compare) if text.startswith("PSNR")]
    assert re.match(r"PSNR \d+\.\d dB, SSIM \d\.\d+, \d\.\d\dx faster", figures[0])
    assert page.wipe(compare, 0.25) == pytest.approx(25, abs=2)
    assert page.wipe(compare, 0.8) == pytest.approx(80, abs=2)
    first = page.get("look.pair(node)", node=compare)
    assert len(set(first)) == 2
    page.page.mouse.down()
    page.page.mouse.up()
    page.until("look.texts(node).includes('2 / 4')", node=compare)
    assert not set(page.get("look.pair(node)", node=compare)) & set(first)
    page.until("look.picture(node)", node=reported)
    page.reload()
    page.fit()
    page.until("look.texts(node).includes(figures)", node=compare, figures=figures[0])
    assert page.get("look.pair(node)", node=compare) == first
    page.until("look.picture(node)", node=reported)


FOUND = {
    "faster": "Skipstone", "speed": "Skipstone", "accelerate": "Skipstone", "cache": "Call Skip", "teacache": "Call Skip",
    "easycache": "Call Skip", "spectrum": "Call Skip", "skip step": "Call Skip", "deepcache": "Block Mask", "fora": "Block Mask",
    "tome": "Token Merge (CA-ToMe)", "prune": "DaTo", "psnr": "Compare Pictures", "skipstone": "Skipstone",
}  # fmt: skip
"""What is typed into the node search -> a node that it lists."""


@pytest.mark.parametrize("page", [CLASSIC], indirect=True)
def test_the_node_search_finds_our_nodes_by_what_users_know(page: Page) -> None:
    missed = {word: found for word, name in FOUND.items() if name not in (found := page.search(word))}
    assert missed == {}


def test_without_our_node_the_picture_is_plain_and_muted_it_is_missed(page: Page) -> None:
    looked_at = ("counts", "other", "leftovers")
    plain = {name: one for name, one in picture().items() if name not in looked_at}
    plain["one"] = node(
        "ProbeLatent", kind=UNET, height=16, width=16, batch=1, rng=0
    )  # the page fills in what is left out
    made = patched(plain, "SkipstoneBlockMask", "mask", rule="interval", every=2)
    mask, sampler = (list(made).index(name) + 1 for name in ("mask", "sampler"))
    page.load_prompt(made)
    seed = next(SEEDS)
    page.set(sampler, seed=seed, control_after_generate="fixed")
    plain["sampler"]["inputs"]["seed"] = seed
    dense = page.host.run(plain).outputs["digest"]
    fast = drawn(page)
    page.press([mask], "Control+b")
    assert fast != dense == drawn(page)
    page.press([mask], "Control+b")
    assert drawn(page) == fast
    page.press([mask], "Control+m")
    assert drawn(page) == "rejected"
    page.dismiss()
    page.press([mask], "Control+m")
    assert drawn(page) == fast
    page.press([mask], "Delete")
    assert drawn(page) == dense
