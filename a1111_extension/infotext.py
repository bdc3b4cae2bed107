"""The panel's values in a picture's infotext: written, and pasted back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from ..core.errors import SkipstoneError
from ..core.recipe.checkpoint_lists import CHECKPOINT_PRESETS
from ..core.recipe.token_merge import TokenMerge
from .settings import PanelSettings
from .table import ALWAYS, CUSTOM, FIELDS, NEVER, OWN, TABLE, Entry, spaced

log = logging.getLogger("skipstone")

INFOTEXT = "Skipstone "
"""All infotext keys begin with this. The rest of a key is the field's name, with blanks for underscores."""

MERGED, PRUNED = INFOTEXT + "merged", INFOTEXT + "pruned"
BLOCKS_RUN, CALLS_RUN = INFOTEXT + "blocks run", INFOTEXT + "calls run"
"""Infotext keys of what was done. They are not pasted."""

REFUSED = INFOTEXT + "refused"
"""Infotext key of what the settings call for and was not done, and why."""


def infotext_of(panel: PanelSettings) -> dict[str, str]:
    """What the picture's infotext says of the settings: the fields that are used and are not at their defaults, and a few
    of them always. Raises :class:`RecipeError` like :meth:`PanelSettings.as_recipe`."""
    recipe = panel.as_recipe()
    values = {entry.name: _text_of(getattr(panel, entry.name)) for entry in _used(panel)}
    if "recipe" in values:
        values["recipe"] = json.dumps(recipe.to_dict())
    if "checkpoints" in values:
        merge = next(method for method in recipe.methods if isinstance(method, TokenMerge))
        values["checkpoints"] = spaced(merge.checkpoints)
    always = {name for name in values if FIELDS[name].infotext == ALWAYS} | (
        {"speedup"} if panel.level != OWN else set()
    )
    return {_key_of(n): text for n, text in values.items() if n in always or text != _text_of(FIELDS[n].default)}


def _used(panel: PanelSettings) -> list[Entry]:
    """The fields that make up the recipe, and the panel's own."""
    own, by_box = panel.level == OWN, panel.level == OWN and bool(panel.recipe.strip())
    methods = set() if by_box else {type(method) for method in panel.methods()}

    def is_used(entry: Entry) -> bool:
        if entry.methods:
            return bool(methods & set(entry.methods))
        if entry.group:  # what DaTo's schedule adds
            return own and not by_box
        return by_box or entry.name != "recipe"

    return [entry for entry in TABLE if entry.infotext != NEVER and panel.uses(entry) and is_used(entry)]


def _key_of(name: str) -> str:
    """The infotext key of a field."""
    return INFOTEXT + name.replace("_", " ")


def read_infotext(name: str) -> Callable[[Mapping[str, str]], Any]:
    """What sets a field's component from pasted infotext: a function of the parsed keys.

    A picture made with Skipstone sets every field. One made without it switches the panel off and leaves the other fields
    alone. So does infotext whose values cannot run, with one line on the console.
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
    if not any(_key_of(name) in params for name in ("threshold", "recipe", "level")):
        return None
    written = ["passes", *(entry.name for entry in TABLE if entry.infotext != NEVER)]
    given: dict[str, Any] = {name: params[_key_of(name)] for name in written if _key_of(name) in params}
    if (listed := given.get("checkpoints")) is not None and listed not in CHECKPOINT_PRESETS:
        given |= {"checkpoints": CUSTOM, "custom": listed}
    panel = PanelSettings.of_args([{**given, "enabled": True}])
    panel.as_recipe()
    return panel


def _text_of(value: Any) -> str:
    """A value as infotext has it: numbers without a needless ".0"."""
    if isinstance(value, int):
        return str(value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)
