"""The catalogue of model families. A new family is one file here and one line in `FAMILIES`."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from ..errors import ModelError
from .anything import ANYTHING
from .diffusers_unet import DIFFUSERS_DDPM, DIFFUSERS_UNET
from .dit import DIFFUSERS_DIT, DIT
from .family import Family, Inputs, KeyBias, Site, class_name, unwrapped
from .ldm_unet import LDM_UNET
from .mmdit import DIFFUSERS_FLUX, DIFFUSERS_SD3, FLUX, SD3
from .stack import stack_family

FAMILIES: tuple[Family, ...] = (
    LDM_UNET,
    DIFFUSERS_UNET,
    DIFFUSERS_DDPM,
    DIFFUSERS_DIT,
    DIT,
    SD3,
    DIFFUSERS_SD3,
    FLUX,
    DIFFUSERS_FLUX,
)

HOST_FAMILIES = tuple(family for family in FAMILIES if not family.name.startswith("diffusers "))
"""Families in the code of ComfyUI, A1111 and Forge; the others are diffusers' code of the same models."""

__all__ = [
    "FAMILIES",
    "HOST_FAMILIES",
    "Family",
    "Inputs",
    "KeyBias",
    "Site",
    "class_name",
    "models_served",
    "recognise",
    "sites_of",
    "unwrapped",
]


def models_served(method: str = "", families: Iterable[Family] = FAMILIES) -> tuple[str, ...]:
    """Display names of the models that a method works on, each once.

    Args:
        method: kind of method, such as "token_merge", or "dato" for DaTo as published; all methods if empty.
        families: the families to look in.

    Example:
        >>> models_served("token_merge", HOST_FAMILIES)
        ('SD1.x', 'SD2.x', 'SDXL', 'PixArt')
    """
    found = (name for family in families for name, kinds in family.serves.items() if not method or method in kinds)
    return tuple(dict.fromkeys(found))


def recognise(root: nn.Module, anything: bool = False) -> Family:
    """The family of a network. One of no known family that has stacks of like blocks is a family of its own.

    Args:
        root: the network.
        anything: return :data:`ANYTHING` for any other network.

    Raises :class:`ModelError` if no family matches.

    Example:
        >>> recognise(nn.Linear(1, 1))
        Traceback (most recent call last):
        skipstone.core.errors.ModelError: Linear is not of a supported family (SD1.x, SD2.x, ...): give the U-Net or ...
    """
    network = unwrapped(root)
    if (named := _named(network)) is not None:
        return named
    wraps = any(_named(child) for child in network.children())
    if not wraps and (found := stack_family(network, ANYTHING.names)) is not None:
        return found
    if anything:
        return ANYTHING
    known = ", ".join(models_served())
    raise ModelError(f"{class_name(root)} is not of a supported family ({known}): give the U-Net or transformer itself")


def _named(network: nn.Module) -> Family | None:
    return next((family for family in FAMILIES if family.matches(network) and family.reads(network)), None)


def sites_of(root: nn.Module, family: Family) -> list[Site]:
    """The transformer blocks of a network that can run on fewer tokens.

    Args:
        root: the network.
        family: its family.

    Raises :class:`ModelError` if it has none.

    Example:
        >>> sites_of(nn.Linear(1, 1), DIFFUSERS_DDPM)
        Traceback (most recent call last):
        skipstone.core.errors.ModelError: Linear has no self-attention to merge tokens in: use it without token merging
    """
    sites = family.sites(unwrapped(root))
    if not sites:
        raise ModelError(f"{class_name(root)} has no self-attention to merge tokens in: use it without token merging")
    return sites
