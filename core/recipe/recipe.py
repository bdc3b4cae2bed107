"""A recipe: the settings of the methods that are used together, and their JSON form.

Everything is checked when a recipe is made, so that every recipe can run.
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
from .auto import Auto
from .block_skip import BlockSkip
from .call_skip import CallSkip
from .token_merge import TokenMerge
from .token_prune import TokenPrune
from .validate import known_keys, text

FORMAT_VERSION = 1

_MOST_NAME = 200
_MOST_BYTES = 1 << 20


Method = TokenMerge | TokenPrune | BlockSkip | CallSkip | Auto

METHODS: dict[str, type[Any]] = {
    "merge": TokenMerge,
    "prune": TokenPrune,
    "skip": BlockSkip,
    "calls": CallSkip,
    "auto": Auto,
}
"""Name of a method in a recipe -> its settings class, in the order in which methods act. A new method is one line here."""

_KINDS = {cls.kind: name for name, cls in METHODS.items()}
_UNCHANGED: Any = object()


@dataclass(frozen=True, init=False)
class Recipe:
    """The settings of the methods that accelerate one model, at most one of each kind.

    Args:
        merge: settings of token merging, or None. With `methods`, it replaces the method of its kind there.
        name: short name for lists of recipes.
        skip: settings of block skipping, or None, in the same way.
        prune: settings of token pruning, or None, in the same way.
        calls: settings of call skipping, or None, in the same way.
        auto: settings of Auto, or None, in the same way.
        methods: settings objects of any kinds.

    Raises :class:`RecipeError` for wrong types, for two methods of one kind, and if two methods reduce the same tokens.

    Example:
        >>> recipe = Recipe(merge=TokenMerge(threshold=0.8), skip=BlockSkip(every=2), name="mine")
        >>> Recipe.from_json(recipe.to_json()) == recipe
        True
    """

    methods: tuple[Method, ...]
    name: str

    def __init__(
        self,
        merge: TokenMerge | None = _UNCHANGED,
        name: str = "",
        skip: BlockSkip | None = _UNCHANGED,
        prune: TokenPrune | None = _UNCHANGED,
        methods: Iterable[Method] = (),
        calls: CallSkip | None = _UNCHANGED,
        auto: Auto | None = _UNCHANGED,
    ) -> None:
        """Put the methods in their order and check them."""
        found = _by_name(methods)
        for slot, given in (("merge", merge), ("prune", prune), ("skip", skip), ("calls", calls), ("auto", auto)):
            if given is not _UNCHANGED:
                found[slot] = _checked(slot, given)
        ordered = (found.get(slot) for slot in METHODS)
        object.__setattr__(self, "methods", tuple(m for m in ordered if m is not None))
        object.__setattr__(self, "name", name)
        text("name", self.name, _MOST_NAME)
        _check_targets(self.merge, self.prune)
        if self.calls and self.auto and not self.calls.neutral and not self.auto.neutral:
            raise RecipeError("auto and call_skip both choose the calls that run: keep one of them")

    @classmethod
    def of(cls, methods: Iterable[Method], name: str = "") -> Recipe:
        """A recipe of settings objects.

        Args:
            methods: the objects, at most one of each kind.
            name: short name for lists of recipes.

        Raises :class:`RecipeError` for two of a kind.
        """
        return cls(methods=methods, name=name)

    def replace(self, **changes: Any) -> Recipe:
        """This recipe with other settings: any argument of the constructor but `methods`; None takes a method out.

        Example:
            >>> Recipe(merge=TokenMerge(), skip=BlockSkip()).replace(merge=None).methods
            (BlockSkip(...),)
        """
        return Recipe(**{"name": self.name, "methods": self.methods, **changes})

    @property
    def merge(self) -> TokenMerge | None:
        """Settings of token merging, or None."""
        return self._of_kind(TokenMerge)

    @property
    def prune(self) -> TokenPrune | None:
        """Settings of token pruning, or None."""
        return self._of_kind(TokenPrune)

    @property
    def skip(self) -> BlockSkip | None:
        """Settings of block skipping, or None."""
        return self._of_kind(BlockSkip)

    @property
    def calls(self) -> CallSkip | None:
        """Settings of call skipping, or None."""
        return self._of_kind(CallSkip)

    @property
    def auto(self) -> Auto | None:
        """Settings of Auto, or None."""
        return self._of_kind(Auto)

    def _of_kind(self, cls: type[Any]) -> Any:
        return next((m for m in self.methods if isinstance(m, cls)), None)

    @property
    def neutral(self) -> bool:
        """Whether the recipe changes nothing."""
        return all(method.neutral for method in self.methods)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: `{"skipstone": 1, "name": ..., "methods": [{"kind": ...}, ...]}`.

        Raises :class:`RecipeError` if a mask is in memory and not in a file.
        """
        return {"skipstone": FORMAT_VERSION, "name": self.name, "methods": self.plain()}

    def plain(self) -> list[dict[str, Any]]:
        """The methods' JSON forms. Raises :class:`RecipeError` if a mask is in memory and not in a file."""
        return [{"kind": m.kind, **_plain(dataclasses.asdict(m))} for m in self.methods]

    def to_json(self) -> str:
        """The recipe as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2)

    def save(self, path: str | Path) -> None:
        """Write the recipe as a JSON file. Raises :class:`FileError`."""
        write_text(path, self.to_json() + "\n")

    @classmethod
    def from_dict(cls, data: Any) -> Recipe:
        """A recipe from its JSON form. Raises :class:`RecipeError`, which names the key that is wrong."""
        if not isinstance(data, dict) or "skipstone" not in data:
            raise RecipeError("not a Skipstone recipe: expected an object with the key 'skipstone' (format version)")
        version = data["skipstone"]
        if type(version) is not int or version != FORMAT_VERSION:
            raise RecipeError(
                f"recipe format {shown(version)} is not supported (this is {FORMAT_VERSION}): update Skipstone"
            )
        known_keys("recipe", data, {"skipstone", "name", "methods"})
        return cls.of_plain(data.get("methods", []), data.get("name", ""))

    @classmethod
    def of_plain(cls, methods: Any, name: str = "") -> Recipe:
        """A recipe from its methods' JSON forms, each with its 'kind'. Raises :class:`RecipeError`.

        Args:
            methods: a list of objects.
            name: short name for lists of recipes.

        Example:
            >>> Recipe.of_plain([{"kind": "call_skip", "calls": 7}]).calls.calls
            7
        """
        if not isinstance(methods, (list, tuple)) or not all(isinstance(m, dict) for m in methods):
            raise RecipeError("recipe key 'methods' must be a list of objects, each with a 'kind'")
        return cls.of(map(_method_from_dict, methods), name=name)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """A recipe from JSON text. Raises :class:`RecipeError`."""
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"recipe is not JSON ({reason_of(error)}): check the file") from None
        return cls.from_dict(data)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read a recipe file. Its mask file may be in the same folder. Raises :class:`RecipeError` if it cannot be read."""
        recipe = cls.from_json(_read(path))
        folder = Path(path).parent
        methods = [m.beside(folder) if hasattr(m, "beside") else m for m in recipe.methods]
        return cls(methods=methods, name=recipe.name)


def _by_name(methods: Iterable[Method]) -> dict[str, Method | None]:
    found: dict[str, Method | None] = {}
    for method in methods:
        slot = _KINDS[method.kind]
        if slot in found:
            raise RecipeError(f"recipe has two methods of kind {method.kind!r}: keep one")
        found[slot] = method
    return found


def _checked(slot: str, given: Any) -> Any:
    if not isinstance(given, (METHODS[slot], type(None))):
        raise RecipeError(f"{slot}={shown(given)} must be {METHODS[slot].__name__} settings")
    return given


def _check_targets(merge: TokenMerge | None, prune: TokenPrune | None) -> None:
    """Refuse to merge and prune the tokens of the same modules."""
    both = [m for m in (merge, prune) if m is not None and not m.neutral]
    shared = set(both[0].targets) & set(both[1].targets) if len(both) == 2 else ()
    if shared:
        raise RecipeError(
            f"token_merge and token_prune both act on {', '.join(sorted(shared))}: "
            "keep one of them, or give them different targets"
        )


def _method_from_dict(data: dict[str, Any]) -> Method:
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RecipeError(f"unknown method kind {shown(kind)}: known kinds are {', '.join(_KINDS)}")
    cls = METHODS[_KINDS[kind]]
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
