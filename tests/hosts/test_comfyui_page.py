"""The scripts of the page in a browser, on a real ComfyUI, on its classic canvas and in Nodes 2.0.

Needs what test_comfyui.py needs, and what browser.py needs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hosts.browser import browser
from hosts.comfy_page import CLASSIC, RENDERERS, Page, opened
from hosts.comfy_prompts import node, patched
from hosts.comfyui import OLD, ROOT, ComfyUI, Prompt, places
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
def fresh(browser: Any, host: ComfyUI, request: pytest.FixtureRequest) -> Iterator[Page]:
    """A page that was just opened."""
    with opened(browser, host, request.param) as page:
        yield page


@pytest.fixture(scope="module", params=RENDERERS)
def page(browser: Any, host: ComfyUI, request: pytest.FixtureRequest) -> Iterator[Page]:
    """One page for all tests that do not reload it."""
    with opened(browser, host, request.param) as page:
        yield page


@pytest.fixture
def demo(fresh: Page) -> Page:
    """A page with the demo workflow, ready for a picture that was not drawn yet."""
    fresh.load("demo_skipstone")
    fresh.set(SAMPLER, seed=next(SEEDS))
    fresh.set(LOADER, batch_size=2)
    fresh.fit()
    return fresh


def beginnings(page: Page, node: int) -> set[str]:
    """The first word of each line of a node's report, as it was sent; Nodes 2.0 breaks lines at semicolons alone."""
    return {part.split()[0] for part in page.get("look.report(node)", node=node).split(";") if part.strip()}


def drawn(page: Page) -> str:
    """Press Run; the fingerprint of the picture, or "rejected"."""
    prompt_id = page.queue()
    if not prompt_id:
        return "rejected"
    result = page.host.result(prompt_id)
    assert result.status == "success", result.detail
    return next(iter(result.outputs.values()))


def test_a_node_shows_the_run_while_it_goes_and_then_all_of_what_was_gained(demo: Page) -> None:
    demo.set(LOADER, batch_size=4)
    demo.queue()
    assert re.match(r"call \d+ of 20: (full|forecast);", demo.says(AUTO, r"^\d+\.\d\d s a call")[0])
    lines = demo.says(AUTO, GAIN)
    assert "ran 11 of 20 calls" in " ".join(lines)
    assert beginnings(demo, AUTO) <= {line.split()[0] for line in lines}, "not one paragraph"


def test_the_gain_is_there_after_a_reload(demo: Page) -> None:
    demo.queue()
    text = " ".join(demo.says(AUTO, GAIN))
    demo.reload()
    demo.fit()
    assert " ".join(demo.says(AUTO, GAIN)) == text


def test_a_subgraph_shows_what_its_nodes_show_and_so_do_they(demo: Page) -> None:
    demo.set(LOADER, batch_size=4)  # long enough to be seen
    outer = demo.get("look.pack([node])", node=AUTO)
    demo.queue()
    demo.says(outer, r"s a call")
    text = " ".join(demo.says(outer, GAIN))
    demo.reload()
    demo.fit()
    assert " ".join(demo.says(outer, GAIN)) == text
    inner = demo.get("look.open(node)", node=outer)
    demo.fit()
    assert " ".join(demo.says(inner, GAIN)) == text


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
    if widget["type"] in ("Boolean", "String"):
        return not widget["default"] if widget["type"] == "Boolean" else "7, 1, 2, 0"
    return widget["default"] + widget.get("step", 1) * (1 if widget["default"] < widget["max"] else -1)


@pytest.mark.parametrize("kind", ["SkipstoneTokenMerge", "SkipstoneDaTo", "SkipstoneBlockMask", "SkipstoneMaskRule"])
def test_an_old_workflow_keeps_its_values_in_their_places(page: Page, kind: str) -> None:
    graph, values = saved(kind)
    page.load_graph(graph)
    sent = page.get("(await app.graphToPrompt()).output[1].inputs")
    assert {name: sent[name] for name in values} == pytest.approx(values)


def test_the_wipe_follows_the_mouse_and_a_click_shows_the_next_pair(fresh: Page) -> None:
    compare, reported = 8, 12
    fresh.load("demo_compare")
    seed = next(SEEDS)
    for sampler in (SAMPLER, 10):
        fresh.set(sampler, seed=seed, steps=12)
    fresh.set(LOADER, batch_size=2)
    fresh.fit()
    fresh.queue()
    fresh.until("look.texts(node).some((text) => /^PSNR/.test(text))", node=compare)
    figures = [text for text in fresh.get("look.texts(node)", node=compare) if text.startswith("PSNR")]
    assert re.match(r"PSNR \d+\.\d dB, SSIM \d\.\d+, \d\.\d\dx faster", figures[0])
    assert fresh.wipe(compare, 0.25) == pytest.approx(25, abs=2)
    assert fresh.wipe(compare, 0.8) == pytest.approx(80, abs=2)
    first = fresh.get("look.pair(node)", node=compare)
    assert len(set(first)) == 2
    fresh.page.mouse.down()
    fresh.page.mouse.up()
    fresh.until("look.texts(node).includes('2 / 2')", node=compare)
    assert not set(fresh.get("look.pair(node)", node=compare)) & set(first)
    fresh.until("look.picture(node)", node=reported)
    fresh.reload()
    fresh.fit()
    fresh.until("look.texts(node).includes(figures)", node=compare, figures=figures[0])
    assert fresh.get("look.pair(node)", node=compare) == first
    fresh.until("look.picture(node)", node=reported)


FOUND = {
    "faster": "Skipstone", "speed": "Skipstone", "accelerate": "Skipstone", "cache": "Call Skip", "teacache": "Call Skip",
    "easycache": "Call Skip", "spectrum": "Call Skip", "skip step": "Call Skip", "deepcache": "Block Mask", "fora": "Block Mask",
    "tome": "Token Merge (CA-ToMe)", "prune": "DaTo", "psnr": "Compare Pictures", "skipstone": "Skipstone",
}  # fmt: skip
"""What is typed into the node search -> a node that it lists."""


@pytest.mark.parametrize("page", [CLASSIC], indirect=True)
def test_the_node_search_finds_our_nodes_by_what_users_know(page: Page) -> None:
    if page.host.name in OLD:
        pytest.skip("its node search knows names alone")
    missed = {word: found for word, name in FOUND.items() if name not in (found := page.search(word))}
    assert missed == {}


def plain(seed: int) -> Prompt:
    """A small picture without us. It says all that the page would fill in."""
    looked_at = ("counts", "other", "leftovers")
    made = {name: one for name, one in picture(seed=seed).items() if name not in looked_at}
    return {**made, "one": node("ProbeLatent", kind=UNET, height=16, width=16, batch=1, rng=0)}


def loaded(page: Page, seed: int) -> int:
    """The page with that picture and our node; its id."""
    made = patched(plain(seed), "SkipstoneBlockMask", "mask", rule="interval", every=2)
    page.load_prompt(made)
    page.set(list(made).index("sampler") + 1, control_after_generate="fixed")
    page.fit()
    return list(made).index("mask") + 1


def test_without_our_node_the_picture_is_plain_and_muted_it_is_missed(page: Page) -> None:
    seed = next(SEEDS)
    mask, dense = loaded(page, seed), page.host.run(plain(seed)).outputs["digest"]
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


@pytest.mark.parametrize("flags", ["", "--cache-none", "--cache-lru 2", "--disable-smart-memory"])
def test_queued_twice_the_picture_is_the_same_and_the_report_stays(
    browser: Any, host: ComfyUI, flags: str, tmp_path: Path
) -> None:
    with ComfyUI(host.folder, tmp_path, flags=flags) as flagged, opened(browser, flagged, CLASSIC) as page:
        mask = loaded(page, 1)
        first, lines = drawn(page), page.says(mask, "^ran 50 of 100 blocks")
        assert drawn(page) == first
        page.page.wait_for_timeout(1000)
        assert page.says(mask, "^ran 50 of 100 blocks")[-4:] == lines[-4:], "all but times"
