"""What the host's own controls say of the next picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .host import option

WATCHED = (
    "steps", "sampling", "hr-checkbox", "hires_steps", "denoising_strength", "width", "height", "hr_scale", "hr_resize_x",
    "hr_resize_y",
)  # fmt: skip
"""Ends of the element ids of the controls that the panel reads, after the tab's name."""

_MOST_DENOISING = 0.999
_UNIT = 8
"""Pixels of a place of the latent, along each side."""


@dataclass(frozen=True)
class PlannedPass:
    """A pass of the next picture, as far as the page shows it.

    Args:
        steps: that the sampler makes; None where they are not known.
        size: such as "512 x 768"; empty where it is not known.
        noise: share of the training timesteps at which it begins.
    """

    steps: int | None = None
    size: str = ""
    noise: float = 1.0


@dataclass(frozen=True)
class Planned:
    """The next picture, as far as the page shows it.

    Args:
        first: the first pass, or the only one.
        sampler: its name in the host's list.
        hires: the hires pass; None without one.
    """

    first: PlannedPass = PlannedPass()
    sampler: str = ""
    hires: PlannedPass | None = None

    @classmethod
    def of(cls, shown: Mapping[str, Any], img2img: bool) -> Planned:
        """From the values of the host's controls. Image to image runs a part of its steps, the denoising strength.

        Args:
            shown: end of an element id -> its value.
            img2img: whether the tab is that of image to image.
        """
        steps, denoising = shown.get("steps"), shown.get("denoising_strength")
        wide, high = shown.get("width") or 0, shown.get("height") or 0
        noise = min(_MOST_DENOISING, denoising or 0.0) if denoising is not None else 1.0
        if img2img and steps and denoising is not None and not option("img2img_fix_steps", False):
            steps = int(noise * steps) + 1
        first = PlannedPass(steps, sized(wide, high), noise if img2img else 1.0)
        if not shown.get("hr-checkbox"):
            return cls(first, shown.get("sampling") or "")
        hires = PlannedPass(shown.get("hires_steps") or steps, _enlarged(shown, wide, high), noise)
        return cls(first, shown.get("sampling") or "", hires)


def sized(width: float, height: float) -> str:
    """A picture's size as text, in whole places of the latent; empty where it is not known.

    Args:
        width: in pixels.
        height: in pixels.
    """
    return f"{int(width) // _UNIT * _UNIT} x {int(height) // _UNIT * _UNIT}" if width and height else ""


def _enlarged(shown: Mapping[str, Any], width: float, height: float) -> str:
    """The size of the hires pass, as the host computes it."""
    across, down = shown.get("hr_resize_x") or 0, shown.get("hr_resize_y") or 0
    if not width or not height:
        return ""
    if not across and not down:
        scale = shown.get("hr_scale") or 1.0
        return sized(int(width * scale), int(height * scale))
    return sized(across or down * width // height, down or across * height // width)
