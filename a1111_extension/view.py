"""What the panel shows for its values: the methods in use, their controls, and one line on what will happen.

Independent of any host.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from ..core.errors import SkipstoneError
from ..core.plan.call_plan import CallPlan
from ..core.plan.run import Horizon
from ..core.recipe.auto import LEVELS, Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.fields import default_of
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from ..core.recipe.windows import is_whole
from .planned import Planned, PlannedPass
from .sampler import refusal_of
from .settings import COUNTS, PanelSettings
from .table import DATO_CHOICES, FIELDS, OFF, OWN, TABLE, WINDOW, Entry

_NOISIEST = 999.0
"""Timestep of the first call of a whole run."""

AMBER = "<span style='color: #c77700'>{}</span>"
"""HTML of what was refused."""


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


def outlook(panel: PanelSettings, planned: Planned) -> str:
    """One line of HTML: what these settings will do.

    Args:
        panel: the settings.
        planned: the next picture.
    """
    passes = {"First pass": planned.first}
    passes |= {"Hires pass": planned.hires} if planned.hires else {}
    try:
        recipes = [panel.recipe_of(hires=name != "First pass") for name in passes]
    except SkipstoneError as error:
        return refused(str(error))
    if all(recipe.neutral for recipe in recipes):
        return refused(_idle(panel))
    told = [_of_pass(r, one, planned.sampler) for r, one in zip(recipes, passes.values(), strict=True)]
    return told[0] if len(told) == 1 else " ".join(f"{name}: {line}" for name, line in zip(passes, told, strict=True))


def _of_pass(recipe: Recipe, planned: PlannedPass, sampler: str) -> str:
    return " ".join(filter(None, (_calls(recipe, planned, sampler), _others(recipe)))) or "unaccelerated."


def refused(reason: str) -> str:
    """HTML: these settings cannot run, or change nothing, and why."""
    return AMBER.format(escape(f"Skipstone would do nothing: {reason}"))


def _idle(panel: PanelSettings) -> str:
    if not panel.serves(hires=False):
        return "the first pass is off, and no hires pass is on."
    if panel.start >= panel.end:
        return "it ends where it starts. Set End above Start."
    return "all of its methods are off." if panel.level == OWN else "at Strength 1 the model runs at every step."


def _calls(recipe: Recipe, planned: PlannedPass, sampler: str) -> str:
    """HTML: what is skipped of whole calls, in steps of the sampler, and the bound of the gain, or why nothing is."""
    asked = recipe.calls or recipe.auto
    if asked is None or asked.neutral:
        return ""
    try:
        return escape(_reduced(asked, planned, sampler, by=" by this" if _others(recipe) else ""))
    except SkipstoneError as error:
        return AMBER.format(escape(f"The model would run at every step: {error}."))


def _reduced(asked: CallSkip | Auto, planned: PlannedPass, sampler: str, by: str) -> str:
    """The same as text. Raises :class:`SkipstoneError` for steps and samplers with which all calls run."""
    if reason := refusal_of(sampler):
        raise SkipstoneError(reason)
    if isinstance(asked, Auto) and asked.max_error and asked.profile:
        return f"The model runs at as few steps as keep the error under {asked.max_error:g}, by the profile."
    settings = (
        asked if isinstance(asked, CallSkip) else CallSkip(speedup=asked.speedup, start=asked.start, end=asked.end)
    )
    if settings.gated:
        return (
            "The model runs at the steps at which its input has changed enough; at the others its output is forecast."
        )
    return _counted(settings, planned, by)


def _counted(settings: CallSkip, planned: PlannedPass, by: str) -> str:
    steps = planned.steps
    keys = CallPlan(settings, _horizon(planned) if not is_whole(settings) else Horizon(steps=steps)).keys
    if not steps or keys is None:
        return f"The model runs at 1 of {settings.speedup:g} steps; at the others its output is forecast."
    ran, rest = len(keys), steps - len(keys)
    bound = f"At most {steps / ran:.1f}x faster{by}."
    return f"The model runs at {ran} of {steps} steps; at the other {rest} its output is forecast. {bound}"


def _horizon(planned: PlannedPass) -> Horizon:
    """The pass's calls, if its steps are evenly spaced."""
    steps, noisiest = planned.steps or 0, _NOISIEST * planned.noise
    return Horizon(tuple(noisiest * (1 - step / max(1, steps - 1)) for step in range(steps)))


def _others(recipe: Recipe) -> str:
    """What else is on. What it saves depends on the model and on the size of the picture."""
    words = {TokenMerge: "merges tokens", TokenPrune: "prunes tokens", BlockSkip: "skips blocks"}
    done = [words[type(method)] for method in recipe.methods if type(method) in words and not method.neutral]
    return f"Skipstone {' and '.join(done)}: what it saves is shown after a picture." if done else ""
