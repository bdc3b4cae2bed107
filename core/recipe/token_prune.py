"""Settings of token pruning: which tokens attention leaves out, and how they come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import RecipeError, shown
from .checkpoint_lists import parse_checkpoints
from .validate import MOST_SEED, as_tuple, choice, integer, number, stride_pair, window

BaseRule = Literal["dynamics", "random"]
Recovery = Literal["base", "kept"]
Align = bool | Literal["first"]
_MOST = 1e6


def parse_ratios(text: str) -> tuple[float, ...]:
    """Ratios given as text such as `"0.4, 0.3, 0"`. Raises :class:`RecipeError` for other text."""
    try:
        ratios = tuple(map(float, text.replace(",", " ").replace(";", " ").split()))
    except ValueError:
        ratios = ()
    if not ratios:
        raise RecipeError(f"ratios {shown(text)} cannot be read: give one for each call, such as 0.4, 0.3, 0")
    return ratios


@dataclass(frozen=True)
class TokenPrune:
    """Dynamics-aware token pruning (DaTo, arXiv 2501.00375): attention runs on tokens that change, others copy a result.

    ratio: share of the tokens that is pruned, up to 1 - 1 / (cells of `stride`); a list gives one for each call of a
        full run, mapped to other step counts by timestep.
    stride: cell size (rows, columns); each full cell has one base token, which is never pruned.
    max_downsample: coarsest level served, as in :class:`TokenMerge`.
    matching: `"dense"` compares every token with every base; `"local"` only inside tiles of 8 x 8 cells.
    base: `"dynamics"` takes each cell's most dynamic token, `"random"` any.
    gamma, alpha: weight of the dynamics and of seeded normal noise in that choice.
    normalise: bring the dynamics of each sample to a deviation of 1 first, so that gamma / alpha means the same anywhere.
    flip_prob: probability that the sign of gamma flips; 0.5 in the released code.
    recover_from: a pruned token takes the output of its nearest `"base"`, or of the nearest token `"kept"`.
    align_cfg: a sample's cond and uncond share their bases: True by the mean of their dynamics, `"first"` by those of the
        one that comes first in the batch, as the released code does (uncond, in the order of LDM and diffusers).
    targets: modules that run on fewer tokens.
    checkpoints: calls at which tokens are chosen again, as in :class:`TokenMerge`; in between they stay.
    start, end: part of the sampling run that is accelerated.
    seed: seed of the noise.
    """

    ratio: float | tuple[float, ...] = 0.4
    stride: tuple[int, int] = (2, 2)
    max_downsample: int | Literal["auto"] = "auto"
    matching: Literal["dense", "local"] = "dense"
    base: BaseRule = "dynamics"
    gamma: float = 1.0
    alpha: float = 0.1
    normalise: bool = True
    flip_prob: float = 0.0
    recover_from: Recovery = "base"
    align_cfg: Align = True
    targets: tuple[Literal["attn1", "attn2", "ff"], ...] = ("attn1",)
    checkpoints: str | tuple[int, ...] = "every"
    start: float = 0.0
    end: float = 1.0
    seed: int = 0

    kind = "token_prune"
    absolute = False
    index_base = 0
    proportional = False

    def __post_init__(self) -> None:
        """Normalise lists to tuples and refuse what cannot run. Raises :class:`RecipeError`."""
        for name in ("stride", "targets"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        object.__setattr__(self, "checkpoints", parse_checkpoints(self.checkpoints))
        stride_pair(self.stride)
        self._check_ratio()
        choice("max_downsample", self.max_downsample, ("auto", 1, 2, 4, 8))
        choice("matching", self.matching, ("dense", "local"))
        choice("base", self.base, get_args(BaseRule))
        choice("recover_from", self.recover_from, get_args(Recovery))
        choice("normalise", self.normalise, (True, False))
        choice("align_cfg", self.align_cfg, (True, False, "first"))
        number("gamma", self.gamma, -_MOST, _MOST, "1 is the usual weight of the dynamics")
        number("alpha", self.alpha, 0.0, _MOST, "0.1 is the usual weight of the noise")
        number("flip_prob", self.flip_prob, 0.0, 1.0, "0 never turns the sign, 0.5 is the released code")
        for target in self.targets:
            choice("targets", target, ("attn1", "attn2", "ff"))
        integer("seed", self.seed, 0, "use any whole number from 0 on", MOST_SEED)
        window(self.start, self.end)
        if self.matching == "local" and self.recover_from == "kept":
            raise RecipeError("recover_from='kept' looks at all kept tokens: use it with matching='dense'")

    def _check_ratio(self) -> None:
        """Every ratio is in [0, limit]; a list becomes a tuple."""
        if isinstance(self.ratio, (list, tuple)):
            object.__setattr__(self, "ratio", as_tuple("ratio", self.ratio))
        if not self.ratios:
            raise RecipeError("ratio is an empty list: give one number, such as 0.4, or one for each call")
        (rows, columns), limit = self.stride, self.limit
        for value in self.ratios:
            number("ratio", value, 0.0, limit, f"one token of each {rows}x{columns} cell is kept, 0.4 is usual")

    @property
    def limit(self) -> float:
        """The largest ratio: one token of each cell stays."""
        return 1 - 1 / (self.stride[0] * self.stride[1])

    @property
    def ratios(self) -> tuple[float, ...]:
        """The ratio as a list, also where it is one number."""
        return self.ratio if isinstance(self.ratio, tuple) else (self.ratio,)

    @property
    def neutral(self) -> bool:
        """True when these settings cannot change anything."""
        return not any(self.ratios) or not self.targets or self.start >= self.end
