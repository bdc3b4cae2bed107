"""Networks of the probe as users store and load them: in few bits, in wrapped layers, with LoRA beside the weights."""

import comfy.lora
import comfy.sd
import torch
from torch import nn

DTYPES = {"bf16": (torch.bfloat16, None), "fp16": (torch.float16, None), "fp8": (torch.float8_e4m3fn, torch.float32)}
"""Way -> type of the weights, and that of the products if it is another one."""
WAYS = ("fp32", *DTYPES, "wrapped", "lora", "bypass lora")


class Wrapped(nn.Module):
    """A linear layer that keeps its weight as int8 and dequantises it at each call, as packs that load GGUF files do."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features, self.bias = linear.in_features, linear.out_features, linear.bias
        scale = linear.weight.detach().float().abs().amax() / 127
        self.register_buffer("scale", scale)
        self.register_buffer("kept", (linear.weight.detach().float() / scale).round().to(torch.int8))

    @property
    def weight(self):
        """The weight in float32, which ComfyUI's own fused layers read."""
        return self.kept.float() * self.scale

    def forward(self, x):
        """[..., in_features] -> [..., out_features]."""
        return nn.functional.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def wrap(network):
    """Puts wrapped layers in the place of the linear ones within the blocks."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear) and min(child.in_features, child.out_features) >= 32:
                setattr(module, name, Wrapped(child))


def with_lora(patcher, bypass):
    """A LoRA on a few linear layers of the network, added to their weights or run beside them."""
    lora, generator = {}, torch.Generator().manual_seed(5)
    for key, shape in ((k, tuple(w.shape)) for k, w in patcher.model.diffusion_model.state_dict().items()):
        if len(shape) == 2 and key.endswith(".weight") and min(shape) >= 32 and len(lora) < 24:
            name = f"diffusion_model.{key[: -len('.weight')]}"
            lora[f"{name}.lora_up.weight"] = torch.randn(shape[0], 4, generator=generator) * 0.05
            lora[f"{name}.lora_down.weight"] = torch.randn(4, shape[1], generator=generator) * 0.05
    load = comfy.sd.load_bypass_lora_for_models if bypass else comfy.sd.load_lora_for_models
    return load(patcher, None, lora, 1.0, 0.0)[0]
