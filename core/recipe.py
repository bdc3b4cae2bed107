"""What the user asks for: frozen dataclasses, presets, and their JSON form.

A :class:`Recipe` holds one settings object per mechanism. Everything is checked on construction: a recipe that exists can run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from .checks import MOST_SEED, as_tuple, choice, integer, known_keys, number, stride_pair, text, window
from .errors import RecipeError, reason_of, shown, shown_path
from .files import write_text
from .presets_dato import DATO
from .recipe_prune import TokenPrune
from .recipe_skip import BlockSkip
from .schedule import CHECKPOINT_PRESETS, parse_checkpoints

FORMAT_VERSION = 1

Destination = Literal["top_left", "random"]
BatchRule = Literal["per_sample", "max"]
Matching = Literal["dense", "local"]
Target = Literal["attn1", "attn2", "ff"]
MAX_DOWNSAMPLES = (1, 2, 4, 8)

_MOST_BUCKET = 1 << 20
_MOST_NAME = 200
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class TokenMerge:
    """Cached adaptive token merging (CA-ToMe, arXiv 2501.00946, section III).

    threshold: cosine similarity in [-1, 1] above which a source token is merged into its best destination; 1 is off.
    checkpoints: calls at which the pairs are searched again: a preset name, `"every"`, or a list of call indices of the
        paper's 51 calls. In between, the pairs are reused.
    stride: cell size (rows, columns); each full cell has one destination token.
    max_downsample: coarsest level served, as latent side over token-grid side. `"auto"` is the finest level that has
        attention and, where that is not the latent's own resolution (SDXL, DiT), the next one as well.
    destination: `"top_left"` token of each cell (the paper), or one drawn at random per checkpoint (the released code).
    batch: `"per_sample"` merges each sample by its own count; `"max"` (the released code) by the largest of the batch.
    targets: modules that run on merged tokens.
    matching: `"dense"` compares every source with every destination; `"local"` only inside tiles of 8 x 8 cells.
    proportional: add log(group size) to the key logits, so that a merged token counts as many times as the tokens it stands for.
    start, end: part of the sampling run that is accelerated, 0 the noisiest call and 1 the last.
    bucket: merged counts are rounded down to a multiple of this; `"auto"` is N/16 rounded to 32.
    absolute: take `checkpoints` as indices of the actual calls, without mapping to the run's length.
    index_base: 1 counts calls from one, as the released code does.
    seed: seed of the random destinations.
    """

    threshold: float = 0.7
    checkpoints: str | tuple[int, ...] = "config_3"
    stride: tuple[int, int] = (2, 2)
    max_downsample: int | Literal["auto"] = "auto"
    destination: Destination = "top_left"
    batch: BatchRule = "per_sample"
    targets: tuple[Target, ...] = ("attn1",)
    matching: Matching = "dense"
    proportional: bool = False
    start: float = 0.0
    end: float = 1.0
    bucket: int | Literal["auto"] = "auto"
    absolute: bool = False
    index_base: Literal[0, 1] = 0
    seed: int = 0

    kind = "token_merge"

    def __post_init__(self) -> None:
        """Normalise lists to tuples and refuse what cannot run. Raises :class:`RecipeError`."""
        for name in ("stride", "targets"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name)))
        object.__setattr__(self, "checkpoints", parse_checkpoints(self.checkpoints))
        number("threshold", self.threshold, -1.0, 1.0, "1 switches merging off, 0.7 is the paper's choice")
        window(self.start, self.end)
        choice("destination", self.destination, get_args(Destination))
        choice("batch", self.batch, get_args(BatchRule))
        choice("matching", self.matching, get_args(Matching))
        choice("index_base", self.index_base, (0, 1))
        choice("max_downsample", self.max_downsample, ("auto", *MAX_DOWNSAMPLES))
        for target in self.targets:
            choice("targets", target, get_args(Target))
        stride_pair(self.stride)
        if self.bucket != "auto":
            integer("bucket", self.bucket, 1, "use 1 for exact counts or 'auto'", _MOST_BUCKET)
        integer("seed", self.seed, 0, "use any whole number from 0 on", MOST_SEED)
        for name in ("proportional", "absolute"):
            choice(name, getattr(self, name), (True, False))

    @property
    def neutral(self) -> bool:
        """True when these settings cannot change anything, so that no override is installed at all."""
        return self.threshold >= 1.0 or not self.targets or self.start >= self.end or self.stride == (1, 1)


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

_PAPER = TokenMerge(threshold=0.7, checkpoints="config_3")
_REFERENCE = TokenMerge(destination="random", batch="max", bucket=1, max_downsample=1, index_base=1, absolute=True)
_MERGE_PRESETS = {
    "ca_tome": _PAPER,
    "balanced": dataclasses.replace(_PAPER, matching="local", proportional=True),
    "reference": _REFERENCE,
    "ca_tome_exact": dataclasses.replace(_PAPER, bucket=1),
}


def preset(name: str) -> Recipe:
    """A ready recipe. Raises :class:`RecipeError` for other names.

    Merging: `ca_tome` (the paper, with counts rounded down to a bucket), `ca_tome_exact` (the paper to the pair, slower in
    batches), `reference` (choices of the released code), `balanced` (ours), or `ca_tome:<checkpoint preset>`, for instance
    `ca_tome:config_1`. Pruning with cache depths: `dato_coco` and the others of :mod:`.presets_dato`.
    """
    if name in DATO:
        return Recipe.of(DATO[name], name=name)
    base, _, checkpoints = name.partition(":")
    if base not in _MERGE_PRESETS:
        known = ", ".join((*_MERGE_PRESETS, *DATO))
        raise RecipeError(f"no preset named {shown(name)}: choose {known}, or ca_tome:config_1 and the like")
    merge = _MERGE_PRESETS[base]
    return Recipe(merge=dataclasses.replace(merge, checkpoints=checkpoints) if checkpoints else merge, name=name)


def preset_names() -> list[str]:
    """Names that :func:`preset` takes."""
    return [*_MERGE_PRESETS, *DATO, *(f"ca_tome:{name}" for name in CHECKPOINT_PRESETS)]


def as_recipe(value: Recipe | Method | str | Path | dict[str, Any]) -> Recipe:
    """Accept a recipe in any of its forms: object, single method, preset name, JSON file path or dict."""
    if isinstance(value, Recipe):
        return value
    if isinstance(value, Method):
        return Recipe.of([value])
    if isinstance(value, dict):
        return Recipe.from_dict(value)
    if isinstance(value, Path) or (isinstance(value, str) and value.endswith(".json")):
        return Recipe.load(value)
    if isinstance(value, str):
        return preset(value)
    raise RecipeError(
        f"cannot make a recipe of {type(value).__name__}: give a Recipe, TokenMerge, TokenPrune, BlockSkip, preset or JSON file"
    )


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
