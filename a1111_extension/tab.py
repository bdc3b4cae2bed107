"""The Skipstone tab: what the methods do, settings to send to the panels, and the report of the last runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ..core.errors import SkipstoneError
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .history import History, page
from .panel import Panel, dato_controls, merge_controls, skip_controls
from .settings import CUSTOM, DATO_FIELDS, RULES, SKIP_FIELDS, WINDOW, PanelSettings, effects

EXPLANATION = """<p><b>Token merging</b> (CA-ToMe, arXiv 2501.00946). While a picture is being made, many places in it are alike.
Self-attention runs on one token of each group of similar tokens, and the whole group takes its result.
Similar tokens are searched at a few calls, the checkpoints; the calls in between reuse what was found.</p>
<p><b>Block masks</b> (DeepCache, arXiv 2312.00858, and others). Consecutive calls of the U-Net compute nearly the same values.
A rule or a mask file decides which blocks run at each call; the other blocks repeat their previous output.</p>
<p><b>DaTo</b> (arXiv 2501.00375). Of each 2 x 2 tokens, the one that changes most is a base token. Attention leaves out the
tokens that are most similar to a base token. Most calls run only the outermost layers, or repeat the call before.
The schedules were found for SD1.5 and 50 PLMS steps.</p>"""

MERGE_SHOWN = ("threshold", "checkpoints", "custom")
DATO_SHOWN = DATO_FIELDS[:-1]
SHOWN = (*MERGE_SHOWN, *SKIP_FIELDS, *DATO_SHOWN)
"""The panel's fields that have a control in the tab, in the controls' order."""

UNSEEN = ("mode", "caching", *WINDOW, "split", "rectify")
"""Settings of block masks that have no control in the tab."""

PRESETS = {
    "paper: threshold 0.7, 13 searches in 51 calls": "ca_tome",
    "balanced: local matching, proportional attention where possible": "balanced",
    "reference: as in the released code": "reference",
    **{f"{name}: pruning and cache depths": name for name in DATO},
}

_QUIET = {"show_progress": "hidden", "queue": False}


def build(history: History, panels: Mapping[str, Panel]) -> list[tuple[Any, str, str]]:
    """`on_ui_tabs`: the tab as the host wants it, (block, title, id). panels: tab name -> panel, to send settings to."""
    with gr.Blocks(analytics_enabled=False) as block:
        gr.HTML(EXPLANATION)
        with gr.Row():
            with gr.Column(scale=2):
                _workbench(panels)
            with gr.Column(scale=3):
                report = gr.HTML(page(history), elem_id="skipstone_report")
                refresh = gr.Button("Refresh", elem_id="skipstone_refresh")
        shown_by = [refresh.click, block.load, *(p.log.change for p in panels.values() if p.log is not None)]
        for event in shown_by:
            event(fn=partial(page, history), inputs=[], outputs=[report], **_QUIET)
    return [(block, "Skipstone", "skipstone")]


def _workbench(panels: Mapping[str, Panel]) -> None:
    """Controls and a recipe box that always say the same; the buttons send it to a panel."""
    names = list(PRESETS)
    chosen = gr.Dropdown(names, value=names[0], label="Preset", elem_id="skipstone_tab_preset")
    merge = merge_controls(_elem_id)
    with gr.Accordion("Block masks", open=False, elem_id=_elem_id("block_masks")):
        skip = skip_controls(_elem_id)
    with gr.Accordion("DaTo", open=False, elem_id=_elem_id("dato_part")):
        dato = dato_controls(_elem_id)
    recipe = gr.Textbox(
        preset("ca_tome").to_json(),
        label="Recipe (JSON)",
        info="The controls above write this recipe. A recipe pasted here sets the controls",
        lines=8,
        max_lines=20,
        show_copy_button=True,
        elem_id=_elem_id("recipe"),
    )
    told = gr.HTML("", elem_id=_elem_id("told"))
    controls = [*merge, *skip, *dato]
    chosen.input(fn=_of_preset, inputs=[chosen], outputs=[recipe, told, *controls], **_QUIET)
    recipe.input(fn=_pasted, inputs=[recipe], outputs=[told, *controls], **_QUIET)
    for name, control in zip(SHOWN, controls, strict=True):
        edited = partial(_edited, name)
        control.input(fn=edited, inputs=[recipe, *controls], outputs=[recipe, told, *controls], **_QUIET)
    with gr.Row():
        for tabname, panel in panels.items():
            button = gr.Button(f"Send to {tabname}", elem_id=f"skipstone_send_{tabname}")
            sent, outputs = partial(_sent, tabname), [told, *panel.components]
            button.click(fn=sent, inputs=[recipe, *controls], outputs=outputs, **_QUIET)


def _elem_id(name: str) -> str:
    return f"skipstone_tab_{name}"


def _unchanged() -> list[Any]:
    return [gr.update() for _ in SHOWN]


def shown_of(panel: PanelSettings) -> list[Any]:
    """What the tab's controls show of a panel's settings."""
    return [getattr(panel, name) for name in SHOWN]


def _of_preset(name: str) -> list[Any]:
    """Recipe, message and controls of a preset."""
    recipe = preset(PRESETS[name])
    return [recipe.to_json(), "", *shown_of(PanelSettings.of_recipe(recipe))]


def _pasted(text: str) -> list[Any]:
    """A recipe was typed or pasted: the message, and the controls that show it."""
    try:
        return ["", *shown_of(PanelSettings.of_recipe(Recipe.from_json(text)))]
    except SkipstoneError as error:
        return [escape(str(error)), *_unchanged()]


def _edited(name: str, text: str, *values: Any) -> list[Any]:
    """The control `name` was set: recipe, message and controls. What the tab does not show stays as it is."""
    try:
        panel = _panel(values).after(name)
        recipe = replace(_with_controls(Recipe.from_json(text), panel), name="")
    except SkipstoneError as error:
        return [gr.update(), escape(str(error)), *_unchanged()]
    return [recipe.to_json(), "", *shown_of(panel)]


def _panel(values: tuple[Any, ...]) -> PanelSettings:
    return PanelSettings.of_args([dict(zip(SHOWN, values, strict=True))])


def _with_controls(recipe: Recipe, panel: PanelSettings) -> Recipe:
    """The recipe with what the controls show put into it. Raises :class:`RecipeError` where that cannot run."""
    listed = panel.custom if panel.checkpoints == CUSTOM else panel.checkpoints
    merge = replace(recipe.merge or TokenMerge(), threshold=panel.threshold, checkpoints=listed)
    asked = replace(panel, threshold=1.0).as_recipe()
    prune = asked.prune and replace(recipe.prune or TokenPrune(), ratio=asked.prune.ratio)
    unused = merge.neutral and (prune is not None or recipe.merge is None)
    return Recipe(merge=None if unused else merge, prune=prune, skip=_skip(recipe.skip, asked.skip))


def _skip(before: BlockSkip | None, asked: BlockSkip | None) -> BlockSkip | None:
    """Block masks by the controls. A rule that has no control stays until another one is chosen."""
    if before is None or asked is None:
        return before if before is not None and before.rule not in RULES else asked
    return replace(asked, **{name: getattr(before, name) for name in UNSEEN})


def _agree(recipe: Recipe, values: tuple[Any, ...]) -> bool:
    """Do the controls show this recipe?"""
    panel = _panel(values)
    same = shown_of(PanelSettings.of_recipe(recipe)) == shown_of(panel)
    return same or effects(_with_controls(recipe, panel)) == effects(recipe)


def _sent(tabname: str, text: str, *values: Any) -> list[Any]:
    """The message, and the values of a panel's components; its hires switch stays as it is."""
    names = list(PanelSettings.__dataclass_fields__)
    try:
        recipe = Recipe.from_json(text)
        if not _agree(recipe, values):
            raise SkipstoneError("Not sent: the controls show something else than the recipe. Set one of them again")
        sent = asdict(PanelSettings.of_recipe(recipe))
    except SkipstoneError as error:
        return [escape(str(error)), *(gr.update() for _ in names)]
    sent["passes"] = gr.update()
    return [f"Sent: Skipstone is on in {tabname}.", *(sent[name] for name in names)]
