"""The node "Skipstone": one choice, and which recipe it makes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_models import network, patcher, said, sample, server
from doubles import comfy

from skipstone.core.calibrate.profiling import with_plans
from skipstone.core.forecast.profile import HeldOut, Profile
from skipstone.core.plan.call_plan import even_keys
from skipstone.core.recipe.auto import LEVELS, Auto
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

__all__ = ["network", "patcher", "server"]


@pytest.mark.parametrize(("level", "speedup"), [*LEVELS.items(), ("custom", 3.0)])
def test_a_level_is_a_speed_up(server: comfy.PromptServer, level: str, speedup: float) -> None:
    from skipstone.nodes.auto import build_auto

    assert build_auto(None, level, speedup=3.0).methods == (Auto(speedup=speedup),)


def test_the_node_runs_fewer_calls_and_says_so(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipstone.nodes.auto import SkipstoneAuto

    monkeypatch.setattr(SkipstoneAuto, "hidden", SimpleNamespace(unique_id="5"), raising=False)
    model = SkipstoneAuto.execute(model=patcher, level="fast").args[0]
    sample(model, steps=20)
    assert "ran 8 of 20 calls" in said(server, "5")


def test_a_profile_is_recorded_from_a_picture_in_full_and_used_by_the_next(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    from skipstone.nodes.auto import SkipstoneAuto

    monkeypatch.setattr(SkipstoneAuto, "hidden", SimpleNamespace(unique_id="5"), raising=False)
    given: dict[str, Any] = {"level": "fast", "profile_file": "record from the next picture"}
    dense = sample(patcher, steps=20)
    first = sample(SkipstoneAuto.execute(model=patcher, **given).args[0], steps=20)
    assert torch.equal(first, dense) and "recorded a profile of 20 steps" in said(server, "5")
    (path,) = Path(folder_paths.get_output_directory(), "skipstone_profiles").glob("*.safetensors")
    assert Profile.load(path).steps == 20
    sample(SkipstoneAuto.execute(model=patcher, **given).args[0], steps=20)
    assert "of 20 calls" in said(server, "5")


def test_what_a_profile_adds_at_the_calls_that_run_acts_there_unless_the_user_set_it(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import folder_paths

    from skipstone.nodes.auto import SkipstoneAuto
    from skipstone.nodes.patch import patch_model

    monkeypatch.setattr(SkipstoneAuto, "hidden", SimpleNamespace(unique_id="5"), raising=False)
    given: dict[str, Any] = {"level": "fast", "profile_file": "record from the next picture"}
    sample(SkipstoneAuto.execute(model=patcher, **given).args[0], steps=20)
    (path,) = Path(folder_paths.get_output_directory(), "skipstone_profiles").glob("*.safetensors")
    beside = tuple(Recipe.of([BlockSkip(every=2)]).plain())
    with_plans(
        Profile.load(path), [HeldOut(even_keys(20, 10), "eps", "line", (0.1,) * 19, beside=beside, share=0.4)]
    ).save(path)
    model = SkipstoneAuto.execute(model=patcher, **given).args[0]
    sample(model, steps=20)
    assert "ran 10 of 20 calls" in said(server, "5") and "reused" in said(server, "5")
    allowing = {"level": "custom", "speedup": 2.0, "max_error": 0.2, "guard": False, "profile_file": path.name}
    sample(SkipstoneAuto.execute(model=patcher, **allowing).args[0], steps=20)
    assert "estimated error 0.100 of 0.200: 90% of pictures" in said(server, "5") and "reused" in said(server, "5")
    sample(patch_model(model, Recipe.of([TokenMerge(threshold=0.5)]), "6"), steps=20)
    assert "ran 8 of 20 calls" in said(server, "5") and "reused" not in said(server, "5")
