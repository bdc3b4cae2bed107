"""The options of the demos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...core.errors import RecipeError

_PLAIN_ALONE, _MASK_ALONE = ("recipe",), ("target", "passes")


@dataclass(frozen=True)
class DemoOptions:
    """Draw the demo's icons dense and accelerated, side by side, with figures.

    Example:
        >>> DemoOptions().calls, DemoOptions(mask=True, steps=10).calls
        (20, 10)
    """

    mask: bool = False
    """Train a block mask on the small DiT first, and draw by it, by FORA and in fewer steps."""
    recipe: Path | None = None
    """Recipe file (JSON); the demo's own recipe without one. Not with --mask."""
    target: float | None = None
    """With --mask: share of the multiply-adds that the mask may need; 0.5 by default."""
    passes: int | None = None
    """With --mask: rounds of training; 5 by default."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    steps: int | None = None
    """Sampling steps (DDIM, guidance 3); 20 by default."""
    seed: int = 0
    """Seed of the noise."""
    rounds: int = 1
    """Timed rounds; all ways of drawing take turns, the median counts."""
    out: Path = Path("out")
    """Folder for demo.png and demo.json; with --mask for demo_mask.png, demo_mask.json and the folder demo_mask."""

    @property
    def calls(self) -> int:
        """Number of sampling steps."""
        return 20 if self.steps is None else self.steps

    def check(self) -> None:
        """Raise :class:`RecipeError` for values that cannot run, and for options of the other demo."""
        if self.calls < 2 or self.rounds < 1:
            raise RecipeError("the demo needs --steps of at least 2 and --rounds of at least 1")
        others = [name for name in (_PLAIN_ALONE if self.mask else _MASK_ALONE) if getattr(self, name) is not None]
        if others:
            named, remedy = " and ".join(f"--{name}" for name in others), "leave one out" if self.mask else "add it"
            raise RecipeError(f"{named} cannot be had {'with' if self.mask else 'without'} --mask: {remedy}")
