"""The ways to draw a whole picture or video that `skipstone bench speed` times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from ...core.recipe.auto import Auto
from ...core.recipe.recipe import Recipe
from ...pipelines.accelerate import Handle, accelerate
from .speed_models import Whole

DENSE, FEWER, OURS = "dense", "fewer steps", "Skipstone"
WARM_UP = 2
"""First steps that cache-dit computes in full."""


@dataclass(frozen=True)
class Way:
    """One way to draw.

    Args:
        name: in tables.
        group: its family.
        install: puts it onto a pipeline for good; returns our handle, if it is ours.
        steps: of the sampler; the model's own if 0.
        full: returns in how many of a run's steps the whole network runs.

    Example:
        >>> Way("10 steps", FEWER, steps=10).install(None) is None
        True
    """

    name: str
    group: str
    install: Callable[[Whole], Handle | None] = lambda whole: None
    steps: int = 0
    full: Callable[[int], int] = int


def ours(speedups: Sequence[float]) -> list[Way]:
    """Return Auto at some speed-ups.

    Args:
        speedups: wanted.

    Example:
        >>> [way.name for way in ours((1.5, 2.0))]
        ['Auto 1.5x', 'Auto 2x']
    """
    return [Way(f"Auto {speedup:g}x", OURS, partial(_accelerate, Recipe.of([Auto(speedup)]))) for speedup in speedups]


def _accelerate(recipe: Recipe, whole: Whole) -> Handle:
    return accelerate(whole.pipe, recipe)


def peers(whole: Whole, steps: int) -> list[Way]:
    """Return the packages that are installed and serve a network, at one full call in two and in three.

    Args:
        whole: the model.
        steps: of its runs.

    Example:
        >>> from types import SimpleNamespace as Names
        >>> from torch import nn
        >>> [way.group for way in peers(Whole(Names(unet=nn.Identity()), {}, 20, ""), 20)] in ([], ["deepcache"] * 2)
        True
    """
    if hasattr(whole.pipe, "unet"):
        found = [("DeepCache", "deepcache", _deepcache, _periodic)] if find_spec("DeepCache") else []
    else:
        found = [("diffusers TaylorSeer", "diffusers", _taylorseer, _after_three)]
        found += [("cache-dit SCM, TaylorSeer", "cache-dit", _scm, _masked)] if find_spec("cache_dit") else []
    return [
        Way(f"{name}, every {every}", group, partial(put, every, steps), full=partial(_count, runs, every))
        for name, group, put, runs in found
        for every in (2, 3)
    ]


_Runs = Callable[[int, int, int], bool]
"""Whether the whole network runs, given the step, the interval and the number of steps."""


def _count(runs: _Runs, every: int, steps: int) -> int:
    return sum(runs(step, every, steps) for step in range(steps))


def _periodic(step: int, every: int, steps: int) -> bool:
    return step % every == 0


def _after_three(step: int, every: int, steps: int) -> bool:
    """As diffusers' TaylorSeer decides."""
    return step < 3 or (step - 4) % every == 0


def _masked(step: int, every: int, steps: int) -> bool:
    """The mask that is given to cache-dit: its page advises some first steps in full."""
    return step < WARM_UP or step % every == 0 or step == steps - 1


def _deepcache(every: int, steps: int, whole: Whole) -> None:
    from DeepCache import DeepCacheSDHelper

    helper = DeepCacheSDHelper(whole.pipe)
    helper.set_params(cache_interval=every, cache_branch_id=0)
    helper.enable()


def _taylorseer(every: int, steps: int, whole: Whole) -> None:
    from diffusers import TaylorSeerCacheConfig

    network: Any = whole.network
    network.enable_cache(TaylorSeerCacheConfig(cache_interval=every, use_lite_mode=True))


def _scm(every: int, steps: int, whole: Whole) -> None:
    """Skip by a static mask and forecast by Taylor's series: the package's setting that leaves out the most work."""
    import cache_dit

    cache_dit.enable_cache(
        whole.pipe,
        cache_config=cache_dit.DBCacheConfig(
            Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=1.0, max_warmup_steps=WARM_UP,
            num_inference_steps=steps, steps_computation_policy="static",
            steps_computation_mask=[int(_masked(step, every, steps)) for step in range(steps)],
        ),
        calibrator_config=cache_dit.TaylorSeerCalibratorConfig(),
    )  # fmt: skip
