"""Where a network calls attention kernels, and how its host reaches them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ..models import unwrapped
from ..models.stack import units
from .kernel import KernelHost
from .network import Network


@dataclass(frozen=True)
class KernelSite:
    """A module in which attention kernels are called.

    Args:
        name: path of the module below the network.
        module: an attention, or a whole block.

    Example:
        >>> KernelSite("blocks.0.attn", nn.Identity()).name
        'blocks.0.attn'
    """

    name: str
    module: nn.Module


@dataclass(frozen=True)
class Kernels:
    """Where a network calls attention kernels, and how its host reaches them.

    Args:
        host: how its host reaches them.
        sites: of the network.
        root: the network.

    Example:
        >>> from .kernel import SDPA
        >>> Kernels(SDPA, sites=(), root=nn.Identity()).sites
        ()
    """

    host: KernelHost
    sites: tuple[KernelSite, ...]
    root: nn.Module

    @property
    def compiled(self) -> bool:
        """Whether torch.compile acts on the network, or on a module inside it."""
        return any(unwrapped(m) is not m or getattr(m, "_compiled_call_impl", None) for m in self.root.modules())


def kernels_of(network: Network) -> Kernels | None:
    """Return where a transformer calls attention kernels: in the attentions of its stacks, or in their blocks.

    None for a network that reduces hidden states instead, for one without a stack, and for a host that cannot reach kernels.

    Args:
        network: the model.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> kernels_of(Network.of(DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2))) is None
        True
    """
    if network.kernels is None or network.family.sites(network.root):
        return None
    graph = network.family.graph(network.root, network.family.cachings[0])
    sites = [site for block in graph.blocks if block.stack for site in _sites(block.name, block.module)]
    return Kernels(network.kernels, tuple(sites), network.root) if sites else None


def _sites(name: str, block: nn.Module) -> list[KernelSite]:
    inner = [KernelSite(f"{name}.{unit}", m) for kind, unit, m in units(block) if "attention" in kind]
    return inner or [KernelSite(name, block)]
