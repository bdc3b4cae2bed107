"""Token pruning through the engine: off is off, conds share their bases in any batching, runs repeat exactly."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import tiny
import torch
from device_waits import waits
from prune_host import LAYOUTS, PRUNE, STEPS, Host, bases, kept_in_cells, most_dynamic, run
from torch import Tensor

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.prune import PrunePart
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_prune import Align, TokenPrune
from skipstone.pipelines.accelerate import accelerate

# off is off


@pytest.mark.parametrize(
    "off",
    [TokenPrune(ratio=0.0), TokenPrune(ratio=(0.0, 0.0)), TokenPrune(targets=()), TokenPrune(start=0.5, end=0.5)],
    ids=["ratio 0", "ratios 0", "no targets", "no window"],
)
def test_neutral_settings_install_nothing(case: tiny.Case, off: TokenPrune) -> None:
    before = tiny.snapshot(case.model)
    with accelerate(case.model, off):
        assert tiny.snapshot(case.model) == before


def test_a_ratio_too_small_for_one_token_is_exact(either: tiny.Case) -> None:
    picture, report = run(either, TokenPrune(ratio=1e-4))
    assert torch.equal(picture, either.sample(STEPS)) and report.merged_share == 0.0


def test_pruning_leaves_nothing_on_the_model_and_says_what_it_did(case: tiny.Case) -> None:
    dense, before = case.sample(STEPS), tiny.snapshot(case.model)
    pruned, report = run(case, PRUNE)
    assert not torch.equal(pruned, dense) and torch.isfinite(pruned).all()
    assert report.merged_share == pytest.approx(0.4, abs=0.02) and report.macs_done < report.macs_dense
    assert "pruned 40%" in report.summary() or "pruned 39%" in report.summary()
    assert torch.equal(case.sample(STEPS), dense) and tiny.snapshot(case.model) == before


def test_two_runs_are_equal_and_other_sizes_between_do_not_matter(unet: tiny.Case) -> None:
    first, _ = run(unet, PRUNE)
    with accelerate(unet.model, PRUNE):
        unet.sample(STEPS)
        unet.sample(STEPS, unet.latent(1, size=(8, 12)))
        again = unet.sample(STEPS)
    assert torch.equal(first, again)


def test_the_global_random_state_is_not_touched(unet: tiny.Case) -> None:
    torch.manual_seed(7)
    state = torch.get_rng_state()
    run(unet, dataclasses.replace(PRUNE, flip_prob=0.5))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_seed_decides_the_bases(unet: tiny.Case) -> None:
    a, b = run(unet, PRUNE)[0], run(unet, dataclasses.replace(PRUNE, seed=1))[0]
    assert not torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_are_served(dtype: torch.dtype) -> None:
    case = tiny.diffusers_unet()
    case.model.to(dtype)
    x, cond = case.latent(2).to(dtype), case.cond(2).to(dtype)
    with accelerate(case.model, PRUNE) as handle:
        for t in STEPS:
            with torch.no_grad():
                out = case.model(x, t, encoder_hidden_states=cond).sample
        assert out.dtype == dtype and torch.isfinite(out).all() and handle.report().served == 3


@pytest.mark.parametrize("size", [(8, 24), (10, 14), (24, 8)])
def test_rectangular_latents_are_served(unet: tiny.Case, size: tuple[int, int]) -> None:
    picture, report = run(unet, PRUNE, unet.latent(2, size=size))
    assert picture.shape[2:] == size and report.merged_share == pytest.approx(0.4, abs=0.01)


# cond and uncond


@cache
def batched(name: str, tell_input: bool) -> tuple[Host, Tensor]:
    """A run of a model with cond and uncond in one batch; the same model always gives the same."""
    host = Host(tiny.BUILDERS[name](), Recipe(prune=PRUNE), tell_input)
    return host, host.run(LAYOUTS["batched"])


TRIED = [("diffusers", layout, True) for layout in LAYOUTS if layout != "batched"]
TRIED += [("ldm", "changing", True), ("diffusers", "changing", False), ("diffusers", "swapped", False)]


@pytest.mark.parametrize(("name", "layout", "tell_input"), TRIED)
def test_any_batching_prunes_the_same_tokens_by_latent_and_by_place(name: str, layout: str, tell_input: bool) -> None:
    reference, a = batched(name, tell_input)
    other = Host(reference.case, Recipe(prune=PRUNE), tell_input)
    b = other.run(LAYOUTS[layout])
    assert reference.found.keys() == other.found.keys()
    assert all(torch.equal(reference.found[k], other.found[k]) for k in reference.found)
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("layout", ["batched", "split"])
@pytest.mark.parametrize("aligned", [True, False, "first"])
def test_cond_and_uncond_have_the_same_bases_exactly_when_aligned(layout: str, aligned: Align) -> None:
    unet = tiny.diffusers_unet()
    host = Host(unet, Recipe(prune=TokenPrune(ratio=0.75, align_cfg=aligned)))
    host.run(LAYOUTS[layout])
    same = [
        torch.equal(bases(p, unet.size), bases(host.found[layer, call, "uncond"], unet.size))
        for (layer, call, key), p in host.found.items()
        if key == "cond" and call >= 2
    ]
    assert same and all(same) == bool(aligned)


def test_the_halves_of_a_guided_batch_share_their_bases_on_a_bare_model(unet: tiny.Case) -> None:
    found: list[Tensor] = []
    x = unet.latent(2)
    with accelerate(unet.model, TokenPrune(ratio=0.75), observer=lambda f: found.append(f.pairs.partner)):
        for t in STEPS[:4]:
            out = unet(torch.cat([x, x]), t, unet.cond(4))
            x = tiny.step(x, out[:2] + out[2:])
    kept = [bases(p, unet.size) for p in found]
    assert all(torch.equal(k[:2], k[2:]) for k in kept) and not torch.equal(kept[-1][0], kept[-1][1])


def test_an_image_does_not_depend_on_its_batch_mates(unet: tiny.Case) -> None:
    x, cond = unet.latent(3), unet.cond(3)

    def sample(rows: slice) -> Tensor:
        with accelerate(unet.model, PRUNE):
            return unet.sample(STEPS, x[rows], cond[rows])

    assert torch.allclose(sample(slice(0, 3))[1:2], sample(slice(1, 2)), atol=1e-5)


# dynamics


def test_without_noise_the_base_is_the_most_dynamic_token_of_its_cell(unet: tiny.Case) -> None:
    found: dict[int, Tensor] = {}
    outputs: list[Tensor] = []
    x, cond = unet.latent(2), unet.cond(2)
    prune = TokenPrune(ratio=0.75, alpha=0.0)
    with accelerate(unet.model, prune, observer=lambda f: found.setdefault(f.call, f.pairs.partner)):
        for t in STEPS[:4]:
            outputs.append(unet(x, t, cond))
            x = tiny.step(x, outputs[-1])
    for k in (2, 3):
        assert torch.equal(kept_in_cells(found[k]), most_dynamic(outputs[k - 2], outputs[k - 1]))


def third_call(unet: tiny.Case, prune: TokenPrune, seed: int = 0) -> tuple[Tensor, Tensor]:
    """What the first layer keeps of each cell at the third call, and which token of each cell is the least dynamic."""
    found: dict[int, Tensor] = {}
    x, cond = unet.latent(1, seed=seed), unet.cond(1)
    with accelerate(unet.model, prune, observer=lambda f: found.setdefault(f.call, f.pairs.partner)):
        outputs = [unet(x + t / 1000, t, cond) for t in STEPS[:3]]
    return kept_in_cells(found[2]), most_dynamic(outputs[0], outputs[1], least=True)


@pytest.mark.parametrize(
    "turned", [TokenPrune(0.75, alpha=0.0, flip_prob=1.0), TokenPrune(0.75, alpha=0.0, gamma=-1.0)]
)
def test_with_the_sign_turned_the_base_is_the_least_dynamic(unet: tiny.Case, turned: TokenPrune) -> None:
    kept, least = third_call(unet, turned)
    assert torch.equal(kept, least)


def test_random_bases_do_not_depend_on_the_picture_and_dynamic_ones_do(unet: tiny.Case) -> None:
    for base in ("random", "dynamics"):
        a, b = (third_call(unet, TokenPrune(0.75, base=base), seed)[0] for seed in (0, 7))  # type: ignore[arg-type]
        assert torch.equal(a, b) == (base == "random")


def test_normalising_gives_the_dynamics_the_same_weight_at_any_scale(unet: tiny.Case) -> None:
    small = TokenPrune(0.75, gamma=1e-4)
    noise_alone = third_call(unet, TokenPrune(0.75, base="random"))[0]
    assert torch.equal(third_call(unet, dataclasses.replace(small, normalise=False))[0], noise_alone)
    plain, normal = (third_call(unet, TokenPrune(0.75, gamma=0.1, normalise=n))[0] for n in (False, True))
    assert not torch.equal(plain, normal)


@pytest.mark.parametrize("how", ["handle", "bracket"])
def test_a_host_that_brackets_and_one_that_hooks_read_the_same_output(unet: tiny.Case, how: str) -> None:
    prune, plan = TokenPrune(ratio=0.75, alpha=0.0), []
    x, cond = unet.latent(1), unet.cond(1)
    handle = accelerate(unet.model, prune, observer=lambda f: plan.append(f.pairs.partner))
    for t in STEPS:
        unet(x + t / 1000, t, cond)
    handle.remove()
    engine = Engine(unet.model, Recipe(prune=prune), observer=lambda f: other.append(f.pairs.partner))
    other: list[Tensor] = []
    with engine.run():
        for t in STEPS:
            with engine.call(Call(t, unet.size, (Stream("a", 1),))):
                unet(x + t / 1000, t, cond)
            assert not tiny.overridden(unet.model)
    assert len(plan) == len(other) > 0 and all(torch.equal(a, b) for a, b in zip(plan, other, strict=True))


def test_outputs_are_read_outside_the_window_too(unet: tiny.Case) -> None:
    found: dict[int, Tensor] = {}
    outputs: list[Tensor] = []
    x, cond = unet.latent(1), unet.cond(1)
    prune = TokenPrune(ratio=0.75, alpha=0.0, start=0.5)
    with accelerate(unet.model, prune, observer=lambda f: found.setdefault(f.call, f.pairs.partner)) as handle:
        handle.begin(STEPS)
        for t in STEPS:
            outputs.append(unet(x + t / 1000, t, cond))
    assert min(found) == 3
    assert torch.equal(kept_in_cells(found[3]), most_dynamic(outputs[1], outputs[2]))


def test_a_failed_forward_and_a_foreign_output_leave_no_trace(unet: tiny.Case) -> None:
    engine = Engine(unet.model, Recipe(prune=PRUNE))
    with engine.run() as session:
        with pytest.raises(KeyboardInterrupt), engine.call(Call(900.0, unet.size, (Stream("a", 1),))):
            raise KeyboardInterrupt
        session.leave(torch.zeros(1, 4, *unet.size))
        assert not tiny.overridden(unet.model)
        for t in STEPS:
            with engine.call(Call(t, unet.size, (Stream("a", 1),))):
                unet(unet.latent(1), t, unet.cond(1))
    assert engine.report.served == 3 and not any("dynamics" in note for note in engine.report.notes)


def test_pruning_never_waits_for_the_device(unet: tiny.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, x, cond = Engine(unet.model, Recipe(prune=PRUNE)), unet.latent(2), unet.cond(2)
    with engine.run(STEPS):
        for k, t in enumerate(STEPS):
            with waits(monkeypatch) as found, engine.call(Call(t, unet.size, (Stream("a", 2),), input=x)):
                unet(x + t / 1000, t, cond)
            assert k == 0 or not found


def test_a_call_of_cached_values_alone_is_no_evaluation_even_where_they_are_forecast(
    unet: tiny.Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[int] = []
    monkeypatch.setattr(PrunePart, "listen", lambda self, output: heard.append(self.index))
    depths = tuple(12 if k % 2 else 0 for k in range(1, len(STEPS)))
    run(unet, Recipe(prune=PRUNE, skip=BlockSkip(rule="depths", depths=depths, forecast=True)))
    assert heard == [0, *(k for k in range(1, len(STEPS)) if k % 2)]
