"""Settings of token pruning: which tokens attention leaves out, and what replaces their output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import RecipeError, shown
from .checkpoint_lists import CHECKPOINT_PRESETS, parse_checkpoints
from .fields import check_fields, documented, setting, shared
from .token_merge import Target, TokenMerge
from .validate import MOST_SEED, as_tuple, check_stride, check_window, number
from .windows import window_end, window_start

BaseRule = Literal["dynamics", "random"]
Recovery = Literal["base", "kept"]
Align = bool | Literal["first"]
_MOST = 1e6


def parse_ratios(text: str) -> tuple[float, ...]:
    """Pruning ratios from text.

    Raises :class:`RecipeError` for text that is not a list of numbers.

    Example:
        >>> parse_ratios("0.4, 0.3, 0")
        (0.4, 0.3, 0.0)
    """
    try:
        ratios = tuple(map(float, text.replace(",", " ").replace(";", " ").split()))
    except ValueError:
        ratios = ()
    if not ratios:
        raise RecipeError(f"ratios {shown(text)} cannot be read: give one for each call, such as 0.4, 0.3, 0")
    return ratios


@documented
@dataclass(frozen=True)
class TokenPrune:
    """Dynamics-aware token pruning (DaTo, arXiv 2501.00375): attention runs on the tokens that change, the others copy.

    Use with `accelerate(pipe, TokenPrune(...))`.

    Raises :class:`RecipeError` for values that cannot run.

    Example:
        >>> TokenPrune(ratio=[0.4, 0.2]).ratios, TokenPrune(stride=(2, 2)).limit
        ((0.4, 0.2), 0.75)
    """

    ratio: float | tuple[float, ...] = setting(
        0.4,
        "Share of tokens left out of self-attention. The paper uses 0.4; 0 turns pruning off.",
        low=0.0, high=0.99, usual=(0.0, 0.75), step=0.01,
        custom="Used when the preset is custom: pruning ratios over the run, such as 0.6, 0.4, 0.2. Leave it empty to use "
        "the ratio above.",
        parse=parse_ratios,
    )  # fmt: skip
    stride: tuple[int, int] = setting(
        (2, 2),
        "Size of the cells in tokens; one token of each cell is always kept. With 2, at most three quarters of the tokens "
        "can be pruned; larger cells allow more.",
        low=1, high=64, usual=(2, 8), unit="tokens", remedy="the paper uses 2", advanced=True,
    )  # fmt: skip
    max_downsample: int | Literal["auto"] = shared(TokenMerge, "max_downsample", "auto")
    matching: Literal["dense", "local"] = setting(
        "dense",
        "dense compares each token with all base tokens, as in the paper. local compares only inside tiles of 16 x 16: "
        "much cheaper for large images, but cannot be combined with recover_from kept.",
        choices=("dense", "local"), advanced=True,
    )  # fmt: skip
    base: BaseRule = setting(
        "dynamics", "Token of each cell that is always kept: the one that changes most, or a random one.",
        choices=get_args(BaseRule), shown=False,
    )  # fmt: skip
    gamma: float = setting(
        1.0,
        "How strongly the tokens that change most are preferred as base tokens. The paper uses 1; 0 makes the choice "
        "random.",
        low=-_MOST, high=_MOST, usual=(-10.0, 10.0), step=0.05, remedy="1 is the usual weight of the dynamics", advanced=True,
    )  # fmt: skip
    alpha: float = setting(
        0.1,
        "How much randomness is mixed into the choice of base tokens. It has its own seed and does not affect your noise seed.",
        low=0.0, high=_MOST, usual=(0.0, 10.0), step=0.05, remedy="0.1 is the usual weight of the noise", advanced=True,
    )  # fmt: skip
    normalise: bool = setting(
        True, "Scale each image's dynamics to a standard deviation of 1, so that gamma and alpha act equally at every step.",
        shown=False,
    )  # fmt: skip
    flip_prob: float = setting(
        0.0, "Probability that the sign of gamma flips; 0.5 in the released code.",
        low=0.0, high=1.0, remedy="0 never turns the sign, 0.5 is the released code", shown=False,
    )  # fmt: skip
    recover_from: Recovery = setting(
        "base",
        "Where a pruned token takes its output from: the base token of its cell, or the most similar token that was kept.",
        choices=get_args(Recovery), advanced=True,
    )  # fmt: skip
    align_cfg: Align = setting(
        True,
        "Cond and uncond of an image share their base tokens. on uses the mean of their dynamics. first uses the dynamics of "
        "the first in the batch, as the released code does (uncond in LDM and diffusers).",
        also=("first",), shown=False,
    )  # fmt: skip
    targets: tuple[Target, ...] = shared(TokenMerge, "targets", ("attn1",))
    checkpoints: str | tuple[int, ...] = setting(
        "every", "Steps at which tokens are chosen again; the steps in between reuse the choice.",
        choices=tuple(CHECKPOINT_PRESETS), custom="A list of steps from 0 to 50, scaled to your number of steps.",
        parse=parse_checkpoints, shown=False,
    )  # fmt: skip
    start: float = window_start()
    end: float = window_end()
    seed: int = setting(
        0, "Seed of the random choice of base tokens. The same number repeats the same choice.",
        low=0, high=MOST_SEED, remedy="use any whole number from 0 on", advanced=True,
    )  # fmt: skip

    kind = "token_prune"
    absolute = False
    index_base = 0
    proportional = False

    def __post_init__(self) -> None:
        """Normalise lists and refuse what cannot run."""
        check_fields(self)
        object.__setattr__(self, "checkpoints", parse_checkpoints(self.checkpoints))
        check_stride(self.stride)
        self._check_ratio()
        check_window(self.start, self.end)
        if self.matching == "local" and self.recover_from == "kept":
            raise RecipeError("recover_from='kept' compares all kept tokens: use it with matching='dense'")

    def _check_ratio(self) -> None:
        """Refuse ratios outside [0, limit]. A list becomes a tuple."""
        if isinstance(self.ratio, (list, tuple)):
            object.__setattr__(self, "ratio", as_tuple("ratio", self.ratio))
        if not self.ratios:
            raise RecipeError("ratio is an empty list: give one number, such as 0.4, or one for each call")
        (rows, columns), limit = self.stride, self.limit
        for value in self.ratios:
            number("ratio", value, 0.0, limit, f"one token of each {rows}x{columns} cell is kept, 0.4 is usual")

    @property
    def limit(self) -> float:
        """Largest possible ratio: one token of each cell is kept."""
        return 1 - 1 / (self.stride[0] * self.stride[1])

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratio as a tuple, also if it is one number."""
        return self.ratio if isinstance(self.ratio, tuple) else (self.ratio,)

    @property
    def neutral(self) -> bool:
        """Whether these settings change nothing."""
        return not any(self.ratios) or not self.targets or self.start >= self.end
