"""The node "Skipstone": one choice, and which recipe it makes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from comfy_models import network, patcher, said, sample, server
from doubles import comfy

from skipstone.core.forecast.profile import Profile
from skipstone.core.recipe.auto import LEVELS, Auto

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
