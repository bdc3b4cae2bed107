"""Ready recipes by name: merging as CA-ToMe published it and ours, the schedules that DaTo published, and a speed-up alone.

DaTo's lists (arXiv 2501.00375, released code) are cache depths for the 51 calls of 50 PLMS steps on SD1.5: one depth for
every call from 1 on; call 0 runs everything. They are mapped to other samplers and step counts by timestep. The first and
last calls have no special treatment, as published.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import RecipeError, shown
from .auto import LEVELS, Auto
from .block_skip import BlockSkip, parse_depths
from .checkpoint_lists import CHECKPOINT_PRESETS
from .recipe import Method, Recipe
from .token_merge import TokenMerge
from .token_prune import TokenPrune

_COCO = (
    "1 1 1 1 0 1 1 0 1 1 0 1 1 12 1 0 0 0 1 1 0 1 0 12 0 "
    "0 0 0 0 0 1 0 1 0 1 12 0 0 0 0 0 0 1 0 1 12 0 1 0 1"
)  # 5 full calls (0, 14, 24, 36, 46), 21 shallow, 25 repeated
_B = (
    "0 1 0 0 0 0 0 0 1 1 0 12 0 1 1 0 12 1 1 0 0 12 0 1 0 "
    "0 0 1 1 1 0 0 1 0 1 0 1 1 1 1 1 12 0 0 1 0 0 1 1 1"
)  # 5 full calls (0, 12, 17, 22, 42), 22 shallow, 24 repeated
_C = (
    "0 1 1 1 1 1 11 1 1 1 1 1 1 1 0 0 11 1 1 1 0 11 1 0 1 "
    "1 1 1 1 11 0 0 1 1 1 1 1 1 1 1 11 1 1 1 1 1 1 1 1 1"
)  # 6 full calls (0, 7, 17, 22, 30, 41), 38 shallow, 7 repeated
_D = (
    "1 1 1 1 1 1 1 1 1 1 1 12 12 1 1 1 1 1 1 12 1 1 1 1 1 "
    "1 1 1 1 1 1 1 1 1 0 12 1 12 1 1 1 12 1 1 1 1 1 1 12 1"
)  # 8 full calls (0, 12, 13, 20, 36, 38, 42, 49), 42 shallow, 1 repeated

_GENTLE = "0 0 0 12 0 0 12 12 0 12 12 0 0 12 1 12 0 0 12"
# 9 full calls of 20, 1 shallow, 10 forecast; found on the demo U-Net by `skipstone search demo --steps 20` from lists with forecast

_PRUNE = TokenPrune(ratio=0.4)
_AS_RELEASED = replace(_PRUNE, normalise=False, flip_prob=0.5, recover_from="kept", max_downsample=1, align_cfg="first")


def _depths(text: str) -> BlockSkip:
    return BlockSkip(rule="depths", depths=parse_depths(text))


DATO: dict[str, tuple[TokenPrune | BlockSkip, ...]] = {
    "dato_coco": (_PRUNE, _depths(_COCO)),
    "dato_b": (_PRUNE, _depths(_B)),
    "dato_c": (_PRUNE, _depths(_C)),
    "dato_d": (_PRUNE, _depths(_D)),
    "dato_reference": (_AS_RELEASED, _depths(_COCO)),
    "dato_gentle": (replace(_PRUNE, ratio=0.0), replace(_depths(_GENTLE), forecast=True)),
}
"""Preset name -> its methods. `dato_gentle` is ours, for 20 to 30 steps: calls are forecast, and no tokens are pruned."""

_SPEEDUP = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,4})?) ?[x×]")

AUTO = {f"auto:{name}": Auto(speedup=speedup) for name, speedup in LEVELS.items()}
"""Preset name -> Auto: 1.3, 1.8 and 2.5 times fewer calls."""

_PAPER = TokenMerge(threshold=0.7, checkpoints="config_3")
_REFERENCE = TokenMerge(destination="random", batch="max", bucket=1, max_downsample=1, index_base=1, absolute=True)
_MERGE_PRESETS = {
    "ca_tome": _PAPER,
    "balanced": replace(_PAPER, matching="local", proportional=True),
    "reference": _REFERENCE,
    "ca_tome_exact": replace(_PAPER, bucket=1),
}


def preset(name: str) -> Recipe:
    """A ready recipe.

    Args:
        name: for merging `ca_tome` (the paper, with counts rounded down to a bucket), `ca_tome_exact` (the paper with exact
            counts, slower in batches), `reference` (as the released code), `balanced` (ours), or `ca_tome:` and the name of a
            checkpoint list, such as `ca_tome:config_1`. For pruning with cache depths, the names in :data:`DATO`. For a
            speed-up, the names in :data:`AUTO`.

    Raises :class:`RecipeError` for other names.

    Example:
        >>> preset("ca_tome").merge.threshold, preset("dato_coco").prune.ratio
        (0.7, 0.4)
    """
    if name in AUTO:
        return Recipe(auto=AUTO[name], name=name)
    if name in DATO:
        return Recipe.of(DATO[name], name=name)
    base, _, checkpoints = name.partition(":")
    if base not in _MERGE_PRESETS:
        known = ", ".join((*_MERGE_PRESETS, *DATO, *AUTO))
        raise RecipeError(
            f"no preset named {shown(name)}: choose {known}, ca_tome:config_1 or the like, or a speed-up such as 2x"
        )
    merge = _MERGE_PRESETS[base]
    return Recipe(merge=replace(merge, checkpoints=checkpoints) if checkpoints else merge, name=name)


def preset_names() -> list[str]:
    """The names of all presets.

    Example:
        >>> preset_names()[:2]
        ['ca_tome', 'balanced']
    """
    return [*_MERGE_PRESETS, *DATO, *AUTO, *(f"ca_tome:{name}" for name in CHECKPOINT_PRESETS)]


def as_recipe(value: Recipe | Method | str | Path | dict[str, Any]) -> Recipe:
    """A recipe from any of its forms: recipe, settings of one method, preset name, speed-up, path of a JSON file, or dict.

    Raises :class:`RecipeError` for what is none of them.

    Example:
        >>> as_recipe("balanced").name, as_recipe(TokenMerge()).merge == TokenMerge()
        ('balanced', True)
        >>> as_recipe("1.8x").auto.speedup
        1.8
    """
    if isinstance(value, Recipe):
        return value
    if isinstance(value, Method):
        return Recipe.of([value])
    if isinstance(value, dict):
        return Recipe.from_dict(value)
    if isinstance(value, Path) or (isinstance(value, str) and value.endswith(".json")):
        return Recipe.load(value)
    if isinstance(value, str):
        return _of_speedup(value) or preset(value)
    raise RecipeError(
        f'cannot make a recipe of {type(value).__name__}: give a Recipe, the settings of a method, a speed-up such as "2x", '
        "a preset or a JSON file"
    )


def _of_speedup(text: str) -> Recipe | None:
    """A recipe that runs so many times faster, from text such as "2x"; None for other text."""
    found = _SPEEDUP.fullmatch(text.strip())
    return Recipe(auto=Auto(speedup=float(found[1])), name=text.strip()) if found else None
