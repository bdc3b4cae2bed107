"""The panel and the tab in a browser, on real web UIs: AUTOMATIC1111 (gradio 3) and Forge (gradio 4).

Needs `WEBUI_PATH` and what goes with it (see test_a1111.py) or `FORGE_PATH` and what goes with that (see test_a1111_forge.py), and
what browser.py needs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hosts.browser import PATIENCE, browser
from hosts.webui import A1111, FORGE, Kind, WebUI, place

__all__ = ["browser"]

STEPS = 12
REST = 5000
"""Milliseconds after which nothing may be under way, and in which nothing may be asked for."""
SEEN = "e => { let seen = 1; for (; e; e = e.parentElement) seen *= getComputedStyle(e).opacity; return seen; }"
"""How opaque an element is."""

ENGINE = '''
from modules import script_callbacks, sd_unet

def loaded(model):
    """As TensorRT: an engine takes the place of the U-Net of the checkpoint that it was built for."""
    sd_unet.current_unet = object() if "refiner" in model.sd_checkpoint_info.name else None

script_callbacks.on_model_loaded(loaded)
'''


class Page:
    """The web UI's page.

    Args:
        page: of Playwright.
    """

    def __init__(self, page: Any) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE)
        page.wait_for_selector("#txt2img_generate")
        self.until("!!document.querySelector('#script_txt2img_skipstone_enable')")
        page.locator("#txt2img_prompt textarea").fill("a cat")
        for name, value in (("width", 64), ("height", 64), ("steps", STEPS)):
            self.number(f"#txt2img_{name}", value)

    def until(self, condition: str) -> None:
        """Wait for a condition in the page's own language."""
        self.page.wait_for_function(condition)

    def panel(self, name: str) -> str:
        """The selector of a part of txt2img's panel."""
        return f"#script_txt2img_skipstone_{name}"

    def text(self, selector: str) -> str:
        """What an element shows."""
        return str(self.page.locator(selector).first.inner_text()).strip()

    def says(self, selector: str, *words: str) -> str:
        """Wait until an element shows these words; its text."""
        for word in words:
            self.page.locator(selector).first.filter(has_text=word).wait_for(state="attached")
        return self.text(selector)

    def number(self, selector: str, value: float) -> None:
        """Type a number beside a slider."""
        box = self.page.locator(f"{selector} input[type=number]").first
        box.fill(str(value))
        box.press("Enter")
        box.blur()

    def value(self, selector: str) -> str:
        """The number beside a slider, or the chosen button of a group."""
        found = self.page.evaluate(
            "s => (document.querySelector(`${s} input:checked`) ?? document.querySelector(`${s} input`))?.value ?? ''",
            selector,
        )
        return str(found)

    def has(self, selector: str, value: str) -> None:
        """Wait until a control has a value."""
        self.page.wait_for_function(
            "([s, v]) => (document.querySelector(`${s} input:checked`) ?? document.querySelector(`${s} input`))?.value === v",
            arg=[selector, value],
        )

    def choose(self, selector: str, choice: str) -> None:
        """Press a button of a group, or choose from a list."""
        if self.page.locator(f"{selector} label", has_text=choice).count():
            self.page.locator(f"{selector} label", has_text=choice).first.click()
        else:
            self.page.locator(f"{selector} input").first.click()
            self.page.locator(f"{selector} ul li", has_text=choice).first.click()

    def switch(self) -> None:
        """Switch txt2img's panel on, which opens it, or off, which closes it."""
        self.page.locator(f"{self.panel('enable')} >> text=Skipstone").first.click()

    def go(self, tab: str) -> None:
        """Show a tab of the web UI."""
        self.page.locator("#tabs > .tab-nav").locator(f'button:text-is("{tab}")').click()

    def turn(self, page: str) -> None:
        """Show a page of the Skipstone tab."""
        self.page.locator("#skipstone_pages > .tab-nav").locator(f'button:text-is("{page}")').click()

    def generate(self) -> str:
        """Make a picture; its infotext."""
        before = self.text("#html_log_txt2img")
        self.page.click("#txt2img_generate")
        self.page.wait_for_function(
            "b => { const t = document.querySelector('#html_log_txt2img')?.innerText.trim() ?? ''; "
            "return t !== b && t.includes('Time taken'); }",
            arg=before,
        )
        return self.says("#html_info_txt2img", "Steps: ")


@pytest.fixture(scope="module", params=[A1111, FORGE], ids=lambda kind: kind.prefix)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each that is there."""
    if place(request.param) is None:
        pytest.skip(f"needs the web UI: set {request.param.prefix}_PATH")
    found: Kind = request.param
    return found


@pytest.fixture(scope="module")
def webui(kind: Kind, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebUI]:
    """A web UI with Skipstone."""
    folder, data = place(kind), tmp_path_factory.mktemp("page")
    assert folder is not None
    with WebUI(folder, data, skipstone=True, scripts={"engine": ENGINE}, kind=kind) as server:
        yield server


@pytest.fixture
def ui(browser: Any, webui: WebUI) -> Iterator[Page]:
    """A page that was just opened. What it raises in its own code fails the test."""
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    page.goto(f"http://127.0.0.1:{webui.port}/?__theme=light")
    yield Page(page)
    page.close()


@pytest.fixture
def on(ui: Page) -> Page:
    """A page on which the panel was switched on."""
    ui.switch()
    ui.has(ui.panel("level"), "Balanced")
    return ui


def test_a_panel_that_is_switched_on_opens_on_balanced_and_says_what_it_will_do(on: Page) -> None:
    on.has(on.panel("speedup"), "1.8")
    assert "steps" in on.says(on.panel("told"), f"of {STEPS} steps")


def test_a_page_at_rest_asks_for_nothing(on: Page) -> None:
    on.generate()
    on.says(on.panel("last_run"), "This picture: ")
    on.page.wait_for_timeout(REST)
    asked: list[str] = []
    on.page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    on.page.wait_for_timeout(REST)
    assert asked == []
    assert on.page.locator(on.panel("told")).locator("div").last.evaluate(SEEN) == 1


def test_presets_set_the_strength_and_the_strength_the_preset(on: Page) -> None:
    on.choose(on.panel("level"), "Fast")
    on.has(on.panel("speedup"), "2.5")
    on.number(on.panel("speedup"), 1.4)
    on.has(on.panel("level"), "Gentle")


@pytest.mark.skipif(not os.environ.get("WEBUI_REFINER"), reason="needs a second checkpoint: set WEBUI_REFINER")
def test_presets_are_withheld_from_a_checkpoint_that_cannot_use_them(ui: Page, kind: Kind) -> None:
    if kind is not A1111:
        pytest.skip("an SD Unet is AUTOMATIC1111's")
    box = "#setting_sd_model_checkpoint"
    fast = ui.page.locator(f"{ui.panel('level')} label", has_text="Fast")
    ui.choose(box, os.environ["WEBUI_REFINER"])
    fast.wait_for(state="detached")
    ui.switch()
    ui.has(ui.panel("level"), "Custom")
    ui.says(ui.panel("told"), "an SD Unet such as TensorRT replaces the U-Net")
    ui.choose(box, os.environ["WEBUI_CHECKPOINT"])
    fast.wait_for(state="attached")
    ui.choose(ui.panel("level"), "Fast")
    ui.says(ui.panel("told"), f"of {STEPS} steps")


def test_the_line_says_what_merging_can_save_at_this_size_once_a_picture_has_shown_it(on: Page) -> None:
    on.choose(on.panel("level"), "Custom")
    on.says(on.panel("told"), "merges tokens")
    on.generate()
    told = on.says(on.panel("told"), "of the work at 64 x 64")
    assert re.search(r"at most 1\.\dx faster by that", told)
    on.number("#txt2img_width", 128)
    on.says(on.panel("told"), "what it saves is shown after a picture")


def test_the_status_line_is_of_the_job_that_just_ended(on: Page) -> None:
    infotext = on.generate()
    run = re.search(r"Skipstone calls run: (\d+)%", infotext)
    status = on.says(on.panel("last_run"), "This picture: ")
    calls = re.search(r"(\d+) of (\d+) calls run", status)
    assert run and calls and round(100 * int(calls[1]) / int(calls[2])) == int(run[1])
    assert re.fullmatch(r"\d\.\dx less work last time", on.says(on.panel("gain"), "last time"))
    on.switch()
    assert "Skipstone" not in on.generate()
    on.page.locator(on.panel("last_run")).first.filter(has_text="Skipstone was off").wait_for(state="attached")


def test_infotext_pasted_back_makes_the_same_picture(on: Page) -> None:
    on.choose(on.panel("level"), "Fast")
    on.has(on.panel("speedup"), "2.5")
    first = on.generate()
    on.choose(on.panel("level"), "Gentle")
    on.has(on.panel("speedup"), "1.3")
    on.page.locator("#txt2img_prompt textarea").fill(first)
    on.page.click("#paste")
    on.has(on.panel("level"), "Fast")
    assert on.generate() == first


def test_the_tab_compares_two_pictures_of_one_seed_and_leads_back(ui: Page) -> None:
    ui.go("Skipstone")
    ui.choose("#skipstone_tab_level", "Fast")
    ui.has(ui.panel("level"), "Fast")
    ui.page.click("#skipstone_compare")
    ui.page.wait_for_selector(".skipstone-wipe")
    told = ui.text("#skipstone_compared")
    assert re.search(r"PSNR \d+\.\d dB, SSIM 0\.\d+", told) and "calls run" in told
    assert ui.page.locator("#skipstone_compared img").count() == 4
    box = ui.page.locator(".skipstone-wipe")
    box.hover(position={"x": 20, "y": 20})
    assert 0 < float(box.evaluate("e => e.style.getPropertyValue('--wipe')").rstrip("%")) < 50
    ui.turn("Last runs")
    ui.page.click("#skipstone_refresh")
    assert "calls" in ui.says("#skipstone_report", "Run ")
    ui.turn("Try")
    ui.page.click("#skipstone_use_txt2img")
    ui.page.locator("#txt2img_generate").wait_for(state="visible")
    assert "calls run" in ui.generate()


def test_what_is_set_in_the_panel_is_in_the_tab_when_it_is_opened(on: Page) -> None:
    on.choose(on.panel("level"), "Gentle")
    on.has(on.panel("speedup"), "1.3")
    on.go("Skipstone")
    on.has("#skipstone_tab_level", "Gentle")


def test_recipes_are_saved_renamed_and_deleted(ui: Page, webui: WebUI) -> None:
    folder = webui.models / "skipstone_recipes"
    ui.go("Skipstone")
    ui.turn("Recipes and masks")
    name = ui.page.locator("#skipstone_files_name textarea, #skipstone_files_name input").first
    name.fill("mine")
    ui.page.click("#skipstone_files_save")
    ui.says("#skipstone_files_list", "mine.json")
    name.fill("ours")
    ui.page.click("#skipstone_files_rename")
    ui.says("#skipstone_files_list", "ours.json")
    assert [path.name for path in folder.iterdir()] == ["ours.json"]
    assert not ui.page.locator("#skipstone_files_really").is_visible()
    ui.page.click("#skipstone_files_delete")
    ui.page.locator("#skipstone_files_really").wait_for(state="visible")
    assert [path.name for path in folder.iterdir()] == ["ours.json"]
    ui.page.click("#skipstone_files_really")
    ui.says("#skipstone_files_told", "ours.json is deleted")
    assert list(folder.iterdir()) == []


def test_an_axis_of_the_xyz_plot_makes_one_picture_a_value(ui: Page) -> None:
    plot = "#script_txt2img_xyz_plot"
    ui.choose("#script_list", "X/Y/Z plot")
    ui.choose(f"{plot}_x_type", "[Skipstone] Speedup")
    ui.page.locator(f"{plot}_x_values textarea, {plot}_x_values input").first.fill("1.5, 2.5")
    infotext = ui.generate()
    assert "Skipstone speedup: 1.5" in infotext and "Skipstone calls run" in infotext, "the panel itself is off"
    assert ui.page.locator("#txt2img_gallery .thumbnail-item, #txt2img_gallery .grid-wrap img").count() >= 2
