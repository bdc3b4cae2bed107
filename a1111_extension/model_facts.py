"""What is known of a recipe, mask or profile file, and whether it fits the model that is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from torch import nn

from ..core.engine.fitting import refusals
from ..core.engine.report import percent
from ..core.errors import ModelError, SkipstoneError
from ..core.forecast.profile import Profile
from ..core.models import recognise
from ..core.models.family import identity
from ..core.plan.mask_states import mask_for
from ..core.recipe.auto import Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.mask import Mask
from ..core.recipe.recipe import Method, Recipe
from .host import loaded_model, unet_of
from .model_files import located, names, opened
from .table import title_of


@dataclass(frozen=True)
class Facts:
    """A file, in a table's cells.

    Args:
        kind: "recipe", "mask" or "profile".
        name: of the file.
        model: what it is for.
        steps: how many it was made for.
        saving: what it leaves out.
    """

    kind: str
    name: str
    model: str = "any"
    steps: str = "any"
    saving: str = ""

    @property
    def cells(self) -> tuple[str, ...]:
        """The cells."""
        return self.kind, self.name, self.model, self.steps, self.saving


HEAD = ("", "file", "made for", "steps", "saves", "fits this model?")


def facts(kind: str, name: str) -> Facts:
    """What a file says of itself; the reason in place of a saving where it cannot be read.

    Args:
        kind: of file.
        name: of the file.
    """
    try:
        found = opened(kind, name)
    except SkipstoneError as error:
        return Facts(kind, name, "?", "?", str(error))
    if isinstance(found, Mask):
        return Facts(kind, name, found.family, str(len(found.run)), f"{percent(1 - found.share)} of the blocks")
    if isinstance(found, Profile):
        return Facts(kind, name, found.network, str(found.steps), f"{len(found.plans)} measured choices of steps")
    return Facts(kind, name, saving="; ".join(map(_said, found.methods)) or "nothing")


def _said(method: Method) -> str:
    """A method of a recipe, in a few words."""
    if isinstance(method, Auto):
        return f"Auto, {method.speedup:g}x"
    if isinstance(method, CallSkip):
        return "calls"
    if isinstance(method, BlockSkip):
        return f"blocks by {method.rule}"
    return title_of(type(method))


def all_facts(*kinds: str) -> list[Facts]:
    """All files of some kinds.

    Args:
        kinds: of files.
    """
    return [facts(kind, name) for kind in kinds for name in names(kind)]


def loaded_network() -> nn.Module:
    """The network of the model that is loaded. Raises :class:`ModelError` without one."""
    try:
        return unet_of(SimpleNamespace(sd_model=loaded_model()))
    except AttributeError:
        raise ModelError("no model is loaded yet: generate a picture first") from None


def verdict(kind: str, name: str) -> str:
    """Whether a file fits the loaded model, in one line.

    Args:
        kind: of file.
        name: of the file.
    """
    try:
        network = loaded_network()
    except ModelError as error:
        return str(error)
    reason = misfit(network, kind, name)
    return f"It does not fit the loaded model: {reason}" if reason else "It fits the loaded model."


def fit(kind: str, name: str) -> str:
    """Whether a file fits the loaded model, in a cell of a table.

    Args:
        kind: of file.
        name: of the file.
    """
    try:
        reason = misfit(loaded_network(), kind, name)
    except ModelError:
        return "no model is loaded"
    return f"no: {reason}" if reason else "yes"


def misfit(network: nn.Module, kind: str, name: str) -> str:
    """Why a file does not fit a network; empty where it does.

    Args:
        network: of the model.
        kind: of file.
        name: of the file.
    """
    try:
        found = opened(kind, name)
        if isinstance(found, Mask):
            mask_for(network, recognise(network), BlockSkip(rule="mask", mask=found), len(found.run))
        elif isinstance(found, Profile):
            found.fits(identity(network))
        else:
            return "; ".join(dict.fromkeys(refusals(network, located(found)).values()))
    except SkipstoneError as error:
        return str(error)
    return ""


def as_recipe(kind: str, name: str) -> Recipe:
    """The recipe of a file, or the one that follows a mask. Raises :class:`SkipstoneError`.

    Args:
        kind: "recipe" or "mask".
        name: of the file.
    """
    found = opened(kind, name)
    return found if isinstance(found, Recipe) else Recipe.of([BlockSkip(rule="mask", mask=name)])
