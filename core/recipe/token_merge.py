"""Settings of token merging: which tokens are averaged, when pairs are searched, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .checkpoint_lists import parse_checkpoints
from .validate import MOST_SEED, as_tuple, choice, integer, number, stride_pair, window

Destination = Literal["top_left", "random"]
BatchRule = Literal["per_sample", "max"]
Matching = Literal["dense", "local"]
Target = Literal["attn1", "attn2", "ff"]
MAX_DOWNSAMPLES = (1, 2, 4, 8)
_MOST_BUCKET = 1 << 20


@dataclass(frozen=True)
class TokenMerge:
    """Cached adaptive token merging (CA-ToMe, arXiv 2501.00946, section III).

    threshold: cosine similarity in [-1, 1] above which a source token is merged into its best destination; 1 is off.
    checkpoints: calls at which the pairs are searched again: a preset name, `"every"`, or a list of call indices of the
        paper's 51 calls. In between, the pairs are reused.
    stride: cell size (rows, columns); each full cell has one destination token.
    max_downsample: coarsest level served, as latent side over token-grid side. `"auto"` is the finest level that has
        attention and, where that is not the latent's own resolution (SDXL, DiT), the next one as well.
    destination: `"top_left"` token of each cell (the paper), or one drawn at random per checkpoint (the released code).
    batch: `"per_sample"` merges each sample by its own count; `"max"` (the released code) by the largest of the batch.
    targets: modules that run on merged tokens.
    matching: `"dense"` compares every source with every destination; `"local"` only inside tiles of 8 x 8 cells.
    proportional: add log(group size) to the key logits, so that a merged token counts as many times as the tokens it stands for.
    start, end: part of the sampling run that is accelerated, 0 the noisiest call and 1 the last.
    bucket: merged counts are rounded down to a multiple of this; `"auto"` is N/16 rounded to 32.
    absolute: take `checkpoints` as indices of the actual calls, without mapping to the run's length.
    index_base: 1 counts calls from one, as the released code does.
    seed: seed of the random destinations.
    """

    threshold: float = 0.7
    checkpoints: str | tuple[int, ...] = "config_3"
    stride: tuple[int, int] = (2, 2)
    max_downsample: int | Literal["auto"] = "auto"
    destination: Destination = "top_left"
    batch: BatchRule = "per_sample"
    targets: tuple[Target, ...] = ("attn1",)
    matching: Matching = "dense"
    proportional: bool = False
    start: float = 0.0
    end: float = 1.0
    bucket: int | Literal["auto"] = "auto"
    absolute: bool = False
    index_base: Literal[0, 1] = 0
    seed: int = 0

    kind = "token_merge"

    def __post_init__(self) -> None:
        """Normalise lists to tuples and refuse what cannot run. Raises :class:`RecipeError`."""
        for name in ("stride", "targets"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        object.__setattr__(self, "checkpoints", parse_checkpoints(self.checkpoints))
        number("threshold", self.threshold, -1.0, 1.0, "1 switches merging off, 0.7 is the paper's choice")
        window(self.start, self.end)
        choice("destination", self.destination, get_args(Destination))
        choice("batch", self.batch, get_args(BatchRule))
        choice("matching", self.matching, get_args(Matching))
        choice("index_base", self.index_base, (0, 1))
        choice("max_downsample", self.max_downsample, ("auto", *MAX_DOWNSAMPLES))
        for target in self.targets:
            choice("targets", target, get_args(Target))
        stride_pair(self.stride)
        if self.bucket != "auto":
            integer("bucket", self.bucket, 1, "use 1 for exact counts or 'auto'", _MOST_BUCKET)
        integer("seed", self.seed, 0, "use any whole number from 0 on", MOST_SEED)
        for name in ("proportional", "absolute"):
            choice(name, getattr(self, name), (True, False))

    @property
    def neutral(self) -> bool:
        """True when these settings cannot change anything, so that no override is installed at all."""
        return self.threshold >= 1.0 or not self.targets or self.start >= self.end or self.stride == (1, 1)
