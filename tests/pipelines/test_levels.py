"""The levels that a sampler of first order goes along: x / alpha moves by the noise times their change, in diffusers' own steps."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from skipstone.core.forecast.space import RAW
from skipstone.pipelines.noise import horizon_of, is_flow, noise_at

FIRST_ORDER: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {}),
    "DDIM v": ("DDIMScheduler", {"prediction_type": "v_prediction"}),
    "DDIM to a level": ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}),
    "DDIM trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler Karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "Euler v": ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow, shifted": ("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
}
"""Name -> scheduler, and its settings."""
STEPS = 10


@pytest.mark.parametrize("name", list(FIRST_ORDER))
def test_a_step_moves_the_latent_by_the_noise(name: str) -> None:
    kind, config = FIRST_ORDER[name]
    scheduler = made(kind, config)
    scheduler.set_timesteps(STEPS)
    times = tuple(float(t) for t in scheduler.timesteps)
    levels = horizon_of(scheduler, times).levels
    assert len(levels) == STEPS + 1 and list(levels) == sorted(levels, reverse=True)
    x, karras = tiny.noise(1, 4, 4, 4).double(), kind == "EulerDiscreteScheduler"
    x = x * scheduler.init_noise_sigma if karras else x
    for step, t in enumerate(scheduler.timesteps):
        noise, output = noise_at(scheduler, times[step]), tiny.noise(1, 4, 4, 4, seed=step).double()
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        after = scheduler.step(output, t, x, return_dict=False)[0]
        if 0 < levels[step] < float("inf"):
            space = noise.affine("eps") or RAW
            eps = space.x * given + space.o * output
            reached = given / noise.alpha + eps * (levels[step + 1] - levels[step])
            found = after if karras else after / alpha_of(levels[step + 1], is_flow(scheduler))
            assert torch.allclose(found.double(), reached, rtol=2e-3, atol=2e-3 * float(reached.abs().max()))
        x = after.double()


def made(kind: str, config: dict[str, Any]) -> Any:
    """A scheduler with these settings in place of Stable Diffusion's."""
    usual = tiny.make_scheduler(kind)
    known = {name: value for name, value in usual.config.items() if not name.startswith("_")}
    return type(usual)(**{**known, **config})


def alpha_of(level: float, flow: bool) -> float:
    """The share of the picture where sigma / alpha is this."""
    return 1 / (1 + level) if flow else float((1 + level**2) ** -0.5)


def test_the_part_of_a_run_that_is_left_has_the_levels_that_are_left() -> None:
    scheduler = tiny.make_scheduler("EulerDiscreteScheduler")
    scheduler.set_timesteps(STEPS)
    times = tuple(float(t) for t in scheduler.timesteps)
    assert horizon_of(scheduler, times[4:]).levels == horizon_of(scheduler, times).levels[4:]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("DPMSolverMultistepScheduler", {}),
        ("UniPCMultistepScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("HeunDiscreteScheduler", {}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ],
)
def test_other_samplers_have_none(kind: str, config: dict[str, Any]) -> None:
    scheduler = made(kind, config)
    scheduler.set_timesteps(STEPS)
    assert horizon_of(scheduler, tuple(float(t) for t in scheduler.timesteps)).levels == ()
