"""The panel's values in a picture's infotext: written, and pasted back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from ..core.errors import SkipstoneError
from ..core.recipe.checkpoint_lists import CHECKPOINT_PRESETS
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from .settings import BLOCK_FIELDS, CUSTOM, DATO_FIELDS, OFF, RULES, SKIP_FIELDS, PanelSettings, spaced

log = logging.getLogger("skipstone")

INFOTEXT = "Skipstone "
"""All infotext keys begin so. The rest of a key is the field's name, with blanks for underscores."""

MERGED, PRUNED, BLOCKS_RUN = INFOTEXT + "merged", INFOTEXT + "pruned", INFOTEXT + "blocks run"
"""Infotext keys of what was done; pasting does not read them."""

REFUSED = INFOTEXT + "refused"
"""Infotext key of what the settings ask for and was not done, and why."""


def infotext_of(panel: PanelSettings) -> dict[str, str]:
    """What goes into the picture's infotext: threshold and checkpoints always, a block rule and DaTo with what they
    read; the rest where it is not the default. Raises :class:`RecipeError` like :meth:`PanelSettings.as_recipe`."""
    recipe = panel.as_recipe()
    if str(panel.recipe).strip():
        told = {"recipe": json.dumps(recipe.to_dict()), "passes": panel.passes}
    else:
        told = {name: text_of(getattr(panel, name)) for name in _read(panel, recipe)}
        told["checkpoints"] = spaced((recipe.merge or TokenMerge()).checkpoints)
    always = ("threshold", "checkpoints", "every", "ratio")
    return {key_of(k): v for k, v in told.items() if k in always or v != text_of(getattr(PanelSettings, k))}


def _read(panel: PanelSettings, recipe: Recipe) -> Iterator[str]:
    """The fields that make up the recipe."""
    own = () if panel.dato != CUSTOM else ("ratios", "dato_depths")
    dato = ("dato",) if panel.dato == OFF else ("dato", "ratio", "recover_from", *own)
    blocks = BLOCK_FIELDS if recipe.skip else ()
    read = {"rule", *RULES[panel.rule], *blocks, *dato}
    optional = {"enabled", "custom", *SKIP_FIELDS, *DATO_FIELDS}
    return (f.name for f in fields(panel) if f.name in read or f.name not in optional)


def key_of(name: str) -> str:
    """The infotext key of a field."""
    return INFOTEXT + name.replace("_", " ")


def read_infotext(name: str) -> Callable[[Mapping[str, str]], Any]:
    """What sets a field's component from pasted infotext: a function of the parsed keys.

    A picture made with Skipstone sets every field. One made without it switches the panel off and leaves the rest alone,
    and so does infotext whose values cannot run, with one line on the console.
    """

    def read(params: Mapping[str, str]) -> Any:
        try:
            panel = _pasted(params)
        except SkipstoneError as error:
            panel = None
            if name == "enabled":
                log.warning("Skipstone did not paste this infotext: %s", error)
        return panel is not None if name == "enabled" else getattr(panel, name, None)

    return read


def _pasted(params: Mapping[str, str]) -> PanelSettings | None:
    """The panel of a picture's infotext, None without one. Raises :class:`SkipstoneError` for one that cannot run."""
    if key_of("threshold") not in params and key_of("recipe") not in params:
        return None
    names = [f.name for f in fields(PanelSettings) if key_of(f.name) in params and f.name != "enabled"]
    given: dict[str, Any] = {name: params[key_of(name)] for name in names}
    listed = given.get("checkpoints", PanelSettings.checkpoints)
    if listed not in CHECKPOINT_PRESETS:
        given |= {"checkpoints": CUSTOM, "custom": listed}
    panel = PanelSettings.of_args([{**given, "enabled": True}])
    panel.as_recipe()
    return panel


def text_of(value: Any) -> str:
    """A value as infotext has it: numbers without a needless ".0"."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return f"{value:.10g}" if number else str(value)
