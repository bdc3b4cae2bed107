"""How settings become options of the command line."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from ..core.recipe.fields import field_of, fields_of

Settings = TypeVar("Settings")


def helped(settings: type[Any], name: str) -> Any:
    """What gives an option the help of a settings field, inside `Annotated`."""
    field = field_of(settings, name)
    listed = bool(field.choices) and not field.custom
    return tyro.conf.arg(help=field.help, metavar="{" + ",".join(map(str, field.choices)) + "}" if listed else None)


def described(settings: type[Settings]) -> type[Settings]:
    """A subclass of a settings class that differs in this: tyro finds each field's help."""
    hints, defaults = get_type_hints(settings), {f.name: f.default for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    options = [
        (name, Annotated[hints[name], helped(settings, name)], dataclasses.field(default=defaults[name]))
        for name in fields_of(settings)
    ]
    return dataclasses.make_dataclass(settings.__name__, options, bases=(settings,), frozen=True)


def plain(settings: Any, kind: type[Settings]) -> Settings:
    """The same values in the settings class itself."""
    return kind(**dataclasses.asdict(settings))
