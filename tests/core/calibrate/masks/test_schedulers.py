"""A mask runs as it was trained: training's executor and the engine draw the same picture with every sampler of diffusers."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from skipstone.core.calibrate.masks.masked_model import prepare
from skipstone.core.engine.cached_value import LINE, CachedValue
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.conditions import from_embeddings
from skipstone.pipelines.denoiser import denoiser_of

KARRAS, EXPONENTIAL, BETA = ({f"use_{kind}_sigmas": True} for kind in ("karras", "exponential", "beta"))
SAMPLERS: list[tuple[str, dict[str, Any]]] = [
    ("DDIM", {}), ("DDPM", {}), ("PNDM", {}), ("LMSDiscrete", {}), ("EulerDiscrete", KARRAS),
    ("EulerDiscrete", EXPONENTIAL), ("EulerDiscrete", BETA), ("EulerAncestralDiscrete", {}), ("HeunDiscrete", {}),
    ("HeunDiscrete", KARRAS), ("KDPM2Discrete", {}), ("KDPM2AncestralDiscrete", {}), ("DPMSolverMultistep", {}),
    ("DPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}), ("DPMSolverSinglestep", {}), ("DPMSolverSDE", {}),
    ("UniPCMultistep", {}), ("DEISMultistep", {}), ("SASolver", {}), ("IPNDM", {}), ("EDMEuler", {}), ("LCM", {}),
    ("TCD", {}),
]  # fmt: skip
NEEDS = {"LMSDiscrete": "scipy", "DPMSolverSDE": "torchsde"}
SHAPE, SEED = (4, 16, 16), 11


def sampler(name: str, config: dict[str, Any]) -> Any:
    """A tiny pipeline. LMS, SDE and beta sigmas need packages that diffusers does not bring."""
    needed = "scipy" if config is BETA else NEEDS.get(name)
    if needed and not find_spec(needed):
        pytest.skip(f"diffusers' {name} needs {needed}")
    return tiny.sd_pipeline(f"{name}Scheduler", **config)


def after_noise() -> torch.Generator:
    """The sample's generator, once its noise was drawn from it."""
    generator = torch.Generator().manual_seed(SEED)
    torch.randn(SHAPE, generator=generator)
    return generator


def close_both_ways(pipe: Any, steps: int, forecast: bool) -> None:
    """One picture under a random mask: by training's executor, and by the pipeline with the engine on it."""
    condition = from_embeddings(tiny.noise(1, *tiny.CONTEXT, seed=1))
    model = prepare(denoiser_of(pipe, steps, 1.0, conditions=condition), forecast=forecast)
    run = np.random.default_rng(0).random(model.shape) < 0.5
    run[0] = True
    torch.manual_seed(0)  # DPM++ SDE draws from the global generator
    trained = model.rollout([SEED], run)
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(SEED))[None]
    torch.manual_seed(0)
    with accelerate(pipe, BlockSkip(mask=model.mask(run))):
        drawn = tiny.run_sd(pipe, steps, guidance_scale=1.0, latents=noise, generator=after_noise())
    assert drawn.isfinite().all()
    torch.testing.assert_close(trained, drawn, rtol=0, atol=1e-5 * float(drawn.abs().max()))


@pytest.mark.parametrize(("name", "config"), SAMPLERS, ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_training_and_engine_draw_the_same_picture(name: str, config: dict[str, Any]) -> None:
    close_both_ways(sampler(name, config), 5, forecast=True)


@pytest.mark.parametrize("name", ["DDIM", "HeunDiscrete"])
def test_also_where_values_are_repeated(name: str) -> None:
    close_both_ways(sampler(name, {}), 5, forecast=False)


def test_also_where_so_many_steps_round_to_equal_timesteps() -> None:
    pipe = sampler("UniPCMultistep", EXPONENTIAL)
    pipe.scheduler.set_timesteps(20)
    assert (pipe.scheduler.timesteps.diff() >= 0).any()
    close_both_ways(pipe, 20, True)


def value(x: float) -> tuple[torch.Tensor]:
    return (torch.tensor([x]),)


def test_a_line_needs_two_values_at_falling_timesteps_that_are_not_all_but_equal() -> None:
    first = CachedValue(value(1.0), 900.0)
    assert first.followed_by(value(3.0), 800.0, LINE).at(700.0)[0].item() == pytest.approx(5.0)
    assert first.followed_by(value(3.0), 800.0, None).at(700.0)[0].item() == 3.0
    for again in (900.0, 950.0, 899.9994):
        assert first.followed_by(value(3.0), again, LINE).at(700.0)[0].item() == 3.0


def test_a_line_goes_through_the_last_two_values_only() -> None:
    third = CachedValue(value(1.0), 900.0).followed_by(value(3.0), 800.0, LINE).followed_by(value(4.0), 700.0, LINE)
    assert third.at(600.0)[0].item() == pytest.approx(5.0)
    assert len(list(third.tensors())) == 2 and third.nbytes == 8
