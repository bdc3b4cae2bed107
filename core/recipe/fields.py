"""One description of each setting, read by every host.

A field of a settings dataclass is declared once, with :func:`setting`: default, range, words. From that come its check, the
ComfyUI widget and tooltip, the gradio control, the X/Y/Z axis, the command line's help, the locale file, and the tables of the
documentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .validate import as_tuple, choice, integer, number

_KEY = "skipstone"


@dataclass(frozen=True)
class Field:
    """What is known of one setting.

    Args:
        help: what it does, in one or two sentences.
        label: its short name in panels; made of the field's name where it is empty.
        low, high: the smallest and largest number allowed; for a list, of its entries.
        usual: range of sliders, where it is narrower than what is allowed.
        step: of sliders and spin boxes.
        unit: of numbers, such as "MiB".
        choices: the allowed values; for a list, of its entries.
        also: values that are allowed beside numbers, such as "auto".
        remedy: what a refusal suggests; the default where it is empty.
        custom: help of a text box for a list of one's own; empty where there is none.
        example: a list as text, shown in that box at first.
        parse: reads a list from text. Raises :class:`RecipeError`.
        unlisted: choices that panels leave out.
        parts: for a list of choices, pairs of an entry and the help of its own switch.
        rules: the block rules that use it; empty where all of them do, or where there are none.
        advanced: kept among the rare settings of panels.
        shown: has a control in panels.
    """

    help: str
    label: str = ""
    low: float | None = None
    high: float | None = None
    usual: tuple[float, float] | None = None
    step: float | None = None
    unit: str = ""
    choices: tuple[Any, ...] = ()
    also: tuple[Any, ...] = ()
    remedy: str = ""
    custom: str = ""
    example: str = ""
    parse: Callable[[str], Any] | None = None
    unlisted: tuple[Any, ...] = ()
    parts: tuple[tuple[str, str], ...] = ()
    rules: tuple[str, ...] = ()
    advanced: bool = False
    shown: bool = True


def setting(default: Any, help: str, **more: Any) -> Any:
    """A field of a settings dataclass. more: the other members of :class:`Field`.

    Example::

        @dataclass(frozen=True)
        class Blur:
            radius: int = setting(3, "Size of the blur.", low=0, high=99, unit="pixels")
    """
    return dataclasses.field(default=default, metadata={_KEY: Field(help, **more)})


def shared(settings: Any, name: str, default: Any) -> Any:
    """A field that means what another settings class says of its own, with a default of its own."""
    return dataclasses.field(default=default, metadata={_KEY: field_of(settings, name)})


def field_of(settings: Any, name: str) -> Field:
    """The description of one field of a settings class or object. Raises :class:`KeyError` for a name that is none."""
    return fields_of(settings)[name]


def fields_of(settings: Any) -> dict[str, Field]:
    """Name -> description, in the order of the class."""
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(settings) if _KEY in f.metadata}


def label_of(name: str, field: Field) -> str:
    """A field's name in panels: "memory_budget" is "Memory budget"."""
    return field.label or name.replace("_", " ").capitalize()


def default_of(settings: Any, name: str) -> Any:
    """The value a field has unless it is given."""
    return next(f.default for f in dataclasses.fields(settings) if f.name == name)


def check_fields(settings: Any) -> None:
    """Check every field of a settings object against its description; lists become tuples.

    Raises :class:`RecipeError` in one line: which field, what is wrong, what to do.
    """
    for f in dataclasses.fields(settings):
        if _KEY in f.metadata:
            value, field = getattr(settings, f.name), f.metadata[_KEY]
            if isinstance(f.default, tuple):
                value = as_tuple(f.name, value)
                object.__setattr__(settings, f.name, value)
            for entry in value if isinstance(f.default, tuple) else (value,):
                _check(f.name, entry, field, f.default)


def _check(name: str, value: Any, field: Field, default: Any) -> None:
    if any(type(value) is type(a) and value == a for a in field.also):
        return
    if isinstance(default, bool):
        choice(name, value, (True, False, *field.also))
    elif field.choices and not field.custom:
        choice(name, value, field.choices)
    elif field.low is not None and field.high is not None and not field.custom:
        remedy = field.remedy or f"{default} is the default"
        if _is_whole(field, default):
            integer(name, value, int(field.low), remedy, int(field.high))
        else:
            number(name, value, field.low, field.high, remedy)


def _is_whole(field: Field, default: Any) -> bool:
    return isinstance(field.low, int) and not isinstance(default, float)


def table_rows(settings: Any) -> Iterator[tuple[str, str, str, str]]:
    """(name, default, allowed values, help) of each field, for the documentation's tables."""
    for name, field in fields_of(settings).items():
        yield name, _shown(default_of(settings, name)), _allowed(field, default_of(settings, name)), field.help


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _allowed(field: Field, default: Any) -> str:
    if isinstance(default, bool):
        return ", ".join(["on", "off", *map(str, field.also)])
    if field.choices:
        return ", ".join(map(str, field.choices)) + (", or a list" if field.custom else "")
    if field.low is None:
        return ""
    unit = f" {field.unit}" if field.unit else ""
    return ", ".join([f"{field.low:g} to {field.high:g}{unit}", *map(str, field.also)])


def documented(cls: type[Any]) -> type[Any]:
    """Class decorator: append the fields' help to the docstring, so that `help(TokenMerge)` lists them."""
    lines = [f"    {name}: {field.help}" for name, field in fields_of(cls).items()]
    cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Args:", *lines])
    return cls
