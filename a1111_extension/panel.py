"""The panel in txt2img and img2img. Only arguments that gradio 3.41 (A1111, reForge) and 4.40 (Forge) share are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args

import gradio as gr
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion

from ..core.recipe import BatchRule, Destination, Matching
from . import masks
from .settings import CHECKPOINTS, LEVELS, MERGE_IN, PASSES, RULES, PanelSettings, read_infotext

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
        with gr.Accordion("Advanced", open=False, elem_id=elem_id("advanced")):
            advanced = _advanced(elem_id)
        last_run = gr.HTML("No run yet.", elem_id=elem_id("last_run"))
    return Panel([enabled, threshold, checkpoints, custom, passes, *advanced, *skip], last_run)


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
    """Rule, every, branch, depths, mask file and last call: the same controls in the panel and in the tab."""
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
    return [rule, every, branch, depths, mask, last_full]


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
        merge_in = pick("merge_in", "Merge in", MERGE_IN, "The paper merges in self-attention only")
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
    return [matching, proportional, destination, batch, level, merge_in, start, end, recipe]
