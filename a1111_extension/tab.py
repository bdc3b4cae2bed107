"""The Skipstone tab: what the method does, a bench for settings that are sent to the panels, and the last runs' report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from html import escape
from typing import Any

import gradio as gr

from ..core.errors import SkipstoneError
from ..core.presets_dato import DATO
from ..core.recipe import Recipe, TokenMerge, preset
from ..core.recipe_prune import TokenPrune
from .history import History, page
from .panel import Panel, dato_controls, make_way, merge_controls, skip_controls
from .settings import CUSTOM, DATO_FIELDS, SKIP_FIELDS, PanelSettings

EXPLANATION = """<p><b>Token merging</b> (CA-ToMe, arXiv 2501.00946): a picture in the making is full of places that look alike.<br>
Self-attention runs on one token for each group of alike ones, and the result is given back to all of the group.<br>
Which tokens are alike is searched at a few calls, the checkpoints, and reused in between.</p>
<p><b>Block masks</b> (DeepCache, arXiv 2312.00858, and others): neighbouring calls of the U-Net compute nearly the same.<br>
A rule or a mask file says which blocks run at a call, and which hand out the output that they had before.</p>
<p><b>DaTo</b> (arXiv 2501.00375): of each 2 x 2 tokens, the one that changes most is a base; attention leaves out the tokens
that are most like a base.<br>
Most calls run the outermost layers alone or repeat the call before. The lists were found for SD1.5 and 50 PLMS steps.</p>"""

MERGE_SHOWN = ("threshold", "checkpoints", "custom")
DATO_SHOWN = DATO_FIELDS[:-1]
"""What the tab shows of the panel's fields, beside the block masks."""

SKIP_UNSEEN = ("mode", "caching", "start", "end", "split", "rectify")
"""Settings of block masks that only recipes have."""

PRESETS = {
    "paper: threshold 0.7, 13 searches in 51 calls": "ca_tome",
    "balanced: local matching, proportional where possible": "balanced",
    "reference: choices of the released code": "reference",
    **{f"{name}: pruning and cache depths": name for name in DATO},
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
    """Preset, threshold, checkpoints, block rule and DaTo write a recipe; the buttons send the recipe to a panel."""
    names = list(PRESETS)
    chosen = gr.Dropdown(names, value=names[0], label="Preset", elem_id="skipstone_tab_preset")
    merge = merge_controls(lambda name: f"skipstone_tab_{name}")
    with gr.Accordion("Block masks", open=False, elem_id="skipstone_tab_block_masks"):
        skip = skip_controls(lambda name: f"skipstone_tab_{name}")
    with gr.Accordion("DaTo", open=False, elem_id="skipstone_tab_dato_part"):
        dato = dato_controls(lambda name: f"skipstone_tab_{name}")
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
    shown = [recipe, *merge, *skip, *dato]
    chosen.input(fn=_of_preset, inputs=[chosen], outputs=shown, show_progress="hidden", queue=False)
    for edited, controls in ((_with_merge, merge), (_with_blocks, [*skip, *dato])):
        for control in controls:
            if control is not dato[0]:
                control.input(
                    fn=partial(_edited, edited),
                    inputs=[recipe, *controls],
                    outputs=[recipe, told],
                    show_progress="hidden",
                    queue=False,
                )
    dato[0].input(
        fn=_with_dato,
        inputs=[recipe, *merge, *skip, *dato],
        outputs=[recipe, told, merge[0], skip[0]],
        show_progress="hidden",
        queue=False,
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
    names = (*MERGE_SHOWN, *SKIP_FIELDS, *DATO_SHOWN)
    return [recipe.to_json(), *(getattr(panel, name) for name in names)]


def _edited(edit: Callable[..., Recipe], text: str, *values: Any) -> list[Any]:
    """The recipe with these values in it, and what is wrong with them."""
    try:
        return [replace(edit(Recipe.from_json(text), *values), name="").to_json(), ""]
    except SkipstoneError as error:
        return [gr.update(), escape(str(error))]


def _with_merge(recipe: Recipe, threshold: float, checkpoints: str, custom: str) -> Recipe:
    listed = custom if checkpoints == CUSTOM else checkpoints
    return replace(recipe, merge=replace(recipe.merge or TokenMerge(), threshold=threshold, checkpoints=listed))


def _with_blocks(recipe: Recipe, *values: Any) -> Recipe:
    """Block rule and DaTo together, since both may say which blocks run. What the tab does not show stays as it is."""
    shown = dict(zip((*SKIP_FIELDS, *DATO_SHOWN), values, strict=True))
    asked = PanelSettings(threshold=1.0, **shown).as_recipe()
    prune = asked.prune and replace(recipe.prune or TokenPrune(), ratio=asked.prune.ratio)
    unseen = {name: getattr(recipe.skip, name) for name in SKIP_UNSEEN} if recipe.skip else {}
    return replace(recipe, skip=asked.skip and replace(asked.skip, **unseen), prune=prune)


def _with_dato(text: str, *values: Any) -> list[Any]:
    """DaTo was chosen: the recipe, what is wrong, and the threshold and block rule that it can go with."""
    shown = dict(zip((*MERGE_SHOWN, *SKIP_FIELDS, *DATO_SHOWN), values, strict=True))
    shown["threshold"], shown["rule"] = make_way(shown["dato"], shown["threshold"], shown["rule"])

    def edit(recipe: Recipe) -> Recipe:
        kept = replace(recipe, merge=None) if shown["threshold"] >= 1 else recipe
        return _with_blocks(kept, *(shown[name] for name in (*SKIP_FIELDS, *DATO_SHOWN)))

    return [*_edited(edit, text), shown["threshold"], shown["rule"]]


def _sent(tabname: str, text: str) -> list[Any]:
    """The message, and the values of a panel's components; its hires switch stays as it is."""
    names = list(PanelSettings.__dataclass_fields__)
    try:
        values = asdict(PanelSettings.of_recipe(Recipe.from_json(text)))
    except SkipstoneError as error:
        return [escape(str(error)), *(gr.update() for _ in names)]
    values["passes"] = gr.update()
    return [f"Sent: Skipstone is on in {tabname}.", *(values[name] for name in names)]
