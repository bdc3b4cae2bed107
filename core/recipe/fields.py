"""One description of each setting, for all hosts.

A field of a settings dataclass is declared once, with :func:`setting`: default, range and help. From it are made the check,
the ComfyUI widget and tooltip, the gradio control, the X/Y/Z axis, the help of the command line, the locale file, and the
tables of the documentation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .validate import as_tuple, choice, integer, number

_KEY = "skipstone"
_ENDLESS = 1e5
"""Bounds from here on are not shown."""


@dataclass(frozen=True)
class Field:
    """The description of one setting.

    Args:
        help: what it does, in one or two sentences.
        label: short name in panels; made from the field's name if empty.
        low, high: smallest and largest number; for a list, of its entries.
        usual: range of sliders, if narrower than `low` to `high`.
        step: of sliders and spin boxes.
        unit: of numbers, such as "MiB".
        choices: the possible values; for a list, of its entries.
        also: values that are possible beside numbers, such as "auto".
        remedy: advice in error messages; the default value if empty.
        custom: help of a text box for the user's own list; empty if there is none.
        example: text that this box shows at first.
        parse: makes a list from text, or raises :class:`RecipeError`.
        unlisted: choices that panels do not offer.
        parts: for a list of choices, pairs of an entry and the help of its switch.
        rules: block rules that use it; empty if all use it, or if there are no rules.
        advanced: whether panels put it with the advanced settings.
        shown: whether panels have a control for it.

    Example:
        >>> Field("Size of the cache.", low=0, high=8, unit="MiB").unit
        'MiB'
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
    """A field of a settings dataclass.

    Args:
        default: the value of the setting unless it is given.
        help: what it does, in one or two sentences.
        more: other arguments of :class:`Field`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Blur:
        ...     radius: int = setting(3, "Size of the blur.", low=0, high=99, unit="pixels")
        >>> Blur().radius, field_of(Blur, "radius").unit
        (3, 'pixels')
    """
    return dataclasses.field(default=default, metadata={_KEY: Field(help, **more)})


def shared(settings: Any, name: str, default: Any) -> Any:
    """A field that is described as the field of that name in another settings class.

    Args:
        settings: the other class.
        name: of the field, the same in both.
        default: its value here unless it is given.

    Example:
        >>> from .token_merge import TokenMerge
        >>> shared(TokenMerge, "targets", ("attn1",)).default
        ('attn1',)
    """
    return dataclasses.field(default=default, metadata={_KEY: field_of(settings, name)})


def field_of(settings: Any, name: str) -> Field:
    """The description of one field.

    Args:
        settings: a settings class or object.
        name: of the field.

    Raises :class:`KeyError` for another name.

    Example:
        >>> from .block_skip import BlockSkip
        >>> field_of(BlockSkip, "memory_budget").unit
        'MiB'
    """
    return fields_of(settings)[name]


def fields_of(settings: Any) -> dict[str, Field]:
    """Name and description of each field of a settings class or object, in its order.

    Example:
        >>> from .token_merge import TokenMerge
        >>> list(fields_of(TokenMerge))[:3]
        ['threshold', 'checkpoints', 'stride']
    """
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(settings) if _KEY in f.metadata}


def label_of(name: str, field: Field) -> str:
    """The short name of a field in panels.

    Args:
        name: of the field.
        field: its description.

    Example:
        >>> label_of("memory_budget", Field("Limit of the cache."))
        'Memory budget'
    """
    return field.label or name.replace("_", " ").capitalize()


def default_of(settings: Any, name: str) -> Any:
    """The default of a field.

    Args:
        settings: a settings class or object.
        name: of the field.

    Example:
        >>> from .block_skip import BlockSkip
        >>> default_of(BlockSkip, "every")
        3
    """
    return next(f.default for f in dataclasses.fields(settings) if f.name == name)


def check_fields(settings: Any) -> None:
    """Check every field of a settings object against its description. Lists become tuples.

    Raises :class:`RecipeError`: which field, what is wrong, what to do.

    Example:
        >>> from .block_skip import BlockSkip
        >>> BlockSkip(every=0)
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: every=0 must be a whole number from 1 on: 1 runs every call in full, ...
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
    """Name, default, allowed values and help of each field, for the tables of the documentation.

    Example:
        >>> from .block_skip import BlockSkip
        >>> [row[:3] for row in table_rows(BlockSkip) if row[0] == "every"]
        [('every', '3', '1 to 999 steps')]
    """
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
    if field.low is None or field.high is None:
        return ""
    unit = f" {field.unit}" if field.unit else ""
    return ", ".join([_range(field.low, field.high) + unit, *map(str, field.also)])


def _range(low: float, high: float) -> str:
    """Without bounds that only keep out nonsense."""
    if high < _ENDLESS:
        return f"{low:g} to {high:g}"
    return f"from {low:g}" if low > -_ENDLESS else "any number"


def documented(cls: type[Any]) -> type[Any]:
    """Class decorator that adds an Args list to the docstring, made of the fields' help.

    Example:
        >>> from .block_skip import BlockSkip
        >>> "    every: Run the whole model" in BlockSkip.__doc__
        True
    """
    lines = [f"    {name}: {field.help}" for name, field in fields_of(cls).items()]
    cls.__doc__ = "\n".join([(cls.__doc__ or "").rstrip(), "", "Args:", *lines])
    return cls
