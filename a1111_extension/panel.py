"""The panel in txt2img and img2img. Only arguments that gradio 3.41 (A1111, reForge) and 4.40 (Forge) share are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any, get_args

import gradio as gr
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion

from ..core.errors import SkipstoneError
from ..core.recipe import BatchRule, Destination, Matching
from ..core.recipe_prune import Recovery
from . import masks
from .settings import (
    CHECKPOINTS,
    CUSTOM,
    DATO_CHOICES,
    LEVELS,
    MERGE_IN,
    OFF,
    PASSES,
    RULES,
    PanelSettings,
    read_infotext,
)

DEFAULT = PanelSettings()

THRESHOLD_INFO = "Tokens more alike than this are merged: 0.7 is the paper's choice, lower merges more, 1 is off"
CHECKPOINTS_INFO = "When alike tokens are searched anew; config_3: at 13 of 51 calls"
CUSTOM_INFO = "Calls of 51, such as 0 8 11 20, mapped to your steps"
RULE_INFO = "What runs between full calls. deepcache: the outermost layers; interval: nothing"
EVERY_INFO = "deepcache, interval: a full call each so many; 1 is off"
BRANCH_INFO = "deepcache: 0 runs the last layer alone, higher runs more"
DEPTHS_INFO = "depths: a code per call from the second on, as 12 1 1 0; 0 repeats a call, 12 runs all"
MASK_INFO = f"mask: a file in models/{masks.FOLDER}"
LAST_FULL_INFO = "Run all blocks in the last step, which removes left-over noise"
BUDGET_INFO = "Most MiB of cached outputs, 0 for no limit; a block that finds no room runs"
OFFLOAD_INFO = "Cached outputs wait in the computer's memory: no video memory, slower"
FORECAST_INFO = "Continue the last two outputs in a straight line, in twice the memory, instead of repeating the last"
DATO_INFO = "Depths for 51 calls, mapped to your steps: dato_coco runs 5 calls in full, b 5, c 6, d 8"
RATIO_INFO = "Share of the tokens that attention leaves out: 0.4 is the paper's choice, 0.75 is the most, 0 is off"
DATO_DEPTHS_INFO = "custom: a depth per call from the second on, as 12 1 1 0; empty prunes without caching"
RATIOS_INFO = "custom: a ratio per call of a full run, as 0.4 0.3 0; empty takes Ratio"
RECOVER_INFO = "DaTo: a pruned token takes the output of its nearest base token, or of the nearest of all that are kept"
PASSES_INFO = "Large pictures gain most: a 1024 px pass has four times the tokens of a 512 px one"

infotext_reader = lru_cache(maxsize=None)(read_infotext)
"""One function per field, the same in both tabs: it is also the name by which "Send to img2img" finds the field."""


@dataclass
class Panel:
    """components: in the order of :class:`PanelSettings`. last_run: the line that tells what the last run merged.

    log: the host's line with the time a job took, which changes whenever one ends; it is made after the panel.
    """

    components: list[Any]
    last_run: Any
    log: Any = None

    @property
    def infotext_fields(self) -> list[tuple[Any, Callable[..., Any]]]:
        """What sets each component from pasted infotext."""
        return list(zip(self.components, map(infotext_reader, PanelSettings.__dataclass_fields__), strict=True))

    @property
    def paste_field_names(self) -> list[Callable[..., Any]]:
        """The fields that "Send to img2img" takes along."""
        return [name for _, name in self.infotext_fields]


def build(elem_id: Callable[[str], str]) -> Panel:
    """Make the panel's components in the gradio block under construction. elem_id: the host's maker of element ids."""
    with InputAccordion(DEFAULT.enabled, label="Skipstone", elem_id=elem_id("enable")) as enabled:
        threshold, checkpoints, custom = merge_controls(elem_id)
        passes = gr.Radio(
            list(PASSES), value=DEFAULT.passes, label="Hires fix", info=PASSES_INFO, elem_id=elem_id("passes")
        )
        with gr.Accordion("Block masks", open=False, elem_id=elem_id("block_masks")):
            skip = skip_controls(elem_id)
        with gr.Accordion("DaTo", open=False, elem_id=elem_id("dato_part")):
            dato = dato_controls(elem_id)
        with gr.Accordion("Advanced", open=False, elem_id=elem_id("advanced")):
            *advanced, recover_from = _advanced(elem_id)
        told = gr.HTML("", elem_id=elem_id("told"))
        last_run = gr.HTML("No run yet.", elem_id=elem_id("last_run"))
    components = [enabled, threshold, checkpoints, custom, passes, *advanced, *skip, *dato, recover_from]
    _tell_at_once(dict(zip(PanelSettings.__dataclass_fields__, components, strict=True)), told)
    return Panel(components, last_run)


def _tell_at_once(fields: dict[str, Any], told: Any) -> None:
    """Choosing DaTo switches off what it cannot go with; values that cannot run are told before a picture is made."""
    dato, way = fields["dato"], [fields[name] for name in ("threshold", "rule")]
    dato.input(fn=make_way, inputs=[dato, *way], outputs=way, show_progress="hidden", queue=False)
    for name in ("threshold", "rule", "depths", "mask", "dato", "ratio", "ratios", "dato_depths", "recipe"):
        fields[name].change(fn=_problem, inputs=[*fields.values()], outputs=[told], show_progress="hidden", queue=False)


def make_way(dato: str, threshold: float, rule: str) -> list[Any]:
    """Threshold and block rule beside this choice of DaTo: one thing prunes or merges tokens, one says which blocks run."""
    return [threshold if dato == OFF else 1.0, rule if dato in (OFF, CUSTOM) else OFF]


def _problem(*values: Any) -> str:
    """HTML: why these values cannot run, or change nothing."""
    try:
        neutral = PanelSettings.of_args(values).as_recipe().neutral
    except SkipstoneError as error:
        return f"Skipstone would do nothing: {escape(str(error))}"
    return "Skipstone would do nothing: all of its parts are off." if neutral else ""


def merge_controls(elem_id: Callable[[str], str]) -> tuple[Any, Any, Any]:
    """Threshold, checkpoint list and custom list: the same controls in the panel and in the tab."""
    threshold = gr.Slider(
        0.0, 1.0, DEFAULT.threshold, step=0.01, label="Threshold", info=THRESHOLD_INFO, elem_id=elem_id("threshold")
    )
    with gr.Row():
        checkpoints = gr.Dropdown(
            list(CHECKPOINTS),
            value=DEFAULT.checkpoints,
            label="Checkpoints",
            info=CHECKPOINTS_INFO,
            elem_id=elem_id("checkpoints"),
        )
        custom = gr.Textbox(
            DEFAULT.custom, label="Custom checkpoints", info=CUSTOM_INFO, max_lines=1, elem_id=elem_id("custom")
        )
    return threshold, checkpoints, custom


def skip_controls(elem_id: Callable[[str], str]) -> list[Any]:
    """Block rule and what the rules read: the same controls in the panel and in the tab."""
    with gr.Row():
        rule = gr.Dropdown(list(RULES), value=DEFAULT.rule, label="Block rule", info=RULE_INFO, elem_id=elem_id("rule"))
        every = gr.Slider(1, 20, DEFAULT.every, step=1, label="Every", info=EVERY_INFO, elem_id=elem_id("every"))
    with gr.Row():
        branch = gr.Slider(0, 11, DEFAULT.branch, step=1, label="Branch", info=BRANCH_INFO, elem_id=elem_id("branch"))
        depths = gr.Textbox(DEFAULT.depths, label="Depths", info=DEPTHS_INFO, max_lines=1, elem_id=elem_id("depths"))
    with gr.Row():
        mask = gr.Dropdown(
            ["", *masks.names()],
            value=DEFAULT.mask,
            label="Mask file",
            info=MASK_INFO,
            allow_custom_value=True,
            elem_id=elem_id("mask"),
        )
        create_refresh_button(mask, lambda: None, lambda: {"choices": ["", *masks.names()]}, elem_id("mask_refresh"))
        last_full = gr.Checkbox(
            DEFAULT.last_full, label="Last call full", info=LAST_FULL_INFO, elem_id=elem_id("last_full")
        )
    with gr.Accordion("Memory and forecast", open=False, elem_id=elem_id("blocks_advanced")):
        budget = gr.Slider(
            0,
            8192,
            DEFAULT.memory_budget,
            step=16,
            label="Memory budget",
            info=BUDGET_INFO,
            elem_id=elem_id("memory_budget"),
        )
        with gr.Row():
            offload = gr.Checkbox(DEFAULT.offload, label="Offload", info=OFFLOAD_INFO, elem_id=elem_id("offload"))
            forecast = gr.Checkbox(DEFAULT.forecast, label="Forecast", info=FORECAST_INFO, elem_id=elem_id("forecast"))
    return [rule, every, branch, depths, mask, last_full, budget, offload, forecast]


def dato_controls(elem_id: Callable[[str], str]) -> list[Any]:
    """DaTo's preset, ratio, and lists of one's own: the same controls in the panel and in the tab."""
    with gr.Row():
        dato = gr.Dropdown(
            list(DATO_CHOICES), value=DEFAULT.dato, label="DaTo", info=DATO_INFO, elem_id=elem_id("dato")
        )
        ratio = gr.Slider(0.0, 0.75, DEFAULT.ratio, step=0.01, label="Ratio", info=RATIO_INFO, elem_id=elem_id("ratio"))
    with gr.Row():
        ratios = gr.Textbox(DEFAULT.ratios, label="Ratios", info=RATIOS_INFO, max_lines=1, elem_id=elem_id("ratios"))
        depths = gr.Textbox(
            DEFAULT.dato_depths,
            label="DaTo depths",
            info=DATO_DEPTHS_INFO,
            max_lines=1,
            elem_id=elem_id("dato_depths"),
        )
    return [dato, ratio, ratios, depths]


def _advanced(elem_id: Callable[[str], str]) -> list[Any]:
    def pick(name: str, label: str, choices: Any, info: str) -> Any:
        return gr.Dropdown(list(choices), value=getattr(DEFAULT, name), label=label, info=info, elem_id=elem_id(name))

    def part(name: str, label: str, info: str) -> Any:
        return gr.Slider(0.0, 1.0, getattr(DEFAULT, name), step=0.01, label=label, info=info, elem_id=elem_id(name))

    with gr.Row():
        matching = pick(
            "matching",
            "Matching",
            get_args(Matching),
            "local compares inside tiles of 16 x 16 tokens: cheaper, merges less",
        )
        proportional = gr.Checkbox(
            DEFAULT.proportional,
            label="Proportional attention",
            info="Not possible in this host: its attention takes no key bias. The report says so; the image comes without it",
            elem_id=elem_id("proportional"),
        )
    with gr.Row():
        destination = pick(
            "destination",
            "Destination",
            get_args(Destination),
            "Token of each 2 x 2 cell that others merge into; random is the released code's choice",
        )
        batch = pick(
            "batch",
            "Batch",
            get_args(BatchRule),
            "per_sample: an image never depends on its batch-mates. max is the released code's rule",
        )
    with gr.Row():
        level = pick(
            "max_downsample",
            "Coarsest level",
            LEVELS,
            "auto: the finest level that has attention, on SDXL also the next",
        )
        merge_in = pick(
            "merge_in", "Merge in", MERGE_IN, "Where DaTo prunes, too. Both papers act in self-attention only"
        )
    recover_from = pick("recover_from", "Recover from", get_args(Recovery), RECOVER_INFO)
    with gr.Row():
        start = part("start", "Start", "Part of the run that is served: 0 is the noisiest step")
        end = part("end", "End", "1 is the last step")
    recipe = gr.Textbox(
        DEFAULT.recipe,
        label="Recipe (JSON)",
        info="A Skipstone recipe. When filled, it replaces everything above except the hires switch",
        lines=2,
        elem_id=elem_id("recipe"),
    )
    return [matching, proportional, destination, batch, level, merge_in, start, end, recipe, recover_from]
