"""Settings of block skipping: the rule or mask that decides which blocks run at which call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ..errors import RecipeError, shown
from ..files import file_in
from ..forecast.names import PREDICTOR_NAMES, PredictorName
from .fields import check_fields, documented, fields_of, setting
from .validate import check_window, text
from .windows import window_end, window_start

if TYPE_CHECKING:
    from .mask import Mask

RuleName = Literal["deepcache", "interval", "fora", "depths", "mask"]
SkipMode = Literal["uniform", "quad"]
Rectify = Literal["liveness", "paper", "off"]
Caching = Literal["output", "branch", "difference"]

_MOST_CODE = 999
_MOST_PATH = 4096


def parse_depths(given: str) -> tuple[int, ...]:
    """Depth codes from text.

    Raises :class:`RecipeError` for text that is not a list of codes.

    Example:
        >>> parse_depths("12, 1, 1, 0")
        (12, 1, 1, 0)
    """
    parts = given.replace(",", " ").replace(";", " ").split()
    if not parts or not all(p.isascii() and p.isdigit() and len(p) <= 3 for p in parts):
        raise RecipeError(f"depths {shown(given)} cannot be read: give codes from 0 on, such as 12, 1, 1, 0")
    return tuple(map(int, parts))


@documented
@dataclass(frozen=True)
class BlockSkip:
    """Block skipping: at the calls that a rule or mask chooses, blocks return their cached output.

    Use with `accelerate(pipe, BlockSkip(...))`. The rules are DeepCache (arXiv 2312.00858), FORA (arXiv 2407.01425), the
    cache depths of DaTo (arXiv 2501.00375) and learned masks (arXiv 2603.19939). A mask sets the rule to "mask".

    Raises :class:`RecipeError` for values that cannot run.

    Example:
        >>> BlockSkip(rule="interval", every=2, forecast=True).neutral
        False
    """

    rule: str = setting(
        "deepcache",
        "deepcache runs only the outer layers of a U-Net between full steps (arXiv 2312.00858). interval and fora (arXiv "
        "2407.01425, for transformers) repeat the whole model between full steps. depths follows a list of depths.",
        choices=get_args(RuleName), unlisted=("mask",),
    )  # fmt: skip
    every: int = setting(
        3,
        "Run the whole model every so many steps: 2 is careful, 3 the usual choice, 5 fast, and 1 skips nothing. Not used "
        "by depths and masks.",
        low=1, high=_MOST_CODE, usual=(1, 20), step=1, unit="steps", remedy="1 runs every call in full, 3 is DeepCache's choice",
        rules=("deepcache", "interval", "fora"),
    )  # fmt: skip
    branch: int = setting(
        0,
        "How many layers deepcache still runs between full steps; 0 runs the fewest. In transformers, the number of the "
        "last block that still runs.",
        low=0, high=_MOST_CODE, usual=(0, 11), step=1, remedy="0 runs least", advanced=True, rules=("deepcache",),
    )  # fmt: skip
    mode: SkipMode = setting(
        "uniform",
        "Spacing of deepcache's full steps: uniform, or quad for more of them early in the run.",
        choices=get_args(SkipMode), advanced=True, rules=("deepcache",),
    )  # fmt: skip
    depths: tuple[int, ...] = setting(
        (),
        "How deep each step runs: one number per step, from the second on, scaled to your number of steps. 0 repeats the "
        "step before, 1 runs the outermost layers, 10 or more runs everything.",
        low=0, high=_MOST_CODE, remedy="0 repeats a call, 1 runs the last layer, 12 runs all",
        example="12, 1, 1, 0", parse=parse_depths, rules=("depths",), advanced=True,
    )  # fmt: skip
    mask: str | Mask = setting(
        "", "For the rule mask: a file that lists the blocks that run at each step. In Python, also a Mask in memory.",
        label="Mask file", rules=("mask",),
    )  # fmt: skip
    caching: Literal["auto", "output", "branch", "difference"] = setting(
        "auto",
        "What is cached: a block's output, the outputs of its attention and feed-forward (branch), or what the block adds to "
        "its input (difference). auto picks output for U-Nets; for transformers difference with a forecast, else branch if it can.",
        choices=("auto", *get_args(Caching)), advanced=True,
    )  # fmt: skip
    last_full: bool = setting(
        False,
        "Run the whole model at the last step, which removes residual noise.",
        label="Last call full",
        advanced=True,
    )
    start: float = window_start()
    end: float = window_end()
    split: bool = setting(
        False,
        "Treat each transformer block inside a U-Net separately (SDXL has 70). Finer control, more cache memory.",
        advanced=True,
    )
    forecast: bool = setting(
        False,
        "Extrapolate cached values from the last two instead of repeating the last one. Needs twice the cache memory.",
        advanced=True,
    )
    predictor: PredictorName = setting(
        "line", "With forecast: how cached values are continued. See call skipping for the names.",
        choices=PREDICTOR_NAMES, shown=False,
    )  # fmt: skip
    rectify: Rectify = setting(
        "liveness",
        "How blocks whose output nothing consumes are found. liveness uses the dataflow graph and never changes the picture. "
        "paper is Eq. 12 of arXiv 2603.19939, refused for models where it would. off runs everything in the mask.",
        choices=get_args(Rectify), shown=False,
    )  # fmt: skip
    offload: bool = setting(False, "Keep cached values in system memory instead of VRAM. Slower.", advanced=True)
    memory_budget: float = setting(
        0.0,
        "Limit of the cache in MiB, or 0 for no limit. If more is needed, the blocks that save least run at every step.",
        low=0.0, high=2.0**20, usual=(0.0, 8192.0), step=16.0, unit="MiB", remedy="give MiB, or 0 for no limit",
        advanced=True,
    )  # fmt: skip

    kind = "block_skip"

    def __post_init__(self) -> None:
        """Normalise lists and refuse what cannot run."""
        self._check_mask()
        check_fields(self)
        check_window(self.start, self.end)
        if self.rule == "depths" and not self.depths:
            raise RecipeError("rule 'depths' needs a list of depth codes, such as 12, 1, 1, 0")
        if self.rule == "mask" and not self.mask:
            raise RecipeError("rule 'mask' needs a mask or the path of its file")

    def _check_mask(self) -> None:
        """Refuse what is neither a path nor a mask. Either chooses the rule "mask"."""
        if isinstance(self.mask, str):
            text("mask", self.mask, _MOST_PATH)
        elif not hasattr(self.mask, "run"):
            raise RecipeError(f"mask={shown(self.mask)} is not a mask: give a Mask or the path of its file")
        if self.mask != "":
            object.__setattr__(self, "rule", "mask")

    @property
    def neutral(self) -> bool:
        """Whether every block runs at every call."""
        return ("every" in RULES[self.rule] and self.every == 1) or self.start >= self.end

    def beside(self, folder: Path) -> BlockSkip:
        """These settings with the path of the mask file in `folder`, if the file is there; else unchanged."""
        return replace(self, mask=file_in(folder, self.mask)) if isinstance(self.mask, str) else self


RULES: dict[str, tuple[str, ...]] = {
    rule: tuple(name for name, field in fields_of(BlockSkip).items() if rule in field.rules)
    for rule in get_args(RuleName)
}
"""Name of a rule -> the settings that are its arguments (the rules are in :mod:`skipstone.core.plan.rules`)."""
