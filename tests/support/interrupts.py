"""Ctrl-C at any line of chosen files."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def interrupted(run: Callable[[], Any], at: int, files: set[str]) -> bool:
    """Run until the `at`-th event that Python traces in these files, and press Ctrl-C there. False: it ended before."""
    left = [at]

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in files:
            return None
        if event == "line" and _leaves_a_with(frame):
            return trace
        if left[0] == 0:
            sys.settrace(None)
            left[0] = -1
            raise KeyboardInterrupt
        left[0] -= left[0] > 0
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def _leaves_a_with(frame: FrameType) -> bool:
    """Between a with's last line and its exit, where Python takes no Ctrl-C: a lock would stay locked for later tests."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]] in ("LOAD_CONST", "POP_BLOCK")
