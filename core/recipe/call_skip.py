"""Settings of call skipping: at which calls the network runs, and what stands in for it at the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from ..errors import RecipeError, shown
from ..files import file_in
from ..forecast.names import CALL_PREDICTOR_NAMES, SPACES
from .fields import check_fields, documented, setting
from .validate import MOST_CALLS, check_window, text
from .windows import window_end, window_start

CallRule = Literal["even", "growing", "easycache", "seacache"]
GATED: tuple[CallRule, ...] = ("easycache", "seacache")
"""Rules that decide during the run."""

_MOST_PATH = 4096
_COUNTS = ("keys", "calls", "every")


def parse_keys(given: str) -> tuple[int, ...]:
    """Call numbers from text.

    Raises :class:`RecipeError` for text that is not a list of call numbers.

    Example:
        >>> parse_keys("0, 1, 3, 19")
        (0, 1, 3, 19)
    """
    parts = given.replace(",", " ").replace(";", " ").split()
    if not all(p.isascii() and p.isdigit() and len(p) <= 5 for p in parts):
        raise RecipeError(f"keys {shown(given)} cannot be read: give call numbers from 0 on, such as 0, 1, 3, 5, 19")
    return tuple(map(int, parts))


@documented
@dataclass(frozen=True)
class CallSkip:
    """Call skipping: the network runs at some steps only, and its output at the others is forecast from earlier ones.

    Use with `accelerate(pipe, CallSkip(...))`. It needs no knowledge of the network. The number of calls follows from the
    first of `keys`, `calls`, `every` and `speedup` that is set; outside `start` to `end` all steps run besides. The published
    forecasters are predictors: TaylorSeer (arXiv 2503.06923), HiCache (2508.16984), FoCa (2508.16211), Spectrum (2603.01623).

    Raises :class:`RecipeError` for values that cannot run.

    Example:
        >>> CallSkip(speedup=2.0).neutral, CallSkip(speedup=1.0).neutral
        (False, True)
    """

    speedup: float = setting(
        2.0,
        "How many times fewer steps run the model: 1 runs all, 1.3 is gentle, 2 the usual choice, 2.5 fast.",
        low=1.0, high=20.0, usual=(1.0, 4.0), step=0.1, unit="times", remedy="1 runs every step, 2 is usual",
    )  # fmt: skip
    calls: int = setting(
        0, "Run the model at exactly this many steps; 0 uses the speedup.",
        low=0, high=MOST_CALLS, usual=(0, 50), step=1, unit="steps", remedy="0 uses the speedup",
    )  # fmt: skip
    every: int = setting(
        0, "Run the model at every so many steps; 0 uses the speedup.",
        low=0, high=MOST_CALLS, usual=(0, 10), step=1, unit="steps", remedy="0 uses the speedup", advanced=True,
    )  # fmt: skip
    keys: tuple[int, ...] = setting(
        (), "The numbers of the steps that run, from 0; empty uses the speedup.",
        low=0, high=MOST_CALLS, remedy="steps count from 0", example="0, 1, 3, 5, 19", parse=parse_keys, advanced=True,
    )  # fmt: skip
    rule: CallRule = setting(
        "even",
        "Which steps run: even spreads them, growing widens the gaps towards the end (Spectrum, arXiv 2603.01623); easycache "
        "(arXiv 2507.02860) and seacache (arXiv 2602.18993) decide during the run by how much the input changed.",
        choices=get_args(CallRule), advanced=True,
    )  # fmt: skip
    space: str = setting(
        "auto",
        "What is forecast: the noise eps, the picture x0, the velocity v, or the model's raw output. auto takes eps, and x0 "
        "with samplers that add noise.",
        choices=("auto", *SPACES), advanced=True,
    )  # fmt: skip
    predictor: str = setting(
        "auto",
        "How a value is continued: along a line, or as published. hold repeats the last one; fitted "
        "takes weights from the profile; corrected puts right, at the next step that runs, what a line missed (Euler, DDIM, "
        "DPM++ 2M). auto takes corrected where at least half of the steps run, else line.",
        choices=("auto", *CALL_PREDICTOR_NAMES), advanced=True,
    )  # fmt: skip
    warmup: int = setting(
        1, "The first steps that always run.",
        low=1, high=MOST_CALLS, usual=(1, 10), step=1, unit="steps", remedy="the first step always runs", advanced=True,
    )  # fmt: skip
    tail: int = setting(
        1,
        "The last steps that always run; they hold fine detail. One more runs if the last one sees almost no noise, or if the "
        "sampler continues its outputs (DPM++ 2M, UniPC).",
        low=0, high=MOST_CALLS, usual=(0, 10), step=1, unit="steps", remedy="1 runs the last step", advanced=True,
    )  # fmt: skip
    max_gap: int = setting(
        0, "Most steps in a row that are forecast; 0 for no limit.",
        low=0, high=MOST_CALLS, usual=(0, 10), step=1, unit="steps", remedy="0 is no limit", advanced=True,
    )  # fmt: skip
    threshold: float = setting(
        0.2, "For easycache and seacache: the change that may add up before the model runs again.",
        low=0.0, high=10.0, usual=(0.0, 1.0), step=0.01, remedy="0.2 is EasyCache's choice, 0.3 SeaCache's", advanced=True,
    )  # fmt: skip
    profile: str = setting(
        "", "A profile of this model (`skipstone profile`), which chooses the steps and how they are forecast.",
        label="Profile file", advanced=True,
    )  # fmt: skip
    start: float = window_start()
    end: float = window_end()

    kind = "call_skip"

    def __post_init__(self) -> None:
        """Normalise lists and refuse what cannot run."""
        check_fields(self)
        text("profile", self.profile, _MOST_PATH)
        check_window(self.start, self.end)
        given = [name for name in _COUNTS if getattr(self, name)]
        if len(given) > 1:
            raise RecipeError(f"{' and '.join(given)} both choose the steps that run: give one of them")
        if self.keys and (self.keys[0] != 0 or list(self.keys) != sorted(set(self.keys))):
            raise RecipeError(f"keys={shown(list(self.keys))} must rise and begin with 0: the first step always runs")

    @property
    def gated(self) -> bool:
        """Whether the rule decides during the run (:data:`GATED`)."""
        return self.rule in GATED

    @property
    def neutral(self) -> bool:
        """Whether the network runs at every call."""
        if self.start >= self.end:
            return True
        if self.gated:
            return self.threshold == 0
        return self.every == 1 if any(getattr(self, n) for n in _COUNTS) else self.speedup == 1 and not self.profile

    def beside(self, folder: Path) -> CallSkip:
        """These settings with the path of the profile in `folder`, if the file is there; else unchanged."""
        return replace(self, profile=file_in(folder, self.profile))
