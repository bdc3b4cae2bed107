"""One settings field as widgets of a node: drawn from the field's description, read back into its value."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..core.recipe.fields import Field, default_of, field_of

CUSTOM = "custom"
"""Option of a list that has a text box for the user's own list."""

_SLIDER = 2
"""Widest range that a slider shows."""

Drawn = tuple[Any, dict[str, Any]]
"""Type of a widget, such as `io.Float`, and the arguments of its input."""


@dataclass(frozen=True)
class Control:
    """A field as one text box: a list, a word, or a number that may also be a word.

    Args:
        name: the field's name.
        field: its description.
        default: its value unless given.
    """

    name: str
    field: Field
    default: Any

    def draw(self) -> dict[str, Drawn]:
        """Widgets by name."""
        shown = self.field.example if isinstance(self.default, tuple) else str(self.default)
        return {self.name: (io.String, {"default": shown, "tooltip": self.field.help})}

    def read(self, given: Mapping[str, Any]) -> Any:
        """The field's value.

        Args:
            given: values of widgets by name.

        Raises :class:`RecipeError` for a list that cannot be read.
        """
        text = given[self.name]
        return self.field.parse(text) if self.field.parse else _number_or_text(text)

    def own_list(self) -> dict[str, Drawn]:
        """The text box for the user's own list, if the field takes one."""
        box = (io.String, {"default": self.field.example, "tooltip": self.field.custom})
        return {f"{CUSTOM}_{self.name}": box} if self.field.custom else {}

    def read_own(self, given: Mapping[str, Any]) -> Any:
        """The list in that box."""
        text = given.get(f"{CUSTOM}_{self.name}", "")
        return self.field.parse(text) if self.field.parse else text


def _number_or_text(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


class Switch(Control):
    """A field that is on or off."""

    def draw(self) -> dict[str, Drawn]:
        """One switch."""
        return {self.name: (io.Boolean, {"default": self.default, "tooltip": self.field.help})}

    def read(self, given: Mapping[str, Any]) -> Any:
        """True or False."""
        return given[self.name]


class Choice(Control):
    """A field with a few values."""

    def draw(self) -> dict[str, Drawn]:
        """A list; with a text box if the user may give a list."""
        options = [str(c) for c in self.field.choices if c not in self.field.unlisted]
        options += [CUSTOM] if self.field.custom else []
        drawn = {"options": options, "default": str(self.default), "tooltip": self.field.help}
        return {self.name: (io.Combo, drawn), **self.own_list()}

    def read(self, given: Mapping[str, Any]) -> Any:
        """The choice, or the text box's list where the choice is custom."""
        chosen = given.get(self.name, str(self.default))
        if self.field.custom and chosen == CUSTOM:
            return self.read_own(given)
        return next((c for c in self.field.choices if str(c) == chosen), chosen)


class Number(Control):
    """A field that is a number in a range. What is allowed can be typed; common shares and thresholds have a slider."""

    def draw(self) -> dict[str, Drawn]:
        """A number box or slider; with a text box if the user may give a list."""
        kind = io.Int if isinstance(self.start, int) else io.Float
        drawn = {"default": self.start, "min": self.field.low, "max": self.field.high, "tooltip": self.field.help}
        if self.field.step is not None:
            drawn["step"] = self.field.step
        if kind is io.Float and not self.field.advanced and (self.field.high or 0) - (self.field.low or 0) <= _SLIDER:
            drawn["display_mode"] = io.NumberDisplay.slider
        return {self.name: (kind, drawn), **self.own_list()}

    @property
    def start(self) -> Any:
        """The number shown at first."""
        return self.default

    def read(self, given: Mapping[str, Any]) -> Any:
        """The number, or the text box's list where there is one."""
        has_list = bool(self.field.custom) and given.get(f"{CUSTOM}_{self.name}", "").strip()
        return self.read_own(given) if has_list else given.get(self.name, self.default)


class Pair(Number):
    """A field of two numbers, rows and columns, as one number for both."""

    @property
    def start(self) -> Any:
        """The first of the two."""
        return self.default[0]

    def read(self, given: Mapping[str, Any]) -> Any:
        """The number twice."""
        return (given[self.name], given[self.name])


class Parts(Control):
    """A field that is a list of choices, with a switch for each part that can be turned on."""

    def draw(self) -> dict[str, Drawn]:
        """A switch for each part."""
        return {
            f"{self.name}.{part}": (io.Boolean, {"default": part in self.default, "tooltip": help})
            for part, help in self.field.parts
        }

    def read(self, given: Mapping[str, Any]) -> Any:
        """The entries that are on; those without a switch are as in the default."""
        return tuple(c for c in self.field.choices if given.get(f"{self.name}.{c}", c in self.default))


def control_of(settings: type[Any], name: str) -> Control:
    """How a settings class's field is shown.

    Args:
        settings: the class.
        name: the field.
    """
    field, default = field_of(settings, name), default_of(settings, name)
    return _kind(field, default)(name, field, default)


def _kind(field: Field, default: Any) -> type[Control]:
    if field.parts:
        return Parts
    if isinstance(default, bool):
        return Switch
    if field.choices:
        return Choice
    if isinstance(default, tuple) and default:
        return Pair
    return Number if isinstance(default, (int, float)) else Control
