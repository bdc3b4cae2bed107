"""The guard and the recording: a run unlike the profile gets more calls, and a dense run leaves a profile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from toy_denoiser import ToyDenoiser

from skipstone.core.calibrate.profiling import closed_loop, dense, profile, with_plans
from skipstone.core.engine.call import Call
from skipstone.core.engine.call_guard import CallGuard
from skipstone.core.engine.call_skipping import CallSkipping
from skipstone.core.engine.clock import Stream, Tick
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.meter import Meter
from skipstone.core.engine.report import Report
from skipstone.core.forecast.profile import HeldOut, Profile
from skipstone.core.plan.call_choice import Choice
from skipstone.core.plan.call_plan import CallPlan, even_keys
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.auto import Auto
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Method, Recipe
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.denoiser import denoiser_of

KEYS = even_keys(12, 5)


@pytest.mark.parametrize(("error", "added"), [(1.24, 0), (1.26, 1)])
def test_a_step_is_added_from_a_quarter_above_the_bound_on(error: float, added: int) -> None:
    plan = CallPlan(CallSkip(keys=(0, 4, 11)), Horizon(ToyDenoiser().timesteps))
    guard = CallGuard({4: 0.1}, plan, Meter())
    for _ in range(2):
        guard.compare(4, torch.tensor([[1 + 0.1 * error]]), torch.tensor([[1.0]]))
    assert plan.keys is not None and len(plan.keys) == 3 + added


def draw(denoiser: ToyDenoiser, auto: Auto | CallSkip) -> tuple[torch.Tensor, Report]:
    """Final latents and report of a run."""
    engine, at = Engine(denoiser.network, Recipe.of([auto])), denoiser.begin([7])
    engine.begin(denoiser.timesteps)
    for number, t in enumerate(denoiser.timesteps):
        call = Call(t, (4, 4), (Stream("cond", 1),), input=at.x, noise=denoiser.noise(number))
        output = engine.forward(lambda call=call: call, lambda at=at, n=number: denoiser.predict(at, n))
        at = denoiser.advance(at, output, number)
    return at.x, engine.end()


def saved(folder: Path, bound: float) -> Auto:
    """Auto with a profile whose runs stayed under `bound` in one call."""
    held = HeldOut(KEYS, "eps", "line", (0.1,) * 19, (bound,) * 4, "even")
    with_plans(profile(ToyDenoiser(), range(2)), [held]).save(folder / "toy.safetensors")  # type: ignore[arg-type]
    return Auto(speedup=12 / 5, profile=str(folder / "toy.safetensors"))


def test_a_run_like_the_profile_runs_as_planned_and_is_promised_an_error(tmp_path: Path) -> None:
    denoiser = ToyDenoiser()
    auto = saved(tmp_path, bound=10.0)
    denoiser.network.calls = 0
    _, report = draw(denoiser, auto)
    assert denoiser.network.calls == report.calls_run == 5 and report.calls == 12
    assert report.estimated_error == 0.1
    assert "estimated error 0.100: 90% of pictures stay under it by this profile" in report.lines()
    _, within = draw(denoiser, replace(auto, speedup=1.0, max_error=0.2))
    assert within.calls_run == 5 and within.error_text == "estimated error 0.100 of 0.200"


def test_a_run_unlike_the_profile_gets_more_calls_and_no_promise(tmp_path: Path) -> None:
    denoiser, auto = ToyDenoiser(), saved(tmp_path, bound=1e-6)
    _, report = draw(denoiser, auto)
    assert report.calls_run > 5 and report.estimated_error is None
    assert any(note.startswith("unlike the profile at step") for note in report.notes)
    assert set(KEYS) <= set(report.chosen["keys"]), "calls are added, none is taken away"


def test_a_run_that_leaves_its_calls_is_promised_nothing(tmp_path: Path) -> None:
    denoiser, auto = ToyDenoiser(), saved(tmp_path, bound=10.0)
    engine, at = Engine(denoiser.network, Recipe.of([auto])), denoiser.begin([7])
    engine.begin(denoiser.timesteps)
    for t in (*denoiser.timesteps[:3], 300.0):
        call = Call(t, (4, 4), (Stream("cond", 1),), input=at.x, noise=denoiser.noise(0))
        engine.forward(lambda call=call: call, lambda: denoiser.predict(at, 0))
    assert engine.end().estimated_error is None


@pytest.mark.parametrize("unlike", [(), ("cond",), ("uncond",), ("cond", "uncond")], ids=str)
def test_the_guard_sees_each_forward_of_a_call(unlike: tuple[str, ...]) -> None:
    """A host that runs the conds of a call one after the other. Steps 0, 1 and 4 run; a line is exact where it is straight."""
    times, x, meter = tuple(900.0 - 100 * t for t in range(9)), torch.ones(1, 4, 4, 4), Meter()
    choice = Choice(CallSkip(keys=(0, 1, 4, 8), space="raw"), bounds={4: 0.01})
    run, ran = CallSkipping(choice, Horizon(times), meter), []
    for step, t in enumerate(times):
        for cond in ("cond", "uncond"):
            if run.begin(Tick(step, new=cond == "cond"), Call(t, (4, 4), (Stream(cond, 1),), input=x)):
                ran.append((step, cond))
                run.keep((10 + step + step**2 * (cond in unlike)) * x)
            else:
                run.forecast()
    added = [6] if unlike else []
    assert ran == [(step, cond) for step in sorted([0, 1, 4, 8, *added]) for cond in ("cond", "uncond")]
    assert run.surprises[4] == pytest.approx(12 / 30 if unlike else 0, abs=1e-6)


def test_without_the_guard_it_runs_as_planned(tmp_path: Path) -> None:
    _, report = draw(ToyDenoiser(), replace(saved(tmp_path, bound=1e-6), guard=False))
    assert report.calls_run == 5 and report.estimated_error == 0.1


def test_one_call_errors_are_those_of_the_forecast_that_was_not_needed() -> None:
    denoiser = ToyDenoiser()
    _, surprises = closed_loop(denoiser, [7], CallSkip(keys=(0, 1, 3), space="raw"))  # type: ignore[arg-type]
    at, outputs = denoiser.begin([7]), []
    for call in range(4):
        output = denoiser.predict(at, call) if call != 2 else 2 * outputs[1] - outputs[0]
        outputs.append(output)
        at = denoiser.advance(at, output, call)
    times = denoiser.timesteps
    ahead = (times[1] - times[3]) / (times[0] - times[1])
    line = outputs[1] + ahead * (outputs[1] - outputs[0])
    wanted = float((line - outputs[3]).norm() / outputs[3].norm())
    assert surprises[3] == pytest.approx(wanted, rel=1e-3) and list(surprises) == [3]


def test_a_dense_run_is_recorded_and_the_next_one_uses_it(tmp_path: Path) -> None:
    denoiser, auto = ToyDenoiser(), Auto(speedup=2.0, profile=str(tmp_path / "own.safetensors"), record=True)
    final, first = draw(denoiser, auto)
    assert torch.equal(final, dense(denoiser, [7])[0]), "the recorded picture is the dense one"  # type: ignore[arg-type]
    assert first.calls_forecast == 0 and "recorded a profile of 12 steps: the next pictures use it" in first.notes
    known = Profile.load(tmp_path / "own.safetensors")
    assert known.gram == pytest.approx(profile(denoiser, [7]).gram, rel=1e-3)  # type: ignore[arg-type]
    _, second = draw(denoiser, auto)
    assert second.calls_forecast > 0 and second.estimated_error is None


def test_a_cancelled_recording_writes_nothing(tmp_path: Path) -> None:
    denoiser, path = ToyDenoiser(), tmp_path / "own.safetensors"
    engine, at = Engine(denoiser.network, Recipe.of([Auto(profile=str(path), record=True)])), denoiser.begin([7])
    engine.begin(denoiser.timesteps)
    call = Call(denoiser.timesteps[0], (4, 4), (Stream("cond", 1),), input=at.x, noise=denoiser.noise(0))
    engine.forward(lambda: call, lambda: denoiser.predict(at, 0))
    report = engine.end()
    assert not path.exists() and any("no profile was recorded" in note for note in report.notes)


@torch.no_grad()
def test_what_auto_adds_acts_at_the_calls_that_run_and_is_part_of_the_chosen_recipe(tmp_path: Path) -> None:
    """A profile of a DiT says that 6 of 10 calls with half of the blocks are better than 5 of them alone."""
    pipe = tiny.dit_pipeline()
    skip = BlockSkip(rule="interval", every=2)
    joint = HeldOut(even_keys(10, 6), "eps", "line", (0.1,) * 19, beside=tuple(Recipe.of([skip]).plain()), share=0.4)
    denoiser = denoiser_of(pipe, 10, guidance=1.0)
    with_plans(profile(denoiser, range(1)), [joint]).save(file := tmp_path / "dit.safetensors")

    def draw(*methods: Method) -> tuple[torch.Tensor, Report, Recipe | None]:
        with accelerate(pipe, Recipe.of(methods)) as handle:
            pictures = pipe(
                [1], num_inference_steps=10, guidance_scale=1.0, generator=torch.manual_seed(0), output_type="pt"
            )
            return pictures.images, handle.report(), handle.chosen()

    auto = Auto(speedup=2.5, profile=str(file))
    picture, report, chosen = draw(auto)
    assert (report.calls_run, report.calls_forecast) == (6, 4) and report.estimated_error == 0.1
    assert report.blocks_reused > 0 and report.blocks_run + report.blocks_reused <= report.blocks
    assert chosen is not None and chosen.skip == skip and chosen.calls.keys == joint.keys
    assert torch.equal(draw(*chosen.methods)[0], picture)
    own = draw(auto, BlockSkip(rule="interval", every=3))[1]
    assert own.calls_run == 4, "beside a method of the user's, calls alone"
