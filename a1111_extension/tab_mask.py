"""The tab's page *Mask*: a drawing of which blocks run at which step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ..core.errors import RecipeError, SkipstoneError
from ..core.models import recognise
from ..core.plan.heatmap import heatmap
from ..core.plan.liveness import State
from ..core.plan.mask_states import mask_for, states_of
from ..core.recipe.block_skip import BlockSkip
from .controls import QUIET
from .host import typeface
from .model_facts import loaded_network
from .model_files import located, names, opened
from .pages import amber, picture
from .panel import Panel
from .settings import PanelSettings
from .tab_try import bound

AS_SET = "as txt2img's panel is set"


def build(panels: Mapping[str, Panel]) -> tuple[list[Any], Callable[[], Any]]:
    """Make the page.

    Args:
        panels: by tab name.

    Returns what a refresh sets, and the function that gives it.
    """
    with gr.Row():
        chosen = gr.Dropdown(
            _choices(), value=AS_SET, label="Drawn mask", allow_custom_value=True, elem_id="skipstone_mask"
        )
        steps = gr.Slider(1, 100, 20, step=1, label="Drawn steps", elem_id="skipstone_mask_steps")
    draw = gr.Button("Draw", variant="primary", elem_id="skipstone_mask_draw")
    drawing = gr.HTML("", elem_id="skipstone_mask_drawing")
    written = bound(panels)
    draw.click(fn=page, inputs=[chosen, steps, *written], outputs=[drawing], **QUIET)
    return [chosen], lambda: gr.update(choices=_choices())


def _choices() -> list[str]:
    return [AS_SET, *names("mask")]


def page(chosen: str, steps: float, *values: Any) -> str:
    """The drawing as HTML, or the reason why there is none.

    Args:
        chosen: a mask file, or :data:`AS_SET`.
        steps: number of steps.
        values: of the panel.
    """
    try:
        network = loaded_network()
        mask, graph = mask_for(network, recognise(network), _settings(chosen, values), int(steps))
        states = states_of(mask, graph)
    except SkipstoneError as error:
        return amber(str(error))
    title = f"{mask.family}, {len(states)} steps: {int((states == State.RUN).sum())} of {states.size} blocks run"
    return picture(heatmap(states, mask.blocks, title, typeface()), title)


def _settings(chosen: str, values: tuple[Any, ...]) -> BlockSkip:
    """The block skipping to draw. Raises :class:`SkipstoneError` where there is none."""
    if chosen != AS_SET:
        return BlockSkip(rule="mask", mask=opened("mask", chosen))
    skip = located(PanelSettings.of_args(values).as_recipe()).skip
    if skip is None or skip.neutral:
        raise RecipeError("these settings skip no blocks: choose Custom, then Blocks or Mask, or a mask file here")
    return skip
