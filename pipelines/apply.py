"""Skipstone in the shape of diffusers' caches: `apply_skipstone(transformer, SkipstoneCacheConfig())`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from ..core.recipe.presets import as_recipe
from ..core.recipe.recipe import Method, Recipe
from .accelerate import Handle, replacing
from .cache_context import Context, context_of, refuse_beside_cache

SKIPSTONE_CACHE = "skipstone_cache"
"""Name of the hook in diffusers' `HookRegistry`."""


@dataclass
class SkipstoneCacheConfig:
    """Configuration of :func:`apply_skipstone`.

    Args:
        recipe: as in :func:`skipstone.accelerate`: a speed-up such as "2x", settings of one method, a recipe, a preset or a file.
        num_inference_steps: number of steps of the runs, where the pipeline does not state it in its cache context. Without it,
            steps are chosen one by one, and the last one may be forecast.

    Example:
        >>> SkipstoneCacheConfig("1.8x", num_inference_steps=28)
        SkipstoneCacheConfig(recipe='1.8x', num_inference_steps=28)
    """

    recipe: Recipe | Method | str | Path | dict[str, Any] = "2x"
    num_inference_steps: int | None = None


def apply_skipstone(module: nn.Module, config: SkipstoneCacheConfig | None = None) -> Handle:
    """Accelerate a network as a hook of diffusers named "skipstone_cache".

    `cache_context` states which cond a forward is of, `_reset_stateful_cache` ends a run, and
    `HookRegistry.remove_hook("skipstone_cache")` removes it, as does the handle's `remove`. :func:`skipstone.accelerate` on the
    pipeline also knows its scheduler, and so what the network's output means.

    Args:
        module: the U-Net or transformer.
        config: what to do; "2x" by default.

    Returns:
        The :class:`Handle`, which has the report.

    Raises :class:`RecipeError` for a recipe that makes no sense, :class:`ModelError` for a model that cannot be served or has
    another cache enabled.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> from diffusers.hooks import HookRegistry
        >>> model = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8)
        >>> handle = apply_skipstone(model, SkipstoneCacheConfig("2x"))
        >>> HookRegistry.check_if_exists_or_initialize(model).remove_hook("skipstone_cache")
    """
    from diffusers.hooks.hooks import HookRegistry

    config = config or SkipstoneCacheConfig()
    refuse_beside_cache(module)
    recipe = as_recipe(config.recipe)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.remove_hook(SKIPSTONE_CACHE, recurse=False)
    hook = _hook_class()(recipe, config.num_inference_steps)
    registry.register_hook(hook, SKIPSTONE_CACHE)
    return hook.handle


def _hook_class() -> Any:
    """Return the hook's class, made here because diffusers, which has its base class, is imported only when it is used."""
    from diffusers.hooks.hooks import BaseState, ModelHook, StateManager

    class State(BaseState):
        """Empty: the run's state is the engine's."""

        def reset(self) -> None:
            """Do nothing."""

    class SkipstoneHook(ModelHook):
        """Keeps a handle on the module while it is registered."""

        _is_stateful = True

        def __init__(self, recipe: Recipe, steps: int | None) -> None:
            super().__init__()
            self.state_manager = StateManager(State)
            self._recipe, self._steps = recipe, steps

        def initialize_hook(self, module: nn.Module) -> nn.Module:
            self.handle = replacing(module, lambda: Handle(module, self._recipe, context=self._context))
            return module

        def deinitalize_hook(self, module: nn.Module) -> nn.Module:
            self.handle.remove()
            return module

        def reset_state(self, module: nn.Module) -> nn.Module:
            self.state_manager.reset()
            self.handle.end()
            return module

        def _context(self) -> Context:
            stated = context_of(self.state_manager._context)
            return replace(stated, num_inference_steps=stated.num_inference_steps or self._steps)

    return SkipstoneHook
