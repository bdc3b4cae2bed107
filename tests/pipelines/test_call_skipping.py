"""Call skipping in diffusers: schedulers, image to image, several pipelines on one network, and diffusers' own caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from diffusers import FirstBlockCacheConfig
from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context

from pipelines import Running, flux, qwen_image, sd3, text_to_image, wan
from skipstone.core.engine.session import Session
from skipstone.core.errors import ModelError, RecipeError
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.apply import SkipstoneCacheConfig, apply_skipstone
from skipstone.pipelines.time_unit import UNITS, place_of

STEPS = 10
EPS, X0, RAW, CORRECTED = "line on eps", "line on x0", "line on raw", "corrected line on eps"
DISTILLED = "this sampler draws with distilled models, in steps too large to forecast: use token merging"
FORECAST: dict[str, tuple[int, int, str]] = {
    "DDIMScheduler": (10, 5, CORRECTED),
    "DDIMParallelScheduler": (10, 5, EPS),
    "DDPMScheduler": (10, 5, X0),
    "DDPMParallelScheduler": (10, 5, X0),
    "DEISMultistepScheduler": (10, 5, EPS),
    "DPMSolverMultistepScheduler": (10, 5, CORRECTED),
    "DPMSolverMultistepScheduler algorithm_type=sde-dpmsolver++": (10, 5, X0),
    "DPMSolverMultistepScheduler use_karras_sigmas=True": (10, 5, CORRECTED),
    "DPMSolverMultistepScheduler prediction_type=v_prediction": (10, 5, CORRECTED),
    "DPMSolverSDEScheduler": (19, 9, X0),
    "DPMSolverSinglestepScheduler": (10, 5, EPS),
    "EDMDPMSolverMultistepScheduler": (10, 5, RAW),
    "EDMEulerScheduler": (10, 5, RAW),
    "EulerAncestralDiscreteScheduler": (10, 5, X0),
    "EulerDiscreteScheduler": (10, 5, CORRECTED),
    "EulerDiscreteScheduler prediction_type=sample": (10, 5, CORRECTED),
    "FlowMatchEulerDiscreteScheduler": (10, 5, CORRECTED),
    "FlowMatchEulerDiscreteScheduler stochastic_sampling=True": (10, 5, X0),
    "FlowMatchHeunDiscreteScheduler": (19, 9, EPS),
    "HeunDiscreteScheduler": (19, 9, EPS),
    "IPNDMScheduler": (10, 5, RAW),
    "KDPM2AncestralDiscreteScheduler": (19, 9, X0),
    "KDPM2DiscreteScheduler": (19, 9, EPS),
    "LMSDiscreteScheduler": (10, 5, EPS),
    "PNDMScheduler": (11, 6, EPS),  # the second step is evaluated twice
    "SASolverScheduler": (10, 5, X0),
    "UniPCMultistepScheduler": (10, 5, EPS),
    "UniPCMultistepScheduler use_flow_sigmas=True prediction_type=flow_prediction": (10, 5, EPS),
}
"""Scheduler, with its settings -> calls of ten steps, those that run at 2x, and what is forecast."""
DECLINED = ("FlowMatchLCMScheduler", "LCMScheduler", "TCDScheduler")
"""Schedulers of distilled models."""


@cache
def once(build: Callable[[], Running]) -> Running:
    """A pipeline for all schedulers."""
    return build()


def drawn(scheduler: str, recipe: Any) -> tuple[torch.Tensor, Any]:
    """A picture of ten steps, and the report."""
    name, *settings = scheduler.split()
    config = {k: v == "True" if v == "True" else v for k, v in (s.split("=") for s in settings)}
    try:
        made = tiny.make_scheduler(name, **config)
    except ImportError as missing:
        pytest.skip(" ".join(str(missing).split()))
    running = once(sd3 if name.startswith("FlowMatch") else text_to_image)
    running.pipe.scheduler = made
    with torch.random.fork_rng(), accelerate(running.pipe, recipe) as handle:
        torch.manual_seed(0)  # not all pipelines give their sampler a generator
        return running(STEPS), handle.report()


@pytest.mark.parametrize("scheduler", FORECAST)
def test_this_scheduler_is_forecast(scheduler: str) -> None:
    calls, ran, how = FORECAST[scheduler]
    picture, report = drawn(scheduler, "2x")
    assert (report.calls, report.calls_run, report.forecast_as) == (calls, ran, how), report.lines()
    assert report.planned and not report.declined and picture.isfinite().all()


@pytest.mark.parametrize("scheduler", [name for name, told in FORECAST.items() if told[2] == CORRECTED])
def test_what_a_line_missed_is_put_right_in_the_picture(scheduler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    line, own = (drawn(scheduler, CallSkip(speedup=1.5, predictor=name))[0] for name in ("line", "auto"))
    assert not torch.equal(line, own) and (line - own).norm() < 0.5 * line.norm()
    leave = Session.leave
    monkeypatch.setattr(Session, "leave", lambda self, output=None: [leave(self, output), None][1])
    kept_back, _ = drawn(scheduler, CallSkip(speedup=1.5))
    assert not torch.equal(kept_back, own)  # it is the sampler that gets it


@pytest.mark.parametrize("scheduler", DECLINED)
def test_this_scheduler_is_declined(scheduler: str) -> None:
    picture, report = drawn(scheduler, "2x")
    assert report.declined == {DISTILLED: ["call skipping"]} and report.calls_forecast == 0
    assert torch.equal(picture, drawn(scheduler, Recipe())[0])
    assert drawn(scheduler, CallSkip(calls=5))[1].calls_run == 5


def test_every_scheduler_that_fits_stable_diffusion_is_in_one_of_the_tables() -> None:
    known = {key.split()[0] for key in FORECAST} | set(DECLINED)
    assert {kind.__name__ for kind in tiny.sd_pipeline().scheduler.compatibles} <= known


@pytest.mark.parametrize("speedup", ["2x", "1.8x", 3.0])
def test_a_number_is_enough(speedup: Any) -> None:
    pipe, factor = tiny.sd_pipeline(), float(str(speedup).rstrip("x"))
    with accelerate(pipe, speedup if isinstance(speedup, str) else CallSkip(speedup=speedup)) as handle:
        tiny.run_sd(pipe, 20)
        assert handle.report().calls_run == round(20 / factor)


@pytest.mark.parametrize("strength", [0.5, 0.9])
def test_image_to_image_skips_among_the_steps_that_it_draws(strength: float) -> None:
    pipe = tiny.sd_pipeline("DPMSolverMultistepScheduler", image_to_image=True)
    with accelerate(pipe, CallSkip(every=2)) as handle:
        tiny.run_sd(pipe, 20, image=tiny.smooth(1, 4, 16, 16), strength=strength)
        report = handle.report()
    assert report.planned and report.calls == 20 * strength and report.calls_run == report.calls // 2 + 1


def test_other_sizes_and_batches_one_after_the_other_are_runs_of_their_own() -> None:
    pipe = tiny.sd_pipeline()
    with accelerate(pipe, "2x") as handle:
        first = tiny.run_sd(pipe, STEPS)
        for options in ({"height": 64, "width": 192}, {"batch": 3}, {"guidance_scale": 1.0}):
            tiny.run_sd(pipe, STEPS, **options)
            assert handle.report().calls_run == 5
        assert torch.equal(tiny.run_sd(pipe, STEPS), first)


def test_guidance_that_ends_in_mid_run_makes_its_next_call_full() -> None:
    """Then the batch has half the rows, whose conds are other streams."""
    pipe = tiny.sd_pipeline()

    def end(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 4:
            pipe._guidance_scale, tensors["prompt_embeds"] = 1.0, tensors["prompt_embeds"][-1:]
        return tensors

    with accelerate(pipe, CallSkip(every=2)) as handle:
        inputs = {"callback_on_step_end": end, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}
        picture = tiny.run_sd(pipe, STEPS, **inputs)
        report = handle.report()
    assert picture.isfinite().all() and report.calls == STEPS and 5 < report.calls_run < 9


def test_cancelled_in_mid_run_the_next_picture_is_right() -> None:
    pipe = tiny.sd_pipeline()

    def cancel(*args: Any) -> Any:
        raise KeyboardInterrupt

    with accelerate(pipe, "2x") as handle:
        first = tiny.run_sd(pipe, STEPS)
        hook = pipe.unet.conv_in.register_forward_pre_hook(cancel)
        with pytest.raises(KeyboardInterrupt):
            tiny.run_sd(pipe, STEPS)
        hook.remove()
        assert torch.equal(tiny.run_sd(pipe, STEPS), first) and handle.report().calls_run == 5


def test_a_second_pipeline_on_the_same_network_is_skipped_step_by_step() -> None:
    pipe, other = tiny.sd_pipeline(), tiny.sd_pipeline("EulerDiscreteScheduler")
    other.unet = pipe.unet
    with accelerate(pipe, "2x") as handle:
        first = tiny.run_sd(pipe, STEPS)
        assert tiny.run_sd(other, STEPS).isfinite().all()
        report = handle.report()
        assert (report.calls, report.calls_run, report.planned) == (STEPS, 5, False)
        assert torch.equal(tiny.run_sd(pipe, STEPS), first) and handle.report().planned


def test_the_time_unit_of_an_unknown_network_follows_from_where_the_scheduler_stands() -> None:
    timesteps = [1000.0 - 20 * k for k in range(50)]
    for unit in UNITS:
        for place in (0, 10, 20, 30, 40, 49):
            t = timesteps[place]
            argument = t / unit.scale if not unit.rising else 1 - t / 1000
            for rounded in (argument, float(torch.tensor(argument).bfloat16())):
                assert place_of(rounded, UNITS, timesteps, place, slack=3.0) == (place, unit)
    assert place_of(0.5, UNITS, timesteps, None, slack=3.0) == (25, UNITS[1])
    assert place_of(7000.0, UNITS, timesteps, 0, slack=3.0) is None


def test_a_bare_network_of_any_time_unit_is_one_run() -> None:
    class Velocity(torch.nn.Module):
        def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            seen.append(float(timestep))
            return hidden_states

    for first, last in ((1000.0, 100.0), (1.0, 0.1), (0.0, 0.9)):
        network, seen = Velocity(), []
        with accelerate(network, CallSkip(every=2)) as handle:
            for _ in range(2):
                for t in torch.linspace(first, last, STEPS):
                    network(torch.ones(1, 4, 8, 8), timestep=t)
                assert handle.report().calls == STEPS
        assert len(seen) == 2 * 5


# diffusers' caches


@pytest.mark.parametrize("named", [True, False])
def test_names_of_the_cache_context_tell_cond_from_uncond(named: bool) -> None:
    """In any order, where texts are encoded afresh at each step: without names, the places of both are taken for their conds."""

    class Network(torch.nn.Module):
        @contextmanager
        def cache_context(self, name: str) -> Iterator[None]:
            yield

        def forward(self, x: torch.Tensor, timestep: float, context: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x) + context.mean()

    network, wrong = Network(), 0
    before = tiny.snapshot(network)
    with accelerate(network, CallSkip(every=2)) as handle:
        handle.begin([900.0 - 100 * k for k in range(8)])
        for k in range(8):
            for name in ("cond", "uncond") if k % 3 else ("uncond", "cond"):
                text = torch.full((1, 3, 8), float(len(name)))
                with network.cache_context(name) if named else nullcontext():
                    wrong += not torch.equal(
                        network(torch.ones(1, 4, 8, 8), 900.0 - 100 * k, text).unique(), text.unique()
                    )
        assert handle.end().calls_forecast == 3
    assert (wrong == 0) is named
    assert tiny.snapshot(network) == before


def test_a_cache_of_diffusers_that_is_enabled_is_refused_before_and_declined_in_a_run() -> None:
    running = flux()
    dense = running()
    with accelerate(running.pipe, CallSkip(every=2)) as handle:
        running.network.enable_cache(FirstBlockCacheConfig(threshold=0.0))
        assert running().isfinite().all()
        (reason,) = handle.report().declined
        assert handle.report().calls_forecast == 0
    for refused in (lambda: accelerate(running.pipe, "2x"), lambda: apply_skipstone(running.network)):
        with pytest.raises(
            ModelError, match=r"cache of diffusers enabled \(FirstBlockCacheConfig\): call its disable"
        ) as no:
            refused()
        assert str(no.value) == reason and len(reason) < 300 and "\n" not in reason
    running.network.disable_cache()
    assert torch.equal(running(), dense)


def test_apply_skipstone_skips_by_the_names_and_steps_that_the_pipeline_states() -> None:
    running = wan()
    dense, before = running(), tiny.snapshot(running.network)
    handle = apply_skipstone(running.network, SkipstoneCacheConfig(CallSkip(every=2)))
    picture, report = running(), handle.report()
    assert (report.calls, report.calls_run, report.forecast_as) == (5, 3, "line on eps")
    assert 0 < (picture - dense).norm() < 0.5 * dense.norm()
    assert torch.equal(running(), picture)
    registry = HookRegistry.check_if_exists_or_initialize(running.network)
    registry.remove_hook("skipstone_cache")
    assert torch.equal(running(), dense) and tiny.snapshot(running.network) == before


def test_its_state_ends_with_reset_and_it_replaces_itself() -> None:
    network = qwen_image().network
    apply_skipstone(network, SkipstoneCacheConfig("2x"))
    handle = apply_skipstone(network, SkipstoneCacheConfig(CallSkip(calls=2), num_inference_steps=4))
    forward = {"encoder_hidden_states": torch.zeros(1, 7, 8), "img_shapes": [[(1, 2, 2)]]}
    for _ in range(2):
        with torch.no_grad():
            for t in (1.0, 0.75, 0.5, 0.25):
                for name in ("cond", "uncond"):
                    with network.cache_context(name):
                        network(hidden_states=torch.ones(1, 4, 16), timestep=torch.tensor([t]), **forward)
        assert (handle.report().calls, handle.report().calls_run) == (4, 2)
        network._reset_stateful_cache()
        assert handle.engine.running is None
    handle.remove()
    assert not tiny.overridden(network) or list(HookRegistry.check_if_exists_or_initialize(network).hooks)


def test_a_network_without_cache_contexts_takes_them_through_the_registry() -> None:
    case = tiny.dit()
    handle = apply_skipstone(case.model, SkipstoneCacheConfig(CallSkip(calls=3), num_inference_steps=5))
    for step in range(5):
        _set_cache_context(case.model, CacheContext("cond", step_index=step))
        case(case.latent(), 900.0 - 200 * step, case.cond())
        _set_cache_context(case.model, None)
    assert handle.report().calls_run == 3
    HookRegistry.check_if_exists_or_initialize(case.model).remove_hook("skipstone_cache")
    assert not tiny.overridden(case.model)


def test_any_recipe_may_be_applied_and_a_bad_one_changes_nothing() -> None:
    case = tiny.dit()
    before = tiny.snapshot(case.model)
    with pytest.raises(RecipeError):
        apply_skipstone(case.model, SkipstoneCacheConfig("no such preset"))
    assert tiny.snapshot(case.model) == before
    handle = apply_skipstone(case.model, SkipstoneCacheConfig(TokenMerge(threshold=-1.0, bucket=1)))
    case(case.latent(), 900.0, case.cond())
    assert handle.report().merged_share > 0
