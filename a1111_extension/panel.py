"""The panel in txt2img and img2img."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from html import escape
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from ..core.errors import SkipstoneError
from .controls import QUIET, ElemId, control, settings_controls
from .infotext import read_infotext
from .settings import EXCLUSIVE, SETTLED, PanelSettings
from .table import FIELDS

infotext_reader = lru_cache(maxsize=None)(read_infotext)
"""One function per field, the same in both tabs: it is also the name by which "Send to img2img" finds the field."""


@dataclass
class Panel:
    """The parts of a panel that the host and the tab use.

    Args:
        components: in the order of :data:`FIELDS`.
        last_run: one line about the last run.
        log: the host's HTML below the picture, with the comments of the job. A run's comment has its number, so that this
            changes whenever a run ends. The host makes it after the panel.
    """

    components: list[Any]
    last_run: Any
    log: Any = None

    @property
    def infotext_fields(self) -> list[tuple[Any, Callable[..., Any]]]:
        """Each component, with the function that reads it from pasted infotext."""
        return list(zip(self.components, map(infotext_reader, FIELDS), strict=True))

    @property
    def paste_field_names(self) -> list[Callable[..., Any]]:
        """The fields that "Send to img2img" copies."""
        return [name for _, name in self.infotext_fields]


def build(elem_id: ElemId) -> Panel:
    """Make the panel's components in the gradio block under construction. elem_id: the host's maker of element ids."""
    enabled = FIELDS["enabled"]
    with InputAccordion(enabled.default, label=enabled.label, elem_id=elem_id("enable")) as switch:
        made = settings_controls(elem_id)
        made["passes"] = control(FIELDS["passes"], elem_id)
        with gr.Accordion("Recipe", open=False, elem_id=elem_id("recipe_part")):
            made["recipe"] = control(FIELDS["recipe"], elem_id, lines=2, max_lines=20)
        message = gr.HTML("", elem_id=elem_id("told"))
        last_run = gr.HTML("No run yet.", elem_id=elem_id("last_run"))
    made["enabled"] = switch
    components = [made[name] for name in FIELDS]
    _follow(made, components, message)
    return Panel(components, last_run)


def _follow(made: dict[str, Any], components: list[Any], message: Any) -> None:
    """The last choice counts and switches off what it excludes; values that cannot run show a message at once."""
    inputs = [made[name] for name in EXCLUSIVE]
    for name in EXCLUSIVE:
        outputs = [made[field] for field in SETTLED]
        made[name].input(fn=partial(after, name), inputs=inputs, outputs=outputs, **QUIET)
    for name in (*EXCLUSIVE, "depths", "mask", "recipe"):
        made[name].change(fn=_problem, inputs=components, outputs=[message], **QUIET)


def after(chosen: str, *values: Any) -> list[Any]:
    """Return the fields of :data:`SETTLED` after a choice.

    Args:
        chosen: the field that was set.
        values: of :data:`EXCLUSIVE`.
    """
    try:
        settled = PanelSettings.of_args([dict(zip(EXCLUSIVE, values, strict=True))]).after(chosen)
    except SkipstoneError:
        return list(values[: len(SETTLED)])
    return [getattr(settled, name) for name in SETTLED]


def _problem(*values: Any) -> str:
    """HTML: why these values cannot run, or change nothing."""
    try:
        neutral = PanelSettings.of_args(values).as_recipe().neutral
    except SkipstoneError as error:
        return f"Skipstone would do nothing: {escape(str(error))}"
    return "Skipstone would do nothing: all of its methods are off." if neutral else ""
