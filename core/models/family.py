"""The description of a model family: its transformer blocks, its block graph, and the arguments of its forward.

Families are recognised by class names, structure and the arguments of the forward, without importing a host: the same U-Net
is in `ldm`, `sgm`, `comfy` and `backend`. The first call of a run checks the structure (:mod:`skipstone.core.engine.proof`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

from torch import Tensor, nn

from ..recipe.block_skip import BlockSkip, Caching
from ..recipe.token_merge import TokenMerge
from ..recipe.token_prune import TokenPrune
from .graph import BlockGraph

BLOCKS = (BlockSkip.kind,)
"""Block skipping alone works."""
TOKENS_AND_BLOCKS = (TokenMerge.kind, TokenPrune.kind, BlockSkip.kind)
"""All methods work."""
KERNEL_TOKENS = "kernel_tokens"
"""Tokens are merged and pruned inside the calls of attention kernels, in hosts that reach them."""
DATO_SCHEDULE = "dato"
"""DaTo works as published: its depth lists count the levels of a U-Net."""


@dataclass(frozen=True)
class Site:
    """One transformer block whose layers can run on fewer tokens.

    Args:
        name: path of the block below the network.
        norm: the module whose first argument is the block's raw hidden state [B, N, C].
        modules: its attn1 (self-attention) and, if it has them, attn2 (cross-attention) and ff (feed-forward).
        refusal: why this block must run on all tokens; empty if it need not.

    Example:
        >>> Site("blocks.0", nn.LayerNorm(8), {"attn1": nn.Identity()}).refusal
        ''
    """

    name: str
    norm: nn.Module
    modules: Mapping[str, nn.Module]
    refusal: str = ""


KeyBias = Callable[[nn.Module, dict[str, Any], Tensor], dict[str, Any]]
"""(attention, its keyword arguments, bias [B, N] for the key logits) -> new keyword arguments. May raise Decline."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of one forward that the engine reads.

    Args:
        latent: the network's input [B, C, H, W], or [B, N, C] for tokens.
        timestep: one number, or a tensor [B].
        conditioning: text tokens or class labels; they identify the samples of the batch.

    Example:
        >>> import torch
        >>> Inputs(torch.zeros(2, 4, 8, 8), timestep=999).conditioning is None
        True
    """

    latent: Tensor
    timestep: Any
    conditioning: Any = None


@dataclass(frozen=True)
class Family:
    """How to find the blocks of one kind of network, and how to read the arguments of its forward.

    Args:
        name: identifies the family in mask files and error messages.
        matches: True for networks of this family.
        sites: function of the network that returns the transformer blocks that can run on fewer tokens.
        names: keywords of the latent, the timestep and the conditioning, in the order they are tried; they are the
            positional arguments 0, 1 and 2.
        graph: function of the network and the caching that returns its :class:`BlockGraph`.
        serves: display name of a model -> kinds of methods that work on it, in every host but for :data:`KERNEL_TOKENS`.
        cachings: what can be cached, the default first.
        splits: whether `graph` has an argument `split`, which lists a transformer's inner blocks in place of the whole.
        key_bias: adds a bias on the keys to an attention's arguments; None if the attention has no such argument.
        calls_forward: whether the family's own code calls `forward` directly, so that hooks do not run.
        time_scale: factor from the forward's timestep argument to training timesteps: 1000 if it is in [0, 1]; None if only
            the schedule can show it.
        notes: what is particular to the family.

    Example:
        >>> from . import FAMILIES
        >>> unet = next(family for family in FAMILIES if family.name == "diffusers U-Net")
        >>> unet.inputs(("latent", 999), {"class_labels": "cats"})
        Inputs(latent='latent', timestep=999, conditioning='cats')
    """

    name: str
    matches: Callable[[nn.Module], bool]
    sites: Callable[[nn.Module], list[Site]]
    names: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]
    graph: Callable[..., BlockGraph]
    serves: Mapping[str, tuple[str, ...]]
    cachings: tuple[Caching, ...] = ("output",)
    splits: bool = False
    key_bias: KeyBias | None = None
    calls_forward: bool = False
    time_scale: float | None = 1.0
    notes: str = field(default="")

    def reads(self, root: nn.Module) -> bool:
        """Whether the network's forward has arguments for latent and timestep by this family's names, or `*args`."""
        parameters = signature(root.forward).parameters.values()
        names = {p.name for p in parameters}
        anything = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
        return anything or all(names & set(known) for known in self.names[:2])

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        """The inputs among the arguments of one forward.

        Args:
            args: positional arguments.
            kwargs: keyword arguments; they come first.
        """
        found = [_argument(args, kwargs, i, names) for i, names in enumerate(self.names)]
        return Inputs(*found)


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, names: tuple[str, ...]) -> Any:
    for name in names:
        if kwargs.get(name) is not None:
            return kwargs[name]
    return args[position] if position < len(args) else None


def architecture(family: str) -> str:
    """The name of a family without that of its code base.

    Example:
        >>> architecture("ldm U-Net"), architecture("diffusers U-Net"), architecture("SD3")
        ('U-Net', 'U-Net', 'SD3')
    """
    return family.removeprefix("diffusers ").removeprefix("ldm ")


def class_name(module: nn.Module) -> str:
    """Class name of a module, or of the module inside torch.compile's wrapper.

    Example:
        >>> class_name(nn.Linear(1, 1))
        'Linear'
    """
    return type(unwrapped(module)).__name__


def identity(root: nn.Module) -> str:
    """What identifies a network in a profile, whatever host's code it runs in: its number of weights, without LoRA's.

    Example:
        >>> identity(nn.Linear(3, 2))
        '8 weights'
    """
    count = sum(p.numel() for name, p in unwrapped(root).named_parameters() if "lora" not in name.lower())
    return f"{count} weights"


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside torch.compile's wrapper; any other module as it is.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> unwrapped(layer) is layer
        True
    """
    return getattr(module, "_orig_mod", module)


def named_blocks(root: nn.Module, kinds: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    """Paths and modules of some classes, in the order of their definition.

    Args:
        root: the network to search.
        kinds: class names.

    Example:
        >>> [name for name, block in named_blocks(nn.Sequential(nn.ReLU(), nn.Identity()), ("ReLU",))]
        ['0']
    """
    return [(name, m) for name, m in root.named_modules() if class_name(m) in kinds]


def block_sites(root: nn.Module, kinds: tuple[str, ...], attn1: str, attn2: str, ff: str) -> list[Site]:
    """The sites of a network: its blocks of some classes that have a `norm1` and a self-attention.

    Args:
        root: the network to search.
        kinds: class names of the blocks.
        attn1: name of a block's self-attention.
        attn2: name of its cross-attention.
        ff: name of its feed-forward.

    Example:
        >>> block = nn.ModuleDict({"norm1": nn.LayerNorm(8), "attn": nn.Identity()})
        >>> [site.name for site in block_sites(nn.Sequential(block), ("ModuleDict",), "attn", "attn2", "ff")]
        ['0']
    """
    sites = []
    for name, block in named_blocks(root, kinds):
        found = {role: getattr(block, attr, None) for role, attr in (("attn1", attn1), ("attn2", attn2), ("ff", ff))}
        modules = {role: m for role, m in found.items() if isinstance(m, nn.Module)}
        norm = getattr(block, "norm1", None)
        if isinstance(norm, nn.Module) and "attn1" in modules:
            sites.append(Site(name, norm, modules, _refusal(block, modules["attn1"])))
    return sites


def _refusal(block: nn.Module, attn1: nn.Module) -> str:
    if getattr(attn1, "sr_ratio", 1) != 1:
        return "its attention compresses keys and values by convolution"
    if getattr(block, "disable_self_attn", False) or getattr(block, "only_cross_attention", False):
        return "its first attention is a cross-attention"
    return ""
