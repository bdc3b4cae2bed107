"""ComfyUI's model compiler is off while a run of ours lasts, and then as the user had it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_models import MERGE, SKIP, Cancelled, network, patch, patcher, sample, server
from doubles import comfy

from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe

__all__ = ["network", "patcher", "server"]


def options() -> SimpleNamespace:
    """The host's command-line options."""
    from comfy.cli_args import args

    found: SimpleNamespace = args
    return found


@pytest.fixture
def seen(patcher: comfy.ModelPatcher) -> list[Any]:
    """The switch as the network's forward finds it, where ComfyUI's models open the compiler's recording."""
    found: list[Any] = []
    hook = patcher.model.diffusion_model.register_forward_pre_hook(
        lambda *call: found.append(getattr(options(), "disable_comfy_compiler", None))
    )
    yield found
    hook.remove()


@pytest.mark.parametrize("recipe", [MERGE, Recipe.of([SKIP]), Recipe.of([CallSkip(speedup=2.0)])], ids=str)
def test_it_is_off_in_every_call_of_a_run_and_on_again_after_it(
    recipe: Recipe, patcher: comfy.ModelPatcher, seen: list[Any]
) -> None:
    sample(patch(patcher, recipe))
    assert seen and all(seen) and options().disable_comfy_compiler is False
    seen.clear()
    sample(patcher)
    assert seen and not any(seen), "a plain run keeps it"


def test_a_run_that_is_cancelled_or_fails_restores_it(patcher: comfy.ModelPatcher, seen: list[Any]) -> None:
    def cancel(*call: Any) -> None:
        raise Cancelled

    with patcher.model.diffusion_model.register_forward_pre_hook(cancel), pytest.raises(Cancelled):
        sample(patch(patcher, SKIP))
    assert options().disable_comfy_compiler is False


def test_runs_that_overlap_restore_it_with_the_last_one(server: comfy.PromptServer) -> None:
    from skipstone.nodes.compiler import compiler_off

    first, second = compiler_off(), compiler_off()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert options().disable_comfy_compiler is True
    second.__exit__(None, None, None)
    assert options().disable_comfy_compiler is False


@pytest.mark.parametrize("given", [{"disable_comfy_compiler": True}, {}], ids=["the user's", "older ComfyUI"])
def test_the_users_own_choice_and_an_older_comfyui_stay_as_they_are(
    given: dict[str, bool], patcher: comfy.ModelPatcher, seen: list[Any]
) -> None:
    vars(options()).clear()
    vars(options()).update(given)
    sample(patch(patcher, SKIP))
    assert vars(options()) == given and set(seen) == {given.get("disable_comfy_compiler")}


@torch.no_grad()
def test_a_nested_run_leaves_it_off_for_the_outer_one(patcher: comfy.ModelPatcher, seen: list[Any]) -> None:
    model, inner = patch(patcher, SKIP), [True]

    def sampled(*call: Any) -> None:
        if inner and inner.pop():
            sample(patch(patcher, MERGE))

    with patcher.model.diffusion_model.register_forward_hook(sampled):
        sample(model)
    assert all(seen) and options().disable_comfy_compiler is False
