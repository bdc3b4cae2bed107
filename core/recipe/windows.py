"""The part of a run that a method works in: two settings that all methods share."""

from __future__ import annotations

from typing import Any

from .fields import setting

_REMEDY = "0 is the noisiest call, 1 the last"


def window_start() -> Any:
    """The field `start`."""
    return setting(
        0.0,
        "Start at this point of the run: 0 is the first step. 0.2 leaves the first fifth unchanged, which preserves the "
        "composition.",
        low=0.0, high=1.0, step=0.01, remedy=_REMEDY, advanced=True,
    )  # fmt: skip


def window_end() -> Any:
    """The field `end`."""
    return setting(
        1.0,
        "End at this point of the run: 1 is the last step. 0.8 leaves the last fifth unchanged, which preserves fine "
        "detail.",
        low=0.0, high=1.0, step=0.01, remedy=_REMEDY, advanced=True,
    )  # fmt: skip
