"""What the loaded model can use: the methods and presets that the panel offers, and what merging can save on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from weakref import WeakKeyDictionary

from torch import nn

from ..core.engine.fitting import refusals
from ..core.recipe.auto import Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .host import attention_refusal, loaded_model, option, refusal, unet_of

TOKENS = (TokenMerge.kind, TokenPrune.kind)
_TRIED = (
    Recipe.of([TokenMerge(), BlockSkip(rule="interval")]),
    Recipe.of([TokenPrune(), CallSkip()]),
    Recipe(auto=Auto()),
)
"""All methods, with settings that each network takes that the method can run on."""

_REFUSED: WeakKeyDictionary[nn.Module, Mapping[str, str]] = WeakKeyDictionary()
_SHARES: WeakKeyDictionary[nn.Module, dict[str, float]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Loaded:
    """The loaded model. Before one is loaded, nothing is known, and everything is offered.

    Args:
        refused: kind of method -> why the model cannot use it.
        shares: size of a pass -> share of a call's work that the layers do that merge or prune tokens.
        tiled: why no tokens are merged or pruned in a pass, by whether it is the hires pass; empty where they are.
    """

    refused: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, float] = field(default_factory=dict)
    tiled: Mapping[bool, str] = field(default_factory=dict)

    def reason(self, kind: str, hires: bool) -> str:
        """Why a method does nothing in a pass; empty where it can run.

        Args:
            kind: of method.
            hires: whether it is the hires pass.
        """
        return self.refused.get(kind, "") or (self.tiled.get(hires, "") if kind in TOKENS else "")


def loaded() -> Loaded:
    """The model that is loaded now."""
    model = loaded_model()
    p = SimpleNamespace(sd_model=model, get_token_merging_ratio=_own_ratio)
    if model is None:
        return Loaded()
    try:
        network = unet_of(p)
    except AttributeError:
        return Loaded(_every(refusal(p))) if hasattr(model, "sd_checkpoint_info") else Loaded()
    if reason := refusal(p):
        return Loaded(_every(reason))
    tiled = {hires: attention_refusal(SimpleNamespace(**vars(p), is_hr_pass=hires)) for hires in (False, True)}
    return Loaded(refused_on(network), _SHARES.get(network, {}), tiled)


def refused_on(network: nn.Module) -> Mapping[str, str]:
    """Kind -> why a network cannot use a method. Found once for each network.

    Args:
        network: of the model.
    """
    if network not in _REFUSED:
        _REFUSED[network] = {kind: why for tried in _TRIED for kind, why in refusals(network, tried).items()}
    return _REFUSED[network]


def learn(network: nn.Module, size: str, share: float | None) -> None:
    """Remember what merging and pruning can save, once a pass has shown it.

    Args:
        network: of the pass.
        size: of the pass.
        share: of a call's work; None where it is not known.
    """
    if share is not None:
        _SHARES.setdefault(network, {})[size] = share


def _every(reason: str) -> dict[str, str]:
    return {method.kind: reason for tried in _TRIED for method in tried.methods}


def _own_ratio(for_hr: bool = False) -> float:
    """The host's own token merging in the next picture."""
    ratio = float(option("token_merging_ratio", 0.0) or 0.0)
    return float(option("token_merging_ratio_hr", 0.0) or 0.0) or ratio if for_hr else ratio
