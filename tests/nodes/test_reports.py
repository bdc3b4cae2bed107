"""What a node shows of several runs, of a later node that takes its place, and of text that the page would run as HTML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from comfy_models import MERGE, SKIP, guider, network, patch, patcher, said, sample
from doubles import comfy
from torch import Tensor, nn

from skipstone.core.engine.meter import Meter
from skipstone.core.engine.report import Report, giga, percent
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.presets import DATO
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

__all__ = ["network", "patcher"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable, and a prompt is under way."""
    with comfy.installed(monkeypatch) as server:
        monkeypatch.setattr(comfy.Executing, "prompt_id", "first")
        yield server


# several runs


def test_two_samplers_of_a_prompt_are_told_one_below_the_other(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    model = patch(patcher, SKIP)
    sample(model, steps=4)
    alone = said(server, "7")
    sample(model, steps=6)
    assert re.fullmatch(r"run 1: ran .* 4 calls, .* run 2: ran .* 6 calls, .*", said(server, "7"))
    assert alone in said(server, "7") and max(map(len, server.texts[-1][1].splitlines())) <= 40


def test_the_next_prompt_begins_again(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = patch(patcher, SKIP)
    sample(model, steps=4)
    monkeypatch.setattr(comfy.Executing, "prompt_id", "second")
    sample(model, steps=6)
    assert said(server, "7").startswith("ran ") and "6 calls" in said(server, "7")


def test_of_many_runs_the_last_are_told(server: comfy.PromptServer) -> None:
    from skipstone.nodes.messages import show_run

    for run in range(1, 12):
        show_run(f"made {run};", 7)
    assert said(server, "7") == "runs 1 to 7: see the log; " + " ".join(f"run {n}: made {n};" for n in range(8, 12))


# a later node


def test_a_replaced_node_says_so_and_keeps_no_report_of_its_own(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    first = patch(patcher, SKIP, 1)
    sample(first)
    assert said(server, "1").startswith("ran ")
    both = patch(first, BlockSkip(rule="interval", every=2), 2)
    assert said(server, "1") == "replaced: a later node skips blocks in its place"
    sample(both)
    assert said(server, "1").startswith("run 1: ran ") and said(server, "1").endswith(
        "run 2: replaced: a later node skips blocks in its place"
    )
    assert said(server, "2").startswith("ran ")


def test_a_node_that_is_replaced_in_part_reports_what_is_left(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    dato = Recipe(merge=TokenMerge(threshold=0.0), skip=BlockSkip(rule="interval", every=2))
    sample(patch(patch(patcher, dato, 1), SKIP, 2))
    assert said(server, "1").startswith("merged ")
    assert said(server, "1").endswith("replaced: a later node skips blocks in its place")
    assert "replaced" not in said(server, "2")


def test_a_later_node_that_is_off_switches_the_earlier_one_off(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    patch(patch(patcher, MERGE, 1), Recipe(merge=TokenMerge(threshold=1.0)), 2)
    assert said(server, "1") == "replaced: a later node switches this off"


# what skips nothing


@pytest.mark.parametrize("steps", [3, 4])
def test_a_schedule_too_long_for_the_run_says_why_it_skips_nothing(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, steps: int
) -> None:
    coco = Recipe.of(DATO["dato_coco"])
    text = f"the schedule runs every block at each of {steps} calls: use more steps or skip more; no block is skipped"
    sample(patch(patcher, coco), steps=steps)
    assert said(server, "7").endswith(text) and "blocks in" not in said(server, "7")
    alone = patch(patcher, Recipe(skip=coco.skip))
    assert torch.equal(sample(alone, steps=steps), sample(patcher, steps=steps))


def test_a_mask_before_dato_is_replaced_by_its_schedule_and_the_node_says_so(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    sample(patch(patch(patcher, SKIP, 1), Recipe.of(DATO["dato_coco"]), 2), steps=4)
    assert said(server, "1") == "replaced: a later node skips blocks in its place"
    assert said(server, "2").endswith("no block is skipped")


# refusals


class Flux(nn.Module):
    """Blocks of the Flux family, without attention."""

    def __init__(self) -> None:
        super().__init__()
        self.double_blocks = nn.ModuleList()
        self.single_blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
        """[B, 4, H, W]."""
        h = x.movedim(1, -1)
        for block in self.single_blocks:
            h = h + torch.tanh(block(h)) * t.view(-1, 1, 1, 1).cos()
        return h.movedim(-1, 1)


def without_attention() -> nn.Module:
    """A U-Net of convolutions alone."""
    network = tiny.ldm_unet(attention=()).model
    network.middle_block[1] = nn.Identity()
    return network


@pytest.mark.parametrize(("recipe", "verb"), [(MERGE, "merged"), (Recipe.of(DATO["dato_d"][:1]), "pruned")])
def test_a_refusal_names_the_node_that_would_work(server: comfy.PromptServer, recipe: Recipe, verb: str) -> None:
    model = comfy.ModelPatcher(comfy.BaseModel(without_attention()))
    assert torch.equal(sample(patch(model, recipe)), sample(model))
    line = f"tokens cannot be {verb} in BaseModel: Block Mask and Call Skip work on it; sampling runs unaccelerated"
    assert said(server, "7") == line


def test_which_nodes_work_is_read_off_the_network(server: comfy.PromptServer) -> None:
    from skipstone.nodes.serving import kinds_served, refusal

    assert kinds_served(without_attention()) == ("block_skip", "call_skip")
    for served in (Flux(), tiny.ldm_unet().model):
        assert kinds_served(served) == ("token_merge", "token_prune", "block_skip", "call_skip")
    unet = SimpleNamespace(diffusion_model=tiny.ldm_unet().model)
    assert refusal(unet, "block_skip").endswith(": Token Merge, DaTo, Block Mask and Call Skip work on it")


# numbers and markup


def test_nothing_saved_is_never_minus_nothing() -> None:
    meter = Meter()
    meter.count_blocks(10, 0, 0, 10**12 + 1, 10**12)
    assert percent(-0.001) == percent(0.001) == "0%" and percent(-0.03) == "-3%"
    assert giga(-(10**7)) == "0.0" and giga(-(10**9)) == "-1.0"
    report = Report(**{**meter.report.__dict__, "calls": 10})
    assert "-0" not in report.summary()


NASTY = "<img src=x onerror=alert(1)> & <b>12</b>"


def test_markup_is_shown_and_not_run(server: comfy.PromptServer, patcher: comfy.ModelPatcher) -> None:
    from skipstone.nodes.token_merge import SkipstoneTokenMerge

    SkipstoneTokenMerge.run("4", model=patcher, checkpoints="custom", custom_checkpoints=NASTY)
    (sent,) = server.sent
    assert "<" not in sent and "&lt;img" in sent
    assert "<img src=x" in said(server, "4")


# context windows


def window(*frames: int, anchor: int | None = None) -> dict[str, Any]:
    made = SimpleNamespace(index_list=list(frames))
    if anchor is not None:
        made.causal_anchor_index = anchor
    return {"cond_or_uncond": [0], "uuids": ["p"], "context_window": made}


def test_each_context_window_is_a_stream_of_its_own(server: comfy.PromptServer) -> None:
    from skipstone.nodes.calls import streams_of

    options = [window(0, 1, 2), window(2, 3, 4), window(2, 3, 4, anchor=1), {"cond_or_uncond": [0], "uuids": ["p"]}]
    keys = [streams_of(each, 2)[0].key for each in options]
    assert len(set(keys)) == 4
    assert streams_of(window(0, 1, 2), 2)[0].key == keys[0]


def test_windows_that_stay_are_served_and_windows_that_move_are_declined_for_good(server: comfy.PromptServer) -> None:
    from skipstone.core.errors import Decline
    from skipstone.nodes.calls import Windows

    windows = Windows()
    for timestep in (999.0, 500.0):
        for frames in ((0, 1), (1, 2)):
            windows.check(timestep, window(*frames))
        windows.check(timestep, {})
    with pytest.raises(Decline, match="standard_static"):
        windows.check(250.0, window(2, 3))
    with pytest.raises(Decline, match="standard_static"):
        windows.check(0.0, window(0, 1))


def test_a_run_whose_windows_move_is_dense_and_says_so_once(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    class Windowed(comfy.Guider):
        def predict(self, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
            """In a window that moves with each call, or stays."""
            frame = int(sigma[0]) if self.split else 0
            options["transformer_options"]["context_window"] = SimpleNamespace(index_list=[frame])
            return super().predict(x, sigma, options)

    def windowed(model: comfy.ModelPatcher, moving: bool) -> Tensor:
        plain = guider(model)
        steering = Windowed(model, plain.positive, plain.negative, split=moving)
        return steering.sample(tiny.smooth(1, 4, 16, 16), comfy.Sampler(), comfy.linear_sigmas(6))

    dense = sample(patcher, steps=6, split=True)
    assert torch.equal(windowed(patch(patcher, SKIP), moving=True), dense)
    assert said(server, "7").endswith("use the standard_static schedule;") and "in 6 calls, saved 0%" in said(
        server, "7"
    )
    assert torch.equal(windowed(patch(patcher, SKIP), moving=False), sample(patch(patcher, SKIP), steps=6))


# errors of ours


def fails(*args: Any, **kwargs: Any) -> Any:
    """Something that nobody expected."""
    raise ZeroDivisionError("of ours")


@pytest.mark.parametrize("where", ["call_of", "planned_timesteps", "skips_nothing"])
def test_an_error_of_ours_never_fails_the_picture(
    patcher: comfy.ModelPatcher,
    server: comfy.PromptServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    where: str,
) -> None:
    from skipstone.nodes import run as module

    monkeypatch.setattr(module, where, fails)
    assert torch.equal(sample(patch(patcher, SKIP)), sample(patcher))
    assert "ZeroDivisionError" in said(server, "7") and "unaccelerated" in said(server, "7").replace("not acc", "unacc")
    assert [bool(r.exc_info) for r in caplog.records] == [True, False]


def test_an_error_in_mid_run_leaves_the_rest_of_it_unaccelerated_and_a_report_of_what_was_done(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipstone.nodes import run as module

    made, calls = module.call_of, iter(range(100))
    monkeypatch.setattr(module, "call_of", lambda *args: made(*args) if next(calls) < 4 else fails())
    before = tiny.snapshot(patcher.model.diffusion_model)
    assert torch.isfinite(sample(patch(patcher, SKIP))).all()
    assert "in 10 calls" in said(server, "7") and "the rest of the run was not accelerated: ZeroDiv" in said(
        server, "7"
    )
    assert tiny.snapshot(patcher.model.diffusion_model) == before


def test_an_error_in_our_report_never_fails_the_picture(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipstone.nodes import run as module

    expected = sample(patch(patcher, SKIP))
    monkeypatch.setattr(module, "node_text", fails)
    assert torch.equal(sample(patch(patcher, SKIP)), expected)
    assert said(server, "7").startswith("an error in Skipstone")


def test_the_users_own_error_passes_untouched(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    def own(*args: Any) -> None:
        raise KeyError("the user's")

    handle = patcher.model.diffusion_model.out.register_forward_pre_hook(own)
    try:
        with pytest.raises(KeyError, match="the user's"):
            sample(patch(patcher, SKIP))
    finally:
        handle.remove()
    assert "error in Skipstone" not in said(server, "7")
