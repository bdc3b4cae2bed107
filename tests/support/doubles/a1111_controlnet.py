"""A double of ControlNet's reference modes, as `scripts/hook.py` of sd-webui-controlnet has them.

`forward` is replaced on the U-Net's instance. Each call first runs the original forward on the reference (the write pass),
then the blocks on the picture in a loop of its own (the read pass), where self-attention also reads what was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from ldm.modules.attention import BasicTransformerBlock
from ldm.modules.diffusionmodules.util import timestep_embedding
from torch import Tensor, nn


class ControlNet:
    """The hook of one job. passes: inputs of the write passes so far. active: False is past "ending control step"."""

    def __init__(self, unet: nn.Module, reference: Tensor, banks: bool = True) -> None:
        """reference: latent [1, C, h, w]. banks: False leaves attention alone (`reference_adain`)."""
        self.unet = unet
        self.reference = reference
        self.banks = banks
        self.active = True
        self.passes: list[Tensor] = []
        self._machine = ""

    @contextmanager
    def hooked(self) -> Iterator[ControlNet]:
        """`hook` … `restore`."""
        blocks = [m for m in self.unet.modules() if isinstance(m, BasicTransformerBlock) and self.banks]
        self._original = self.unet.forward
        self.unet.forward = MethodType(self._forward_webui, self.unet)
        for block in blocks:
            block.bank = []  # type: ignore[assignment]
            block._forward = MethodType(self._block_forward, block)
        try:
            yield self
        finally:
            del self.unet.forward
            for block in blocks:
                del block.bank, block._forward

    def _forward_webui(self, unet: Any, *args: Any, **kwargs: Any) -> Tensor:
        return self._forward(unet, *args, **kwargs)

    def _forward(self, unet: Any, x: Tensor, timesteps: Tensor, context: Tensor, **kwargs: Any) -> Tensor:
        self._machine = ""
        for block in [m for m in unet.modules() if "bank" in m.__dict__]:
            block.bank = []
        if self.active:
            self._machine = "write"
            self.passes.append(self.reference.expand_as(x) + 1e-3 * timesteps.view(-1, 1, 1, 1))
            self._original(x=self.passes[-1], timesteps=timesteps, context=context)
            self._machine = "read"
        skips, h = [], x
        embedding = unet.time_embed(timestep_embedding(timesteps, unet.model_channels))
        for module in unet.input_blocks:
            h = module(h, embedding, context)
            skips.append(h)
        h = unet.middle_block(h, embedding, context)
        for module in unet.output_blocks:
            h = module(torch.cat([h, skips.pop()], dim=1), embedding, context)
        return unet.out(h)

    def _block_forward(self, block: Any, x: Tensor, context: Tensor | None = None) -> Tensor:
        """`hacked_basic_transformer_inner_forward`."""
        normed = block.norm1(x)
        if self._machine == "write":
            block.bank.append(normed.detach().clone())
        bank = block.bank if self._machine == "read" else []
        x = block.attn1(normed, context=torch.cat([normed, *bank], dim=1)) + x
        x = block.attn2(block.norm2(x), context=context) + x
        return block.ff(block.norm3(x)) + x
