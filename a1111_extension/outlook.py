"""One line on what the panel's settings will do on the loaded model, at the steps, size and sampler that the page shows.

Independent of any host.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from ..core.engine.fitting import without
from ..core.engine.report import percent
from ..core.errors import SkipstoneError
from ..core.plan.call_plan import CallPlan
from ..core.plan.run import Horizon
from ..core.recipe.auto import Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from ..core.recipe.windows import is_whole
from .loaded import TOKENS, Loaded
from .planned import Planned, PlannedPass
from .sampler import refusal_of
from .settings import PanelSettings
from .table import OWN

_NOISIEST = 999.0
"""Timestep of the first call of a whole run."""

AMBER = "<span style='color: #c77700'>{}</span>"
"""HTML of what was refused."""

_DONE = {TokenMerge.kind: "merges tokens", TokenPrune.kind: "prunes tokens", BlockSkip.kind: "skips blocks"}
_IDLE = {
    TokenMerge.kind: "merges no tokens",
    TokenPrune.kind: "prunes no tokens",
    BlockSkip.kind: "skips no blocks",
    **dict.fromkeys((CallSkip.kind, Auto.kind), "skips no steps"),
}


def outlook(panel: PanelSettings, planned: Planned, model: Loaded) -> str:
    """One line of HTML: what these settings will do.

    Args:
        panel: the settings.
        planned: the next picture.
        model: the loaded model.
    """
    passes = {"First pass": planned.first}
    passes |= {"Hires pass": planned.hires} if planned.hires else {}
    try:
        recipes = [panel.recipe_of(hires=name != "First pass") for name in passes]
    except SkipstoneError as error:
        return refused(str(error))
    if all(recipe.neutral for recipe in recipes):
        return refused(_idle(panel))
    told = [
        _of_pass(recipe, one, planned.sampler, model, hires=name != "First pass")
        for recipe, (name, one) in zip(recipes, passes.items(), strict=True)
    ]
    return told[0] if len(told) == 1 else " ".join(f"{name}: {line}" for name, line in zip(passes, told, strict=True))


def _of_pass(recipe: Recipe, planned: PlannedPass, sampler: str, model: Loaded, hires: bool) -> str:
    reasons = {m.kind: reason for m in recipe.methods if not m.neutral and (reason := model.reason(m.kind, hires))}
    fitting = without(recipe, set(reasons))
    share = model.shares.get(planned.size) if any(m.kind in TOKENS for m in fitting.methods) else None
    told = [_calls(fitting, planned, sampler), _others(fitting, share, planned.size), *_limits(reasons)]
    return " ".join(filter(None, told)) or "unaccelerated."


def _limits(reasons: Mapping[str, str]) -> list[str]:
    """HTML: what does nothing on the loaded model, and why; one line for each reason."""
    return [
        AMBER.format(escape(f"Skipstone {', '.join(_IDLE[kind] for kind in reasons if reasons[kind] == one)}: {one}."))
        for one in dict.fromkeys(reasons.values())
    ]


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
        return escape(_reduced(asked, planned, sampler, by=" by this" if _beside(recipe) else ""))
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


def _beside(recipe: Recipe) -> list[str]:
    """Kinds of the methods that are on and act at the calls that run."""
    return [method.kind for method in recipe.methods if method.kind in _DONE and not method.neutral]


def _others(recipe: Recipe, share: float | None, size: str) -> str:
    """What else is on, and the bound of what merging and pruning save on this model at this size, once a picture has shown it."""
    used = _beside(recipe)
    if not used:
        return ""
    done = " and ".join(_DONE[kind] for kind in used)
    if share is None or not 0 < share < 1 or not set(used) <= set(TOKENS):
        return f"Skipstone {done}: what it saves is shown after a picture."
    where = f"in layers that do {percent(share)} of the work at {size}"
    return f"Skipstone {done} {where}: at most {1 / (1 - share):.1f}x faster by that."
