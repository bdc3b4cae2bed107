"""What several nodes' schemas share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.recipe import MAX_DOWNSAMPLES

MASK = io.Custom("SKIPSTONE_MASK")
"""Carries a :class:`BlockSkip`: a rule, or a mask read from a file. None where there is none to hand on."""

MASKS = "Skipstone/masks"
"""Menu of the nodes that make, keep and show masks."""

WINDOW = {"start_percent": "start", "end_percent": "end"}
"""Widget -> setting."""


def advanced(widget: Any) -> Any:
    """Mark a widget advanced. Newer ComfyUI has an argument for it; `extra_dict` reaches the page in all versions."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def window_inputs(what: str) -> list[Any]:
    """Two numbers for a part of the sampling run; outside it nothing happens. what: a verb."""
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


def stride_input(most: str) -> Any:
    """Cell side. most: how many tokens can go at each side."""
    return io.Int.Input(
        "stride", default=2, min=2, max=8, optional=True, tooltip=f"Cell side in tokens. At most {most}."
    )


def matching_input(loss: str) -> Any:
    """What is compared with what. loss: what local matching costs."""
    return io.Combo.Input(
        "matching", options=["dense", "local"], default="dense", optional=True,
        tooltip="dense compares each token with all (the paper). local compares inside tiles of 16 x 16 tokens: 16 "
        f"times fewer pairs at 64 x 64 tokens, and {loss}.",
    )  # fmt: skip


def max_downsample_input() -> Any:
    """Which attentions are served."""
    return io.Combo.Input(
        "max_downsample", options=["auto", *map(str, MAX_DOWNSAMPLES)], default="auto", optional=True,
        tooltip="Coarsest attention served, as latent side over token side. auto is 1 on SD1.x (64 x 64 tokens at "
        "512 px) and up to 4 on SDXL. Larger saves little more and costs quality.",
    )  # fmt: skip


def downsample(value: str) -> Any:
    """The setting behind :func:`max_downsample_input`'s widget."""
    return "auto" if value == "auto" else int(value)


def steps_input(tooltip: str) -> Any:
    """Number of steps that a mask or picture is for."""
    return io.Int.Input("steps", default=20, min=1, max=1000, tooltip=tooltip)
