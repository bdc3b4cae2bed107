"""A double of Forge's Flux (`backend/nn/flux.py`): its class name, its blocks' arguments, and time that runs from 1 to 0."""

from __future__ import annotations

from typing import Any

import tiny
import torch
from torch import Tensor, nn

TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)
WIDTH = 8


class DoubleStreamBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.img, self.txt = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Any) -> tuple[Tensor, Tensor]:
        return img + torch.tanh(self.img(img) + vec + txt.mean(1, keepdim=True)), txt + torch.tanh(self.txt(txt) + vec)


class SingleStreamBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear1 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor, vec: Tensor, pe: Any) -> Tensor:
        return x + torch.tanh(self.linear1(x) + vec + x.mean(1, keepdim=True))


class IntegratedFluxTransformer2DModel(nn.Module):
    """Two double and two single blocks over the latent's pixels; time enters as a vector of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.img_in, self.out = nn.Linear(4, WIDTH), nn.Linear(WIDTH, 4)
        self.time_in = nn.Linear(1, WIDTH)
        self.double_blocks = nn.ModuleList([DoubleStreamBlock(), DoubleStreamBlock()])
        self.single_blocks = nn.ModuleList([SingleStreamBlock(), SingleStreamBlock()])

    def forward(
        self, x: Tensor, timestep: Tensor, context: Tensor, y: Any = None, guidance: Any = None, **kw: Any
    ) -> Tensor:
        height = x.shape[2]
        img, txt = self.img_in(x.flatten(2).transpose(1, 2)), context[..., :WIDTH]
        vec = self.time_in(timestep.view(-1, 1, 1).float())
        for block in self.double_blocks:
            img, txt = block(img=img, txt=txt, vec=vec, pe=None)
        img = torch.cat((txt, img), 1)
        for block in self.single_blocks:
            img = block(img, vec=vec, pe=None)
        return self.out(img[:, txt.shape[1] :]).transpose(1, 2).unflatten(2, (height, -1))


def flux(seed: int = 0) -> tiny.Case:
    """The double with random weights; calls hand it time in 1 to 0."""
    model = tiny.randomise(IntegratedFluxTransformer2DModel(), seed)
    return tiny.Case("forge flux", model, lambda m, x, t, c: m(x, t, c))
