"""The report that goes with a picture: comments under it, and keys of its infotext."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.engine.report import Report
from ..core.recipe.auto import Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.recipe import Method, Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .infotext import BLOCKS_RUN, CALLS_RUN, MERGED, PRUNED, REFUSED
from .options import writes_results

WHOLE = (CallSkip.kind, Auto.kind)
"""Methods that skip whole calls. One of them is on at most."""
KEYS = {TokenMerge.kind: MERGED, TokenPrune.kind: PRUNED, BlockSkip.kind: BLOCKS_RUN} | dict.fromkeys(WHOLE, CALLS_RUN)
UNDONE = {
    TokenMerge.kind: "merged no tokens",
    TokenPrune.kind: "pruned no tokens",
    BlockSkip.kind: "skipped no blocks",
    **dict.fromkeys(WHOLE, "skipped no calls"),
}
_MOST = 300


def refuse(p: Any, reason: str, undone: str = "did nothing", title: str = "") -> None:
    """Report what was not done and why, once per picture: under it, and in its infotext.

    Args:
        p: the processing object.
        reason: why.
        undone: what was not done.
        title: of the pass, for pictures with several.
    """
    where = f" in the {title.split(',')[0]}" if "," in title and getattr(p, "enable_hr", False) else ""
    text = one_line(f"Skipstone {undone}{where}: {reason}")
    if text in (getattr(p, "comments", None) or {}):
        return
    p.comment(text)
    earlier = p.extra_generation_params.get(REFUSED, "")
    p.extra_generation_params[REFUSED] = one_line(earlier, text.removeprefix("Skipstone "))


def used(recipe: Recipe) -> list[Method]:
    """The methods of a recipe that have an effect."""
    return [method for method in recipe.methods if not method.neutral]


def tell_refused(p: Any, recipe: Recipe, kinds: Iterable[str], reason: str, title: str) -> None:
    """Report methods of a recipe that cannot run in this pass. Their figures are 0 %, or 100 % of the blocks and calls.

    Args:
        p: the processing object.
        recipe: with all methods.
        kinds: of the methods that cannot run.
        reason: why.
        title: of the pass.
    """
    methods, kinds = used(recipe), list(kinds)
    refused = [m for m in methods if m.kind in kinds]
    for method in refused:
        _tell_share(p, KEYS[method.kind], title, None)
    if len(refused) == len(methods):
        return refuse(p, reason, title=title)
    for method in refused:
        refuse(p, reason, UNDONE[method.kind], title)


def tell_done(p: Any, recipe: Recipe, report: Report, title: str, stopped: bool = False) -> None:
    """Write the figures of each method in use into the infotext, or why it had no effect.

    Args:
        p: the processing object.
        recipe: that was applied.
        report: of the pass.
        title: of the pass.
        stopped: whether the pass was stopped before its end: a method without effect may then have had its turn later.
    """
    for method in used(recipe):
        share = _share(method, report)
        if share is None and not stopped and not _recorded(method, report):
            tell_refused(p, recipe, [method.kind], _reasons(method, report), title)
        else:
            _tell_share(p, KEYS[method.kind], title, share)


def _share(method: Method, report: Report) -> float | None:
    """Share of the tokens that were merged or pruned, or of what ran; None where the method did nothing."""
    if method.kind in WHOLE:
        return report.calls_run / report.calls if report.calls_forecast else None
    if method.kind == BlockSkip.kind:
        return report.blocks_run / report.blocks if report.blocks_reused + report.blocks_dead else None
    verb = "merged" if method.kind == TokenMerge.kind else "pruned"
    layers = [layer for layer in report.layers.values() if layer.verb == verb]
    return 1 - sum(layer.kept for layer in layers) / sum(layer.tokens for layer in layers) if layers else None


def _recorded(method: Method, report: Report) -> bool:
    """Whether all calls ran to record a profile, which the run's own comment reports."""
    return isinstance(method, Auto) and method.record and not report.declined


def _reasons(method: Method, report: Report) -> str:
    of_calls = [reason for reason, what in report.declined.items() if what == ["call skipping"]]
    others = [reason for reason in report.declined if reason not in of_calls]
    declined = [] if method.kind == BlockSkip.kind and report.served else others
    declined = of_calls if method.kind in WHOLE else declined
    if method.kind == BlockSkip.kind and report.blocks and not declined:
        declined = [f"the schedule runs every block at each of {report.calls} calls: use more steps or skip more"]
    return "; ".join(declined or report.notes) or f"it was not used in the {report.calls} calls of this pass"


def _tell_share(p: Any, key: str, title: str, share: float | None) -> None:
    """One figure per pass; a later batch replaces that of an earlier one. Without figures the key is left out."""
    shares = p.__dict__.setdefault("skipstone_results", {}).setdefault(key, {})
    shares[title] = share
    if writes_results() and any(s is not None for s in shares.values()):
        untouched = 1.0 if key in (BLOCKS_RUN, CALLS_RUN) else 0.0
        p.extra_generation_params[key] = " / ".join(f"{untouched if s is None else s:.0%}" for s in shares.values())


def one_line(*parts: str) -> str:
    """Join texts to one line of at most 300 characters."""
    line = " ".join("; ".join(filter(None, parts)).split())
    return line if len(line) <= _MOST else line[: _MOST - 1] + "…"
