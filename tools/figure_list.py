"""The pictures of the help pages, by node: what :mod:`skipstone.tools.help_pictures` draws, and the text that stands for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.token_merge import TokenMerge

STEPS = 20
TRAINED = "trained"
"""In place of settings: the mask that is trained for these pictures."""


@dataclass(frozen=True)
class Drawn:
    """A row of pictures that a shipped model draws, and below them what each call did.

    Args:
        label: the line above; `{run}`, `{merged}` and `{left}` are filled in with what was counted.
        recipe: what accelerates the model; None for nothing.
        kind: of the shipped model.
        prompts: one a picture.
    """

    label: str
    recipe: Any = None
    kind: str = "flow"
    prompts: tuple[str, ...] = (
        "a red heart on a teal background",
        "a white boat on a blue background",
        "a pink flower on a purple background",
    )


@dataclass(frozen=True)
class Map:
    """A mask: calls from left to right, blocks from top to bottom.

    Args:
        label: the line above; `{run}` is filled in with what was counted.
        mask: settings, or :data:`TRAINED`.
        kind: of the shipped model.
        legend: whether the colours are explained below.
    """

    label: str
    mask: Any
    kind: str = "unet"
    legend: bool = True


@dataclass(frozen=True)
class Page:
    """A file, as a sheet with its name and some of its lines.

    Args:
        label: its folder.
        lines: of the sheet.
    """

    label: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Wiped:
    """One large picture, half original and half accelerated, and the difference.

    Args:
        label: the line above; `{psnr}` and `{ssim}` are filled in.
        recipe: what accelerates the model.
        prompt: of the picture.
    """

    label: str
    recipe: Any
    prompt: str


@dataclass(frozen=True)
class Bars:
    """A bar for each call of a run, its height the call's time, as in Run Report's plot.

    Args:
        label: the line above; `{run}` is filled in with what was counted.
        recipe: what accelerates the model.
    """

    label: str
    recipe: Any


Row: TypeAlias = Drawn | Map | Page | Wiped | Bars


@dataclass(frozen=True)
class Figure:
    """A picture of a help page.

    Args:
        caption: what it shows, in a sentence.
        rows: from top to bottom.
    """

    caption: str
    rows: Sequence[Row]


_UNET, _DIT = ("heart", "boat", "flower"), ("star", "fish", "mushroom")
_CACHE, _FORA = BlockSkip(rule="deepcache", every=3), BlockSkip(rule="fora", every=3)
_RECIPE = ('{"kind": "token_merge",', '    "threshold": 0.7},', '{"kind": "call_skip",', '    "speedup": 2.0}')

FIGURES: dict[str, Figure] = {
    "SkipstoneAuto": Figure(
        "The demo model's pictures: original, balanced and fast. Bright marks are steps at which the model ran.",
        [
            Drawn("original: all 20 steps"),
            Drawn("balanced: {run} of 20 steps", "1.8x"),
            Drawn("fast: {run} of 20 steps", "2.5x"),
        ],
    ),
    "SkipstoneCallSkip": Figure(
        "The demo model at three speed-ups. Bright marks are steps at which the model ran; the others are forecast.",
        [
            Drawn("original: all 20 steps"),
            Drawn("speedup 1.5: {run} of 20 steps", CallSkip(speedup=1.5)),
            Drawn("speedup 2: {run} of 20 steps", CallSkip(speedup=2.0)),
            Drawn("speedup 3: {run} of 20 steps", CallSkip(speedup=3.0)),
        ],
    ),
    "SkipstoneTokenMerge": Figure(
        "The higher the threshold, the fewer tokens are merged, and the closer is the picture.",
        [
            Drawn("original", None, "unet", _UNET),
            Drawn("threshold 0.9: {merged} merged", TokenMerge(threshold=0.9), "unet", _UNET),
            Drawn("threshold 0.7: {merged} merged", TokenMerge(threshold=0.7), "unet", _UNET),
        ],
    ),
    "SkipstoneDaTo": Figure(
        "Two schedules: bright marks are steps of the whole model, dark ones repeat or forecast the step before.",
        [
            Drawn("original", None, "unet", _UNET),
            Drawn("dato_gentle: {left} of the work", "dato_gentle", "unet", _UNET),
            Drawn("dato_d: {left} of the work", "dato_d", "unet", _UNET),
        ],
    ),
    "SkipstoneBlockMask": Figure(
        "DeepCache's rule on the demo U-Net: each row is a block, each column a step.",
        [
            Drawn("original", None, "unet", _UNET),
            Drawn("deepcache, every 3: {left} of the work", _CACHE, "unet", _UNET),
            Map("which block runs when", _CACHE),
        ],
    ),
    "SkipstoneMaskRule": Figure(
        "Three rules on the demo U-Net: each row is a block, each column a step.",
        [
            Map("deepcache, every 3", _CACHE, legend=False),
            Map("interval, every 3", BlockSkip(rule="interval", every=3), legend=False),
            Map("depths 1 1 0 12 …", BlockSkip(rule="depths", depths=(1, 1, 0, 12) * 5)),
        ],
    ),
    "SkipstoneMaskPreview": Figure(
        "A trained mask of the demo DiT: each row is a block, each column a step.",
        [Map("DiT, 20 calls: {run} of the blocks run", TRAINED, "dit")],
    ),
    "SkipstoneMaskLoader": Figure(
        "A mask file, and pictures drawn with it.",
        [
            Page("models/skipstone_masks", ("my_model.safetensors",)),
            Map("20 steps, {run} of the blocks run", TRAINED, "dit", legend=False),
            Drawn("drawn with it", TRAINED, "dit", _DIT),
        ],
    ),
    "SkipstoneMaskSaver": Figure(
        "A rule becomes a file: which block runs at which step.",
        [Map("fora, every 3", _FORA, "dit"), Page("output/skipstone_masks", ("mask_00001.safetensors",))],
    ),
    "SkipstoneTrainMask": Figure(
        "A mask trained for half of the work: which block runs when, and pictures drawn with it.",
        [
            Drawn("original", None, "dit", _DIT),
            Drawn("trained: {left} of the work", TRAINED, "dit", _DIT),
            Map("which block runs when", TRAINED, "dit"),
        ],
    ),
    "SkipstoneRecipeLoader": Figure(
        "A recipe file, and pictures drawn with it.",
        [
            Page("models/skipstone_recipes", ("faster.json", *_RECIPE)),
            Drawn("drawn with it: {run} of 20 steps", (TokenMerge(threshold=0.7), CallSkip(speedup=2.0)), "unet", _UNET),
        ],
    ),
    "SkipstoneRecipeSaver": Figure(
        "What the nodes before it do to a model, as a file.",
        [Page("output/skipstone_recipes", ("recipe_00001.json", *_RECIPE))],
    ),
    "SkipstoneCompare": Figure(
        "Left of the line the original, right of it the accelerated picture, and their difference.",
        [Wiped("PSNR {psnr} dB, SSIM {ssim}", "2.5x", "a red boat on a blue background")],
    ),
    "SkipstoneReport": Figure(
        "A bar for each call; its height is the time that the call took.", [Bars("{run} of 20 calls ran", "1.8x")]
    ),
    "SkipstoneDemoModel": Figure(
        "Pictures of both models.",
        [
            Drawn("icons (U-Net): heart, boat, flower", None, "unet", _UNET),
            Drawn("icons (flow): colours and backgrounds"),
        ],
    ),
}  # fmt: skip
