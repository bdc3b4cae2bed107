"""Which run, call and stream a forward belongs to: shared networks, tiles, aborted runs, threads."""

from __future__ import annotations

import copy
import gc
import threading
from collections.abc import Callable, Iterable
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.engine.block_part import BlockPart
from skipstone.core.engine.call import Call, one_timestep
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.token_layer import TokenLayer
from skipstone.core.errors import Decline
from skipstone.core.models import recognise
from skipstone.core.plan.block_plan import BlockPlan, graph_of
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Method, Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines import run_watch
from skipstone.pipelines.accelerate import accelerate

METHODS: dict[str, Method] = {
    "deepcache": BlockSkip(every=3),
    "interval": BlockSkip(rule="interval", every=2, forecast=True),
    "merge": TokenMerge(threshold=0.3, bucket=1, checkpoints=(0,), absolute=True),
    "prune": TokenPrune(ratio=0.3),
}
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
blocks_and_tokens = pytest.mark.parametrize(
    "method", [METHODS["interval"], METHODS["prune"]], ids=["interval", "prune"]
)
on_a_unet = pytest.mark.parametrize(
    ("unet", "method"),
    list(zip(["ldm", "diffusers"] * 2, METHODS.values(), strict=True)),
    ids=METHODS,
    indirect=["unet"],
)
"""Each method on one of the two U-Nets."""
TIMESTEPS = (950.0, 850.0, 750.0, 650.0, 550.0)


def walk(case: tiny.Case, timesteps: Iterable[float], seed: int, cond: Tensor) -> Tensor:
    """A run on a bare model, from a noise of its own."""
    return case.sample(timesteps, tiny.noise(1, case.channels, *case.size, seed=seed), cond)


def together(
    case: tiny.Case, seeds: Iterable[int], cond: Tensor, order: Callable[[int], list[int]] | None = None
) -> list[Tensor]:
    """Several latents under one conditioning, one after the other at each timestep (MultiDiffusion, context windows)."""
    latents = [tiny.noise(1, case.channels, *case.size, seed=seed) for seed in seeds]
    for k, t in enumerate(TIMESTEPS):
        for i in order(k) if order else range(len(latents)):
            latents[i] = tiny.step(latents[i], case(latents[i], t, cond))
    return latents


# Pipelines that share a network


@pytest.mark.parametrize(("method", "steps"), list(zip(METHODS.values(), [6, 4, 4, 6], strict=True)), ids=METHODS)
def test_another_pipeline_over_the_same_network_draws_as_it_does_alone(method: Method, steps: int) -> None:
    first = tiny.sd_pipeline()
    parts = {name: part for name, part in first.components.items() if name != "scheduler"}
    second = diffusers.StableDiffusionPipeline(
        **parts, scheduler=copy.deepcopy(first.scheduler), requires_safety_checker=False
    )
    second.set_progress_bar_config(disable=True)
    with accelerate(second, method):
        own = [tiny.run_sd(second, steps, seed=seed) for seed in range(2)]
    with accelerate(first, method) as handle:
        tiny.run_sd(first, 6)
        for seed, expected in enumerate(own):
            assert torch.equal(tiny.run_sd(second, steps, seed=seed), expected)
            assert handle.report().calls == steps
            assert handle.engine.running is None
        tiny.run_sd(first, 6)
        assert handle.report().planned


def test_a_forward_of_somebody_else_is_no_part_of_the_pipelines_run() -> None:
    """At the same timestep, and while its conditioning is still held."""
    pipe, cond = tiny.sd_pipeline(), tiny.noise(2, *tiny.CONTEXT)
    with accelerate(pipe, BlockSkip(every=3)) as handle:
        own = tiny.run_sd(pipe, 6)
        first = float(pipe.scheduler.timesteps[0])
        pipe.unet(tiny.noise(2, 4, 16, 16), torch.tensor(first), encoder_hidden_states=cond)
        assert handle.engine.running is not None
        assert torch.equal(tiny.run_sd(pipe, 6), own)
        assert handle.report().calls == 6 and handle.report().planned


def test_pipelines_that_share_the_scheduler_too_are_planned_and_their_runs_end() -> None:
    first = tiny.sd_pipeline()
    second = diffusers.StableDiffusionPipeline(**first.components, requires_safety_checker=False)
    second.set_progress_bar_config(disable=True)
    with accelerate(first, BlockSkip(every=3)) as handle:
        own = tiny.run_sd(first, 6)
        for _ in range(2):
            assert torch.equal(tiny.run_sd(second, 6), own)
            assert handle.report().calls == 6 and handle.report().planned and handle.engine.running is None


@methods
def test_a_pipeline_that_restores_its_scheduler_at_each_step_is_one_run(method: Method, monkeypatch: Any) -> None:
    """Panorama: two views at each step, and a copy of the scheduler's state put back before each."""
    parts = {name: part for name, part in tiny.sd_pipeline().components.items() if name != "image_encoder"}
    pipe = diffusers.StableDiffusionPanoramaPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    pipe.vae_scale_factor = 8
    monkeypatch.setattr(pipe, "get_views", lambda *_, **__: [(0, 16, 0, 16), (0, 16, 8, 24)], raising=False)
    with accelerate(pipe, method) as handle:
        tiny.run_sd(pipe, 6, height=128, width=192)
        report = handle.report()
    assert report.calls == 6 and report.planned
    assert report.blocks_reused > 0 or report.served > 0


# Bare models


ABORTED = [(950, 900, 850, 800), (999, 900, 800), (800,), (500,), (500, 400)]


@pytest.mark.parametrize(
    ("unet", "method", "aborted"),
    [
        *(("diffusers", METHODS["deepcache"], steps) for steps in ABORTED),
        *(("ldm", method, ABORTED[1]) for method in METHODS.values()),
    ],
    indirect=["unet"],
)
def test_a_run_after_an_aborted_one_is_a_run_of_its_own(
    unet: tiny.Case, method: Method, aborted: tuple[int, ...]
) -> None:
    cond, steps = unet.cond(1), (500, 400, 300, 200)
    with accelerate(unet.model, method):
        alone = walk(unet, steps, 5, cond)
    with accelerate(unet.model, method):
        walk(unet, aborted, 4, cond)
        assert torch.equal(walk(unet, steps, 5, cond), alone)


@on_a_unet
def test_pictures_of_one_step_never_contain_an_earlier_one(unet: tiny.Case, method: Method, monkeypatch: Any) -> None:
    monkeypatch.setattr(run_watch, "_MOST_AT_ONCE", 3)
    cond, alone = unet.cond(1), []
    for seed in range(5):
        with accelerate(unet.model, method):
            alone.append(walk(unet, (999,), seed, cond))
    with accelerate(unet.model, method) as handle:
        for seed, expected in enumerate(alone):
            assert torch.equal(walk(unet, (999,), seed, cond), expected)
        assert handle.report().calls == 1
        assert len(handle._watch.begun) <= 3


def test_an_evenly_falling_run_is_one_run_whatever_its_steps(unet: tiny.Case) -> None:
    karras = [999.0 * (1 - k / 9) ** 1.6 for k in range(9)]
    for steps in (TIMESTEPS, karras, (900.0, 600.0, 300.0), tuple(range(999, 990, -1))):
        with accelerate(unet.model, BlockSkip(rule="interval", every=2)) as handle:
            unet.sample(steps)
            assert handle.report().calls == len(steps)
            assert handle.report().blocks_reused == len(steps) // 2 * handle.report().blocks // len(steps)


# Several evaluations of one noise level


@on_a_unet
def test_tiles_side_by_side_are_what_each_is_alone(unet: tiny.Case, method: Method) -> None:
    cond, alone = unet.cond(1), []
    for seed in (1, 2, 3):
        with accelerate(unet.model, method):
            alone += together(unet, [seed], cond)
    with accelerate(unet.model, method) as handle:
        tiles = together(unet, [1, 2, 3], cond)
        assert handle.report().calls == len(TIMESTEPS)
    assert all(torch.equal(a, b) for a, b in zip(tiles, alone, strict=True))


@on_a_unet
def test_tiles_in_another_order_at_each_level_are_told_apart_by_their_latents(unet: tiny.Case, method: Method) -> None:
    cond = unet.cond(1)
    with accelerate(unet.model, method):
        in_order = together(unet, [1, 2], cond)
    with accelerate(unet.model, method):
        turned = together(unet, [1, 2], cond, order=lambda k: [0, 1] if k % 2 else [1, 0])
    assert all(torch.equal(a, b) for a, b in zip(turned, in_order, strict=True))


def test_what_resembles_no_latent_of_the_level_before_runs_in_full(unet: tiny.Case) -> None:
    """Windows that move: the second evaluation is of another latent each time."""
    cond = unet.cond(1)
    x = tiny.noise(1, unet.channels, *unet.size, seed=1)
    strangers = [tiny.noise(1, unet.channels, *unet.size, seed=9 + k) for k in range(len(TIMESTEPS))]
    expected = [unet(stranger, t, cond) for t, stranger in zip(TIMESTEPS, strangers, strict=True)]
    with accelerate(unet.model, BlockSkip(rule="interval", every=9)) as handle:
        for t, stranger, full in zip(TIMESTEPS, strangers, expected, strict=True):
            x = tiny.step(x, unet(x, t, cond))
            assert torch.equal(unet(stranger, t, cond), full)
        part = next(p for p, _ in handle.engine.running._parts)  # type: ignore[union-attr]
        assert len(part._caches[0]._held) <= 3


def test_a_cond_that_leaves_takes_its_cache_along(unet: tiny.Case) -> None:
    engine = Engine(unet.model, Recipe(skip=BlockSkip(rule="interval", every=9)))
    x, held = unet.latent(1), []
    with engine.run() as session:
        for k, t in enumerate(TIMESTEPS):
            for name in ("cond", "uncond")[: 2 if k < 2 else 1]:
                with engine.call(Call(t, unet.size, (Stream(name, 1),), input=x)):
                    unet(x, t, unet.cond(1))
            held.append(session._parts[0][0].nbytes)
    assert held == [held[0]] * 3 + [held[0] // 2] * 2


def test_second_order_samplers_decide_once_for_both_evaluations_of_a_step() -> None:
    pipe = tiny.sd_pipeline("KDPM2AncestralDiscreteScheduler")
    with accelerate(pipe, BlockSkip(rule="interval", every=2)) as handle:
        tiny.run_sd(pipe, 6)
        report = handle.report()
        assert report.planned and report.calls == 11
        assert report.blocks_run * 11 == report.blocks * 6
    graph = graph_of(BlockSkip(), recognise(pipe.unet), pipe.unet)
    plan = BlockPlan(
        BlockSkip(rule="interval", every=2), graph, "x", Horizon(tuple(map(float, range(11, 0, -1))), stages=2)
    )
    rows = plan.planned_rows().all(axis=1)
    assert rows.tolist() == [True, True, False, False] * 2 + [True, True, False]


def test_where_the_host_knows_its_steps_an_interval_counts_them(unet: tiny.Case) -> None:
    """DPM2 in ComfyUI: evaluations between the sampler's noise levels."""
    engine = Engine(unet.model, Recipe(skip=BlockSkip(rule="interval", every=2)))
    x, cond, ran = unet.latent(1), unet.cond(1), []
    with engine.run() as session:
        for k, t in enumerate((950.0, 900.0, 850.0, 800.0, 750.0, 700.0)):
            before = session.meter.report.blocks_run
            with engine.call(Call(t, unet.size, (Stream("cond", 1),), input=x, step=k // 2)):
                unet(x, t, cond)
            ran.append(session.meter.report.blocks_run > before)
    assert ran == [True, True, False, False, True, True]


# What was announced


@pytest.mark.parametrize("name", ["diffusers", "dit"])
def test_a_plan_that_is_lost_is_reported_and_costs_one_full_call(name: str) -> None:
    """Also on a DiT, where every value that the call would reuse is there."""
    case = tiny.BUILDERS[name]()
    engine = Engine(case.model, Recipe(skip=BlockSkip(rule="interval", every=9)))
    x, ran = case.latent(1), []
    with engine.run([950.0, 850.0, 750.0, 650.0]) as session:
        for t in (950.0, 850.0, 700.0, 650.0):
            before = session.meter.report.blocks_run
            with engine.call(Call(t, case.size, (Stream("cond", 1),), input=x)):
                case(x, t, case.cond(1))
            ran.append(session.meter.report.blocks_run > before)
    assert ran == [True, False, True, False]
    assert [n for n in engine.report.notes if "call 2 has timestep 700, which was not announced" in n]


@pytest.mark.parametrize(
    ("start", "end", "full"), [(0.0, 1.0, 0b10101), (0.5, 1.0, 0b11101), (0.0, 0.3, 0b10111), (0.9, 1.0, 31)]
)
def test_a_window_holds_for_rules_in_runs_that_nobody_announced(
    unet: tiny.Case, start: float, end: float, full: int
) -> None:
    graph = graph_of(BlockSkip(), recognise(unet.model), unet.model)
    plan = BlockPlan(BlockSkip(rule="interval", every=2, start=start, end=end), graph, "x", Horizon())
    rows = [plan.row(k, t)[0].all() and (plan.row(k, t)[0] == 2).all() for k, t in enumerate((999, 800, 600, 300, 0))]
    assert [bool(row) for row in rows] == [bool(full >> (4 - k) & 1) for k in range(5)]


def test_an_uneven_interval_in_a_run_that_nobody_announced_is_reported(unet: tiny.Case) -> None:
    with accelerate(unet.model, BlockSkip(every=3, mode="quad")) as handle:
        unet.sample(TIMESTEPS)
        assert [note for note in handle.report().notes if "mode='quad'" in note and "evenly spaced" in note]


def test_rows_at_different_timesteps_are_declined(unet: tiny.Case) -> None:
    x, cond = unet.latent(2), unet.cond(2)
    mixed = torch.tensor([900.0, 500.0])
    with torch.no_grad():
        dense = unet.call(unet.model, x, mixed, cond)
        with accelerate(unet.model, TokenMerge(threshold=0.3)) as handle:
            assert torch.equal(unet.call(unet.model, x, mixed, cond), dense)
            assert list(handle.report().declined) == ["the rows of its batch are at different timesteps"]


def test_one_timestep_reads_numbers_and_equal_entries() -> None:
    assert [one_timestep(v) for v in (5, torch.tensor(5), torch.tensor([5.0, 5.0]), torch.tensor(5.0).expand(3))] == [
        5
    ] * 4
    for value in (None, True, "5", torch.zeros(0)):
        with pytest.raises(Decline, match="no timestep"):
            one_timestep(value)


# Memory, reports, gradients, faults


@on_a_unet
def test_a_runs_caches_are_gone_when_it_ends_without_garbage_collection(unet: tiny.Case, method: Method) -> None:
    handle, cond = accelerate(unet.model, method), unet.cond(1)
    gc.collect()
    gc.disable()
    try:
        walk(unet, TIMESTEPS, 1, cond)
        running = tensor_bytes()
        handle.end()
        ended = tensor_bytes()
        gc.collect()
        assert ended == tensor_bytes() < running
    finally:
        gc.enable()
        handle.remove()


def tensor_bytes() -> int:
    """Of all tensors that live."""
    return sum(o.nbytes for o in gc.get_objects() if type(o) is Tensor)


def test_a_report_before_the_end_has_what_was_done_so_far(unet: tiny.Case) -> None:
    with accelerate(unet.model, BlockSkip(rule="interval", every=2)) as handle:
        cond = unet.cond(1)
        walk(unet, TIMESTEPS[:4], 1, cond)
        report = handle.report()
        assert (report.calls, report.blocks_run) == (4, report.blocks // 2) and not report.idle


@on_a_unet
@pytest.mark.parametrize("wanted_of", ["weights", "latent"])
def test_gradients_are_those_of_the_plain_model(unet: tiny.Case, method: Method, wanted_of: str) -> None:
    x, cond = unet.latent(1).requires_grad_(wanted_of == "latent"), unet.cond(1)
    weight = next(unet.model.parameters()).requires_grad_(wanted_of == "weights")

    def gradient() -> Tensor:
        leaf = weight if wanted_of == "weights" else x
        loss = sum(unet.call(unet.model, x, torch.full((1,), t), cond).square().mean() for t in TIMESTEPS[:3])
        return torch.autograd.grad(loss, leaf)[0]

    plain = gradient()
    with accelerate(unet.model, method) as handle:
        assert torch.equal(gradient(), plain)
        assert "gradients are enabled" in next(iter(handle.report().declined))


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (BlockPart, "begin"),
        (BlockPart, "end"),
        (BlockPart, "_store"),
        (BlockPlan, "row"),
        (TokenLayer, "_token_map"),
        (Engine, "begin"),
    ],
)
def test_an_unexpected_error_of_ours_never_fails_the_picture(
    owner: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = tiny.diffusers_unet()
    dense, cond = case.sample(TIMESTEPS), case.cond()
    plain, calls = getattr(owner, name), [0]

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > 2 or (name == "begin" and owner is Engine):
            raise ZeroDivisionError("on purpose\nwith <b>two</b> lines")
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, failing)
    recipe = (
        Recipe(skip=BlockSkip(rule="interval", every=9))
        if owner is not TokenLayer
        else Recipe(merge=TokenMerge(threshold=0.3))
    )
    with accelerate(case.model, recipe) as handle:
        got = case.sample(TIMESTEPS, cond=cond)
        (note,) = [n for n in handle.report().notes if "ZeroDivisionError" in n]
        assert "\n" not in note and len(note) < 300
        assert handle.report().calls == len(TIMESTEPS)
    assert got.isfinite().all() and "on purpose" in caplog.text
    assert owner is not Engine or torch.equal(got, dense)
    assert tiny.overridden(case.model) == []
    assert np.allclose(case.sample(TIMESTEPS), dense)


# Threads


@blocks_and_tokens
def test_a_pipeline_per_thread_over_one_network_draws_what_it_draws_alone(method: Method) -> None:
    pipes = [tiny.sd_pipeline() for _ in range(3)]
    for pipe in pipes:
        pipe.unet = pipes[0].unet
    with accelerate(pipes[0], method):
        alone = [tiny.run_sd(pipe, 5, seed=i) for i, pipe in enumerate(pipes)]
        got = in_threads([lambda i=i: tiny.run_sd(pipes[i], 5, seed=i) for i in range(3)])  # type: ignore[misc]
    assert all(torch.equal(a, b) for a, b in zip(got, alone, strict=True))
    assert tiny.overridden(pipes[0].unet) == []


def test_removal_while_other_threads_sample_fails_nobody_and_leaves_nothing() -> None:
    pipe, other = tiny.sd_pipeline(), tiny.sd_pipeline()
    other.unet = pipe.unet
    before, dense = tiny.snapshot(pipe.unet), tiny.run_sd(other, 5)
    for _ in range(4):
        handle = accelerate(pipe, BlockSkip(rule="interval", every=2))
        started = threading.Event()
        hook = pipe.unet.register_forward_pre_hook(lambda *_, s=started: s.set())
        got = in_threads([lambda: tiny.run_sd(other, 5), lambda s=started, h=handle: (s.wait(20), h.remove())])  # type: ignore[misc]
        hook.remove()
        assert got[0].isfinite().all()
        assert tiny.snapshot(pipe.unet) == before
    assert torch.equal(tiny.run_sd(other, 5), dense)


def in_threads(tasks: list[Callable[[], Any]]) -> list[Any]:
    """All tasks at once; an error in one fails the test."""
    results: list[Any] = [None] * len(tasks)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            results[number] = tasks[number]()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    return results
