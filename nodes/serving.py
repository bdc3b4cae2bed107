"""Which Skipstone nodes serve a model: read off its family, never from a list."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.errors import ModelError
from ..core.models import FAMILIES, Family, recognise, unwrapped
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune

NODES = {TokenMerge.kind: "Token Merge", TokenPrune.kind: "DaTo", BlockSkip.kind: "Block Mask"}
_CANNOT = {
    TokenMerge.kind: "tokens cannot be merged",
    TokenPrune.kind: "tokens cannot be pruned",
    BlockSkip.kind: "blocks cannot be skipped",
}


def known(network: nn.Module) -> bool:
    """Is it of a known family?"""
    try:
        recognise(network)
    except ModelError:
        return False
    return True


def kinds_served(network: nn.Module) -> tuple[str, ...]:
    """Kinds of methods that a network's family serves: with sites the token methods, with a graph the block methods.

    Raises :class:`ModelError` for a network of no family.
    """
    family = recognise(network)
    tokens = bool(family.sites(network))
    blocks = len(family.graph(network, family.cachings[0])) > 0
    return (TokenMerge.kind, TokenPrune.kind) * tokens + (BlockSkip.kind,) * blocks


def unsupported(model: Any) -> str:
    """What to say of a ComfyUI model (a `BaseModel`) whose network is of no known family."""
    return f"{type(model).__name__} is not supported: Skipstone knows {_listed(_architectures())}"


def refusal(model: Any, kind: str) -> str:
    """Why a model of a known family is not served by a kind of method, and which nodes work on it."""
    works = [NODES[one] for one in kinds_served(unwrapped(model.diffusion_model))]
    return f"{_CANNOT[kind]} in {type(model).__name__}: {_listed(works)} {'works' if len(works) == 1 else 'work'} on it"


def family_of(model: Any) -> Family:
    """The family of a ModelPatcher's network. Raises :class:`ModelError` that names those that are known."""
    network = unwrapped(model.model.diffusion_model)
    if not known(network):
        raise ModelError(unsupported(model.model))
    return recognise(network)


def _architectures() -> list[str]:
    return list(dict.fromkeys(f.name.removeprefix("ldm ") for f in FAMILIES if not f.name.startswith("diffusers ")))


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
