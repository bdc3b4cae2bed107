"""The tab's page *Try*: the settings of txt2img's panel, and two pictures of one seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gradio as gr

from ..core.errors import SkipstoneError
from ..core.recipe.auto import LEVELS, Auto
from ..core.recipe.presets import DATO, preset
from ..core.recipe.recipe import Recipe
from .controls import QUIET, SETTINGS, control, settings_controls
from .pages import amber, paragraph
from .panel import Panel
from .settings import PanelSettings, edited, effects, level_of
from .tab_compare import Comparison, generate_inputs
from .table import FIELDS, OWN

BOUND = "txt2img"
"""The panel whose values the page shows."""
SHOWN = ("level", *SETTINGS)
WRITTEN = (*SHOWN, "recipe")
"""Fields of the panel that the page sets. The passes and the switch stay as they are, until its button is pressed."""

PRESETS = {
    "paper: threshold 0.7, 13 searches in 51 calls": "ca_tome",
    "balanced: local matching, proportional attention where possible": "balanced",
    "reference: as in the released code": "reference",
    **{f"{name}: pruning and cache depths": name for name in DATO},
}


def build(panels: Mapping[str, Panel]) -> tuple[list[Any], list[Any], Callable[..., list[Any]]]:
    """Make the page.

    Args:
        panels: by tab name.

    Returns what a refresh sets, its inputs, and the function that gives it.
    """
    with gr.Row():
        with gr.Column(scale=2):
            shown = _settings(panels)
        with gr.Column(scale=3):
            _comparison(panels)
    return shown, bound(panels), _read


def bound(panels: Mapping[str, Panel]) -> list[Any]:
    """The components of the panel that the tab shows and sets, in the order of its fields.

    Args:
        panels: by tab name.
    """
    return panels[BOUND].components if BOUND in panels else []


def _settings(panels: Mapping[str, Panel]) -> list[Any]:
    """The controls, which always show what the panel has, and the buttons to the host's tabs."""
    message = gr.HTML("", elem_id=_elem_id("told"))
    made = {"level": control(FIELDS["level"], _elem_id, value=OWN)} | settings_controls(_elem_id)
    named = gr.Dropdown(list(PRESETS), label="Published settings", elem_id=_elem_id("preset"))
    recipe = gr.Textbox(
        PanelSettings().as_recipe().to_json(),
        label=FIELDS["recipe"].label,
        info="The settings above as a recipe. A recipe pasted here changes the settings.",
        lines=8,
        max_lines=20,
        show_copy_button=True,
        elem_id=_elem_id("recipe"),
    )
    shown = [message, recipe, *(made[name] for name in SHOWN)]
    written = bound(panels)
    if BOUND in panels:
        planned = panels[BOUND].echo
        planned.change(fn=lambda html: html, inputs=[planned], outputs=[message], **QUIET)
    outputs = [*shown, *written]
    named.input(fn=_of_preset, inputs=[named], outputs=outputs, **QUIET)
    recipe.input(fn=_pasted, inputs=[recipe], outputs=outputs, **QUIET)
    for name in SHOWN:
        made[name].input(fn=partial(_edited, name), inputs=shown[1:], outputs=outputs, **QUIET)
    with gr.Row():
        for tabname, panel in panels.items():
            button = gr.Button(f"Use in {tabname}", elem_id=f"skipstone_use_{tabname}")
            button.click(fn=_used, inputs=shown[1:], outputs=[message, *panel.components], **QUIET)
    return shown


def _comparison(panels: Mapping[str, Panel]) -> None:
    gr.HTML(
        paragraph(
            "Draws the picture of the txt2img tab twice from one seed, without and with these settings. Nothing is saved."
        )
    )
    written = bound(panels)
    found = generate_inputs(written[0]) if written else []
    with gr.Row():
        compare = gr.Button("Compare", variant="primary", elem_id="skipstone_compare")
        stop = gr.Button("Interrupt", elem_id="skipstone_interrupt")
    result = gr.HTML("", elem_id="skipstone_compared")
    if not found:
        result.value = amber("Compare is off: this web UI's txt2img button was not found")
        return
    run = Comparison([found.index(one) for one in written])
    compare.click(fn=run, inputs=found, outputs=[result])
    stop.click(fn=run.interrupt, inputs=[], outputs=[], **QUIET)


def _elem_id(name: str) -> str:
    return f"skipstone_tab_{name}"


def _read(*values: Any) -> list[Any]:
    """Message, recipe and controls for the panel's values."""
    try:
        panel = PanelSettings.of_args(values)
        recipe = panel.as_recipe()
    except SkipstoneError as error:
        return [amber(str(error)), *_unchanged(1 + len(SHOWN))]
    seen = PanelSettings.of_recipe(recipe) if panel.level == OWN and panel.recipe.strip() else panel
    return ["", recipe.to_json(), *_shown_of(seen)]


def _shown_of(panel: PanelSettings) -> list[Any]:
    """What the page's controls show of a panel's values."""
    return [getattr(panel, name) for name in SHOWN]


def _of_preset(name: str) -> list[Any]:
    """The page and the panel, for published settings."""
    recipe = preset(PRESETS[name])
    panel = PanelSettings.of_recipe(recipe)
    return ["", recipe.to_json(), *_shown_of(panel), *_written(panel)]


def _pasted(text: str) -> list[Any]:
    """The page and the panel, for a recipe that was typed or pasted. The recipe's text stays as it was typed."""
    try:
        panel = PanelSettings.of_recipe(Recipe.from_json(text))
    except SkipstoneError as error:
        return _refused(error)
    return ["", gr.update(), *_shown_of(panel), *_written(panel)]


def _edited(name: str, text: str, *values: Any) -> list[Any]:
    """The page and the panel, once a control was set. That control stays as it is, unless another one decides it."""
    try:
        given = _panel(values)
        panel, recipe = after_edit(name, text, given)
        written = _written(_of_both(panel, recipe))
    except SkipstoneError as error:
        return _refused(error)
    shown = dict(zip(SHOWN, _shown_of(panel), strict=True))
    if shown[name] == getattr(given, name):
        shown[name] = gr.update()
    return ["", recipe.to_json(), *shown.values(), *written]


def after_edit(name: str, text: str, given: PanelSettings) -> tuple[PanelSettings, Recipe]:
    """What the page's controls and its recipe are once a control was set: it counts, and what it excludes is turned off.

    A preset uses Auto alone, so that a setting of another method chooses Custom.

    Args:
        name: of the field.
        text: the recipe before.
        given: what the controls show.

    Raises :class:`SkipstoneError` for a value that cannot run.
    """
    if name == "level":
        panel = given.but(speedup=LEVELS.get(given.level.lower(), 1.0))
    elif given.level == OWN:
        panel = given.after(name)
        return panel, edited(Recipe.from_json(text), panel)
    elif Auto in FIELDS[name].methods:
        panel = given.but(level=level_of(given.speedup)) if name == "speedup" else given
    else:
        panel = given.but(level=OWN, speedup=1.0).after(name)
    return panel, panel.as_recipe()


def _panel(values: Sequence[Any]) -> PanelSettings:
    """What the page's controls show."""
    return PanelSettings.of_args([dict(zip(SHOWN, values, strict=True))])


def _of_both(panel: PanelSettings, recipe: Recipe) -> PanelSettings:
    """The panel for the page's controls and recipe: the controls, unless the recipe has what they cannot show."""
    return panel if effects(panel.as_recipe()) == effects(recipe) else PanelSettings.of_recipe(recipe)


def _agree(recipe: Recipe, panel: PanelSettings) -> bool:
    """Do the controls show this recipe?"""
    same = _shown_of(PanelSettings.of_recipe(recipe)) == _shown_of(panel)
    return same or effects(edited(recipe, panel) if panel.level == OWN else panel.as_recipe()) == effects(recipe)


def _used(text: str, *values: Any) -> list[Any]:
    """Message, and the values of a tab's panel, which is on. The page's script then shows that tab."""
    try:
        recipe, panel = Recipe.from_json(text), _panel(values)
        if not _agree(recipe, panel):
            raise SkipstoneError("the controls and the recipe differ. Change one control, then try again")
        written = _written(_of_both(panel, recipe))
    except SkipstoneError as error:
        return [amber(f"Not used: {error}"), *_unchanged(len(FIELDS))]
    return ["", *(True if name == "enabled" else value for name, value in zip(FIELDS, written, strict=True))]


def _written(panel: PanelSettings) -> list[Any]:
    return [getattr(panel, name) if name in WRITTEN else gr.update() for name in FIELDS]


def _refused(error: SkipstoneError) -> list[Any]:
    return [amber(str(error)), *_unchanged(1 + len(SHOWN) + len(FIELDS))]


def _unchanged(count: int) -> list[Any]:
    return [gr.update() for _ in range(count)]
