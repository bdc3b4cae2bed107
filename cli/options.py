"""Settings as options of the command line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from ..core.recipe.fields import field_of, fields_of

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class OnPipeline:
    """The options of commands that run the user's pipeline.

    Example:
        >>> OnPipeline(device="cuda").half
        False
    """

    guidance: float | None = None
    """Guidance scale; the pipeline's own by default."""
    size: int | None = None
    """Picture side in pixels; the model's own by default."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    half: bool = False
    """Run in fp16."""
    config: Path | None = None
    """For a single checkpoint: local diffusers folder of the same kind of model."""


def helped(settings: type[Any], name: str) -> Any:
    """The tyro argument that shows a settings field's help, for use inside `Annotated`.

    Args:
        settings: the settings class.
        name: of the field.

    Example:
        >>> from ..core.recipe.token_merge import TokenMerge
        >>> helped(TokenMerge, "matching").metavar
        '{dense,local}'
    """
    field = field_of(settings, name)
    listed = bool(field.choices) and not field.custom
    return tyro.conf.arg(help=field.help, metavar="{" + ",".join(map(str, field.choices)) + "}" if listed else None)


def described(settings: type[Settings]) -> type[Settings]:
    """A subclass of a settings class in which tyro finds each field's help.

    Example:
        >>> from ..core.recipe.token_merge import TokenMerge
        >>> described(TokenMerge)(threshold=0.5).threshold
        0.5
    """
    hints, defaults = get_type_hints(settings), {f.name: f.default for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    options = [
        (name, Annotated[hints[name], helped(settings, name)], dataclasses.field(default=defaults[name]))
        for name in fields_of(settings)
    ]
    return dataclasses.make_dataclass(settings.__name__, options, bases=(settings,), frozen=True)


def plain(settings: Any, kind: type[Settings]) -> Settings:
    """Convert to the settings class itself.

    Args:
        settings: values, as an object of a subclass.
        kind: the settings class.

    Example:
        >>> from ..core.recipe.token_merge import TokenMerge
        >>> type(plain(described(TokenMerge)(), TokenMerge)) is TokenMerge
        True
    """
    return kind(**dataclasses.asdict(settings))
