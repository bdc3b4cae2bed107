"""Skipstone's own ways, and fewer steps, which every way is held against."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ....core.forecast.profile import Profile
from ....core.recipe.auto import Auto
from ....core.recipe.block_skip import BlockSkip
from ....core.recipe.call_skip import CallSkip
from ....core.recipe.presets import preset
from ....core.recipe.recipe import Method, Recipe
from ....core.recipe.token_merge import TokenMerge
from ....core.recipe.token_prune import TokenPrune
from ....pipelines.denoiser import PipelineDenoiser
from ...demo_models.loading import DEMOS
from ...demo_models.model import profile_of
from .way import FEWER, Way, by_recipe

OTHER, AUTO, OURS = "another sampler", "Auto", "Skipstone"
SPEEDUPS = (1.3, 1.5, 1.8, 2.0, 2.5, 3.0, 4.0)
_SHARES = (0.65, 0.5, 0.35, 0.25)
_MERGE = TokenMerge(threshold=0.9, matching="local", proportional=True)


def fewer_steps(steps: int) -> list[Way]:
    """Return the same sampler with fewer steps.

    Args:
        steps: of the dense run.

    Example:
        >>> [way.steps for way in fewer_steps(20)]
        [13, 10, 7, 5]
    """
    counts = dict.fromkeys(max(2, round(share * steps)) for share in _SHARES)
    return [Way(f"{count} steps", FEWER, steps=count) for count in counts if count < steps]


def other_samplers(steps: int, own: str, names: Sequence[str] = ("dpmpp_2m", "unipc")) -> list[Way]:
    """Return samplers of second order with fewer steps, which only the ODE's solution is a fair reference for.

    Args:
        steps: of the dense run.
        own: sampler of the dense run.
        names: of the samplers.

    Example:
        >>> [way.name for way in other_samplers(20, "unipc")]
        ['dpmpp_2m, 10 steps', 'dpmpp_2m, 7 steps']
    """
    counts = [round(share * steps) for share in (0.5, 0.35)]
    return [Way(f"{name}, {n} steps", OTHER, steps=n, sampler=name) for name in names if name != own for n in counts]


def autos(profile: Path | None, speedups: Sequence[float] = SPEEDUPS) -> list[Way]:
    """Return Auto, as it comes and with a profile.

    Args:
        profile: of the model, for this sampler; None if there is none.
        speedups: its one number.

    Example:
        >>> [way.name for way in autos(None, (1.5, 2.0))]
        ['Auto 1.5x', 'Auto 2x']
    """
    plain = [Way(f"Auto {number:g}x", AUTO, by_recipe(Auto(speedup=number))) for number in speedups]
    held = [
        Way(f"Auto {number:g}x, profile", AUTO, by_recipe(Auto(speedup=number, profile=str(profile), guard=False)))
        for number in speedups
    ]
    return [*plain, *(held if profile else [])]


def profile_for(model: str, denoiser: PipelineDenoiser) -> Path | None:
    """Return the shipped profile of a model; None where it was made for another sampler or guidance.

    Args:
        model: its name.
        denoiser: the model with its sampler.

    Example:
        >>> profile_for("my-model", denoiser) is None  # doctest: +SKIP
        True
    """
    found = profile_of(DEMOS.get(model, ""), len(denoiser.timesteps) // denoiser.horizon.stages)
    if not found:
        return None
    known = Profile.load(found)
    return Path(found) if (known.sampler, known.guidance) == (denoiser.sampler, denoiser.guidance) else None


def methods(model: str, masks: Sequence[Path] = ()) -> list[Way]:
    """Return merging, pruning, block rules, masks of files, and joint recipes.

    Args:
        model: its name, which decides on the rules.
        masks: mask (.safetensors) and recipe (.json) files.

    Example:
        >>> [way.name for way in methods("demo-dit")][:2]
        ['CA-ToMe 0.7', 'balanced 0.9']
    """
    kind = DEMOS.get(model, "")
    files = [_way(path.stem, path if path.suffix == ".json" else BlockSkip(mask=str(path))) for path in masks]
    return [*_tokens(), *(_unet() if kind == "unet" else _transformer(kind)), *_joint(kind), *files]


def _tokens() -> Iterator[Way]:
    yield _way("CA-ToMe 0.7", TokenMerge(0.7))
    yield _way("balanced 0.9", _MERGE)
    yield _way("pruned 25%", TokenPrune(ratio=0.25))


def _unet() -> Iterator[Way]:
    for every in (2, 3):
        yield _way(f"DeepCache rule {every}", BlockSkip(every=every))
        yield _way(f"DeepCache rule {every}, forecast", BlockSkip(every=every, forecast=True))
    for name in ("dato_coco", "dato_gentle"):
        yield Way(name, OURS, by_recipe(preset(name)))


def _transformer(kind: str) -> Iterator[Way]:
    caching = "difference" if kind == "flow" else "branch"
    for every in (2, 3):
        rule = BlockSkip(rule="fora", every=every, caching=caching)  # type: ignore[arg-type]
        yield _way(f"FORA rule {every}", rule)
        yield _way(f"FORA rule {every}, forecast", replace(rule, forecast=True))


def _joint(kind: str) -> Iterator[Way]:
    """Two calls of three, and something at those that run: about half of the multiply-adds."""
    calls = CallSkip(speedup=1.5)
    rule = BlockSkip(every=2, forecast=True)
    if kind != "unet":
        rule = replace(rule, rule="fora", caching="difference" if kind == "flow" else "branch")
    yield Way("calls 1.5x + balanced 0.9", OURS, by_recipe(Recipe.of([calls, _MERGE])))
    yield Way("calls 1.5x + rule 2", OURS, by_recipe(Recipe.of([calls, rule])))


def _way(name: str, method: Method | Path) -> Way:
    return Way(name, OURS, by_recipe(method))
