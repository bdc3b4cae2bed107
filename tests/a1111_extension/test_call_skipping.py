"""Call skipping in the web UI: the announced calls reach the U-Net, whatever the host does around it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from doubles import a1111
from doubles.a1111_controlnet import ControlNet
from doubles.a1111_jobs import args_of, dense_now, fresh, job_of, refused, runs
from torch import Tensor, nn

from skipstone.a1111_extension.bracket import UNetBracket
from skipstone.a1111_extension.host import Step
from skipstone.a1111_extension.infotext import BLOCKS_RUN, CALLS_RUN, REFUSED
from skipstone.core.models import recognise
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe

pytest_plugins = ["doubles.a1111_fixtures"]

STEPS = 12
TIMES = tuple(999.0 - 90.5 * k for k in range(STEPS))
TWICE = args_of(threshold=1.0, calls_speedup=2.0, warmup=2)


class Straight(nn.Module):
    """A network whose noise follows a straight line over the run, so that a forecast of it is exact at the right levels.

    It returns what the job's model predicts: that noise, or the velocity which follows from it and the input. rows: of its
    calls. Forge's rounds its timestep, and finds the level in sigma.
    """

    def __init__(self, predicts: str = "eps") -> None:
        super().__init__()
        self.rows: list[int] = []
        self.predicts, self.time = predicts, 0.0
        self.pattern = nn.Parameter(tiny.noise(1, 4, 16, 16), requires_grad=False)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, **options: Any) -> Tensor:
        self.rows.append(len(x))
        t, words = timesteps.view(-1, 1, 1, 1) / 1000, context.mean((1, 2)).view(-1, 1, 1, 1)
        pattern = self.pattern.repeat(1, 1, x.shape[2] // 16, x.shape[3] // 16)
        noise = pattern * (1 - 2 * t) + 5 * words * t
        share = picture_share(float(timesteps[0]))
        return (noise - (1 - share) ** 0.5 * x) / share**0.5 if self.predicts == "v" else noise


def picture_share(t: float) -> float:
    """The share of the picture at a timestep, with the logarithm of sigma linear between the timesteps."""
    shares = a1111.SHARES.double()
    logs = ((1 - shares) / shares).sqrt().log()
    low = int(t)
    log = torch.lerp(logs[low], logs[min(low + 1, 999)], t - low)
    return float(1 / (1 + (2 * log).exp()))


@pytest.fixture
def job() -> Iterator[a1111.Job]:
    """A picture of twelve steps; nothing of it may be left on the network."""
    yield (job := straight())
    assert list(a1111.traces(job.unet)) == []


@pytest.fixture
def unet_job(models: tuple[tiny.Case, tiny.Case]) -> Iterator[a1111.Job]:
    """The same with a U-Net of random weights, for what needs its blocks."""
    yield job_of(models[0], timesteps=TIMES)
    assert list(a1111.traces(models[0].model)) == []


def straight(predicts: str = "eps", **options: Any) -> a1111.Job:
    conds = [torch.full((1, 3, 8), value) for value in (0.2, -0.1)]
    return a1111.Job(
        Straight(predicts), tiny.noise(1, 4, 16, 16), *conds, timesteps=TIMES, predicts=predicts, **options
    )


def rows_of(job: a1111.Job) -> list[int]:
    """The rows of each call that reached the network."""
    return job.unet.rows


@contextmanager
def counted(unet: nn.Module) -> Iterator[list[int]]:
    """Rows of each real pass through a U-Net's middle block."""
    inner, seen = unet.middle_block[0].in_layers[2], []
    forward = inner.forward

    def count(x: Tensor) -> Tensor:
        seen.append(len(x))
        return forward(x)

    inner.forward = count
    try:
        yield seen
    finally:
        del inner.forward


def plain(host: a1111.Host, job: a1111.Job) -> Tensor:
    """The dense picture, whose calls do not count."""
    before = len(rows_of(job))
    picture = dense_now(host, job)
    del rows_of(job)[before:]
    return picture


# -- the calls that run --


@pytest.mark.parametrize("forge", [False, True], ids=["A1111", "Forge"])
@pytest.mark.parametrize("layout", [a1111.batched, a1111.split])
@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_half_the_calls_reach_the_network_and_the_picture_stays(
    host: a1111.Host, layout: Any, forge: bool, predicts: str
) -> None:
    job, host.calls = straight(predicts, forge=forge), layout
    on = host.process_images(host.script(), job, *TWICE)
    assert rows_of(job) == ([2] * 6 if layout is a1111.batched else [1] * 12)
    assert torch.allclose(on, plain(host, job), atol=1e-4)
    assert job.extra_generation_params[CALLS_RUN] == "50%" and REFUSED not in job.extra_generation_params
    assert any("ran 6 of 12 calls, forecast 6 (corrected line on eps)" in text for text in job.comments)
    assert list(a1111.traces(job.unet)) == []


@pytest.mark.parametrize("layout", [a1111.batched, a1111.split])
@pytest.mark.parametrize(("sampler", "corrects"), [("Euler", True), ("DDIM", True), ("DPM++ 2M", True), ("LMS", False)])
def test_what_a_line_missed_is_put_right(
    host: a1111.Host,
    unet_job: a1111.Job,
    sampler: str,
    corrects: bool,
    layout: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job, host.calls = fresh(unet_job, sampler_name=sampler), layout
    line, own = (
        host.process_images(host.script(), job, *args_of(threshold=1.0, calls_speedup=1.5, predictor=name))
        for name in ("line", "auto")
    )
    assert torch.equal(line, own) is not corrects
    assert runs(host)[0].report.forecast_as == f"{'corrected ' * corrects}line on eps"
    session = sys.modules["_skipstone_webui.core.engine.session"].Session
    leave = session.leave
    monkeypatch.setattr(session, "leave", lambda self, output=None: [leave(self, output), None][1])
    kept_back = host.process_images(host.script(), job, *args_of(threshold=1.0, calls_speedup=1.5))
    assert torch.equal(kept_back, own) is not corrects  # it is the sampler that gets it


@pytest.mark.parametrize(("sampler", "continues"), [("Euler", False), ("DDIM", False), ("DPM++ 2M", True)])
def test_the_slopes_of_a_sampler_that_continues_pictures_are_known(
    host: a1111.Host, unet_job: a1111.Job, sampler: str, continues: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the sigmas in which k-diffusion steps, also those of flow models."""
    horizons: list[Any] = []
    engine = sys.modules["_skipstone_webui.core.engine.engine"].Engine
    start = engine.start
    monkeypatch.setattr(engine, "start", lambda self, horizon: [horizons.append(horizon), start(self, horizon)][1])
    host.process_images(host.script(), fresh(unet_job, sampler_name=sampler), *TWICE)
    (run,) = [horizon for horizon in horizons if horizon.levels]
    assert len(run.levels) == STEPS + 1
    assert len(run.slopes) == (STEPS if continues else 0) and (not continues or max(run.slopes) > 0.3)


@pytest.mark.parametrize("predicts", ["eps", "v"])
def test_the_samplers_of_timesteps_have_the_same_levels(host: a1111.Host, predicts: str) -> None:
    job = straight(predicts, sampler_name="DDIM")
    on = host.process_images(host.script(), job, *TWICE)
    assert rows_of(job) == [2] * 6 and torch.allclose(on, plain(host, job), atol=1e-4)


def test_a_speedup_of_one_touches_nothing(host: a1111.Host, job: a1111.Job) -> None:
    seen: list[bool] = []
    host.on_step = lambda job, step: seen.append("forward" in job.unet.__dict__)
    on = host.process_images(host.script(), job, *args_of(threshold=1.0, calls_speedup=1.0))
    assert torch.equal(on, plain(host, job)) and not any(seen) and CALLS_RUN not in job.extra_generation_params


def test_every_step_announced_is_bit_identical(host: a1111.Host, job: a1111.Job) -> None:
    on = host.process_images(host.script(), job, *args_of(threshold=1.0, calls=STEPS))
    assert torch.equal(on, plain(host, job))


def test_blocks_and_tokens_act_in_the_calls_that_run(host: a1111.Host, unet_job: a1111.Job) -> None:
    job = unet_job
    with counted(job.unet) as seen:
        host.process_images(host.script(), job, *args_of(threshold=0.0, calls_speedup=2.0, rule="interval", every=3))
    report, blocks = runs(host)[0].report, len(recognise(job.unet).graph(job.unet).blocks)
    assert report.calls_run == 6 and report.blocks == 6 * blocks and report.blocks_run == 2 * blocks
    assert report.merged_share > 0 and len(seen) == 2
    assert (job.extra_generation_params[CALLS_RUN], job.extra_generation_params[BLOCKS_RUN]) == ("50%", "33%")


def test_the_last_step_runs_where_the_host_counts_one_too_many(host: a1111.Host, job: a1111.Job) -> None:
    """DDIM makes 19 calls for 20 steps: by the host's count, the last of them would be forecast."""
    job, before = fresh(job, sampler_name="DDIM", counted=STEPS + 1), []
    host.on_step = lambda job, step: before.append(len(rows_of(job)))
    host.process_images(host.script(), job, *TWICE)
    assert len(rows_of(job)) == 6 and len(before) == STEPS and before[-1] == 5


def test_both_passes_of_a_hires_fix_skip_calls_of_their_own(host: a1111.Host, job: a1111.Job) -> None:
    job = fresh(job, enable_hr=True)
    on = host.process_images(host.script(), job, *TWICE)
    assert rows_of(job) == [2] * 12 and torch.allclose(on, plain(host, job), atol=1e-4)
    assert job.extra_generation_params[CALLS_RUN] == "50% / 50%"


def test_all_evaluations_of_a_step_follow_it_and_are_counted() -> None:
    """Heun evaluates a noise level twice, in two steps: as the second stage of one and the first of the next."""
    network = Straight()
    bracket = UNetBracket(network, Recipe.of([CallSkip(calls=6)]))
    for number, t in enumerate(TIMES):
        bracket.new_step(Step(number, STEPS, number == STEPS - 1), conds=1)
        for at in (t, *TIMES[number + 1 : number + 2]):
            network(tiny.noise(1, 4, 16, 16), timesteps=torch.full((1,), at), context=torch.ones(1, 3, 8))
    report = bracket.end()
    assert report.calls == 23 and report.calls_run == len(network.rows) == 12


# -- streams --


def test_a_call_in_which_the_unconds_enter_is_a_full_one(host: a1111.Host, job: a1111.Job) -> None:
    """Skip Early CFG: no unconds in the first five steps. They are forecast only from two values of their own."""
    host.calls = lambda step, conds: [conds] if step < 5 else [2 * conds]
    on = host.process_images(host.script(), job, *args_of(threshold=1.0, keys="0 1 4 11"))
    assert rows_of(job) == [1, 1, 1, 2, 2, 2] and torch.allclose(on, plain(host, job), atol=1e-4)


@pytest.mark.parametrize("layout", ["batched", "split"])
def test_unconds_left_out_of_every_other_step_are_forecast_from_their_own_values(
    host: a1111.Host, job: a1111.Job, layout: str
) -> None:
    """NGMS."""
    both = [2] if layout == "batched" else [1, 1]
    host.calls = lambda step, conds: [1] if step > 5 and step % 2 else both
    on = host.process_images(host.script(), job, *TWICE)
    assert sum(rows_of(job)) < 21 - 6 and torch.allclose(on, plain(host, job), atol=1e-4)


def test_a_call_of_another_job_is_neither_skipped_nor_remembered(host: a1111.Host, job: a1111.Job) -> None:
    other, rows = fresh(job), []

    def nested(now: a1111.Job, step: int) -> None:
        if step in (3, 6):
            before = len(rows_of(job))
            host._denoise(other, 5 * job.latent, 300.0, 0)
            rows.append(len(rows_of(job)) - before)

    host.on_step = nested
    on = host.process_images(host.script(), job, *TWICE)
    host.on_step = lambda job, step: None
    assert rows == [1, 1] and len(rows_of(job)) == 8 and torch.allclose(on, plain(host, job), atol=1e-4)


# -- models --


def test_a_model_loaded_in_mid_run_is_forecast_from_its_own_values(host: a1111.Host, job: a1111.Job) -> None:
    refiner = Straight()
    refiner.pattern.mul_(-1)

    def refine(job: a1111.Job, step: int) -> None:
        job.sd_model.model.diffusion_model = refiner if step >= 3 else job.unet

    host.on_step = refine
    on = host.process_images(host.script(), job, *TWICE)
    assert (len(rows_of(job)), len(refiner.rows)) == (2, 4), "of 12 steps the first three; of the other 9, half"
    assert [run.report.calls for run in runs(host)] == [9, 3]
    assert torch.allclose(on, plain(host, job), atol=1e-4)


def test_an_interrupted_job_leaves_nothing_behind(host: a1111.Host, job: a1111.Job) -> None:
    def interrupt(job: a1111.Job, step: int) -> None:
        if step == 4:
            raise a1111.Interrupted

    host.on_step, interrupted = interrupt, fresh(job)
    host.process_images(host.script(), interrupted, *TWICE)
    assert list(a1111.traces(job.unet)) == [] and interrupted.sampler.func is a1111.sample
    host.on_step = lambda job, step: None
    rows_of(job).clear()
    assert torch.allclose(host.process_images(host.script(), job, *TWICE), plain(host, job), atol=1e-4)
    assert len(rows_of(job)) == 6


@pytest.mark.parametrize("how", ["interrupted", "skipped"])
def test_what_a_stopped_job_had_no_time_for_is_not_refused(
    host: a1111.Host, job: a1111.Job, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(job: a1111.Job, step: int) -> None:
        if step == 1:
            monkeypatch.setattr(sys.modules["modules.shared"], "state", SimpleNamespace(**{how: True}), raising=False)
            raise a1111.Interrupted

    host.on_step = stop
    host.process_images(host.script(), job, *TWICE)
    assert runs(host)[0].report.calls == 1 and not {REFUSED, CALLS_RUN} & set(job.extra_generation_params)


# -- samplers --


@pytest.mark.parametrize(
    ("name", "says"), [("DPM adaptive", "chooses its steps"), ("LCM", "few steps"), ("DPM fast", "no steps")]
)
def test_a_sampler_without_steps_to_skip_is_declined_in_one_line(
    host: a1111.Host, job: a1111.Job, name: str, says: str
) -> None:
    job = fresh(job, sampler_name=name)
    assert torch.equal(host.process_images(host.script(), job, *TWICE), dense_now(host, job))
    (text,) = refused(job)
    assert text.startswith(f"Skipstone did nothing: {name} is not supported") and says in text and len(text) < 300
    assert CALLS_RUN not in job.extra_generation_params


def test_eight_steps_are_declined_with_the_reason(host: a1111.Host, job: a1111.Job) -> None:
    job = fresh(job, timesteps=TIMES[:8])
    assert torch.equal(host.process_images(host.script(), job, *TWICE), dense_now(host, job))
    assert "8 steps are too few" in job.extra_generation_params[REFUSED]


@pytest.mark.parametrize(
    ("name", "eta", "how"),
    [("Euler", 1.0, "corrected line on eps"), ("Euler a", 1.0, "line on x0"), ("Euler a", 0.0, "line on eps")],
)
def test_the_picture_is_forecast_where_the_sampler_adds_noise(
    host: a1111.Host, job: a1111.Job, name: str, eta: float, how: str
) -> None:
    job = fresh(job, sampler_name=name)
    host.on_step = lambda job, step: setattr(job.sampler, "eta", eta)
    host.process_images(host.script(), job, *TWICE)
    assert runs(host)[0].report.forecast_as == how


@pytest.mark.parametrize(
    ("predicts", "how"),
    [("eps", "corrected line on eps"), ("v", "corrected line on eps"), ("other", "line on raw")],
)
def test_the_space_follows_from_what_the_model_predicts(host: a1111.Host, predicts: str, how: str) -> None:
    job = straight(predicts)
    host.process_images(host.script(), job, *TWICE)
    assert runs(host)[0].report.forecast_as == how


# -- extensions --


def test_a_skipped_call_skips_controlnet(host: a1111.Host, unet_job: a1111.Job) -> None:
    control = ControlNet(unet_job.unet, tiny.noise(*unet_job.latent.shape, seed=3))
    with control.hooked():
        host.process_images(host.script(), unet_job, *TWICE)
    assert len(control.passes) == 6


@pytest.mark.parametrize("begins", [0, 3])
def test_an_extension_that_replaces_the_forward_during_the_pass_is_skipped_too(
    host: a1111.Host, job: a1111.Job, begins: int
) -> None:
    calls: list[int] = []

    def replace(job: a1111.Job, step: int) -> None:
        if step == begins:
            original = job.unet.forward
            job.unet.forward = lambda *args, **kwargs: (calls.append(step), original(*args, **kwargs))[1]

    host.on_step = replace
    try:
        on = host.process_images(host.script(), job, *TWICE)
    finally:
        del job.unet.forward
    assert len(calls) == (6 if begins == 0 else 4)
    host.on_step = lambda job, step: None
    assert torch.allclose(on, plain(host, job), atol=1e-4)


def test_blocks_beside_a_reference_begin_with_the_pictures_pass(host: a1111.Host, unet_job: a1111.Job) -> None:
    control = ControlNet(unet_job.unet, tiny.noise(*unet_job.latent.shape, seed=3))
    with control.hooked(), counted(unet_job.unet) as seen:
        host.process_images(
            host.script(), unet_job, *args_of(threshold=1.0, calls_speedup=2.0, rule="interval", every=6)
        )
    assert len(control.passes) == 6 and len(seen) == 6 + 1, "six passes of the reference, and the picture's first"
    told = unet_job.extra_generation_params
    assert (told[CALLS_RUN], told[BLOCKS_RUN]) == ("50%", "17%") and REFUSED not in told


class Control:
    """Forge's ControlNet as `sampling_function.py` uses it: its output is asked for before the U-Net is called."""

    def __init__(self) -> None:
        self.ran = 0

    def get_control(self, x: torch.Tensor, t: Any, cond: Any, batched: int) -> dict[str, list[torch.Tensor]]:
        self.ran += 1
        return {"middle": [torch.full((1,), 0.25)]}


def test_forges_controlnet_runs_only_where_the_network_reads_it(
    host: a1111.Host, job: a1111.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, control, call = fresh(job, forge=True), Control(), a1111.call_unet
    job.sd_model.forge_objects.unet.controlnet_linked_list = control

    def controlled(unet: Any, x: Tensor, t: float, context: Tensor, **options: Any) -> Tensor:
        return call(unet, x, t, context, control=control.get_control(x, t, {}, 1), **options)

    def reads(x: Tensor, *args: Any, control: Any, **kwargs: Any) -> Tensor:
        output = original(x, *args, **kwargs)
        return output + control["middle"].pop() if "middle" in control and len(control["middle"]) > 0 else output

    original = job.unet.forward
    monkeypatch.setattr(a1111, "call_unet", controlled)
    job.unet.forward = reads
    try:
        on = host.process_images(host.script(), job, *TWICE)
        assert control.ran == 6 and "get_control" not in vars(control)
        assert torch.allclose(on, plain(host, job), atol=1e-4) and control.ran == 6 + STEPS
    finally:
        del job.unet.forward


# -- panel, infotext, plot, API --


def test_call_skipping_and_auto_are_groups_of_the_tab_and_sliders_of_the_panel(host: a1111.Host) -> None:
    host.script()
    host.fire("on_ui_tabs")
    for part, title, name in (("auto", "Auto", "speedup"), ("call_skip", "Call skipping", "calls_speedup")):
        assert host.made[f"skipstone_tab_{part}_part"].label == title
        for prefix in ("script_txt2img_skipstone_", "skipstone_tab_"):
            speedup = host.made[f"{prefix}{name}"]
            assert (speedup.kind, speedup.value, speedup.minimum, speedup.maximum) == ("Slider", 1.0, 1.0, 4.0)


def test_auto_skips_the_calls_that_its_one_number_says(host: a1111.Host, job: a1111.Job) -> None:
    on = host.process_images(host.script(), job, *args_of(threshold=1.0, speedup=2.0))
    off = plain(host, job)
    assert rows_of(job) == [2] * 6 and 0 < (on - off).norm() < 2e-3 * off.norm()
    told = job.extra_generation_params
    assert (told["Skipstone speedup"], told[CALLS_RUN]) == ("2", "50%")
    few = fresh(job, timesteps=TIMES[:8])
    host.process_images(host.script(), few, *args_of(threshold=1.0, speedup=2.0))
    assert "8 steps are too few" in few.extra_generation_params[REFUSED]


@pytest.mark.parametrize(
    ("choices", "left"),
    [
        ([("speedup", 2.0), ("calls_speedup", 1.5)], {"speedup": 1.0, "calls_speedup": 1.5}),
        (
            [("calls_speedup", 1.5), ("keys", "0 1"), ("speedup", 2.0)],
            {"speedup": 2.0, "calls_speedup": 1.0, "keys": ""},
        ),
        ([("speedup", 2.0), ("calls", 0)], {"speedup": 2.0, "calls": 0}),
        ([("calls", 7), ("calls_every", 3)], {"calls": 0, "calls_every": 3}),
        ([("max_error", 0.1), ("calls_rule", "easycache")], {"max_error": 0.0, "calls_rule": "easycache"}),
    ],
    ids=str,
)
def test_the_choice_made_last_counts(host: a1111.Host, choices: list[tuple[str, Any]], left: dict[str, Any]) -> None:
    panel = {c.elem_id.removeprefix("script_txt2img_skipstone_"): c for c in host.script().components}
    for name, value in choices:
        panel[name].set(value)
    assert {name: panel[name].value for name in left} == left


def test_an_axis_replaces_the_panels_number_of_calls(host: a1111.Host, job: a1111.Job) -> None:
    host.fire("on_before_ui")
    axes = {axis.label: axis for axis in host.xyz.axis_options}
    values = (("Speedup", 3.0, 4), ("Call skipping speedup", 3.0, 4), ("Calls", 5, 5), ("Call skipping every", 4, 4))
    for label, value, calls in values:
        for panel in ({"calls": 9}, {"speedup": 1.5}):
            cell = fresh(job)
            axes[f"[Skipstone] {label}"].apply(cell, value, [value])
            host.process_images(host.script(), cell, *args_of(threshold=1.0, **panel))
            assert runs(host)[0].report.calls_run == calls, (label, panel)


def test_the_infotext_brings_the_settings_back(host: a1111.Host, job: a1111.Job) -> None:
    named = {"enabled": True, "threshold": 1.0, "keys": "0 1 4 11", "predictor": "hold", "calls_rule": "growing"}
    host.process_images(host.script(), job, named)
    told = a1111.parse_infotext(a1111.write_infotext(job.extra_generation_params))
    assert (told[CALLS_RUN], told["Skipstone keys"]) == ("33%", "0 1 4 11")
    script = host.script()
    a1111.paste(script, told)
    again = fresh(job)
    host.process_images(script, again, *(component.value for component in script.components))
    assert again.extra_generation_params == job.extra_generation_params


def test_ways_that_exclude_each_other_are_refused_in_one_line(host: a1111.Host, job: a1111.Job) -> None:
    on = host.process_images(host.script(), job, *args_of(threshold=1.0, calls=5, calls_every=2))
    assert torch.equal(on, plain(host, job))
    assert "both choose the steps that run" in job.extra_generation_params[REFUSED]


@pytest.mark.parametrize("name", ["", "calls_"])
def test_a_profile_is_read_from_its_folder_only(host: a1111.Host, job: a1111.Job, name: str) -> None:
    values = {f"{name}speedup": 2.0, f"{name}profile": "/etc/passwd"}
    host.process_images(host.script(), job, *args_of(threshold=1.0, **values))
    assert "is not in the folder models/skipstone_profiles" in job.extra_generation_params[REFUSED]
