"""Settings as widgets of a node, in the order in which they were released; and inputs that several nodes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from comfy_api.latest import io

from ..core.recipe.fields import fields_of
from .controls import CUSTOM, Control, Drawn, control_of
from .serving import supported

MASK = io.Custom("SKIPSTONE_MASK")
"""Carries a :class:`BlockSkip`: a rule, or a mask read from a file. None where the node before failed."""

RECIPE = io.Custom("SKIPSTONE_RECIPE")
"""Carries a :class:`Recipe`."""

MASKS = "Skipstone/masks"
"""Menu of the nodes that make, save and show masks."""

RECIPES = "Skipstone/recipes"
"""Menu of the nodes that load and save recipes."""

TOOLS = "Skipstone/compare"
"""Menu of the nodes that show what was gained and kept."""

SHOWN_WHEN = "skipstone_shown_when"
"""What the page reads: the id of another widget, and the option of it with which this one is shown (web/custom.js)."""

_IDS = {"start": "start_percent", "end": "end_percent"}


def shown_fields(settings: type[Any], but: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the fields that panels show.

    Args:
        settings: the settings class.
        but: fields to leave out.
    """
    return tuple(name for name, one in fields_of(settings).items() if one.shown and name not in but)


@dataclass(frozen=True)
class Panel:
    """The widgets of a node that are settings. Names, ranges, choices and tooltips are those of the settings' fields.

    Args:
        fields: settings class -> names of the fields that the node shows.
        order: widgets in the order in which they were released, by the fields' names. A field with a text box for a list has
            a second widget, `custom_NAME`; one with parts has a widget `NAME.PART` for each. Widgets of fields that are
            added later follow at the end; name them here before a release, so that they keep their place.
        ids: name -> id of the widget, where they differ.
        common: names of advanced fields that this node does not hide among the advanced ones.
        tooltips: name -> text of this node around the field's own, which stands in place of `{help}`.
        unset: name -> an option that leaves the field unset.
        when: name -> another widget, and the option of it with which this one is shown. Boxes `custom_NAME` are shown with
            the option "custom" by themselves.
        empty: names of lists whose box is empty at first, and then leaves the field unset.

    Example::

        WIDGETS = Panel({TokenMerge: shown_fields(TokenMerge)}, order=("threshold", "checkpoints"))
        WIDGETS.inputs()  # for the schema
        TokenMerge(**WIDGETS.read(TokenMerge, {"threshold": 0.8, "checkpoints": "every"}))
    """

    fields: Mapping[type[Any], tuple[str, ...]]
    order: tuple[str, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)
    common: tuple[str, ...] = ()
    tooltips: Mapping[str, str] = field(default_factory=dict)
    unset: Mapping[str, str] = field(default_factory=dict)
    when: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    empty: tuple[str, ...] = ()

    def inputs(self) -> list[Any]:
        """All widgets, for the node's schema."""
        return [*self.released(), *self.later()]

    def released(self) -> list[Any]:
        """The widgets of `order`."""
        drawn = self._drawn()
        return [self._input(name, *drawn[name]) for name in self.order]

    def later(self) -> list[Any]:
        """The widgets of fields that `order` does not name. They are optional, so that saved workflows go on working."""
        return [self._input(name, *drawn) for name, drawn in self._drawn().items() if name not in self.order]

    def read(self, settings: type[Any], widgets: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments for a settings class.

        Args:
            settings: one of the classes in `fields`.
            widgets: values by the widgets' ids. Fields whose widgets are missing are left out.

        Raises :class:`RecipeError` for a list that cannot be read.
        """
        names = {self._id(name): name for name in self._drawn()}
        given = {names[one]: value for one, value in widgets.items() if one in names}
        given = {name: value for name, value in given.items() if self.unset.get(name) != value}
        controls = (control_of(settings, name) for name in self.fields[settings])
        return {c.name: c.read(given) for c in controls if any(name in given for name in c.draw())}

    def _drawn(self) -> dict[str, tuple[Control, Drawn]]:
        return {name: (control, drawn) for control in self._controls() for name, drawn in control.draw().items()}

    def _controls(self) -> Iterator[Control]:
        for settings, names in self.fields.items():
            yield from (control_of(settings, name) for name in names)

    def _id(self, name: str) -> str:
        return {**_IDS, **self.ids}.get(name, name.replace(".", "_"))

    def _input(self, name: str, control: Control, drawn: Drawn) -> Any:
        kind, options = drawn
        options["tooltip"] = self.tooltips.get(name, "{help}").format(help=options["tooltip"])
        if name in self.unset:
            others = [option for option in options["options"] if option != self.unset[name]]
            options |= {"options": [self.unset[name], *others], "default": self.unset[name]}
        if name in self.empty:
            options |= {"placeholder": options["default"], "default": ""}
        rare = control.field.advanced and name not in self.common
        needed = name in self.order and not rare and kind is not io.String
        widget = kind.Input(self._id(name), optional=not needed, **options)
        if shown := self.when.get(name) or _with_custom(name):
            widget.extra_dict = {**(widget.extra_dict or {}), SHOWN_WHEN: [self._id(shown[0]), shown[1]]}
        return advanced(widget) if rare else widget


def _with_custom(name: str) -> tuple[str, str] | None:
    """The widget and option with which a box `custom_NAME` is shown; None for other widgets."""
    return (name.removeprefix(f"{CUSTOM}_"), CUSTOM) if name.startswith(f"{CUSTOM}_") else None


_FASTER = ("faster", "speed", "accelerate", "cache", "skipstone")


def found_by(*words: str) -> dict[str, Any]:
    """Arguments of a schema with which the node search finds a node that accelerates.

    Args:
        words: for this node, besides those for all of them.
    """
    return named_too(*words, *_FASTER)


def named_too(*words: str) -> dict[str, Any]:
    """Arguments of a schema with which the node search finds a node; none in ComfyUI without such words.

    Args:
        words: that people type.
    """
    known = any(one.name == "search_aliases" for one in fields(io.Schema))
    return {"search_aliases": list(words)} if known else {}


def writes_on_itself() -> dict[str, Any]:
    """Arguments of a schema with which a node knows its id, to write its report on itself.

    ComfyUI reuses the output of an equal node with another id, such as the same node before it was put into a subgraph. A report
    would then be written on a node that is gone, or on the other one, so a node that writes on itself runs once for each id.
    """
    return {"hidden": [io.Hidden.unique_id], "not_idempotent": True}


def advanced(widget: Any) -> Any:
    """Mark a widget advanced. Newer ComfyUI has an argument for it; `extra_dict` reaches the page in all versions."""
    widget.extra_dict = {**(widget.extra_dict or {}), "advanced": True}
    return widget


def model_input(method: str, more: str = "") -> Any:
    """The model to accelerate.

    Args:
        method: the kind of method that must work on it, as in :func:`skipstone.core.models.models_served`; empty for methods
            that work on all.
        more: a sentence to add to the tooltip.
    """
    served = f"Works on {supported(method)}. Other models run unaccelerated." if method else "Works on any model."
    return io.Model.Input("model", tooltip=f"{served} {more}".strip())


def steps_input(tooltip: str) -> Any:
    """Number of steps that a mask or picture is for."""
    return io.Int.Input("steps", default=20, min=1, max=1000, tooltip=tooltip)


def prefix_input(default: str, optional: bool = False) -> Any:
    """Start of the name under which a file is saved.

    Args:
        default: the name unless given.
        optional: whether workflows may leave it out.
    """
    return io.String.Input(
        "filename_prefix", default=default, optional=optional, tooltip="Start of the file name; a counter is added."
    )
