"""Token pruning over a run: ratios, checkpoints, windows, and pruning beside merging and block masks."""

from __future__ import annotations

import pytest
import tiny
import torch
from prune_host import LAYOUTS, PRUNE, STEPS, Host, kept_in_cells, most_dynamic, run
from torch import Tensor

from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

# schedules


def test_ratios_hold_at_their_calls(unet: tiny.Case) -> None:
    ratios = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75)
    for steps in (STEPS, None):
        _, report = run(unet, TokenPrune(ratio=ratios), steps=steps)
        for layer in report.layers.values():
            for call, ratio in enumerate(ratios):
                assert layer.kept_by_call[call] == pytest.approx(1 - ratio, abs=0.01)


def test_ratios_for_another_step_count_are_those_nearest_in_timestep(unet: tiny.Case) -> None:
    _, report = run(unet, TokenPrune(ratio=(0.0, 0.25, 0.75)))
    (layer, *_) = report.layers.values()
    assert [round(1 - layer.kept_by_call[k], 2) for k in range(7)] == [0.0, 0.0, 0.25, 0.25, 0.25, 0.75, 0.75]


def test_a_repeated_timestep_does_not_shift_a_list_made_for_as_many_calls(unet: tiny.Case) -> None:
    steps = [999.0, 800.0, 800.0, 600.0, 400.0, 200.0, 0.0]
    with accelerate(unet.model, TokenPrune(ratio=(0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1))) as handle:
        handle.begin(steps)
        unet.sample(steps)
        (layer, *_) = handle.end().layers.values()
    assert [round(1 - layer.kept_by_call[k], 1) for k in range(7)] == [0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]


def test_between_checkpoints_the_same_tokens_are_pruned(unet: tiny.Case) -> None:
    host = Host(unet, Recipe(prune=TokenPrune(checkpoints=(0, 25))))
    host.run(LAYOUTS["split"])
    assert {call for _, call, _ in host.found} == {0, 3}


def test_every_checkpoint_is_no_caching(unet: tiny.Case) -> None:
    listed = TokenPrune(checkpoints=tuple(range(51)))
    assert torch.equal(run(unet, listed)[0], run(unet, PRUNE)[0])


def test_the_window_is_served_alone(unet: tiny.Case) -> None:
    _, report = run(unet, TokenPrune(start=0.3, end=0.7))
    assert {call for layer in report.layers.values() for call in layer.kept_by_call} == {2, 3, 4}


@pytest.mark.parametrize("targets", [("attn1",), ("attn2",), ("ff",), ("attn1", "attn2", "ff")], ids="+".join)
def test_only_the_named_modules_run_on_fewer_tokens(unet: tiny.Case, targets: tuple[str, ...]) -> None:
    _, report = run(unet, TokenPrune(targets=targets))  # type: ignore[arg-type]
    roles = {name.rsplit(".", 1)[-1] if name.endswith(("attn2", "ff")) else "attn1" for name in report.layers}
    assert roles == set(targets)


# with the other mechanisms


def test_pruning_off_beside_a_mask_is_the_mask_alone(either: tiny.Case) -> None:
    skip = BlockSkip(rule="interval", every=3)
    both = Recipe(prune=TokenPrune(ratio=0.0), skip=skip)
    assert torch.equal(run(either, both)[0], run(either, skip)[0])


def test_a_mask_that_runs_everything_beside_pruning_is_pruning_alone(either: tiny.Case) -> None:
    both = Recipe(prune=PRUNE, skip=BlockSkip(every=1))
    assert torch.equal(run(either, both)[0], run(either, PRUNE)[0])


def test_a_block_that_is_reused_prunes_nothing_and_chooses_anew_when_it_next_runs(either: tiny.Case) -> None:
    found: set[int] = set()
    recipe = Recipe(prune=PRUNE, skip=BlockSkip(rule="interval", every=3))
    with accelerate(either.model, recipe, observer=lambda f: found.add(f.call)) as handle:
        handle.begin(STEPS)
        picture = either.sample(STEPS)
        report = handle.end()
    assert found == {0, 3, 6} and torch.isfinite(picture).all()
    assert report.blocks_reused + report.blocks_dead > 0 and report.merged_share > 0.35


def test_repeated_calls_do_not_turn_the_choice_of_bases_into_noise(unet: tiny.Case) -> None:
    found: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    x, cond = unet.latent(1), unet.cond(1)
    recipe = Recipe(
        prune=TokenPrune(ratio=0.75, alpha=0.0), skip=BlockSkip(rule="depths", depths=(12, 0, 0, 12, 0, 12))
    )
    with accelerate(unet.model, recipe, observer=lambda f: found.setdefault(f.call, f.pairs.partner)) as handle:
        handle.begin(STEPS)
        for k, t in enumerate(STEPS):
            outputs[k] = unet(x + t / 1000, t, cond)
    assert torch.equal(outputs[1], outputs[2]) and torch.equal(outputs[2], outputs[3])
    for k, (a, b) in {4: (0, 1), 6: (1, 4)}.items():
        assert torch.equal(kept_in_cells(found[k]), most_dynamic(outputs[a], outputs[b]))


def test_merging_and_pruning_work_side_by_side_on_different_modules(unet: tiny.Case) -> None:
    recipe = Recipe(merge=TokenMerge(threshold=0.5, bucket=1), prune=TokenPrune(targets=("ff",)))
    _, report = run(unet, recipe)
    verbs = {name: layer.verb for name, layer in report.layers.items()}
    assert {verb for name, verb in verbs.items() if name.endswith(".ff")} == {"pruned"}
    assert {verb for name, verb in verbs.items() if not name.endswith(".ff")} == {"merged"}
    assert report.summary().startswith("merged and pruned ")
