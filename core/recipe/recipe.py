"""What the user asks for: frozen dataclasses, presets, and their JSON form.

A :class:`Recipe` holds one settings object per mechanism. Everything is checked on construction: a recipe that exists can run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RecipeError, reason_of, shown, shown_path
from ..files import write_text
from .block_skip import BlockSkip
from .token_merge import TokenMerge
from .token_prune import TokenPrune
from .validate import known_keys, text

FORMAT_VERSION = 1

_MOST_NAME = 200
_MOST_BYTES = 1 << 20


Method = TokenMerge | TokenPrune | BlockSkip


@dataclass(frozen=True)
class Recipe:
    """Everything Skipstone does to one model: one setting object per mechanism, None where it is not used."""

    merge: TokenMerge | None = None
    name: str = ""
    skip: BlockSkip | None = None
    prune: TokenPrune | None = None

    def __post_init__(self) -> None:
        """Refuse wrong types, and two ways of reducing one module's tokens. Raises :class:`RecipeError`."""
        text("name", self.name, _MOST_NAME)
        for name, cls in _KINDS.values():
            if not isinstance(getattr(self, name), (cls, type(None))):
                raise RecipeError(f"{name}={shown(getattr(self, name))} must be {cls.__name__} settings")
        both = [m for m in (self.merge, self.prune) if m is not None and not m.neutral]
        shared = set(both[0].targets) & set(both[1].targets) if len(both) == 2 else ()
        if shared:
            raise RecipeError(
                f"token_merge and token_prune both act on {', '.join(sorted(shared))}: "
                "keep one of them, or give them different targets"
            )

    @classmethod
    def of(cls, methods: Iterable[Method], name: str = "") -> Recipe:
        """The recipe of these setting objects. Raises :class:`RecipeError` for two of a kind."""
        slots: dict[str, Any] = {}
        for method in methods:
            slot = _KINDS[method.kind][0]
            if slot in slots:
                raise RecipeError(f"recipe has two methods of kind {method.kind!r}: keep one")
            slots[slot] = method
        return cls(name=name, **slots)

    @property
    def neutral(self) -> bool:
        """True when the recipe changes nothing."""
        return all(method.neutral for method in self.methods)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The setting objects that are there."""
        return tuple(m for m in (self.merge, self.prune, self.skip) if m is not None)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: `{"skipstone": 1, "name": ..., "methods": [{"kind": ...}, ...]}`."""
        methods = [{"kind": m.kind, **_plain(dataclasses.asdict(m))} for m in self.methods]
        return {"skipstone": FORMAT_VERSION, "name": self.name, "methods": methods}

    def to_json(self) -> str:
        """The recipe as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def save(self, path: str | Path) -> None:
        """Write the recipe as a JSON file. Raises :class:`FileError`."""
        write_text(path, self.to_json() + "\n")

    @classmethod
    def from_dict(cls, data: Any) -> Recipe:
        """Build a recipe from its JSON form. Raises :class:`RecipeError` that says which key is wrong."""
        if not isinstance(data, dict) or "skipstone" not in data:
            raise RecipeError("not a Skipstone recipe: expected an object with the key 'skipstone' (format version)")
        version = data["skipstone"]
        if type(version) is not int or version != FORMAT_VERSION:
            raise RecipeError(
                f"recipe format {shown(version)} is not supported (this is {FORMAT_VERSION}): update Skipstone"
            )
        known_keys("recipe", data, {"skipstone", "name", "methods"})
        methods = data.get("methods", [])
        if not isinstance(methods, list) or not all(isinstance(m, dict) for m in methods):
            raise RecipeError("recipe key 'methods' must be a list of objects, each with a 'kind'")
        return cls.of(map(_method_from_dict, methods), name=data.get("name", ""))

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Parse JSON text. Raises :class:`RecipeError`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"recipe is not JSON ({reason_of(error)}): check the file") from None
        return cls.from_dict(data)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file; a mask that it names may lie beside it. Raises :class:`RecipeError` when it is missing or wrong."""
        recipe = cls.from_json(_read(path))
        return dataclasses.replace(recipe, skip=recipe.skip and recipe.skip.beside(Path(path).parent))


_KINDS: dict[str, tuple[str, type[Any]]] = {
    TokenMerge.kind: ("merge", TokenMerge),
    TokenPrune.kind: ("prune", TokenPrune),
    BlockSkip.kind: ("skip", BlockSkip),
}


def _method_from_dict(data: dict[str, Any]) -> Method:
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RecipeError(f"unknown method kind {shown(kind)}: known kinds are {', '.join(_KINDS)}")
    cls = _KINDS[kind][1]
    values = {k: v for k, v in data.items() if k != "kind"}
    known_keys(kind, values, {f.name for f in dataclasses.fields(cls)})
    return cls(**values)


def _read(path: str | Path) -> str:
    remedy = "give the path of a JSON file"
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST_BYTES + 1)
        content = data.decode("utf-8")
    except (OSError, ValueError) as error:
        raise RecipeError(f"cannot read recipe {shown_path(path)} ({reason_of(error)}): {remedy}") from None
    if len(data) > _MOST_BYTES:
        raise RecipeError(f"recipe {shown_path(path)} is longer than {_MOST_BYTES} bytes: {remedy}")
    return content


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(values.get("mask", ""), str):
        raise RecipeError("a mask in memory has no JSON form: save it and give the recipe its path")
    return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
