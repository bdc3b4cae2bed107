"""The panel in txt2img and img2img. Only arguments that gradio 3.41 (A1111, reForge) and 4.40 (Forge) share are used."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from html import escape
from typing import Any, get_args

import gradio as gr
from modules.ui_common import create_refresh_button
from modules.ui_components import InputAccordion

from ..core.errors import SkipstoneError
from ..core.recipe.token_merge import BatchRule, Destination, Matching
from ..core.recipe.token_prune import Recovery
from . import masks
from .infotext import read_infotext
from .settings import CHECKPOINTS, DATO_CHOICES, LEVELS, MERGE_IN, PASSES, RULES, PanelSettings

DEFAULT = PanelSettings()

THRESHOLD_INFO = (
    "Merge tokens that are more similar than this. The paper uses 0.7, lower values merge more, 1 turns merging off"
)
CHECKPOINTS_INFO = "Calls at which similar tokens are searched again. config_3 has 13 of them in 51 calls"
CUSTOM_INFO = "Call numbers out of 51, such as 0 8 11 20, mapped to your steps"
RULE_INFO = "What runs between full calls: the outermost layers (deepcache), or nothing (interval)"
EVERY_INFO = "For deepcache and interval: one full call in this many. 1 turns the rule off"
BRANCH_INFO = "For deepcache: 0 runs only the last layer, higher values run more layers"
DEPTHS_INFO = (
    "For depths: one code per call, from the second on, such as 12 1 1 0. 0 repeats the last output, 12 runs all blocks"
)
MASK_INFO = f"For mask: a file from models/{masks.FOLDER}"
LAST_FULL_INFO = "Run all blocks in the last step, which removes residual noise"
BUDGET_INFO = "Limit for cached outputs in MiB, 0 for no limit. Blocks whose outputs do not fit always run"
OFFLOAD_INFO = "Keep cached outputs in system memory: saves video memory, costs time"
FORECAST_INFO = "Extrapolate the last two outputs instead of repeating the last one. Needs twice the memory"
DATO_INFO = (
    "Published schedules for 51 calls, mapped to your steps. dato_coco and dato_b have 5 full calls, dato_c 6, dato_d 8"
)
RATIO_INFO = (
    "Share of the tokens that attention leaves out. The paper uses 0.4, the maximum is 0.75, 0 turns pruning off"
)
DATO_DEPTHS_INFO = (
    "For custom: one depth per call, from the second call on, such as 12 1 1 0. Leave empty to prune only"
)
RATIOS_INFO = "For custom: one ratio per call of a full run, such as 0.4 0.3 0. Leave empty to use Ratio"
RECOVER_INFO = "DaTo: a pruned token takes the output of its nearest base token, or of the nearest token that was kept"
PASSES_INFO = (
    "Passes to accelerate. Large pictures gain most: a 1024 px pass has four times the tokens of a 512 px pass"
)
MATCHING_INFO = "local compares tokens within tiles of 16 x 16 only: faster, merges fewer tokens"
PROPORTIONAL_INFO = "Not available here: this host's attention takes no key bias. Pictures are made without it"
DESTINATION_INFO = "Token of each 2 x 2 cell that the others merge into. The released code uses random"
BATCH_INFO = "per_sample: a picture does not depend on the others in its batch. max: as in the released code"
LEVEL_INFO = "Coarsest level to merge or prune at. auto: the finest level that has attention, on SDXL also the next one"
MERGE_IN_INFO = "Where tokens are merged or pruned. Both papers use self-attention only"
START_INFO = "Accelerate from this part of the run on. 0 is the first step"
END_INFO = "Accelerate up to this part of the run. 1 is the last step"
RECIPE_INFO = "A Skipstone recipe. If filled in, it replaces all other settings except Hires fix"

EXCLUSIVE = ("threshold", "rule", "dato", "ratio", "ratios", "dato_depths")
"""Fields of which one choice may exclude another (:meth:`PanelSettings.after`)."""

infotext_reader = lru_cache(maxsize=None)(read_infotext)
"""One function per field, the same in both tabs: it is also the name by which "Send to img2img" finds the field."""


@dataclass
class Panel:
    """components: in the order of :class:`PanelSettings`. last_run: one line on the last run.

    log: the host's HTML below the picture, with the comments of the job. A run's comment has its number, so that this
        changes whenever a run ends. The host makes it after the panel.
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
    _follow(dict(zip(PanelSettings.__dataclass_fields__, components, strict=True)), told)
    return Panel(components, last_run)


def _follow(fields: dict[str, Any], told: Any) -> None:
    """The last choice counts and switches off what it excludes; values that cannot run show a message at once."""
    quiet = {"show_progress": "hidden", "queue": False}
    for name in EXCLUSIVE:
        inputs = [fields[n] for n in EXCLUSIVE]
        fields[name].input(fn=partial(after, name), inputs=inputs, outputs=inputs[:3], **quiet)
    for name in (*EXCLUSIVE, "depths", "mask", "recipe"):
        fields[name].change(fn=_problem, inputs=[*fields.values()], outputs=[told], **quiet)


def after(chosen: str, *values: Any) -> list[Any]:
    """Threshold, block rule and DaTo after a choice in the field `chosen`. values: of :data:`EXCLUSIVE`."""
    given = dict(zip(EXCLUSIVE, values, strict=True))
    try:
        settled = PanelSettings.of_args([given]).after(chosen)
    except SkipstoneError:
        return list(values[:3])
    return [settled.threshold, settled.rule, settled.dato]


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
        matching = pick("matching", "Matching", get_args(Matching), MATCHING_INFO)
        proportional = gr.Checkbox(
            DEFAULT.proportional,
            label="Proportional attention",
            info=PROPORTIONAL_INFO,
            elem_id=elem_id("proportional"),
        )
    with gr.Row():
        destination = pick("destination", "Destination", get_args(Destination), DESTINATION_INFO)
        batch = pick("batch", "Batch", get_args(BatchRule), BATCH_INFO)
    with gr.Row():
        level = pick("max_downsample", "Coarsest level", LEVELS, LEVEL_INFO)
        merge_in = pick("merge_in", "Merge in", MERGE_IN, MERGE_IN_INFO)
    recover_from = pick("recover_from", "Recover from", get_args(Recovery), RECOVER_INFO)
    with gr.Row():
        start = part("start", "Start", START_INFO)
        end = part("end", "End", END_INFO)
    recipe = gr.Textbox(DEFAULT.recipe, label="Recipe (JSON)", info=RECIPE_INFO, lines=2, elem_id=elem_id("recipe"))
    return [matching, proportional, destination, batch, level, merge_in, start, end, recipe, recover_from]
