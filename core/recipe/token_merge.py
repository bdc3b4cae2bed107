"""Settings of token merging: which tokens are averaged, in which layers, and when pairs are searched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from .checkpoint_lists import CHECKPOINT_PRESETS, parse_checkpoints
from .fields import check_fields, documented, setting
from .validate import MOST_SEED, check_stride, check_window
from .windows import window_end, window_start

Destination = Literal["top_left", "random"]
BatchRule = Literal["per_sample", "max"]
Matching = Literal["dense", "local"]
Target = Literal["attn1", "attn2", "ff"]
MAX_DOWNSAMPLES = (1, 2, 4, 8)

_MOST_BUCKET = 1 << 20


@documented
@dataclass(frozen=True)
class TokenMerge:
    """Cached adaptive token merging (CA-ToMe, arXiv 2501.00946, section III). Use with `accelerate(pipe, TokenMerge(...))`.

    Raises :class:`RecipeError` for values that cannot run.

    Example:
        >>> TokenMerge(threshold=0.8, checkpoints="0, 10, 20").checkpoints
        (0, 10, 20)
    """

    threshold: float = setting(
        0.7,
        "Merge tokens that are more similar than this (cosine similarity). The paper uses 0.7; lower values are faster, "
        "0.9 changes little, and 1 turns merging off.",
        low=-1.0, high=1.0, usual=(0.0, 1.0), step=0.01,
        remedy="1 switches merging off, 0.7 is the paper's choice",
    )  # fmt: skip
    checkpoints: str | tuple[int, ...] = setting(
        "config_3",
        "Steps at which pairs of similar tokens are searched; they are reused in between. config_3 searches at about a "
        "quarter of the steps, every at all of them.",
        choices=tuple(CHECKPOINT_PRESETS),
        custom="Used when checkpoints is custom: a list of steps from 0 to 50, such as 0, 8, 20, which is scaled to your "
        "number of steps.",
        example="0, 10, 20, 30, 40", parse=parse_checkpoints,
    )  # fmt: skip
    stride: tuple[int, int] = setting(
        (2, 2),
        "Size of the cells in tokens. With 2, at most three quarters of the tokens can be merged; larger cells allow more.",
        low=1, high=64, usual=(2, 8), unit="tokens", remedy="the paper uses 2", advanced=True,
    )  # fmt: skip
    max_downsample: int | Literal["auto"] = setting(
        "auto",
        "Coarsest attention layers that are included: 1 is full resolution, 8 the coarsest. auto suits each model; larger "
        "values save little more and cost quality.",
        label="Coarsest level", choices=("auto", *MAX_DOWNSAMPLES), advanced=True,
    )  # fmt: skip
    destination: Destination = setting(
        "top_left",
        "Token of each cell that the others are merged into: the top left one, or a random one. The random choice does "
        "not affect your noise seed.",
        choices=get_args(Destination), advanced=True,
    )  # fmt: skip
    batch: BatchRule = setting(
        "per_sample",
        "How many tokens are merged when a batch has several images. per_sample keeps each image independent of the "
        "others; max merges the largest count in all of them, like the paper's code.",
        choices=get_args(BatchRule), advanced=True,
    )  # fmt: skip
    targets: tuple[Target, ...] = setting(
        ("attn1",),
        "Layers that run on fewer tokens: attn1 is self-attention, attn2 cross-attention, ff the feed-forward layers. "
        "The paper uses self-attention only.",
        label="Merge in", choices=get_args(Target), advanced=True,
        parts=(
            ("attn2", "Also merge tokens in cross-attention. This saves little; the paper does not do it."),
            ("ff", "Also merge tokens in the feed-forward layers. Saves a little more time and loses detail; the paper "
            "does not do it."),
        ),
    )  # fmt: skip
    matching: Matching = setting(
        "dense",
        "dense compares each token with all others, as in the paper. local compares only inside tiles of 16 x 16: much "
        "cheaper for large images, but merges slightly fewer tokens.",
        choices=get_args(Matching), advanced=True,
    )  # fmt: skip
    proportional: bool = setting(
        False,
        "Give each merged token the weight of all tokens merged into it. Closer to the original image but slower; needs "
        "PyTorch attention. Models with joint or rotary attention, such as Flux, always do so.",
        label="Proportional attention", advanced=True,
    )  # fmt: skip
    frames: int = setting(
        1,
        "Videos: compare tokens of this many neighbouring frames. 1 compares them inside each frame.",
        label="Frames together", low=1, high=16, usual=(1, 4), unit="frames", remedy="use 1, or 2 for pairs of frames",
        advanced=True,
    )  # fmt: skip
    start: float = window_start()
    end: float = window_end()
    bucket: int | Literal["auto"] = setting(
        "auto",
        "Merged counts are rounded down to a multiple of this; 1 merges every pair. auto is a sixteenth of the tokens, "
        "rounded to 32.",
        low=1, high=_MOST_BUCKET, also=("auto",), unit="tokens", remedy="use 1 for exact counts or 'auto'", shown=False,
    )  # fmt: skip
    absolute: bool = setting(
        False, "Take checkpoints as they are, without scaling them to the number of steps.", shown=False
    )
    index_base: Literal[0, 1] = setting(
        0, "1 counts checkpoints from one, as the released code does.", choices=(0, 1), shown=False
    )
    seed: int = setting(
        0, "Seed of the random destinations.",
        low=0, high=MOST_SEED, remedy="use any whole number from 0 on", shown=False,
    )  # fmt: skip

    kind = "token_merge"

    def __post_init__(self) -> None:
        """Normalise lists and refuse what cannot run."""
        check_fields(self)
        object.__setattr__(self, "checkpoints", parse_checkpoints(self.checkpoints))
        check_stride(self.stride)
        check_window(self.start, self.end)

    @property
    def neutral(self) -> bool:
        """Whether these settings change nothing; then no override is installed."""
        return self.threshold >= 1.0 or not self.targets or self.start >= self.end or self.stride == (1, 1)
