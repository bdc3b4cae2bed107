"""Which models Skipstone works on, and which of its nodes work on a given one: read from the model families."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ..core.engine.kernel_sites import kernels_of
from ..core.engine.network import Network
from ..core.errors import ModelError
from ..core.models import HOST_FAMILIES, Family, models_served, recognise, unwrapped
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .kernels import COMFYUI

NODES = {
    TokenMerge.kind: "Token Merge",
    TokenPrune.kind: "DaTo",
    BlockSkip.kind: "Block Mask",
    CallSkip.kind: "Call Skip",
}
_TRANSFORMERS = "most transformers (SD3, Flux, Qwen-Image, Wan and others)"
_CANNOT = {
    TokenMerge.kind: "tokens cannot be merged",
    TokenPrune.kind: "tokens cannot be pruned",
    BlockSkip.kind: "blocks cannot be skipped",
}


def supported(method: str = "") -> str:
    """The models that a method works on, such as "SD1.x, SD2.x and SDXL"; those of any method where it is empty."""
    named = models_served(method, HOST_FAMILIES)
    return _listed((*named, _TRANSFORMERS) if method in (TokenMerge.kind, TokenPrune.kind) else named)


def known(network: nn.Module) -> bool:
    """Whether a network is of a known family."""
    try:
        recognise(network)
    except ModelError:
        return False
    return True


def kinds_served(network: nn.Module) -> tuple[str, ...]:
    """Kinds of methods that work on a network: with sites or attention kernels the token methods, with a graph the block
    methods, and call skipping.

    Raises :class:`ModelError` for a network of no family.
    """
    family = recognise(network)
    tokens = family.sites(network) or kernels_of(Network(network, family, kernels=COMFYUI))
    blocks = len(family.graph(network, family.cachings[0])) > 0
    return (TokenMerge.kind, TokenPrune.kind) * bool(tokens) + (BlockSkip.kind,) * blocks + (CallSkip.kind,)


def unsupported(model: Any) -> str:
    """The message for a ComfyUI model (a `BaseModel`) whose network is of no known family."""
    return f"{type(model).__name__} is not supported: Skipstone works on {supported()}, and Call Skip on any model"


def refusal(model: Any, kind: str) -> str:
    """Why a method does not work on a model of a known family, and which nodes do.

    Args:
        model: a `BaseModel`.
        kind: the method.
    """
    works = [NODES[one] for one in kinds_served(unwrapped(model.diffusion_model))]
    return f"{_CANNOT[kind]} in {type(model).__name__}: {_listed(works)} {'works' if len(works) == 1 else 'work'} on it"


def family_of(model: Any) -> Family:
    """The family of a ModelPatcher's network. Raises :class:`ModelError` that names the known ones."""
    network = unwrapped(model.model.diffusion_model)
    if not known(network):
        raise ModelError(unsupported(model.model))
    return recognise(network)


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
