"""A skipped call of a diffusers pipeline skips its ControlNet, and the pictures stay the same to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import diffusers
import pytest
import tiny
import torch
from torch import Tensor

from pipelines import Running, controlnet
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines import accelerate as module
from skipstone.pipelines.accelerate import accelerate

STEPS = 5
SKIP = CallSkip(every=2)


def several() -> Running:
    """Two ControlNets, whose residuals are added."""
    running = controlnet()
    other = tiny.randomise(diffusers.ControlNetModel.from_unet(tiny.diffusers_unet().model), seed=8)
    running.pipe.controlnet = diffusers.models.MultiControlNetModel([running.pipe.controlnet, other])
    running.arguments["image"] = [running.arguments["image"]] * 2
    return running


def guessing() -> Running:
    """Guess mode: the ControlNet runs on the conds alone, and the pipeline adds zeros for the unconds to its output."""
    running = controlnet()
    running.arguments["guess_mode"] = True
    return running


def ending() -> Running:
    """A ControlNet of the first half of the run."""
    running = controlnet()
    running.arguments["control_guidance_end"] = 0.5
    return running


@contextmanager
def counted(running: Running) -> Iterator[list[int]]:
    """Forwards of the ControlNets."""
    ran: list[int] = []
    inner = [one for one in running.pipe.controlnet.modules() if isinstance(one, diffusers.ControlNetModel)]
    hooks = [one.conv_in.register_forward_hook(lambda *args: ran.append(1)) for one in inner]
    yield ran
    for hook in hooks:
        hook.remove()


def drawn(running: Running, recipe: Any) -> tuple[Tensor, int, int]:
    """The latent, the ControlNets' forwards, and the calls that ran."""
    with counted(running) as ran, accelerate(running.pipe, recipe) as handle:
        latent = running(STEPS)
        return latent, len(ran), handle.report().calls_run


@pytest.mark.parametrize(("kind", "nets"), [(controlnet, 1), (several, 2), (ending, 1)])
def test_the_controlnet_runs_where_the_network_does(kind: Any, nets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    running = kind()
    latent, forwards, calls = drawn(running, SKIP)
    assert calls == 3 and forwards == nets * calls
    assert not any("forward" in one.__dict__ for one in running.pipe.controlnet.modules())
    monkeypatch.setattr(module, "LateControl", lambda net: SimpleNamespace(remove=lambda: None))
    early, always, _ = drawn(running, SKIP)
    assert always == nets * STEPS and torch.equal(latent, early)


def test_a_pipeline_that_uses_the_output_at_once_gets_it() -> None:
    running = guessing()
    latent, forwards, calls = drawn(running, SKIP)
    assert (forwards, calls) == (STEPS, 3)
    full, _, _ = drawn(running, CallSkip(keys=tuple(range(STEPS))))
    with torch.no_grad():
        assert torch.equal(full, running(STEPS)) and not torch.equal(latent, full)


def test_without_call_skipping_the_controlnet_is_left_alone() -> None:
    running = controlnet()
    with accelerate(running.pipe, TokenMerge(threshold=0.5)):
        assert "forward" not in running.pipe.controlnet.__dict__
