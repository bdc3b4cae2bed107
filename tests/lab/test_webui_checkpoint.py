"""The shipped U-Net as a checkpoint of AUTOMATIC1111."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from skipstone.lab.demo_models.model import load_demo
from skipstone.tools.webui_checkpoint import write


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The classes that the config names. The web UI's own model, which needs lightning, is left out."""
    pytest.importorskip("ldm.modules.diffusionmodules.openaimodel")
    ddpm = ModuleType("ldm.models.diffusion.ddpm")
    ddpm.LatentDiffusion = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ldm.models.diffusion.ddpm", ddpm)
    from skipstone.tools import webui_model

    return webui_model


def test_the_checkpoint_draws_what_the_shipped_model_draws(classes: ModuleType, tmp_path: Path) -> None:
    state = load_file(write(tmp_path))
    params = json.loads((tmp_path / "skipstone_icons.yaml").read_text())["model"]["params"]
    made = {}
    for part, prefix in (("unet", "model.diffusion_model."), ("cond_stage", "cond_stage_model.")):
        config = params[f"{part}_config"]
        with contextlib.redirect_stdout(io.StringIO()):
            made[part] = getattr(classes, config["target"].split(".")[-1])(**config["params"]).eval()
        made[part].load_state_dict(
            {k.removeprefix(prefix): v.float() for k, v in state.items() if k.startswith(prefix)}
        )
    pipe, x, t = load_demo("unet"), torch.randn(2, 12, 32, 32), torch.tensor([700, 100])
    with torch.no_grad():
        theirs = pipe.network(x, t, encoder_hidden_states=pipe.encode(["heart", ""])["encoder_hidden_states"]).sample
        ours = made["unet"](x, timesteps=t, context=made["cond_stage"](["a heart", ""]))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_latents_are_the_pixels_enlarged(classes: ModuleType) -> None:
    vae, latents = classes.Pixels(ddconfig={}), torch.zeros(1, 12, 8, 8)
    latents[:, :4] = 0.5
    shown = vae.decode(latents)
    assert shown.shape == (1, 3, 64, 64) and shown[0, 0].mean().item() == pytest.approx(0.5) and not shown[0, 1].any()
    torch.testing.assert_close(vae.encode(shown), latents)
