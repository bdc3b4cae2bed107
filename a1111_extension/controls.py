"""The controls of the settings: the same in the panel and in the tab, made from the table.

Only arguments that gradio 3.41 (A1111, reForge) and 4.40 (Forge) share are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from modules.ui_common import create_refresh_button

from ..core.recipe.token_merge import TokenMerge
from . import model_files
from .settings import OF_PASSES
from .table import FOLDERS, METHODS, TABLE, Entry, title_of

QUIET = {"show_progress": "hidden", "queue": False}
"""For events: no progress bar over the controls, no waiting behind a picture."""

ElemId = Callable[[str], str]
"""The maker of element ids."""

OF_PANEL = ("enabled", "level", "passes", "recipe", *OF_PASSES)
SETTINGS = tuple(entry.name for entry in TABLE if entry.name not in OF_PANEL)
"""The fields that :func:`settings_controls` makes, in the table's order."""


def settings_controls(elem_id: ElemId) -> dict[str, Any]:
    """All settings, in a group for each method and one for what they share. By name, in the table's order."""
    made = rows(_group(TokenMerge), elem_id)
    for cls in reversed(METHODS):
        if cls is not TokenMerge:
            made |= _method(cls, elem_id)
    with folded("Advanced", elem_id("advanced")):
        made |= rows(_group(None), elem_id)
    return {name: made[name] for name in SETTINGS}


def _method(cls: type[Any], elem_id: ElemId) -> dict[str, Any]:
    """The controls of one method, folded; the advanced ones folded once more."""
    entries = _group(cls)
    with folded(title_of(cls), elem_id(f"{cls.kind}_part")):
        made = rows([entry for entry in entries if not entry.field.advanced], elem_id)
        with folded("Advanced", elem_id(f"{cls.kind}_advanced")):
            return made | rows([entry for entry in entries if entry.field.advanced], elem_id)


def _group(cls: type[Any] | None) -> list[Entry]:
    return [entry for entry in TABLE if entry.group is cls and entry.name in SETTINGS]


def rows(entries: Sequence[Entry], elem_id: ElemId, **particular: Any) -> dict[str, Any]:
    """Two controls in a row; where their number is odd, the first has a row of its own. Hidden ones come last. By name.

    Args:
        entries: the fields.
        elem_id: makes element ids.
        particular: further arguments of the gradio components.
    """
    made: dict[str, Any] = {}
    seen = [entry for entry in entries if not entry.hidden]
    first = len(seen) % 2
    for row in filter(None, (seen[:first], *(seen[at : at + 2] for at in range(first, len(seen), 2)))):
        with gr.Row():
            made |= {entry.name: control(entry, elem_id, **particular) for entry in row}
    return made | {entry.name: control(entry, elem_id) for entry in entries if entry.hidden}


@contextmanager
def folded(label: str, elem_id: str) -> Iterator[None]:
    """An accordion, closed at first.

    Args:
        label: its heading.
        elem_id: its element id.
    """
    with gr.Accordion(label, open=False, elem_id=elem_id):
        yield


def control(entry: Entry, elem_id: ElemId, **particular: Any) -> Any:
    """The control of one field.

    Args:
        entry: the field.
        elem_id: makes element ids.
        particular: further arguments of the gradio component.
    """
    field, value = entry.field, entry.default
    about = {"value": value, "label": entry.label, "info": entry.info, "elem_id": elem_id(entry.name), **particular}
    about |= {"visible": False} if entry.hidden else {}
    if entry.setting in FOLDERS:
        return _files(entry, elem_id, about)
    if entry.choices:
        kind = gr.Radio if entry.name in OF_PANEL else gr.Dropdown
        return kind(list(entry.choices), **about)
    if isinstance(value, bool):
        return gr.Checkbox(**about)
    if isinstance(value, str):
        return gr.Textbox(**{"max_lines": 1, **about})
    if field.step is None and field.usual is None:
        return gr.Number(**({"precision": 0} if isinstance(value, int) else {}), **about)
    return gr.Slider(*(field.usual or (field.low, field.high)), step=field.step or 1, **about)


def _files(entry: Entry, elem_id: ElemId, about: dict[str, Any]) -> Any:
    """A list of the folder's files, with a button that reads it again."""

    def choices() -> list[str]:
        return ["", *model_files.names(entry.setting)]

    files = gr.Dropdown(choices(), allow_custom_value=True, **about)
    create_refresh_button(files, lambda: None, lambda: {"choices": choices()}, elem_id(f"{entry.name}_refresh"))
    return files
