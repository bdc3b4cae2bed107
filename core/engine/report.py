"""Counts what ran and what it saved, and reports it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from .layer_report import LayerReport


@dataclass
class Report:
    """What Skipstone did in one run.

    Args:
        calls: evaluations of the denoiser.
        layers: totals of each layer that ran on a token map at least once.
        declined: reason -> layers or calls that ran unaccelerated.
        notes: further lines.
        seconds: duration of the run.
        cache_bytes: largest size of all caches.
        held_bytes: their size after the last forward that ran.
        compared: number of a call that ran after skipped ones -> relative error of the output that would have been forecast.
        planned: whether the run kept to its announced calls.
        blocks_run: block calls that ran.
        blocks_reused: block calls that returned a cached value.
        blocks_dead: block calls whose value was not consumed.
        block_macs_run: multiply-adds of the blocks that ran.
        block_macs_all: multiply-adds of all blocks, had they run.
        calls_forecast: calls in which the network did not run, because its output was forecast.
        forecast_as: what was forecast and how, such as "line on eps".
        estimated_error: error of the final latent that 90 % of pictures stay under, by the profile; None without one.
        allowed_error: the largest such error that the user allows; 0 for no limit.
        chosen: the settings of call skipping as they ran, in a recipe's form.
        beside: the methods that Auto added at the calls that ran, in the same form.

    Example:
        >>> report = Report(calls=2, blocks_run=3, blocks_reused=1, block_macs_run=75, block_macs_all=100)
        >>> report.headline()
        'ran 3 of 4 blocks in 2 calls, saved 25% of their multiply-adds'
    """

    calls: int = 0
    layers: dict[str, LayerReport] = field(default_factory=dict)
    declined: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    cache_bytes: int = 0
    held_bytes: int = 0
    compared: dict[int, float] = field(default_factory=dict)
    planned: bool = True
    blocks_run: int = 0
    blocks_reused: int = 0
    blocks_dead: int = 0
    block_macs_run: int = 0
    block_macs_all: int = 0
    calls_forecast: int = 0
    forecast_as: str = ""
    estimated_error: float | None = None
    allowed_error: float = 0.0
    chosen: dict[str, Any] = field(default_factory=dict)
    beside: list[dict[str, Any]] = field(default_factory=list)

    @property
    def calls_run(self) -> int:
        """Number of calls in which the network ran."""
        return self.calls - self.calls_forecast

    @property
    def speedup(self) -> float | None:
        """How many times fewer multiply-adds the network did, by the calls and blocks that ran; None where tokens were merged
        or pruned, of which attention alone is counted, and where nothing ran."""
        share = self.block_macs_run / self.block_macs_all if self.block_macs_all else 1.0
        return self.calls / (self.calls_run * share) if self.calls_run and share and not self.layers else None

    @property
    def idle(self) -> bool:
        """Whether nothing was accelerated."""
        return not self.served and not self.blocks_reused and not self.blocks_dead and not self.calls_forecast

    @property
    def served(self) -> int:
        """Number of layers that ran on a token map."""
        return len(self.layers)

    @property
    def blocks(self) -> int:
        """Number of block calls: run, reused or dead."""
        return self.blocks_run + self.blocks_reused + self.blocks_dead

    @property
    def merged_share(self) -> float:
        """Share of the served layers' tokens that were merged or pruned, in [0, 1]."""
        tokens = sum(layer.tokens for layer in self.layers.values())
        return 1 - sum(layer.kept for layer in self.layers.values()) / tokens if tokens else 0.0

    @property
    def verbs(self) -> str:
        """What happened to tokens: "merged", "pruned" or both."""
        return " and ".join(sorted({layer.verb for layer in self.layers.values()}))

    @property
    def macs_dense(self) -> int:
        """Multiply-adds of the served modules without reduction."""
        return sum(layer.macs_dense for layer in self.layers.values())

    @property
    def macs_done(self) -> int:
        """Multiply-adds of the served modules as they ran, pair search included."""
        return sum(layer.macs_done for layer in self.layers.values())

    @property
    def macs_search(self) -> int:
        """Multiply-adds of the pair searches alone."""
        return sum(layer.macs_search for layer in self.layers.values())

    @property
    def searched(self) -> int:
        """Number of pair searches."""
        return sum(layer.searched for layer in self.layers.values())

    @property
    def reused(self) -> int:
        """Number of times that pairs were reused."""
        return sum(layer.reused for layer in self.layers.values())

    @property
    def error_text(self) -> str:
        """The estimated error and the allowed one, such as "estimated error 0.021 of 0.030"; empty without an estimate."""
        if self.estimated_error is None:
            return ""
        return f"estimated error {self.estimated_error:.3f}" + (
            f" of {self.allowed_error:.3f}" if self.allowed_error else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        totals = ("calls_run", "served", "merged_share", "macs_dense", "macs_done", "searched", "reused")
        return {**asdict(self), **{name: getattr(self, name) for name in totals}}

    def to_json(self) -> str:
        """Return the report as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def summary(self) -> str:
        """Return the report as text for a console."""
        return "\n".join(self.lines()) if self.calls else "no run yet"

    def headline(self) -> str:
        """Return the most important line of each method, as one line."""
        done = [section[0] for section in self._sections()]
        return "; ".join(done) or f"nothing was merged, pruned or skipped in {_counted(self.calls, 'call')}"

    def lines(self) -> list[str]:
        """Return the lines that every host shows: what each method did, notes, and what ran unaccelerated and why."""
        done = [line for section in self._sections() for line in section] or [self.headline()]
        refused = [f"{_named(what)} unaccelerated: {reason}" for reason, what in self.declined.items()]
        return [*done, *self.notes, *refused]

    def _sections(self) -> list[list[str]]:
        """Return the lines of each method that did something."""
        return [lines for lines in (self._calls(), self._tokens(), self._blocks()) if lines]

    def _calls(self) -> list[str]:
        if not self.calls_forecast:
            return []
        how = f" ({self.forecast_as})" if self.forecast_as else ""
        lines = [f"ran {self.calls_run} of {_counted(self.calls, 'call')}, forecast {self.calls_forecast}{how}"]
        return (
            [*lines, f"{self.error_text}: 90% of pictures stay under it by this profile"] if self.error_text else lines
        )

    def _tokens(self) -> list[str]:
        if not self.served:
            return []
        saved = self.macs_dense - self.macs_done
        return [
            f"{self.verbs} {percent(self.merged_share)} of tokens in {_counted(self.served, 'layer')}, "
            f"saved {percent(saved / max(1, self.macs_dense))} of their attention",
            f"{_counted(self.calls_run, 'call')}: {self.searched} searches, {self.reused} reuses",
            f"{giga(saved)} GMAC less{'' if self.blocks else self._cache()}",
        ]

    def _blocks(self) -> list[str]:
        if not self.blocks:
            return []
        saved, everything = self.block_macs_all - self.block_macs_run, self.block_macs_all
        share = f", saved {percent(saved / everything)} of their multiply-adds" if everything else ""
        lines = [
            f"ran {self.blocks_run} of {self.blocks} blocks in {_counted(self.calls_run, 'call')}{share}",
            f"{self.blocks_reused} reused, {self.blocks_dead} not needed",
            f"{giga(saved)} GMAC less{self._cache()}",
        ]
        return lines if self.planned else [*lines, "calls not known ahead: caches kept to the end"]

    def _cache(self) -> str:
        return f", cache {self.cache_bytes / 2**20:.1f} MiB"


def percent(share: float) -> str:
    """Return a share as whole percent.

    Example:
        >>> percent(0.254)
        '25%'
    """
    return f"{round(100 * share)}%"


def giga(count: float) -> str:
    """Return a count in units of 1e9, with one decimal; never "-0.0".

    Example:
        >>> giga(401.6e9)
        '401.6'
    """
    return f"{round(count / 1e9, 1) + 0.0:.1f}"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _named(what: list[str]) -> str:
    return what[0] if len(what) == 1 else f"{len(what)} layers"


def shortened(what: list[str]) -> str:
    """Return the first of several names, and the number of the others.

    Example:
        >>> shortened(["down.0", "down.1", "mid"])
        'down.0 and 2 more'
    """
    return what[0] if len(what) == 1 else f"{what[0]} and {len(what) - 1} more"
