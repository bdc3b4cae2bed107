"""Draws the pictures of the workflows with the shipped models, accelerated as in the workflow.

`python -m skipstone.tools.thumbnails [NAME ...]` writes `workflows/NAME.jpg`, by default for all of :data:`THUMBNAILS`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from ..core.recipe.auto import Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..lab.demo_models.model import load_demo
from ..pipelines.accelerate import accelerate

FOLDER = Path(__file__).resolve().parents[1] / "workflows"
SIDE, GAP, BAND = 316, 8, 72
_NIGHT, _WHITE = (20, 24, 44), (250, 246, 238)
_STEPS = 25


@dataclass(frozen=True)
class Thumbnail:
    """One picture.

    Args:
        label: the line below.
        prompts: four of them.
        recipe: what accelerates the model, or several methods; None for nothing.
        kind: of the shipped model.
        split: show the left half of each picture without acceleration.
    """

    label: str
    prompts: tuple[str, ...]
    recipe: Any = "1.8x"
    kind: str = "flow"
    split: bool = False


def _icons(text: str) -> tuple[str, ...]:
    """Captions of "red heart on teal, ..."."""
    pairs = [one.split(" on ") for one in text.split(", ")]
    return tuple(f"a {icon} on a {background} background" for icon, background in pairs)


_MERGE = TokenMerge(threshold=0.9)
_CACHE = BlockSkip(rule="deepcache", every=2)
_FORA = BlockSkip(rule="fora", every=2)
THUMBNAILS: dict[str, Thumbnail] = {
    "demo_skipstone": Thumbnail(
        "No download: 1.8x", _icons("red heart on teal, yellow sun on blue, pink flower on purple, lime tree on navy")
    ),
    "demo_compare": Thumbnail(
        "Original and accelerated",
        _icons("pink star on purple, red boat on blue, green fish on navy, red mushroom on teal"),
        split=True,
    ),
    "demo_image_to_image": Thumbnail(
        "Image to image: 1.8x",
        _icons("pink star on purple, yellow sun on purple, white moon on blue, cream boat on blue"),
    ),
    "demo_joint_recipe": Thumbnail(
        "Recipe: merge and forecast",
        ("boat", "moon", "tree", "mushroom"),
        (TokenMerge(threshold=0.9), Auto(speedup=3.0)),
        "unet",
    ),
    "sd15_two_pass": Thumbnail(
        "Two passes: 1.8x",
        _icons("red mushroom on blue, orange fish on navy, cream moon on purple, pink flower on teal"),
    ),
    "sd15_controlnet_lora": Thumbnail(
        "ControlNet and LoRA: 1.8x",
        _icons("white star on blue, white heart on navy, white boat on purple, white fish on teal"),
    ),
    "sd3_block_mask": Thumbnail(
        "Block Mask on SD3",
        _icons("lime tree on blue, pink star on navy, yellow boat on teal, red flower on purple"),
        _FORA,
    ),
    "qwen_image_skipstone": Thumbnail(
        "Qwen-Image: one choice, 1.8x",
        _icons("yellow moon on teal, green fish on purple, pink boat on navy, red flower on blue"),
    ),
    "sd15_skipstone": Thumbnail(
        "SD1.5: one choice, 1.8x",
        _icons("cream moon on navy, red house on blue, orange fish on teal, yellow star on purple"),
    ),
    "sdxl_skipstone": Thumbnail(
        "SDXL: one choice, 1.8x",
        _icons("white boat on teal, pink heart on navy, green tree on blue, cream moon on purple"),
    ),
    "flux_skipstone": Thumbnail(
        "Flux: one choice, 1.8x",
        _icons("yellow sun on purple, red mushroom on navy, white flower on teal, orange fish on blue"),
    ),
    "z_image_skipstone": Thumbnail(
        "Z-Image: one choice, 1.8x",
        _icons("lime fish on purple, pink mushroom on blue, white star on navy, red house on teal"),
    ),
    "wan_skipstone": Thumbnail(
        "Wan video: one choice, 1.8x",
        _icons("red boat on navy, red boat on blue, red boat on teal, red boat on purple"),
    ),
    "sd15_call_skip": Thumbnail("Call Skip: 2x", ("sun", "boat", "flower", "moon"), "2x", "unet"),
    "sd15_token_merge": Thumbnail("Token Merge (CA-ToMe)", ("heart", "tree", "star", "fish"), _MERGE, "unet"),
    "sd15_dato": Thumbnail("DaTo", ("mushroom", "house", "fish", "moon"), "dato_gentle", "unet"),
    "sd15_deepcache_rule": Thumbnail("Block Mask: DeepCache", ("house", "sun", "boat", "heart"), _CACHE, "unet"),
    "sdxl_merge_and_cache": Thumbnail("Merge and cache", ("flower", "mushroom", "tree", "star"), _CACHE, "unet"),
    "pixart_block_mask": Thumbnail("Block Mask on PixArt", ("tree", "moon", "sun", "mushroom"), _FORA, "dit"),
    "train_and_apply_mask": Thumbnail(
        "Train a mask", ("boat", "star", "flower", "house"), BlockSkip(rule="interval", every=2), "dit"
    ),
}


def drawn(one: Thumbnail) -> list[Image.Image]:
    """The four pictures, 64 x 64."""
    pipe = load_demo(one.kind)
    pipe.set_progress_bar_config(disable=True)
    fast = _pictures(pipe, one, one.recipe)
    return [_half(*pair) for pair in zip(_pictures(pipe, one, None), fast, strict=True)] if one.split else fast


def _pictures(pipe: Any, one: Thumbnail, recipe: Any) -> list[Image.Image]:
    noise = torch.Generator().manual_seed(7)
    joined = Recipe.of(list(recipe)) if isinstance(recipe, tuple) else recipe
    with accelerate(pipe, joined) if joined else nullcontext():
        return pipe(list(one.prompts), num_inference_steps=_STEPS, generator=noise).images


def _half(left: Image.Image, right: Image.Image) -> Image.Image:
    """The left half of one picture and the right half of the other."""
    joined = right.copy()
    joined.paste(left.crop((0, 0, left.width // 2, left.height)), (0, 0))
    return joined


def sheet(pictures: Sequence[Image.Image], label: str, split: bool = False) -> Image.Image:
    """Four pictures two by two, with a line below.

    Args:
        pictures: of any size.
        label: the line.
        split: mark the halves of each picture.
    """
    width = 2 * SIDE + 3 * GAP
    made = Image.new("RGB", (width, width + BAND - GAP), _NIGHT)
    draw = ImageDraw.Draw(made)
    for place, picture in enumerate(pictures):
        x, y = GAP + place % 2 * (SIDE + GAP), GAP + place // 2 * (SIDE + GAP)
        made.paste(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC), (x, y))
        if split:
            draw.rectangle((x + SIDE // 2 - 2, y, x + SIDE // 2 + 1, y + SIDE), fill=_WHITE)
    font = ImageFont.load_default(36)
    draw.text((width // 2, width + (BAND - 2 * GAP) // 2), label, fill=_WHITE, font=font, anchor="mm")
    return made


def main() -> None:
    """Write the pictures."""
    for name in sys.argv[1:] or THUMBNAILS:
        one = THUMBNAILS[name]
        path = FOLDER / f"{name}.jpg"
        sheet(drawn(one), one.label, one.split).save(path, quality=80, optimize=True)
        print(name, path.stat().st_size)


if __name__ == "__main__":
    main()
