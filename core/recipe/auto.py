"""Settings of Auto: one number, from which the calls that run and the forecasts follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ..files import file_in
from .call_skip import CallSkip
from .fields import check_fields, documented, setting, shared
from .validate import check_window, text
from .windows import window_end, window_start

LEVELS = {"gentle": 1.3, "balanced": 1.8, "fast": 2.5}
"""Names of speed-ups."""

_MOST_PATH = 4096


@documented
@dataclass(frozen=True)
class Auto:
    """One number: how much faster, or how much error is allowed. Which calls run, and how the others are forecast, follows.

    Use with `accelerate(pipe, Auto(speedup=2.0))`, or `accelerate(pipe, "2x")`. With a profile of the model
    (`skipstone profile`) the choice is the one that measured best, and the report promises an error. Without one it is the
    default of :class:`CallSkip`.

    Raises :class:`RecipeError` for values that cannot run.

    Example:
        >>> Auto(speedup=1.8).neutral, Auto(speedup=1.0).neutral
        (False, True)
    """

    speedup: float = shared(CallSkip, "speedup", 2.0)
    max_error: float = setting(
        0.0,
        "Largest relative error of the final latent that 90% of the pictures may have; 0 uses the speedup. Needs a profile.",
        low=0.0, high=1.0, usual=(0.0, 0.2), step=0.005, remedy="0 uses the speedup, 0.03 is hard to see", advanced=True,
    )  # fmt: skip
    profile: str = shared(CallSkip, "profile", "")
    guard: bool = setting(
        True,
        "With a profile: run more steps where a picture turns out unlike the profile's.",
        advanced=True,
    )

    record: bool = setting(
        False,
        "If the profile file does not exist: run the next picture in full and record the file from it.",
        advanced=True,
    )
    start: float = window_start()
    end: float = window_end()

    kind = "auto"

    def __post_init__(self) -> None:
        """Refuse what cannot run."""
        check_fields(self)
        text("profile", self.profile, _MOST_PATH)
        check_window(self.start, self.end)

    @property
    def neutral(self) -> bool:
        """Whether the network runs at every call."""
        return (self.speedup == 1 and not self.max_error) or self.start >= self.end

    def beside(self, folder: Path) -> Auto:
        """These settings with the path of the profile in `folder`, if the file is there; else unchanged."""
        return replace(self, profile=file_in(folder, self.profile))
