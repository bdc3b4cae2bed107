"""What the panel shows for its values: the methods in use, their controls, and what is offered.

Independent of any host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.recipe.auto import LEVELS, Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.fields import default_of
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .loaded import Loaded
from .settings import COUNTS, PanelSettings
from .table import AS_PRESET, DATO_CHOICES, FIELDS, OF_ITS_OWN, OFF, OWN, PRESETS, TABLE, WINDOW, Entry


@dataclass(frozen=True)
class Offer:
    """A method as Custom offers it.

    Args:
        name: on the page.
        method: its settings class; None for the recipe box.
        on: what switches it on.
        off: field -> the values at which it is off; the first of them switches it off.
        rules: of block skipping, those that it has; empty for other methods.
    """

    name: str
    method: type[Any] | None
    on: Mapping[str, Any]
    off: Mapping[str, tuple[Any, ...]]
    rules: tuple[str, ...] = ()

    def used(self, panel: PanelSettings) -> bool:
        """Do these settings use it?"""
        return any(getattr(panel, name) not in values for name, values in self.off.items())

    @property
    def turned_off(self) -> dict[str, Any]:
        """The fields that switch it off."""
        return {name: values[0] for name, values in self.off.items()}

    @property
    def entries(self) -> list[Entry]:
        """Its fields."""
        own = [entry for entry in TABLE if self.method and entry.group is self.method and entry.name != "speedup"]
        return [entry for entry in own if not self.rules or self._serves(entry)]

    def _serves(self, entry: Entry) -> bool:
        """Is a field of block skipping one of these rules'? Those of several rules are the block rules'."""
        return (entry.field.rules == _MASK) == (self.rules == _MASK)


_MASK = ("mask",)
_RULES = tuple(rule for rule in FIELDS["rule"].choices if rule not in (OFF, *_MASK))

OFFERS = (
    Offer("Auto", Auto, {"speedup": LEVELS["balanced"]}, {"speedup": (1.0,), "max_error": (0.0,)}),
    Offer(
        "Calls",
        CallSkip,
        {"calls_speedup": default_of(CallSkip, "speedup")},
        {name: (FIELDS[name].default,) for name in ("calls_speedup", *COUNTS, "calls_rule")},
    ),
    Offer("Merge", TokenMerge, {"threshold": FIELDS["threshold"].default}, {"threshold": (1.0,)}),
    Offer("Blocks", BlockSkip, {"rule": default_of(BlockSkip, "rule")}, {"rule": (OFF, *_MASK)}, _RULES),
    Offer("Mask", BlockSkip, {"rule": "mask"}, {"rule": (OFF, *_RULES)}, _MASK),
    Offer("DaTo", TokenPrune, {"dato": DATO_CHOICES[1]}, {"dato": (OFF,)}),
    Offer("Recipe", None, {}, {"recipe": ("",)}),
)
"""The methods, in the order of the page."""

SHARED = [entry for entry in TABLE if entry.group is None and entry.methods and entry.name not in WINDOW]
"""Fields of several methods, but not of all."""

CONDITIONAL = [entry for entry in TABLE if entry.only and not entry.expert and not entry.hidden]
"""Fields that are shown only where another one has a certain value."""


def methods_of(panel: PanelSettings, chosen: Iterable[str] = ()) -> list[str]:
    """Names of the methods that Custom shows as chosen: those in use; a recipe replaces all others.

    Args:
        panel: the settings.
        chosen: names that are chosen now. An empty recipe box stays.
    """
    used = [offer.name for offer in OFFERS if offer.used(panel)]
    if "Recipe" in used:
        return ["Recipe"]
    return [*used, *(["Recipe"] if "Recipe" in chosen else [])]


def with_methods(panel: PanelSettings, chosen: Iterable[str]) -> PanelSettings:
    """The settings once these methods were chosen: others are switched off, and what the last choice excludes.

    Args:
        panel: the settings before.
        chosen: names of methods.
    """
    wanted = set(chosen)
    for offer in OFFERS:
        if offer.used(panel) and offer.name not in wanted:
            panel = panel.but(**offer.turned_off)
    for offer in [offer for offer in OFFERS if offer.name in wanted and not offer.used(panel)]:
        panel = panel.but(**offer.on).after(next(iter(offer.on), ""))
    return panel


def visible(panel: PanelSettings, used: Iterable[str]) -> set[str]:
    """Names of the panel's parts that are shown.

    Args:
        panel: the settings.
        used: names of the methods in use.
    """
    own = panel.level == OWN
    active = {name.lower() for name in used} if own else {"auto"}
    parts = {f"{name}_part" for name in active} | {f"{name}_expert" for name in active}
    parts |= {"blocks_expert"} if "mask" in active else set()
    parts |= {"shared_expert"} if active & {"merge", "dato", "blocks", "mask"} else set()
    parts |= {"window"} if active - {"recipe"} else set()
    return parts | ({"custom"} if own else set()) | ({"strength"} if "auto" in active else set())


def offered(panel: PanelSettings, model: Loaded, used: Iterable[str]) -> dict[str, list[str]]:
    """The choices that the loaded model can use, and those that are chosen: of methods, presets and the hires pass.

    Args:
        panel: the settings.
        model: the loaded model.
        used: names of the methods in use.
    """
    auto = Auto.kind not in model.refused
    served = {offer.name for offer in OFFERS if offer.method is None or offer.method.kind not in model.refused}
    return {
        "methods": [offer.name for offer in OFFERS if offer.name in {*served, *used}],
        "level": [name for name in (*PRESETS, OWN) if auto or name in (panel.level, OWN)],
        "hires_pass": [
            name for name in (OFF, AS_PRESET, OF_ITS_OWN) if auto or name in (OFF, AS_PRESET, panel.hires_pass)
        ],
    }
