"""A full-size SD1.5 U-Net with random weights, and the end-to-end rows of `skipstone bench tokens`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import ModelError
from ...core.measure.macs import count
from ...core.measure.timing import clock_of, interleave
from ...core.recipe.token_merge import TokenMerge
from ...pipelines.accelerate import accelerate
from .one_block import CONTEXT_DIM, CONTEXT_TOKENS, LATENT_FACTOR, twin

HALF = TokenMerge(threshold=-1.0, stride=(1, 2), max_downsample=1, bucket=1, absolute=True)
"""Exactly half of the tokens merge: one destination in each cell of 1 x 2, and every source is above -1."""
_CALLS: dict[str, str | tuple[int, ...]] = {
    "Skipstone 50 %, pairs searched": "every",
    "Skipstone 50 %, pairs reused": (0,),
}


class UNetInputs:
    """Inputs of a U-Net: latents [B, C, side, side] and one context [B, 77, D], from their own generators.

    Args:
        unet: whose device and dtype they have.
        batch: B.
        size: side of the pictures in pixels.

    Example:
        >>> from diffusers import UNet2DConditionModel
        >>> kinds = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
        >>> unet = UNet2DConditionModel(**kinds, layers_per_block=1, mid_block_type=None, cross_attention_dim=8)
        >>> UNetInputs(unet, batch=2, size=512).latent(seed=1).shape
        torch.Size([2, 4, 64, 64])
    """

    def __init__(self, unet: Any, batch: int, size: int) -> None:
        """Draw the context."""
        self._like = next(unet.parameters())
        self._shape = (batch, unet.config.in_channels, size // LATENT_FACTOR, size // LATENT_FACTOR)
        self.context = self._normal((batch, CONTEXT_TOKENS, unet.config.cross_attention_dim), seed=1)

    def latent(self, seed: int = 0) -> Tensor:
        """Normal noise."""
        return self._normal(self._shape, seed)

    def _normal(self, shape: tuple[int, ...], seed: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), device="cpu").to(self._like)


def sd15_unet() -> Any:
    """diffusers' U-Net in SD1.5's configuration (859.5 M parameters), random weights. Raises :class:`ModelError` without diffusers.

    Example:
        >>> with torch.device("meta"):
        ...     print(sum(p.numel() for p in sd15_unet().parameters()))
        859520964
    """
    try:
        from diffusers import UNet2DConditionModel
    except ImportError as error:
        raise ModelError(f"a whole U-Net needs diffusers ({error}): pip install 'skipstone[diffusers]'") from None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=CONTEXT_DIM).eval().requires_grad_(False)


def end_to_end(
    size: int,
    runs: int,
    say: Callable[[str], None],
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    make: Callable[[], Any] = sd15_unet,
) -> dict[str, Any]:
    """Time one U-Net call at batch 2: dense, tomesd at 0.5, Skipstone at 50 %.

    Args:
        size: side of the pictures in pixels.
        runs: rounds, in which all take turns.
        say: prints progress.
        device: where it runs.
        dtype: of its weights.
        make: makes the U-Net.

    Example:
        >>> from diffusers import UNet2DConditionModel
        >>> kinds = {"down_block_types": ("CrossAttnDownBlock2D",), "up_block_types": ("CrossAttnUpBlock2D",)}
        >>> sizes = {"block_out_channels": (32,), "layers_per_block": 1, "cross_attention_dim": 8}
        >>> found = end_to_end(64, 1, lambda text: None, make=lambda: UNet2DConditionModel(**kinds, **sizes).eval())
        >>> found["rows"][0]["name"], found["rows"][0]["speedup"]
        ('dense', 1.0)
    """
    unet = nn.Module.to(make(), device, dtype)  # diffusers' own warns of any dtype
    inputs = UNetInputs(unet, 2, size)
    latent = inputs.latent()

    def call(network: nn.Module) -> Callable[[], Tensor]:
        timesteps = cycle(range(999, 0, -1))  # each call at another noise level

        @torch.no_grad()
        def run() -> Tensor:
            return network(latent, next(timesteps), encoder_hidden_states=inputs.context).sample

        return run

    clock = clock_of(latent.device)
    cases = {name: call(network) for name, network in _networks(unet).items()}
    took = interleave(cases, runs, lambda done: say(f"U-Net at {size} px: round {done} of {runs}"), clock)
    base, ops = took["dense"].minimum, {name: count(case).ops for name, case in cases.items()}
    rows = [
        {"name": n, **t.to_dict(), "speedup": base / t.minimum, "more_ops": ops[n] - ops["dense"]}
        for n, t in took.items()
    ]
    return {"size": size, "runs": runs, "rows": rows}


def _networks(unet: nn.Module) -> dict[str, nn.Module]:
    """The U-Net with each patch on it; modules are separate, weights shared."""
    networks = {"dense": unet}
    for name, checkpoints in _CALLS.items():
        networks[name] = twin(unet)
        accelerate(networks[name], replace(HALF, checkpoints=checkpoints)).begin()
    if find_spec("tomesd"):
        import tomesd

        networks["tomesd 0.5"] = tomesd.apply_patch(twin(unet), ratio=0.5)
    return networks
