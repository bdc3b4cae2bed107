"""The levels that a sampler goes along, and how far it continues the picture's change, beside diffusers' own steps."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch

from skipstone.core.forecast.space import RAW, Noise
from skipstone.pipelines.noise import horizon_of, is_flow, noise_at

DPM = "DPMSolverMultistepScheduler"
KNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {}),
    "DDIM v": ("DDIMScheduler", {"prediction_type": "v_prediction"}),
    "DDIM to a level": ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}),
    "DDIM trailing": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler Karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "Euler v": ("EulerDiscreteScheduler", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow, shifted": ("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
    "DPM++ 2M": (DPM, {}),
    "DPM++ 2M to a level": (DPM, {"final_sigmas_type": "sigma_min"}),
    "DPM++ 2M to a level, few steps": (DPM, {"final_sigmas_type": "sigma_min", "lower_order_final": False}),
    "DPM++ 2M, Euler at the end": (
        DPM,
        {"final_sigmas_type": "sigma_min", "lower_order_final": False, "euler_at_final": True},
    ),
    "DPM++ 2M Karras v": (DPM, {"use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    "DPM++ 2M flow": (DPM, {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}),
}
"""Name -> scheduler, and its settings."""
STEPS = 10


@pytest.mark.parametrize("name", list(KNOWN))
def test_a_step_goes_along_the_pictures(name: str) -> None:
    kind, config = KNOWN[name]
    scheduler = made(kind, config)
    scheduler.set_timesteps(STEPS)
    times = tuple(float(t) for t in scheduler.timesteps)
    run = horizon_of(scheduler, times)
    levels, slopes = run.levels, run.slopes or (0.0,) * STEPS
    assert len(levels) == STEPS + 1 and list(levels) == sorted(levels, reverse=True)
    assert bool(run.slopes) is (kind == DPM) and (not run.slopes or max(run.slopes) > 0.1)
    x, karras = tiny.noise(1, 4, 4, 4).double(), kind == "EulerDiscreteScheduler"
    x = x * scheduler.init_noise_sigma if karras else x
    before = torch.zeros_like(x)
    for step, t in enumerate(scheduler.timesteps):
        noise, output = noise_at(scheduler, times[step]), tiny.noise(1, 4, 4, 4, seed=step).double()
        if is_flow(scheduler) and levels[step] < float("inf"):  # timesteps may be rounded
            noise = Noise.of_flow(levels[step] / (1 + levels[step]))
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        after = scheduler.step(output, t, x, return_dict=False)[0]
        if 0 < levels[step] < float("inf"):
            space = noise.affine("eps") or RAW
            picture = given / noise.alpha - levels[step] * (space.x * given + space.o * output)
            kept = levels[step + 1] / levels[step]
            reached = kept * given / noise.alpha + (1 - kept) * (picture + slopes[step] * (picture - before))
            found = after if karras else after / alpha_of(levels[step + 1], is_flow(scheduler))
            assert torch.allclose(found.double(), reached, rtol=2e-3, atol=2e-3 * float(reached.abs().max())), step
            before = picture
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
        (DPM, {"solver_order": 3}),
        (DPM, {"solver_type": "heun"}),
        (DPM, {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
        (DPM, {"algorithm_type": "sde-dpmsolver++"}),
        (DPM, {"thresholding": True}),
        ("UniPCMultistepScheduler", {}),
        ("EulerAncestralDiscreteScheduler", {}),
        ("HeunDiscreteScheduler", {}),
        ("FlowMatchEulerDiscreteScheduler", {"stochastic_sampling": True}),
    ],
)
def test_other_samplers_have_none(kind: str, config: dict[str, Any]) -> None:
    scheduler = made(kind, config)
    scheduler.set_timesteps(STEPS)
    run = horizon_of(scheduler, tuple(float(t) for t in scheduler.timesteps))
    assert run.levels == () and run.slopes == ()
