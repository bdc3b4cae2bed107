"""The Skipstone tab: an explanation of the methods, settings to send to the panels, and the reports of the last runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ..core.errors import SkipstoneError
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import Recipe
from .controls import QUIET, SETTINGS, settings_controls
from .history import History, page
from .panel import Panel
from .settings import OF_PASSES, PanelSettings, edited, effects
from .table import FIELDS

EXPLANATION = """<p><b>Token merging</b> (CA-ToMe, arXiv 2501.00946). Many parts of an image look alike while it is being made.
Similar tokens are merged, self-attention runs once for each group, and every token of the group gets the result.
Similar tokens are searched at a few steps, the checkpoints; the steps in between reuse the groups.</p>
<p><b>Call skipping and Auto</b>. The model runs at some of the sampler's steps only. At the others its output is continued along
a straight line from the last two, and nothing of the model runs, ControlNet included. Auto takes one number, the speedup; with
a profile of your model it chooses what measured best.</p>
<p><b>Block masks</b> (DeepCache, arXiv 2312.00858, and others). The U-Net computes nearly the same values at neighbouring steps.
A rule or a mask file sets which blocks run at each step; the other blocks repeat their last output.</p>
<p><b>DaTo</b> (arXiv 2501.00375). In each cell of 2 x 2 tokens, the one that changes most is the base token. Self-attention leaves
out the tokens that are most similar to a base token. Most steps run only the outermost layers, or repeat the step before.
The schedules were found for SD1.5 and 50 PLMS steps.</p>"""

PRESETS = {
    "paper: threshold 0.7, 13 searches in 51 calls": "ca_tome",
    "balanced: local matching, proportional attention where possible": "balanced",
    "reference: as in the released code": "reference",
    **{f"{name}: pruning and cache depths": name for name in DATO},
}


def build(history: History, panels: Mapping[str, Panel]) -> list[tuple[Any, str, str]]:
    """The tab for `on_ui_tabs`: (block, title, id).

    Args:
        history: of the runs.
        panels: by tab name, to send settings to.
    """
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
            event(fn=partial(page, history), inputs=[], outputs=[report], **QUIET)
    return [(block, "Skipstone", "skipstone")]


def _workbench(panels: Mapping[str, Panel]) -> None:
    """Controls and a recipe box that always show the same settings; the buttons send them to a panel."""
    names = list(PRESETS)
    chosen = gr.Dropdown(names, value=names[0], label="Preset", elem_id=_elem_id("preset"))
    made = settings_controls(_elem_id)
    recipe = gr.Textbox(
        preset(PRESETS[names[0]]).to_json(),
        label=FIELDS["recipe"].label,
        info="The settings above as a recipe. A recipe pasted here changes the settings.",
        lines=8,
        max_lines=20,
        show_copy_button=True,
        elem_id=_elem_id("recipe"),
    )
    message, controls = gr.HTML("", elem_id=_elem_id("told")), [*made.values()]
    chosen.input(fn=_of_preset, inputs=[chosen], outputs=[recipe, message, *controls], **QUIET)
    recipe.input(fn=_pasted, inputs=[recipe], outputs=[message, *controls], **QUIET)
    for name, control in made.items():
        outputs = [recipe, message, *controls]
        control.input(fn=partial(_edited, name), inputs=[recipe, *controls], outputs=outputs, **QUIET)
    with gr.Row():
        for tabname, panel in panels.items():
            button = gr.Button(f"Send to {tabname}", elem_id=f"skipstone_send_{tabname}")
            outputs = [message, *panel.components]
            button.click(fn=partial(_sent, tabname), inputs=[recipe, *controls], outputs=outputs, **QUIET)


def _elem_id(name: str) -> str:
    return f"skipstone_tab_{name}"


def _unchanged() -> list[Any]:
    return [gr.update() for _ in SETTINGS]


def _shown_of(panel: PanelSettings) -> list[Any]:
    """What the tab's controls show of a panel's settings."""
    return [getattr(panel, name) for name in SETTINGS]


def _of_preset(name: str) -> list[Any]:
    """Recipe, message and controls of a preset."""
    recipe = preset(PRESETS[name])
    return [recipe.to_json(), "", *_shown_of(PanelSettings.of_recipe(recipe))]


def _pasted(text: str) -> list[Any]:
    """A recipe was typed or pasted: the message, and the controls that show it."""
    try:
        return ["", *_shown_of(PanelSettings.of_recipe(Recipe.from_json(text)))]
    except SkipstoneError as error:
        return [escape(str(error)), *_unchanged()]


def _edited(name: str, text: str, *values: Any) -> list[Any]:
    """The control `name` was set: recipe, message and controls."""
    try:
        panel = _panel(values).after(name)
        recipe = edited(Recipe.from_json(text), panel)
    except SkipstoneError as error:
        return [gr.update(), escape(str(error)), *_unchanged()]
    return [recipe.to_json(), "", *_shown_of(panel)]


def _panel(values: tuple[Any, ...]) -> PanelSettings:
    return PanelSettings.of_args([dict(zip(SETTINGS, values, strict=True))])


def _agree(recipe: Recipe, values: tuple[Any, ...]) -> bool:
    """Do the controls show this recipe?"""
    panel = _panel(values)
    same = _shown_of(PanelSettings.of_recipe(recipe)) == _shown_of(panel)
    return same or effects(edited(recipe, panel)) == effects(recipe)


def _sent(tabname: str, text: str, *values: Any) -> list[Any]:
    """The message, and the values of a panel's components; its choices for the passes stay as they are."""
    try:
        recipe = Recipe.from_json(text)
        if not _agree(recipe, values):
            raise SkipstoneError("Not sent: the controls and the recipe differ. Change one control, then send again")
        sent = vars(PanelSettings.of_recipe(recipe))
    except SkipstoneError as error:
        return [escape(str(error)), *(gr.update() for _ in FIELDS)]
    return [
        f"Sent: Skipstone is on in {tabname}.",
        *(gr.update() if name in OF_PASSES else sent[name] for name in FIELDS),
    ]
