"""The Skipstone tab: what the method does, a bench for settings that are sent to the panels, and the last runs' report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ..core.errors import SkipstoneError
from ..core.recipe import Recipe, TokenMerge, preset
from .history import History, page
from .panel import Panel, merge_controls
from .settings import CUSTOM, PanelSettings

EXPLANATION = """<p><b>Token merging</b> (CA-ToMe, arXiv 2501.00946): a picture in the making is full of places that look alike.<br>
Self-attention runs on one token for each group of alike ones, and the result is given back to all of the group.<br>
Which tokens are alike is searched at a few calls, the checkpoints, and reused in between.</p>"""

PRESETS = {
    "paper: threshold 0.7, 13 searches in 51 calls": "ca_tome",
    "balanced: local matching, proportional where possible": "balanced",
    "reference: choices of the released code": "reference",
}


def build(history: History, panels: Mapping[str, Panel]) -> list[tuple[Any, str, str]]:
    """`on_ui_tabs`: the tab as the host wants it, (block, title, id). panels: tab name -> panel, to send settings to."""
    with gr.Blocks(analytics_enabled=False) as block:
        gr.HTML(EXPLANATION)
        with gr.Row():
            with gr.Column(scale=2):
                _bench(panels)
            with gr.Column(scale=3):
                report = gr.HTML(page(history), elem_id="skipstone_report")
                refresh = gr.Button("Refresh", elem_id="skipstone_refresh")
        shown_by = [refresh.click, block.load, *(p.log.change for p in panels.values() if p.log is not None)]
        for event in shown_by:
            event(fn=partial(page, history), inputs=[], outputs=[report], show_progress="hidden", queue=False)
    return [(block, "Skipstone", "skipstone")]


def _bench(panels: Mapping[str, Panel]) -> None:
    """Preset, threshold and checkpoints write a recipe; the buttons send the recipe to a panel."""
    names = list(PRESETS)
    chosen = gr.Dropdown(names, value=names[0], label="Preset", elem_id="skipstone_tab_preset")
    controls = merge_controls(lambda name: f"skipstone_tab_{name}")
    recipe = gr.Textbox(
        preset("ca_tome").to_json(),
        label="Recipe (JSON)",
        info="Written by the controls above. Copy it to keep it, paste one to use it, then send it",
        lines=8,
        max_lines=20,
        show_copy_button=True,
        elem_id="skipstone_tab_recipe",
    )
    told = gr.HTML("", elem_id="skipstone_tab_told")
    chosen.input(fn=_of_preset, inputs=[chosen], outputs=[recipe, *controls], show_progress="hidden", queue=False)
    for control in controls:
        control.input(
            fn=_edited, inputs=[recipe, *controls], outputs=[recipe, told], show_progress="hidden", queue=False
        )
    with gr.Row():
        for tabname, panel in panels.items():
            button = gr.Button(f"Send to {tabname}", elem_id=f"skipstone_send_{tabname}")
            outputs = [told, *panel.components]
            button.click(
                fn=partial(_sent, tabname), inputs=[recipe], outputs=outputs, show_progress="hidden", queue=False
            )


def _of_preset(name: str) -> list[Any]:
    recipe = preset(PRESETS[name])
    panel = PanelSettings.of_recipe(recipe)
    return [recipe.to_json(), panel.threshold, panel.checkpoints, panel.custom]


def _edited(text: str, threshold: float, checkpoints: str, custom: str) -> list[Any]:
    """The recipe with these values in it, and what is wrong with them."""
    try:
        recipe = Recipe.from_json(text)
        listed = custom if checkpoints == CUSTOM else checkpoints
        merge = replace(recipe.merge or TokenMerge(), threshold=threshold, checkpoints=listed)
        return [replace(recipe, merge=merge).to_json(), ""]
    except SkipstoneError as error:
        return [gr.update(), escape(str(error))]


def _sent(tabname: str, text: str) -> list[Any]:
    """The message, and the values of a panel's components; its hires switch stays as it is."""
    names = list(PanelSettings.__dataclass_fields__)
    try:
        values = asdict(PanelSettings.of_recipe(Recipe.from_json(text)))
    except SkipstoneError as error:
        return [escape(str(error)), *(gr.update() for _ in names)]
    values["passes"] = gr.update()
    return [f"Sent: Skipstone is on in {tabname}.", *(values[name] for name in names)]
