"""The node "Compare"."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..core.errors import RecipeError, SkipstoneError
from ..core.measure.fidelity import faster, fidelity
from .messages import warn
from .pictures import image, labelled, notice
from .widgets import TOOLS, advanced, named_too, writes_on_itself

_GAP = 8
"""Pixels between two pictures side by side."""
_SECONDS: dict[str, Any] = {"default": 0.0, "min": 0.0, "max": 1e6, "step": 0.01, "optional": True}
"""Of a time that is connected, or not known."""


class SkipstoneCompare(io.ComfyNode):
    """Two pictures in; both side by side, their difference, and figures out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Two pictures and how strongly the difference is shown."""
        return io.Schema(
            node_id="SkipstoneCompare",
            display_name="Compare Pictures",
            category=TOOLS,
            description="Compares an accelerated picture with the original: move the mouse over the node to wipe between "
            "them. It gives both side by side, their difference, PSNR and SSIM.",
            inputs=[
                io.Image.Input("original", tooltip="The picture without acceleration."),
                io.Image.Input("accelerated", tooltip="The picture to compare, of the same size and from the same seed."),
                io.Float.Input(
                    "amplify", default=5.0, min=1.0, max=100.0, step=1.0, optional=True,
                    tooltip="How many times stronger the difference is drawn.",
                ),
                advanced(io.Float.Input(
                    "seconds_original", **_SECONDS,
                    tooltip="How long the original took, such as Run Report's seconds_in_full; 0 is not known.",
                )),
                advanced(io.Float.Input(
                    "seconds_accelerated", **_SECONDS,
                    tooltip="How long the accelerated picture took, such as Run Report's seconds.",
                )),
            ],
            outputs=[
                io.Image.Output(display_name="side_by_side", tooltip="The original left, the accelerated picture right."),
                io.Image.Output(display_name="difference", tooltip="The absolute difference, amplified. Black is equal."),
                io.Float.Output(display_name="psnr", tooltip="Peak signal-to-noise ratio in dB: higher is closer."),
                io.Float.Output(display_name="ssim", tooltip="Structural similarity: 1 is equal."),
            ],
            **writes_on_itself(),
            is_output_node=True,
            **named_too("compare", "difference", "psnr", "ssim", "wipe", "before after", "skipstone"),
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        original: Tensor,
        accelerated: Tensor,
        amplify: float = 5.0,
        seconds_original: float = 0.0,
        seconds_accelerated: float = 0.0,
    ) -> io.NodeOutput:
        """Compare. For pictures of different sizes, the node says so and its pictures are that text.

        Args:
            original: [B, H, W, C] in 0..1.
            accelerated: of the same size; of the larger batch, the first pictures are compared.
            amplify: factor of the difference.
            seconds_original: how long the original took; 0 if it is not known.
            seconds_accelerated: how long the accelerated picture took; 0 if it is not known.
        """
        try:
            one, other = _pair(original, accelerated)
        except SkipstoneError as error:
            warn(str(error), cls.hidden.unique_id)
            text = image(notice(str(error)))
            return io.NodeOutput(text, text, 0.0, 0.0)
        found = fidelity(other.movedim(-1, 1), one.movedim(-1, 1))
        difference = ((other - one).abs() * amplify).clamp(0, 1)
        line = found.text() + faster(seconds_original, seconds_accelerated)
        return io.NodeOutput(
            side_by_side(one, other), difference, found.psnr_db, found.ssim,
            ui={"skipstone_original": _saved(one), "skipstone_accelerated": _saved(other), "text": [line]},
        )  # fmt: skip


def _pair(original: Tensor, accelerated: Tensor) -> tuple[Tensor, Tensor]:
    """As many pictures of both, without alpha. Raises :class:`RecipeError` for different sizes."""
    count = min(len(original), len(accelerated))
    one, other = original[:count, ..., :3].float().cpu(), accelerated[:count, ..., :3].float().cpu()
    if one.shape != other.shape:
        sizes = " and ".join(f"{x.shape[2]} x {x.shape[1]}" for x in (one, other))
        raise RecipeError(f"pictures of {sizes} pixels cannot be compared: use one size for both")
    return one, other


def side_by_side(original: Tensor, accelerated: Tensor) -> Tensor:
    """Both batches side by side, with their names above: [B, H + h, 2 W + gap, 3].

    Args:
        original: [B, H, W, 3] in 0..1.
        accelerated: of the same shape.
    """
    named = [labelled(one, name) for one, name in ((original, "original"), (accelerated, "accelerated"))]
    gap = torch.ones(len(original), named[0].shape[1], _GAP, 3)
    return torch.cat([named[0], gap, named[1]], dim=2)


def _saved(pictures: Tensor) -> list[Any]:
    """Files for the page, in the folder of temporary files."""
    return ui.ImageSaveHelper.save_images(pictures, "skipstone_compare", io.FolderType.temp, None)
