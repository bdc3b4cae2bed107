"""Networks of no known family, by their structure: lists of like blocks along which a hidden state is passed on.

Whether a list is one is not told by names. The first call of a run shows which inputs the blocks continue
(:mod:`skipstone.core.engine.observation`); what it does not show runs at every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from ..recipe.block_skip import Caching
from .family import Family, Site, class_name, unwrapped
from .graph import Block, BlockGraph, GraphBuilder

_CONTAINERS = (nn.ModuleList, nn.ModuleDict)
LEAST = 4
"""Blocks that a list has at least."""
DIFFERENCE_OR_OUTPUT: tuple[Caching, ...] = ("difference", "output")
UNITS = (
    ("attention", ("attn1", "attn", "self_attn", "attention")),
    ("cross-attention", ("attn2", "cross_attn")),
    ("feed-forward", ("ff", "mlp", "ffn", "feed_forward", "img_mlp")),
    ("feed-forward", ("txt_mlp", "ff_context", "mlp_context")),
)
"""Kind of a unit -> names of the module in a block, of which the first that is there counts."""


def graph_of_lists(*paths: str) -> Callable[..., BlockGraph]:
    """The graph function of a network that runs these lists of blocks one after the other.

    Args:
        paths: of the lists, below the network.

    Example:
        >>> network = nn.Module()
        >>> network.layers = nn.ModuleList([nn.Identity(), nn.Identity()])
        >>> [block.name for block in graph_of_lists("layers")(network).blocks]
        ['layers.0', 'layers.1']
    """

    def graph(root: nn.Module, caching: Caching = "difference") -> BlockGraph:
        builder, depth = GraphBuilder(caching), 0
        for path in paths:
            for number, block in enumerate(root.get_submodule(path).children()):
                for one in _of_block(block, f"{path}.{number}", depth, path, caching):
                    builder.add(one)
                depth += 1
        return builder.build()

    return graph


def units(block: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """Iterate over a block's attentions and feed-forwards: kind, name and module.

    Args:
        block: of a transformer.

    Example:
        >>> [name for _, name, _ in units(nn.ModuleDict({"norm1": nn.Identity(), "attn": nn.Identity()}))]
        ['attn']
    """
    for kind, names in UNITS:
        name = next((n for n in names if isinstance(getattr(block, n, None), nn.Module)), None)
        if name is not None:
            yield kind, name, getattr(block, name)


def _of_block(block: nn.Module, name: str, depth: int, stack: str, caching: Caching) -> Iterator[Block]:
    if caching != "branch":
        yield Block(name, "block", block, depth, stack=stack)
        return
    for kind, inner, module in units(block):
        yield Block(f"{name}.{inner}", kind, module, depth)


def lists_of(root: nn.Module) -> tuple[str, ...]:
    """The paths of a network's lists of :data:`LEAST` or more blocks of one class, the outermost ones.

    Args:
        root: the network.

    Example:
        >>> network = nn.Module()
        >>> network.layers = nn.ModuleList(nn.Sequential(nn.Linear(1, 1), nn.GELU()) for _ in range(4))
        >>> lists_of(network)
        ('layers',)
    """
    found: list[str] = []
    for path, module in root.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in found)
        if path and not inside and isinstance(module, _CONTAINERS) and _alike(list(module.children())):
            found.append(path)
    return tuple(found)


def stack_family(root: nn.Module, names: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]) -> Family | None:
    """The family of a network with stacks, named after its class; None for a network without any.

    Args:
        root: the network.
        names: of the arguments of its forward (:class:`Family`).

    Example:
        >>> stack_family(nn.Linear(1, 1), names=((), (), ())) is None
        True
    """
    paths = lists_of(root)
    if not paths:
        return None
    blocks = (block for path in paths for block in root.get_submodule(path).children())
    parts: tuple[Caching, ...] = ("branch",) if any(True for block in blocks for _ in units(block)) else ()
    return Family(
        name=class_name(root), matches=lambda root: True, sites=_no_sites, graph=graph_of_lists(*paths), serves={},
        names=names, cachings=("difference", *parts), time_scale=None,
    )  # fmt: skip


def _no_sites(root: nn.Module) -> list[Site]:
    return []


def _alike(blocks: Sequence[nn.Module]) -> bool:
    """Whether these are enough blocks of one class, each of several layers."""
    kinds = {type(unwrapped(block)) for block in blocks}
    whole = (not isinstance(block, _CONTAINERS) and _layers(block) > 1 for block in blocks)
    return len(blocks) >= LEAST and len(kinds) == 1 and all(whole)


def _layers(block: nn.Module) -> int:
    return sum(next(inner.children(), None) is None for inner in block.modules())
