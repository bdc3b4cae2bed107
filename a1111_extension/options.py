"""Settings > Skipstone: what holds for all pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.recipe import Recipe
from .host import model_kind, option
from .table import LEVEL_CHOICES

MODELS = {"sd": "SD 1.x and 2.x", "sdxl": "SDXL", "sd3": "SD 3", "other": "Flux and other models"}
"""Kind of model -> its name."""

_OPENS_ON = "Balanced"
_KEPT_RUNS, _MOST_RUNS, _MOST_CACHE = 20, 100, 2**20
_SECTION = ("skipstone", "Skipstone")


def add_options() -> None:
    """Add them to the host's settings; for `on_ui_settings`."""
    from modules import shared

    for name, (default, label, *control) in _options().items():
        shared.opts.add_option(name, shared.OptionInfo(default, label, *control, section=_SECTION))


def _options() -> dict[str, tuple[Any, ...]]:
    """Name -> default, label, and component with its arguments where the default does not say them."""
    presets = {
        f"skipstone_preset_{kind}": (_OPENS_ON, f"Preset of a panel that is switched on: {name}", gr.Radio, _CHOICES)
        for kind, name in MODELS.items()
    }
    runs = {"minimum": 1, "maximum": _MOST_RUNS, "step": 1}
    cache = {"minimum": 0, "maximum": _MOST_CACHE, "precision": 0}
    return {
        **presets,
        "skipstone_console": (True, "One console line per picture: what was done or refused"),
        "skipstone_results": (True, "Infotext has the results (calls run, merged ...) beside the settings"),
        "skipstone_runs": (_KEPT_RUNS, "Runs that the Skipstone tab keeps", gr.Slider, runs),
        "skipstone_cache": (
            0,
            "Most MiB that block masks may cache, whatever the panel says; 0 is no limit",
            gr.Number,
            cache,
        ),
    }


_CHOICES = {"choices": list(LEVEL_CHOICES)}


def opening_preset() -> str:
    """The preset of a panel that is switched on for the first time, for the model that is loaded."""
    chosen = option(f"skipstone_preset_{model_kind()}", _OPENS_ON)
    return chosen if chosen in LEVEL_CHOICES else _OPENS_ON


def writes_console() -> bool:
    """Whether each picture has a console line."""
    return bool(option("skipstone_console", True))


def writes_results() -> bool:
    """Whether the infotext has the results."""
    return bool(option("skipstone_results", True))


def kept_runs() -> int:
    """How many runs the tab keeps."""
    return min(max(1, int(option("skipstone_runs", _KEPT_RUNS) or _KEPT_RUNS)), _MOST_RUNS)


def within_cache(recipe: Recipe) -> Recipe:
    """The recipe with the memory budget of its blocks no larger than the host's setting."""
    most = float(option("skipstone_cache", 0) or 0)
    if not 0 < most <= _MOST_CACHE:
        return recipe
    return Recipe.of(
        (
            replace(m, memory_budget=min(m.memory_budget or most, most)) if isinstance(m, BlockSkip) else m
            for m in recipe.methods
        ),
        recipe.name,
    )
