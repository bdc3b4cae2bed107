"""Settings of block skipping: which rule or mask says what runs at which call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import RecipeError, shown
from .validate import as_tuple, choice, integer, number, text, window

if TYPE_CHECKING:
    from .mask import Mask

Rule = Literal["deepcache", "interval", "fora", "depths", "mask"]
SkipMode = Literal["uniform", "quad"]
Rectify = Literal["liveness", "paper", "off"]
Caching = Literal["output", "branch"]

_MOST_CODE = 999
_MOST_PATH = 4096


def parse_depths(given: str) -> tuple[int, ...]:
    """Depth codes given as text such as `"12, 1, 1, 0"`. Raises :class:`RecipeError` for other text."""
    parts = given.replace(",", " ").replace(";", " ").split()
    if not parts or not all(p.isascii() and p.isdigit() and len(p) <= 3 for p in parts):
        raise RecipeError(f"depths {shown(given)} cannot be read: give codes from 0 on, such as 12, 1, 1, 0")
    return tuple(map(int, parts))


@dataclass(frozen=True)
class BlockSkip:
    """Blocks return their cached output at calls where a mask says so (methods page, "Block masks").

    rule: `"deepcache"` runs the outermost layers between full calls (arXiv 2312.00858); `"interval"` and `"fora"`
        (arXiv 2407.01425) run nothing between them; `"depths"` follows `depths`, one DaTo code per call; `"mask"` a mask file.
    every: calls from one full call to the next. branch: DeepCache's skip branch. mode: DeepCache's spacing of full calls.
    depths: 0 repeats a call, d runs the d outermost levels, 10 and above all. Mapped to other step counts by timestep.
    mask: a :class:`Mask` or the path of its file; giving one chooses rule `"mask"`.
    caching: what is cached: `"output"` of a block or the `"branch"` it adds; `"auto"` is the family's default.
    last_full: run all blocks at the last call (removes residual noise).
    start, end: outside this part of the run every block runs.
    split: mask each transformer block of a U-Net by itself (SDXL has 70).
    forecast: extrapolate the last two cached values linearly over the timesteps, instead of repeating the last.
    rectify: how blocks whose output is not consumed are found: `"liveness"`, on the dataflow graph, is bit-exact; `"paper"` (Eq. 12
        of arXiv 2603.19939) is refused where it is not; `"off"` runs everything in the mask.
    offload: keep cached values in CPU memory.
    memory_budget: MiB of cached values, 0 for no limit; if a plan needs more, some blocks run instead of being reused.
    """

    rule: Rule = "deepcache"
    every: int = 3
    branch: int = 0
    mode: SkipMode = "uniform"
    depths: tuple[int, ...] = ()
    mask: str | Mask = ""
    caching: Literal["auto", "output", "branch"] = "auto"
    last_full: bool = False
    start: float = 0.0
    end: float = 1.0
    split: bool = False
    forecast: bool = False
    rectify: Rectify = "liveness"
    offload: bool = False
    memory_budget: float = 0.0

    kind = "block_skip"

    def __post_init__(self) -> None:
        """Refuse what cannot run. Raises :class:`RecipeError`."""
        object.__setattr__(self, "depths", as_tuple("depths", self.depths))
        self._check_mask()
        choice("rule", self.rule, get_args(Rule))
        choice("mode", self.mode, get_args(SkipMode))
        choice("caching", self.caching, ("auto", "output", "branch"))
        choice("rectify", self.rectify, get_args(Rectify))
        for name in ("last_full", "split", "forecast", "offload"):
            choice(name, getattr(self, name), (True, False))
        number("memory_budget", self.memory_budget, 0.0, 2.0**20, "give MiB, or 0 for no limit")
        integer("every", self.every, 1, "1 runs every call in full, 3 is DeepCache's choice", _MOST_CODE)
        integer("branch", self.branch, 0, "0 runs least", _MOST_CODE)
        window(self.start, self.end)
        for code in self.depths:
            integer("depths", code, 0, "0 repeats a call, 1 runs the last layer, 12 runs all", _MOST_CODE)
        if self.rule == "depths" and not self.depths:
            raise RecipeError("rule 'depths' needs a list of depth codes, such as 12, 1, 1, 0")
        if self.rule == "mask" and not self.mask:
            raise RecipeError("rule 'mask' needs a mask or the path of its file")

    def _check_mask(self) -> None:
        """A path or a mask; either chooses the rule `"mask"`."""
        if isinstance(self.mask, str):
            text("mask", self.mask, _MOST_PATH)
        elif not hasattr(self.mask, "run"):
            raise RecipeError(f"mask={shown(self.mask)} is no mask: give a Mask or the path of its file")
        if self.mask != "":
            object.__setattr__(self, "rule", "mask")

    @property
    def neutral(self) -> bool:
        """True when every block runs at every call."""
        by_interval = self.rule in ("deepcache", "interval", "fora")
        return (by_interval and self.every == 1) or self.start >= self.end

    def beside(self, folder: Path) -> BlockSkip:
        """With the mask file in `folder`, where there is one of its name."""
        file = folder / self.mask if isinstance(self.mask, str) and self.mask else None
        return replace(self, mask=str(file)) if file is not None and file.is_file() else self
