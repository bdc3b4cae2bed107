"""The part of a run in which a method works: two settings that all methods share."""

from __future__ import annotations

from typing import Any

from .fields import setting


def window_start() -> Any:
    """The setting `start` of a method's dataclass.

    Example:
        >>> from .fields import field_of
        >>> from .token_merge import TokenMerge
        >>> field_of(TokenMerge, "start").high
        1.0
    """
    return _position(
        0.0,
        "Start at this point of the run: 0 is the first step. 0.2 leaves the first fifth unchanged, which preserves the "
        "composition.",
    )


def window_end() -> Any:
    """The setting `end` of a method's dataclass.

    Example:
        >>> from .fields import default_of
        >>> from .token_merge import TokenMerge
        >>> default_of(TokenMerge, "end")
        1.0
    """
    return _position(
        1.0,
        "End at this point of the run: 1 is the last step. 0.8 leaves the last fifth unchanged, which preserves fine "
        "detail.",
    )


def is_whole(settings: Any) -> bool:
    """Return whether a method works in the whole run.

    Args:
        settings: of the method.

    Example:
        >>> from .token_merge import TokenMerge
        >>> is_whole(TokenMerge()), is_whole(TokenMerge(end=0.8))
        (True, False)
    """
    return bool(settings.start == 0.0 and settings.end == 1.0)


def _position(default: float, help: str) -> Any:
    remedy = "0 is the noisiest call, 1 the last"
    return setting(default, help, low=0.0, high=1.0, step=0.01, remedy=remedy, advanced=True)
