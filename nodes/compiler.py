"""ComfyUI's model compiler (0.34 and newer, on CUDA with dynamic VRAM), which must see the same allocations at every call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from comfy.cli_args import args

_SWITCH = "disable_comfy_compiler"


class CompilerOff:
    """A context manager that switches the compiler off while any run is inside, and restores the user's choice after it.

    The compiler records a network's allocations before our wrappers are called, and replays them at the next call. A run that
    skips blocks or merges tokens allocates differently from call to call, which breaks the recording or crashes. The switch
    is a command-line option that is read at each call; ComfyUI offers no other one. Without it nothing is done.
    """

    def __init__(self) -> None:
        """Before the first run."""
        self._lock, self._inside = Lock(), 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Switch it off for a run. Runs may nest, and overlap in threads."""
        with self._lock:
            ours = bool(self._inside) or getattr(args, _SWITCH, None) is False
            self._inside += ours
            if ours:
                setattr(args, _SWITCH, True)
        try:
            yield
        finally:
            with self._lock:
                self._inside -= ours
                if ours and not self._inside:
                    setattr(args, _SWITCH, False)


compiler_off = CompilerOff()
"""The one for all runs of this process, as the option is one."""
