"""Block masks on a ComfyUI model, driven by doubles of the host; several Skipstone nodes on one model."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from comfy_models import (
    BOTH,
    HEUN,
    MERGE,
    SKIP,
    Cancelled,
    Lumina2,
    Unknown,
    guider,
    made,
    network,
    nodes,
    patch,
    patcher,
    said,
    sample,
    server,
)
from doubles import comfy
from torch import Tensor, nn

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

__all__ = ["network", "patcher", "server"]


# on a model


def test_forwards_of_two_sizes_in_one_call_are_skipped_each_at_its_own(
    server: comfy.PromptServer, network: nn.Module
) -> None:
    """As ComfyUI's areas: blocks whose output is not consumed have the shape of their own forward."""
    engine = Engine(network, Recipe(skip=BlockSkip(rule="interval", every=2)))
    engine.begin([999.0, 500.0], 1000.0)
    for timestep in (999.0, 500.0):
        for key, size in (("area", (16, 8)), ("whole", (16, 16))):
            x, time = tiny.noise(1, 4, *size), torch.full((1,), timestep)
            with engine.call(lambda: Call(timestep, size, (Stream(key, 1),), input=x)):  # noqa: B023
                assert network(x, time, tiny.noise(1, *tiny.CONTEXT)).shape == x.shape
    report = engine.end()
    assert report.blocks_run * 2 == report.blocks


class Keyframes:
    """A hook's strength, which changes before a call that the rule would skip."""

    def __init__(self, call: int) -> None:
        self._left = call

    @property
    def strength(self) -> float:
        """Each forward asks once."""
        self._left -= 1
        return 1.0 if self._left >= 0 else 0.5


@pytest.mark.parametrize(("call", "full"), [(99, 5), (5, 6), (6, 5)], ids=["never", "skipped", "full"])
def test_blocks_cached_under_other_weights_are_not_reused(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, call: int, full: int
) -> None:
    hooks = SimpleNamespace(hooks=[SimpleNamespace(hook_keyframe=Keyframes(call))])
    patcher.model.current_patcher = SimpleNamespace(current_hooks=hooks)
    sample(patch(patcher, BlockSkip(rule="interval", every=2)))
    ran, of = map(int, re.findall(r"ran (\d+) of (\d+) blocks in 10 calls", said(server, "7"))[0])
    assert ran * 10 == of * full


def test_skipped_dense_skipped_on_one_loaded_model(patcher: comfy.ModelPatcher) -> None:
    before = tiny.snapshot(patcher.model.diffusion_model)
    dense, skipped = sample(patcher), sample(patch(patcher, SKIP))
    assert not torch.equal(skipped, dense)
    assert torch.equal(sample(patch(patcher, SKIP)), skipped)
    assert torch.equal(sample(patcher), dense)
    assert tiny.snapshot(patcher.model.diffusion_model) == before


def test_the_report_tells_blocks_and_multiply_adds(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    sample(patch(patcher, SKIP))
    text = said(server, "7")
    found = re.match(
        r"ran (\d+) of (\d+) blocks in 10 calls, saved (\d+)% of their multiply-adds; (\d+) reused, (\d+) not", text
    )
    assert found, text
    ran, entered, less, reused, dead = map(int, found.groups())
    assert ran + reused + dead == entered and 30 < less < 67
    assert max(map(len, server.texts[-1][1].splitlines())) <= 40


def test_every_step_in_full_leaves_a_bare_clone(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    clone = nodes().SkipstoneBlockMask.run("3", model=patcher, mask=BlockSkip(every=1))
    assert not any(clone.wrappers.values())
    assert said(server, "3") == "off: these settings skip nothing"


def test_without_a_mask_the_model_passes_and_the_node_says_so(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    assert nodes().SkipstoneBlockMask.run("3", model=patcher, mask=None) is patcher
    assert said(server, "3") == "no mask came in, see the node before; sampling runs unaccelerated"


def test_block_mask_takes_a_rule_as_the_rule_node_does(patcher: comfy.ModelPatcher) -> None:
    node, widgets = nodes().SkipstoneBlockMask, {"rule": "deepcache", "every": 4, "branch": 1}
    through = node.run("3", model=patcher, mask=nodes().SkipstoneMaskRule.run("2", **widgets))
    assert torch.equal(sample(node.run("3", model=patcher, **widgets)), sample(through))
    assert not torch.equal(sample(node.run("3", model=patcher)), sample(patcher))


def test_a_mask_takes_the_place_of_the_rule_beside_it(patcher: comfy.ModelPatcher) -> None:
    node, mask = nodes().SkipstoneBlockMask, BlockSkip(rule="interval", every=2)
    both = node.run("3", model=patcher, mask=mask, rule="depths", depths="not a list", forecast=True)
    assert torch.equal(sample(both), sample(patch(patcher, BlockSkip(rule="interval", every=2, forecast=True))))


def test_a_rule_that_cannot_be_read_leaves_the_model_alone(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    assert nodes().SkipstoneBlockMask.run("3", model=patcher, rule="depths", depths="not a list") is patcher
    assert said(server, "3").endswith("sampling runs unaccelerated")


@pytest.mark.parametrize("options", [{"batch": 2}, {"split": True}, {"sampler": HEUN}, {"steps": 1}], ids=str)
def test_kinds_of_runs(patcher: comfy.ModelPatcher, server: comfy.PromptServer, options: dict[str, Any]) -> None:
    skipped = sample(patch(patcher, SKIP), **options)
    assert torch.isfinite(skipped).all()
    assert torch.equal(skipped, sample(patcher, **options)) == (options.get("steps") == 1)
    assert ("caches kept to the end" in said(server, "7")) == ("sampler" in options)


@pytest.mark.parametrize("methods", [SKIP, BOTH], ids=["skipping", "pruning and skipping"])
def test_split_conds_run_as_together(patcher: comfy.ModelPatcher, methods: BlockSkip | Recipe) -> None:
    together, split = (sample(patch(patcher, methods), split=flag) for flag in (False, True))
    torch.testing.assert_close(split, together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("methods", [SKIP, BOTH], ids=["skipping", "pruning and skipping"])
def test_cancel_leaves_nothing(patcher: comfy.ModelPatcher, methods: BlockSkip | Recipe) -> None:
    before, dense = tiny.snapshot(patcher.model.diffusion_model), sample(patcher)

    def between(call: int) -> None:
        if call == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        sample(patch(patcher, methods), between=between)
    assert tiny.snapshot(patcher.model.diffusion_model) == before
    assert torch.equal(sample(patcher), dense)


def test_a_mask_in_memory_gives_what_its_rule_gives(patcher: comfy.ModelPatcher) -> None:
    assert torch.equal(sample(patch(patcher, BlockSkip(mask=made(patcher)))), sample(patch(patcher, SKIP)))


def test_a_mask_for_another_model_runs_unaccelerated_and_says_so_once(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    mask = made(patcher)
    other = Mask(mask.run, "Flux", mask.blocks, mask.timesteps)
    assert torch.equal(sample(patch(patcher, BlockSkip(mask=other))), sample(patcher))
    ((_, text),) = server.texts
    assert re.fullmatch(
        r"the mask is for a Flux, this model is a ldm U-Net.*; sampling runs unaccelerated", said(server, "7")
    )
    assert len(text.splitlines()) > 1


def test_an_unsupported_model_runs_unaccelerated_and_names_those_that_are(server: comfy.PromptServer) -> None:
    patcher = comfy.ModelPatcher(Lumina2(Unknown()))
    assert torch.equal(sample(patch(patcher, SKIP)), sample(patcher))
    assert said(server, "7").startswith("Lumina2 is not supported: Skipstone works on SD1.x, SD2.x")
    assert len(server.texts) == 1


# several nodes on one model


def test_merging_and_a_mask_join_in_any_order(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    one = sample(patch(patch(patcher, MERGE, 1), SKIP, 2))
    other = sample(patch(patch(patcher, SKIP, 2), MERGE, 1))
    assert torch.equal(one, other)
    assert not torch.equal(one, sample(patch(patcher, SKIP))) and not torch.equal(one, sample(patch(patcher, MERGE)))
    for node in ("1", "2"):
        assert said(server, node).startswith("merged ") and "blocks in 10 calls" in said(server, node)


def test_joined_they_have_one_wrapper_and_the_inputs_keep_theirs(patcher: comfy.ModelPatcher) -> None:
    first = patch(patcher, MERGE, 1)
    both = patch(first, SKIP, 2)
    counts = [sum(len(ws) for ws in m.wrappers.get("outer_sample", {}).values()) for m in (patcher, first, both)]
    assert counts == [0, 1, 1]
    assert torch.equal(sample(first), sample(patch(patcher, MERGE)))


def test_a_second_mask_replaces_the_first(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    first = patch(patch(patcher, BlockSkip(rule="interval", every=2), 1), MERGE, 5)
    assert torch.equal(sample(patch(first, SKIP, 2)), sample(patch(patch(patcher, MERGE, 5), SKIP, 3)))
    assert said(server, "1") == "replaced: a later node skips blocks in its place"
    assert said(server, "2").startswith("merged ") and said(server, "5").startswith("merged ")


def test_a_neutral_node_takes_its_own_kind_off(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    both = patch(patch(patcher, MERGE, 1), SKIP, 2)
    off = TokenMerge(threshold=1.0)
    assert torch.equal(sample(patch(both, Recipe(merge=off), 3)), sample(patch(patcher, SKIP, 2)))
    assert torch.equal(sample(patch(both, BlockSkip(every=1), 3)), sample(patch(patcher, MERGE, 1)))
    assert not any(patch(patch(both, BlockSkip(every=1)), Recipe(merge=off)).wrappers.values())
    assert said(server, "3") == ""


def test_what_one_method_cannot_do_the_other_still_does(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    wrong = BlockSkip(mask=Mask(np.ones((2, 1), dtype=bool), "Flux", ("a",), (999.0, 0.0)))
    assert torch.equal(sample(patch(patch(patcher, wrong, 1), MERGE, 2)), sample(patch(patcher, MERGE)))
    assert said(server, "1").startswith("merged ") and said(server, "1").endswith("; no block is skipped")


def test_a_video_latent_is_skipped_and_not_merged(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    class Residual(nn.Linear):
        def forward(self, h: Tensor, scale: Tensor) -> Tensor:
            return h + torch.tanh(super().forward(h)) * scale

    class Flux(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.double_blocks = nn.ModuleList()
            self.single_blocks = nn.ModuleList(Residual(4, 4) for _ in range(2))

        def forward(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
            h = x.movedim(1, -1)
            for block in self.single_blocks:
                h = block(h, t.view(-1, 1, 1, 1, 1).cos())
            return h.movedim(-1, 1)

    model = comfy.ModelPatcher(comfy.BaseModel(tiny.randomise(Flux())))
    noise, sigmas = tiny.noise(1, 4, 3, 8, 8), comfy.linear_sigmas(4)
    both = patch(patch(model, MERGE, 1), BlockSkip(rule="interval", every=2), 2)
    runs = [guider(p).sample(noise, comfy.Sampler(), sigmas) for p in (both, model)]
    assert not torch.equal(*runs)
    assert "ran 4 of 8 blocks" in said(server, "2") and "2 layers unaccelerated" in said(server, "2")


def test_a_latent_of_any_shape_is_a_call(server: comfy.PromptServer) -> None:
    from skipstone.nodes.calls import call_of

    shapes = [(2, 4, 8, 6), (2, 16, 3, 8, 6), (2, 64, 30)]
    calls = [call_of(comfy.ModelSampling(), torch.zeros(s), torch.ones(2), {}) for s in shapes]
    assert [call.latent for call in calls] == [(8, 6), (3, 8, 6), (30,)]
