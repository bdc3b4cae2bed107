"""What several nodes' schemas share."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..core.recipe.token_merge import MAX_DOWNSAMPLES

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
    """Two numbers for a part of the sampling run; outside it nothing happens. what: what happens inside."""
    return [
        io.Float.Input(
            "start_percent", default=0.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip=f"{what} starts at this point of the run. 0.2 leaves the first fifth unchanged, which preserves the "
            "composition.",
        ),
        io.Float.Input(
            "end_percent", default=1.0, min=0.0, max=1.0, step=0.01, optional=True,
            tooltip=f"{what} ends at this point of the run. 0.8 leaves the last fifth unchanged, which preserves fine "
            "detail.",
        ),
    ]  # fmt: skip


def stride_input(what: str) -> Any:
    """Cell side. what: what becomes of tokens."""
    return io.Int.Input(
        "stride",
        default=2,
        min=2,
        max=8,
        optional=True,
        tooltip="Size of the cells in tokens. At most three quarters "
        f"of the tokens can be {what} with 2, and more with larger cells.",
    )


def matching_input(loss: str) -> Any:
    """What is compared with what. loss: what local matching costs."""
    return io.Combo.Input(
        "matching", options=["dense", "local"], default="dense", optional=True,
        tooltip="dense compares each token with all others, as in the paper. local compares only inside small tiles: "
        f"much cheaper for large images, but {loss}.",
    )  # fmt: skip


def max_downsample_input() -> Any:
    """Which attentions are served."""
    return io.Combo.Input(
        "max_downsample", options=["auto", *map(str, MAX_DOWNSAMPLES)], default="auto", optional=True,
        tooltip="Coarsest attention layers that are included: 1 is full resolution, 8 the coarsest. auto suits each "
        "model; larger values save little more and cost quality.",
    )  # fmt: skip


def downsample(value: str) -> Any:
    """The setting behind :func:`max_downsample_input`'s widget."""
    return "auto" if value == "auto" else int(value)


def steps_input(tooltip: str) -> Any:
    """Number of steps that a mask or picture is for."""
    return io.Int.Input("steps", default=20, min=1, max=1000, tooltip=tooltip)
