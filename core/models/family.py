"""The structure of a model that the engine needs: its family and its transformer blocks.

Families are recognised by class names, structure and the arguments of the forward, never by importing a host: the same U-Net
exists in `ldm`, `sgm`, `comfy` and `backend`. A run's first call verifies the structure (:mod:`skipstone.core.engine.proof`).
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
"""Served by block skipping alone."""
TOKENS_AND_BLOCKS = (TokenMerge.kind, TokenPrune.kind, BlockSkip.kind)
"""Served by all methods."""
DATO_SCHEDULE = "dato"
"""Served by DaTo as published: its depth lists count the levels of a U-Net."""


@dataclass(frozen=True)
class Site:
    """One transformer block that can run on fewer tokens.

    Args:
        name: path of the block in the network.
        norm: the module whose first argument is the block's raw hidden state [B, N, C].
        modules: its attn1 (self-attention), and if it has them attn2 (cross-attention) and ff.
        refusal: why this block must run on all tokens; empty if it need not.
    """

    name: str
    norm: nn.Module
    modules: Mapping[str, nn.Module]
    refusal: str = ""


KeyBias = Callable[[nn.Module, dict[str, Any], Tensor], dict[str, Any]]
"""(attention, its keyword arguments, bias [B, N] for the key logits) -> new keyword arguments, or raises Decline."""


@dataclass(frozen=True)
class Inputs:
    """The arguments of one call that the engine reads. `conditioning` identifies the rows of the batch."""

    latent: Tensor
    timestep: Any
    conditioning: Any = None


@dataclass(frozen=True)
class Family:
    """How to find the blocks of one kind of network, and how to read the arguments of its forward.

    Args:
        name: identifies the family in mask files and error messages.
        matches: whether a network is of this family.
        sites: network -> transformer blocks that can run on fewer tokens.
        names: keyword names of the latent, the timestep and the conditioning, in the order tried; positions 0, 1, 2.
        graph: (network, caching) -> its blocks, and which block reads which outputs.
        serves: display name of a model -> kinds of methods that work on it.
        cachings: what can be cached, the default first.
        splits: whether `graph` takes split=True, which lists a transformer's inner blocks in place of the whole.
        key_bias: adds a bias on the keys to an attention's arguments; None where the family has no such argument.
        calls_forward: whether the family's own code calls `forward` without `__call__`, so that hooks would not fire.
        time_scale: factor from the forward's timestep argument to a training timestep: 1000 where it runs from 0 to 1.
        notes: what is particular to the family.
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
    time_scale: float = 1.0
    notes: str = field(default="")

    def reads(self, root: nn.Module) -> bool:
        """Whether the network's forward takes a latent and a timestep by this family's names, or anything (*args)."""
        parameters = signature(root.forward).parameters.values()
        names = {p.name for p in parameters}
        anything = any(p.kind is Parameter.VAR_POSITIONAL for p in parameters)
        return anything or all(names & set(known) for known in self.names[:2])

    def inputs(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Inputs:
        """Read one call's arguments."""
        found = [_argument(args, kwargs, i, names) for i, names in enumerate(self.names)]
        return Inputs(*found)


def _argument(args: tuple[Any, ...], kwargs: Mapping[str, Any], position: int, names: tuple[str, ...]) -> Any:
    for name in names:
        if kwargs.get(name) is not None:
            return kwargs[name]
    return args[position] if position < len(args) else None


def architecture(family: str) -> str:
    """The architecture of a family, whatever its code base: "U-Net" for "ldm U-Net" and "diffusers U-Net"."""
    return family.removeprefix("diffusers ").removeprefix("ldm ")


def class_name(module: nn.Module) -> str:
    """The class name of a module, or of the module inside torch.compile's wrapper."""
    return type(unwrapped(module)).__name__


def unwrapped(module: nn.Module) -> nn.Module:
    """The module under torch.compile's OptimizedModule."""
    return getattr(module, "_orig_mod", module)


def named_blocks(root: nn.Module, kinds: tuple[str, ...]) -> list[tuple[str, nn.Module]]:
    """Modules below `root` whose class name is one of `kinds`, in definition order, with their paths."""
    return [(name, m) for name, m in root.named_modules() if class_name(m) in kinds]


def block_sites(root: nn.Module, kinds: tuple[str, ...], attn1: str, attn2: str, ff: str) -> list[Site]:
    """Sites of the blocks that hold `norm1` and a self-attention.

    Args:
        root: the network.
        kinds: class names of the blocks.
        attn1, attn2, ff: names of the self-attention, cross-attention and feed-forward inside a block.
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
