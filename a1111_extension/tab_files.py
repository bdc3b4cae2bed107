"""The tab's page *Recipes and masks*, and its shelf: a list of files that are looked at, renamed, deleted and uploaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ..core.errors import SkipstoneError
from .controls import QUIET
from .model_facts import HEAD, all_facts, as_recipe, facts, fit, verdict
from .model_files import SUFFIXES, deleted, free_path, names, received, renamed
from .pages import amber, paragraph, table
from .panel import Panel
from .settings import PanelSettings
from .tab_try import WRITTEN, bound
from .table import FIELDS

_NOTHING = "Choose a file."


class Shelf:
    """The files of some kinds: a table, a list to choose from, and what can be done with the chosen one.

    Args:
        kinds: of files.
        prefix: of element ids.
        about: HTML of a chosen file, beside its facts; by default nothing.
        buttons: element id -> label of further buttons, which come first.

    Attributes:
        buttons: these buttons.
        chosen: the list.
        told: the last message.
        name: a box for a new name.
    """

    def __init__(
        self,
        kinds: tuple[str, ...],
        prefix: str,
        about: Callable[[str, str], str] = lambda kind, name: "",
        **buttons: str,
    ) -> None:
        """Make the components."""
        self._kinds, self._prefix, self._about = kinds, prefix, about
        title = " or ".join(kinds)
        self.list = gr.HTML(self._table(), elem_id=self._id("list"))
        self.chosen = gr.Dropdown(
            self._choices(), value="", label=title.capitalize(), allow_custom_value=True, elem_id=self._id("chosen")
        )
        self.told = gr.HTML(_NOTHING, elem_id=self._id("told"))
        self.name = gr.Textbox("", label=f"New name of the {title}", max_lines=1, elem_id=self._id("name"))
        with gr.Row():
            variants = ("primary", *["secondary"] * len(buttons))
            self.buttons = [
                gr.Button(label, variant=variant, elem_id=self._id(name))
                for (name, label), variant in zip(buttons.items(), variants, strict=False)
            ]
            rename = gr.Button(f"Rename {title}", elem_id=self._id("rename"))
            delete = gr.Button(f"Delete {title}", elem_id=self._id("delete"))
            upload = gr.UploadButton(
                f"Upload {title}", file_types=[*{SUFFIXES[kind]: 0 for kind in kinds}], elem_id=self._id("upload")
            )
        self._asks = gr.Row(visible=False, elem_id=self._id("asks"))
        with self._asks:
            really = gr.Button(f"Yes, delete this {title}", variant="stop", elem_id=self._id("really"))
            keep = gr.Button(f"No, keep this {title}", elem_id=self._id("keep"))
        self.outputs = [self.list, self.chosen, self.told, self._asks]
        self.chosen.input(fn=self._looked_at, inputs=[self.chosen], outputs=[self.told, self._asks], **QUIET)
        rename.click(fn=self._renamed, inputs=[self.chosen, self.name], outputs=self.outputs, **QUIET)
        delete.click(fn=self._asked, inputs=[self.chosen], outputs=[self.told, self._asks], **QUIET)
        really.click(fn=self._deleted, inputs=[self.chosen], outputs=self.outputs, **QUIET)
        keep.click(fn=self._looked_at, inputs=[self.chosen], outputs=[self.told, self._asks], **QUIET)
        upload.upload(fn=self._received, inputs=[upload], outputs=self.outputs, **QUIET)

    def _id(self, name: str) -> str:
        return f"skipstone_{self._prefix}_{name}"

    def _choices(self) -> list[str]:
        return ["", *(f"{kind}: {name}" for kind in self._kinds for name in names(kind))]

    def _table(self) -> str:
        found = all_facts(*self._kinds)
        return (
            table(HEAD, [(*one.cells, fit(one.kind, one.name)) for one in found])
            if found
            else paragraph(f"There is no {' or '.join(self._kinds)} yet.")
        )

    def kind_and_name(self, chosen: str | None) -> tuple[str, str]:
        """The chosen file. Raises :class:`SkipstoneError` where none is.

        Args:
            chosen: of the list.
        """
        kind, _, name = (chosen or "").partition(": ")
        if kind not in self._kinds:
            raise SkipstoneError(f"no file is chosen: choose a {' or '.join(self._kinds)} in the list")
        return kind, name

    def refreshed(self) -> list[Any]:
        """List, choices, message and question, as the folders are now."""
        return self.after(("", ""), _NOTHING)

    def after(self, chosen: tuple[str, str], told: str) -> list[Any]:
        """The same, after something was done.

        Args:
            chosen: kind and name of the file to choose; empty for none.
            told: HTML of the message.
        """
        value = ": ".join(filter(None, chosen))
        return [self._table(), gr.update(choices=self._choices(), value=value), told, gr.update(visible=False)]

    def refused(self, error: SkipstoneError) -> list[Any]:
        """The same, where it could not be done."""
        return [gr.update(), gr.update(), amber(str(error)), gr.update(visible=False)]

    def _looked_at(self, chosen: str) -> list[Any]:
        try:
            kind, name = self.kind_and_name(chosen)
        except SkipstoneError as error:
            return [amber(str(error)), gr.update(visible=False)]
        return [self._page(kind, name), gr.update(visible=False)]

    def _page(self, kind: str, name: str) -> str:
        return paragraph(verdict(kind, name)) + self._about(kind, name)

    def _renamed(self, chosen: str, new: str) -> list[Any]:
        try:
            kind, name = self.kind_and_name(chosen)
            now = renamed(kind, name, new or "")
        except SkipstoneError as error:
            return self.refused(error)
        return self.after((kind, now), paragraph(f"{name} is now {now}."))

    def _asked(self, chosen: str) -> list[Any]:
        try:
            kind, name = self.kind_and_name(chosen)
        except SkipstoneError as error:
            return [amber(str(error)), gr.update(visible=False)]
        return [paragraph(f"Delete the {kind} {name}? It cannot be brought back."), gr.update(visible=True)]

    def _deleted(self, chosen: str) -> list[Any]:
        try:
            kind, name = self.kind_and_name(chosen)
            deleted(kind, name)
        except SkipstoneError as error:
            return self.refused(error)
        return self.after(("", ""), paragraph(f"{name} is deleted."))

    def _received(self, file: Any) -> list[Any]:
        """gradio 3 gives an object with the file's own name beside that of the copy, gradio 4 the copy's path."""
        path = Path(getattr(file, "name", file))
        try:
            kind, name = received(self._kinds, path, Path(getattr(file, "orig_name", None) or path.name).name)
        except SkipstoneError as error:
            return self.refused(error)
        return self.after((kind, name), self._page(kind, name))


def build(panels: Mapping[str, Panel]) -> tuple[list[Any], Callable[[], list[Any]]]:
    """Make the page *Recipes and masks*.

    Args:
        panels: by tab name.

    Returns what a refresh sets, and the function that gives it.
    """
    gr.HTML(
        paragraph("Files in models/skipstone_recipes and models/skipstone_masks. `skipstone train-mask` makes masks.")
    )
    shelf = Shelf(("recipe", "mask"), "files", load="Load into txt2img", save="Save txt2img's settings as a recipe")
    load, save = shelf.buttons
    written = bound(panels)
    load.click(fn=partial(_loaded, shelf), inputs=[shelf.chosen], outputs=[shelf.told, *written], **QUIET)
    save.click(fn=partial(_saved, shelf), inputs=[shelf.name, *written], outputs=shelf.outputs, **QUIET)
    return shelf.outputs, shelf.refreshed


def _loaded(shelf: Shelf, chosen: str) -> list[Any]:
    """Message, and the panel's values."""
    try:
        kind, name = shelf.kind_and_name(chosen)
        panel = PanelSettings.of_recipe(as_recipe(kind, name))
    except SkipstoneError as error:
        return [amber(str(error)), *(gr.update() for _ in FIELDS)]
    told = paragraph(f"txt2img's panel is on and has {name}.", verdict(kind, name))
    return [told, *(getattr(panel, field) if field in (*WRITTEN, "enabled") else gr.update() for field in FIELDS)]


def _saved(shelf: Shelf, name: str, *values: Any) -> list[Any]:
    try:
        recipe = PanelSettings.of_args(values).as_recipe()
        path = free_path("recipe", name or "")
        recipe.save(path)
    except SkipstoneError as error:
        return shelf.refused(error)
    return shelf.after(("recipe", path.name), paragraph(f"Saved as {path.name}: {facts('recipe', path.name).saving}."))
