"""`skipstone plan`: print the steps that run by a profile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..core.forecast.profile import Profile
from ..core.plan.call_choice import PROMISED, Choice, choose_calls
from ..core.plan.run import Horizon
from ..core.recipe.auto import Auto
from ..core.recipe.call_skip import CallSkip

File = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Plan:
    """Print the steps that run by a profile, and the error that is promised.

    Example:
        >>> Plan(Path("profile.safetensors")).speedup
        2.0
    """

    profile: File
    """Profile file."""
    speedup: float = 2.0
    """How many times fewer steps run the model."""
    calls: int = 0
    """Exact number of steps that run; 0 uses the speedup."""
    max_error: float = 0.0
    """Largest error that 90% of the pictures may have; 0 uses the speedup."""
    steps: int | None = None
    """Sampling steps; the profile's own by default."""
    png: Path | None = None
    """Picture to write: errors by number of steps, and the steps that run."""


def show_plan(options: Plan, say: Callable[[str], Any] = print) -> Choice:
    """Print what a profile chooses.

    Args:
        options: the profile, and what is wanted of it.
        say: prints.

    Raises :class:`SkipstoneError` for what it cannot give.

    Example:
        >>> show_plan(Plan(Path("no such file.safetensors")))
        Traceback (most recent call last):
        skipstone.core.errors.ProfileError: cannot use profile ...
    """
    known = Profile.load(options.profile)
    method: Auto | CallSkip = Auto(options.speedup, options.max_error, str(options.profile))
    if options.calls:
        method = CallSkip(calls=options.calls, profile=str(options.profile))
    times = known.timesteps if options.steps in (None, known.steps) else None
    chosen = choose_calls(method, Horizon(times, steps=options.steps or known.steps), known.network)
    steps, keys = options.steps or known.steps, chosen.settings.keys
    say(f"runs {len(keys)} of {steps} steps: {', '.join(map(str, keys))}")
    how = "fitted" if chosen.fit is not None else f"line on {chosen.settings.space}"
    say(f"{how}; {chosen.why}")
    if chosen.promise is not None:
        say(f"{PROMISED:.0%} of pictures stay under an error of {chosen.promise:.4f}")
    if options.png is not None:
        from ..lab.bench.call_plot import draw_plan

        draw_plan(options.png, known, chosen)
        say(f"wrote {options.png}")
    return chosen
