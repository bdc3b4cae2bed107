"""What the host's own controls say of the next picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .host import option

WATCHED = ("steps", "sampling", "hr-checkbox", "hires_steps", "denoising_strength")
"""Ends of the element ids of the controls that the panel reads, after the tab's name."""

_MOST_DENOISING = 0.999


@dataclass(frozen=True)
class Planned:
    """The next picture, as far as the page shows it.

    Args:
        steps: that the sampler makes in the first pass; None where they are not known.
        sampler: its name in the host's list.
        hires_steps: that it makes in the hires pass; None without one.
    """

    steps: int | None = None
    sampler: str = ""
    hires_steps: int | None = None

    @classmethod
    def of(cls, shown: Mapping[str, Any], img2img: bool) -> Planned:
        """From the values of the host's controls. Image to image runs a part of its steps, the denoising strength.

        Args:
            shown: end of an element id -> its value.
            img2img: whether the tab is that of image to image.
        """
        steps, denoising = shown.get("steps"), shown.get("denoising_strength")
        hires = (shown.get("hires_steps") or steps) if shown.get("hr-checkbox") else None
        if img2img and steps and denoising is not None and not option("img2img_fix_steps", False):
            steps = int(min(denoising, _MOST_DENOISING) * steps) + 1
        return cls(steps, shown.get("sampling") or "", hires)
