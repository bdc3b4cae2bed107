"""One block of a joint or rotary transformer at its real size, with random weights, as `skipstone bench blocks` runs it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...pipelines.packing import flux_positions, packed

RealModel = Literal["flux", "qwen_image", "wan_1.3b", "wan_14b"]
_LATENT, _TIME = 8, 4
"""Pixels of a latent pixel's side, and frames of a latent frame."""


@dataclass(frozen=True)
class RealBlock:
    """A network with one block, and what it is called with.

    Args:
        network: of diffusers.
        inputs: keyword arguments of its forward, without the timestep.
        tokens: of the picture.
        what: size and length, for tables.

    Example:
        >>> RealBlock(nn.Identity(), {}, 1024, "512 px").tokens
        1024
    """

    network: nn.Module
    inputs: dict[str, Any]
    tokens: int
    what: str

    def to(self, device: str, dtype: torch.dtype) -> RealBlock:
        """Move network and inputs to a device, floating point values in a precision.

        Args:
            device: torch's name.
            dtype: the precision.
        """

        def moved(value: Any) -> Any:
            if not isinstance(value, Tensor) or value.is_meta:  # blocks that are passed over have no weights
                return value
            return value.to(device, dtype if value.is_floating_point() else None)

        inputs = {name: moved(value) for name, value in self.inputs.items()}
        return replace(self, network=self.network._apply(moved), inputs=inputs)

    @torch.no_grad()
    def call(self, network: nn.Module, timestep: float) -> Tensor:
        """Run the network, or a twin of it, once, without gradients.

        Args:
            network: what runs.
            timestep: in the network's own units.

        Returns the tensor of its output.
        """
        found: Tensor = network(
            **self.inputs,
            timestep=torch.tensor([timestep], device=self.inputs["hidden_states"].device),
            return_dict=False,
        )[0]
        return found


def real_block(model: RealModel, size: int, frames: int = 1, channels: int = 128) -> RealBlock:
    """Return one block of a model with weights and inputs from a generator of their own.

    Args:
        model: which.
        size: side of a square picture, or height of a 16:9 video, in pixels.
        frames: of a video.
        channels: of one attention head, a multiple of 32; the models' own is 128.

    Raises :class:`ImportError` without diffusers.

    Example:
        >>> real_block("flux", size=64, channels=32).tokens
        16
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return _MAKERS[model](size, frames, channels)


def _picture(size: int, frames: int = 0) -> Tensor:
    """Return a smooth latent [1, 16, h, w], or of a video [1, 16, frames, h, w], with some noise."""
    wide = size * 16 // 9 if frames else size
    height, width = (side // (2 * _LATENT) * 2 for side in (size, wide))
    shape = (frames, height, width) if frames else (height, width)
    coarse = torch.randn(1, 16, *(max(1, side // 8) for side in shape))
    mode = "trilinear" if frames else "bilinear"
    return nn.functional.interpolate(coarse, size=shape, mode=mode) + 0.3 * torch.randn(1, 16, *shape)


def _fill(blocks: nn.ModuleList, forward: Callable[..., Any]) -> None:
    """Add three blocks without weights that pass on what they get: networks are known by stacks of four blocks or more."""
    for _ in range(3):
        empty = copy.deepcopy(blocks[0]).to("meta")
        empty.forward = forward
        blocks.append(empty)


def _pass_both(hidden_states: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
    return encoder_hidden_states, hidden_states


def _flux(size: int, frames: int, channels: int) -> RealBlock:
    from diffusers import FluxTransformer2DModel

    axes = (channels // 8, channels * 7 // 16, channels * 7 // 16)
    network = FluxTransformer2DModel(
        num_layers=1, num_single_layers=0, attention_head_dim=channels, axes_dims_rope=axes
    )
    latent, text = _picture(size), torch.randn(1, 512, 4096)
    inputs = {
        "hidden_states": packed(latent), "encoder_hidden_states": text, "pooled_projections": torch.randn(1, 768),
        **flux_positions(latent, text),
    }  # fmt: skip
    return RealBlock(network.eval(), inputs, inputs["hidden_states"].shape[1], f"{size} px")


def _qwen_image(size: int, frames: int, channels: int) -> RealBlock:
    from diffusers import QwenImageTransformer2DModel

    axes = (channels // 8, channels * 7 // 16, channels * 7 // 16)
    network = QwenImageTransformer2DModel(num_layers=1, attention_head_dim=channels, axes_dims_rope=axes)
    _fill(network.transformer_blocks, _pass_both)
    latent = _picture(size)
    inputs = {
        "hidden_states": packed(latent), "encoder_hidden_states": torch.randn(1, 128, 3584),
        "encoder_hidden_states_mask": torch.ones(1, 128, dtype=torch.bool),
        "img_shapes": [(1, latent.shape[2] // 2, latent.shape[3] // 2)],
    }  # fmt: skip
    return RealBlock(network.eval(), inputs, inputs["hidden_states"].shape[1], f"{size} px")


def _wan(heads: int, feed_forward: int) -> Callable[[int, int, int], RealBlock]:
    def made(size: int, frames: int, channels: int) -> RealBlock:
        from diffusers import WanTransformer3DModel

        sizes = {"num_attention_heads": heads, "ffn_dim": feed_forward, "attention_head_dim": channels}
        network = WanTransformer3DModel(num_layers=1, **sizes)
        _fill(network.blocks, lambda hidden_states, *_: hidden_states)
        latent = _picture(size, (frames - 1) // _TIME + 1)
        inputs = {"hidden_states": latent, "encoder_hidden_states": torch.randn(1, 512, 4096)}
        return RealBlock(network.eval(), inputs, latent[0, 0].numel() // 4, f"{size}p, {frames} frames")

    return made


_MAKERS: dict[str, Callable[[int, int, int], RealBlock]] = {
    "flux": _flux,
    "qwen_image": _qwen_image,
    "wan_1.3b": _wan(12, 8960),
    "wan_14b": _wan(40, 13824),
}
