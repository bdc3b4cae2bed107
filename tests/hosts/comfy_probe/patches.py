"""What other packs and files put on a model or its conds: attention patches, a T2I adapter, a forward of the whole network."""

import comfy.controlnet
import comfy.model_management
import comfy.utils
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import nn

HINT = 8
"""Pixels that one latent pixel stands for."""
BLOCKS = [(name, number) for name in ("input", "output") for number in range(12)] + [("middle", 0)]


def _tokens(like, count=4):
    """Tokens of a picture, as an IP-Adapter makes them: the same ones for each row."""
    found = torch.randn(1, count, like.shape[-1], generator=torch.Generator().manual_seed(7))
    return found.to(like).expand(like.shape[0], -1, -1)


def _appended(n, context, value, options):
    context = torch.cat([context, _tokens(context)], 1)
    return n, context, context if value is None else torch.cat([value, _tokens(value)], 1)


def _beside(q, k, v, options):
    heads = options["n_heads"]
    return optimized_attention(q, k, v, heads) + 0.5 * optimized_attention(q, _tokens(k), _tokens(v), heads)


def _weakened(n, options):
    return n * 0.9


def _plain(apply_model, args):
    return apply_model(args["input"], args["timestep"], **args["c"]) * 1.01


def _appending(model):
    model.set_model_attn2_patch(_appended)


def _replacing(model):
    for name, number in BLOCKS:
        model.set_model_attn2_replace(_beside, name, number)


def _weakening(model):
    model.set_model_attn1_output_patch(_weakened)


def _wrapping(model):
    model.set_model_unet_function_wrapper(_plain)


PATCHES = {
    "attn2 patch": _appending,
    "attn2 replace": _replacing,
    "attn1 output patch": _weakening,
    "unet wrapper": _wrapping,
}
"""Name -> function that puts it on a clone of the model."""


def patch(model, how):
    """The model with a patch."""
    clone = model.clone()
    PATCHES[how](clone)
    return (clone,)


class _Adapter(nn.Module):
    """A feature for the first input block."""

    unshuffle_amount = HINT

    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        with torch.no_grad():
            for p in self.conv.parameters():
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(6)))

    def forward(self, x):
        return {"input": [self.conv(nn.functional.avg_pool2d(x, HINT))]}


def t2i(channels):
    """A T2I adapter for a U-Net of so many channels."""
    return (comfy.controlnet.T2IAdapter(_Adapter(channels), 3, HINT, "nearest-exact"),)


class _Vae:
    """Averages of the picture as a latent."""

    def encode(self, pixels):
        """[B, H, W, 3] -> [B, 4, H / 8, W / 8]."""
        small = nn.functional.avg_pool2d(pixels.movedim(-1, 1), HINT)
        return torch.cat([small, small[:, :1]], 1) - 0.5


def vae():
    """A VAE that encodes."""
    return (_Vae(),)
