"""Memory of the device: what a run holds is what the report says, and nothing is left after it, whatever ended it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from gpu import DEVICE, allocated, apart, exact, needs_cuda, peak_of, pipeline

from pipelines import Running
from skipstone.core.engine.cache import BlockCache
from skipstone.core.forecast.history import History
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

RECIPES: dict[str, Any] = {
    "calls": CallSkip(every=2),
    "blocks": BlockSkip(rule="interval", every=2),
    "merge": TokenMerge(threshold=-1.0, bucket=1, max_downsample=8),
    "prune": TokenPrune(ratio=0.5, max_downsample=8),
    "calls and tokens": Recipe.of([CallSkip(every=2), TokenMerge(threshold=-1.0, bucket=1, max_downsample=8)]),
}
SCHEDULE = 4096
"""Bytes that a scheduler's own lists may take on the device after a run."""
NAMES = ["text_to_image", "sdxl", "sd3", "flux", "wan"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_leaves_nothing(name: str, recipe: str) -> None:
    running = pipeline(name)
    running()  # what libraries keep from their first run on
    with accelerate(running.pipe, RECIPES[recipe]):
        running()
    before = allocated()
    with accelerate(running.pipe, RECIPES[recipe]) as handle:
        running()
        assert allocated() - before <= SCHEDULE, "caches are freed when the run ends"
        assert handle.report().cache_bytes > 0
    assert allocated() - before <= SCHEDULE


@needs_cuda
@pytest.mark.parametrize("recipe", ["calls", "blocks"])
@pytest.mark.parametrize("size", [512, 1024])
def test_the_peak_rises_by_what_the_report_says_and_a_forecast(size: int, recipe: str) -> None:
    """A forecast takes a few latents in fp32, and so does what keeps a value: it is counted in pictures of the batch."""
    running = pipeline("text_to_image", dtype=torch.float16)
    sizes = {"height": size, "width": size}
    latents = 2 * 4 * (size // 8) ** 2 * 4  # cond and uncond, four channels, at most four bytes each
    running(**sizes)
    dense = peak_of(lambda: running(**sizes))
    with accelerate(running.pipe, RECIPES[recipe]) as handle:
        running(**sizes)
        found, report = peak_of(lambda: running(**sizes)), handle.report()
    assert report.cache_bytes > 0
    assert found - dense <= report.cache_bytes + 8 * latents, (found, dense, report.cache_bytes, latents)


def spied(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[Any]:
    """The objects whose method was called."""
    plain, seen = getattr(kind, name), []

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = plain(self, *args, **kwargs)
        seen.append((self, found))
        return found

    monkeypatch.setattr(kind, name, method)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_history_of_a_forecast_is_on_the_device_in_fp32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last two outputs of each stream, as large as they are."""
    running = pipeline("text_to_image", dtype=dtype)
    seen: list[tuple[str, torch.dtype, int]] = []
    plain = History.add

    def add(self: History, *args: Any) -> None:
        plain(self, *args)
        seen.extend((v.device.type, v.dtype, v.nbytes) for v in self._values)

    monkeypatch.setattr(History, "add", add)
    with accelerate(running.pipe, CallSkip(every=2)) as handle:
        latent = running()
        report = handle.report()
    rows = 2  # cond and uncond
    one = rows * latent[0].numel() * 4
    assert set(seen) == {(DEVICE.type, torch.float32, one)} and report.cache_bytes == 2 * one


@needs_cuda
def test_offloaded_values_take_no_room_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    running = pipeline("text_to_image")
    seen = spied(monkeypatch, BlockCache, "_stored")
    pictures = []
    for offload in (False, True):
        with exact(), accelerate(running.pipe, BlockSkip(rule="interval", every=2, offload=offload)):
            pictures.append(running())
        held = {value.device.type for _, value in seen}
        assert held == {"cpu" if offload else "cuda"}
        seen.clear()
    assert torch.equal(*pictures)


# Failures


class Stop(BaseException):
    """A user's interrupt."""


def failing(running: Running, at: int, kind: type[BaseException]) -> Callable[[], None]:
    """Make the network fail in its middle at one forward; returns what undoes that."""
    seen: list[int] = []
    blocks = [m for m in running.network.modules() if isinstance(m, torch.nn.ModuleList) and len(m)]

    def hook(*args: Any) -> None:
        seen.append(1)
        if len(seen) == at:
            raise kind("no more")

    return blocks[0][-1].register_forward_hook(hook).remove


@pytest.mark.parametrize("kind", [Stop, RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_failed_call_leaves_nothing(recipe: str, kind: type[BaseException]) -> None:
    running = pipeline("text_to_image")
    running()
    before = tiny.snapshot(running.network)
    with accelerate(running.pipe, RECIPES[recipe]):
        wanted = running()
    held = allocated()
    with accelerate(running.pipe, RECIPES[recipe]) as handle:
        undo = failing(running, 2, kind)
        with pytest.raises(kind):
            running()
        undo()
        assert allocated() == held, "the run has ended with its pipeline's"
        assert torch.equal(running(), wanted) or recipe not in ("calls", "blocks") or apart(running(), wanted) < 1e-5
        assert not any("not accelerated" in note for note in handle.report().notes)
    assert tiny.snapshot(running.network) == before and allocated() == held


# Offloading of models, by accelerate


@needs_cuda
@pytest.mark.parametrize("recipe", ["auto", *RECIPES])
@pytest.mark.parametrize("way", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
@pytest.mark.parametrize("accelerated_first", [False, True])
def test_models_that_wait_in_system_memory(way: str, recipe: str, accelerated_first: bool) -> None:
    """Moved to the device for a run, or module by module for each forward."""
    chosen, steps = RECIPES.get(recipe, "2x"), 10
    here = pipeline("text_to_image")
    with accelerate(here.pipe, chosen) as handle:
        wanted, plan = here(steps), handle.report()
    del here
    running = pipeline("text_to_image", "cpu")
    before = allocated()
    if not accelerated_first:
        getattr(running.pipe, way)(device=DEVICE)
    with accelerate(running.pipe, chosen) as handle:
        if accelerated_first:
            getattr(running.pipe, way)(device=DEVICE)
        picture, report = running(steps), handle.report()
        assert (report.calls, report.calls_forecast, report.declined) == (
            plan.calls,
            plan.calls_forecast,
            plan.declined,
        )
        assert report.blocks_reused == plan.blocks_reused and report.served == plan.served
        assert apart(picture, wanted) < 1e-3
    picture = None  # type: ignore[assignment]
    running.pipe.remove_all_hooks()
    running.pipe.to("cpu")
    assert allocated() - before <= SCHEDULE
