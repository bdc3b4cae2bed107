"""What several nodes' schemas share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

MASK = io.Custom("SKIPSTONE_MASK")
"""Carries a :class:`BlockSkip`: a rule, or a mask read from a file. None where there is none to hand on."""


def advanced(widget: Any) -> Any:
    """Mark a widget advanced. Newer ComfyUI has an argument for it; `extra_dict` reaches the page in all versions."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def window_inputs(what: str) -> list[Any]:
    """Two sliders for a part of the sampling run; outside it nothing happens. what: a verb."""
    return [
        io.Float.Input(
            "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip=f"{what} from here on. 0 is the first step; 0.2 runs the first fifth in full and keeps composition.",
        ),
        io.Float.Input(
            "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip=f"{what} up to here. 1 is the last step; 0.8 runs the last fifth in full and keeps fine detail.",
        ),
    ]  # fmt: skip
