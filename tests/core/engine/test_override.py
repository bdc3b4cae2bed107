"""Overrides: what stood in a module's `forward` is called and put back, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.override import Override, Overrides
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = (900.0, 600.0, 300.0)
MERGE = TokenMerge(threshold=0.5, bucket=1)


class Double(nn.Module):
    """x -> 2 x."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def plus_one(inner: Any, *args: Any, **kwargs: Any) -> Any:
    """An override that shows in the output."""
    return inner(*args, **kwargs) + 1


ONE = torch.ones(1)


def value(module: nn.Module) -> float:
    """What the module makes of one."""
    return float(module(ONE))


def test_an_override_lives_from_install_to_remove() -> None:
    module = Double()
    override = Override(module, plus_one, repeats=True)
    assert value(module) == 2
    for _ in range(2):
        override.install()
        assert [value(module), value(module)] == [3, 3]
        override.remove()
        assert value(module) == 2
        assert "forward" not in module.__dict__


def test_the_callable_in_place_stays_the_same_object() -> None:
    module = Double()
    override = Override(module, plus_one)
    seen = []
    for _ in range(3):
        override.install()
        seen.append(module.__dict__["forward"])
        override.remove()
    assert len({id(f) for f in seen}) == 1


def test_entered_twice_in_one_call_it_runs_plain_the_second_time() -> None:
    module = Double()
    override = Override(module, plus_one)
    for _ in range(2):
        override.install()
        assert [value(module), value(module), value(module)] == [3, 2, 2]
        override.remove()


def test_an_instance_forward_that_stood_there_is_called_and_put_back() -> None:
    module = Double()
    own = lambda x: 10 * x  # noqa: E731
    module.forward = own  # type: ignore[method-assign]
    override = Override(module, plus_one)
    override.install()
    assert value(module) == 11
    override.remove()
    assert module.__dict__["forward"] is own


@pytest.mark.parametrize("keeps", [True, False], ids=["wraps ours", "ignores ours"])
def test_somebody_replacing_forward_in_mid_call_keeps_his_and_nothing_loops(keeps: bool) -> None:
    module = Double()
    override = Override(module, plus_one)
    override.install()
    before = module.forward
    theirs = (lambda x: before(x) * 100) if keeps else (lambda x: x * 100)
    module.forward = theirs  # type: ignore[method-assign]
    override.remove()
    assert value(module) == (200 if keeps else 100)
    for _ in range(3):
        override.install()
        assert value(module) == (300 if keeps else 100)
        override.remove()
        assert value(module) == (200 if keeps else 100)
    assert module.__dict__["forward"] is theirs


def test_somebody_who_wraps_in_mid_call_and_later_puts_ours_back_leaves_nothing() -> None:
    module = Double()
    override = Override(module, plus_one)
    override.install()
    before = module.forward
    module.forward = lambda x: before(x) * 100  # type: ignore[method-assign]
    override.remove()
    module.forward = before  # type: ignore[method-assign]
    assert value(module) == 2
    override.install()
    assert value(module) == 3
    override.remove()
    assert value(module) == 2
    assert "forward" not in module.__dict__


def test_after_he_left_we_serve_again() -> None:
    module = Double()
    override = Override(module, plus_one)
    override.install()
    module.forward = lambda x: x * 100  # type: ignore[method-assign]
    override.remove()
    del module.forward
    override.install()
    assert value(module) == 3
    override.remove()
    assert "forward" not in module.__dict__


def test_overrides_go_on_and_off_together_any_number_of_times() -> None:
    modules = [Double(), Double()]
    overrides = Overrides(Override(m, plus_one, repeats=True) for m in modules)
    assert len(overrides) == 2
    for _ in range(2):
        overrides.install()
    assert [value(m) for m in modules] == [3, 3]
    for _ in range(2):
        overrides.remove()
    assert [value(m) for m in modules] == [2, 2]


def test_two_overrides_on_one_module_nest() -> None:
    module = Double()
    overrides = Overrides(
        [Override(module, plus_one, repeats=True), Override(module, lambda f, x: 10 * f(x), repeats=True)]
    )
    overrides.install()
    assert value(module) == 30
    overrides.remove()
    assert "forward" not in module.__dict__


# On whole models


def attentions(model: nn.Module) -> list[nn.Module]:
    """All self-attentions that token merging may touch."""
    return [m for name, m in model.named_modules() if name.endswith((".attn1", ".attn"))]


def test_instance_forwards_of_other_packs_are_called_and_kept(case: tiny.Case) -> None:
    calls: list[int] = []

    def patched(inner: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            calls.append(args[0].shape[1])
            return inner(*args, **kwargs) * 0.5

        return forward

    for module in attentions(case.model):
        module.forward = patched(module.forward)  # type: ignore[method-assign]
    before, dense = tiny.snapshot(case.model), case.sample(STEPS)
    full, calls[:] = max(calls), []
    with accelerate(case.model, MERGE) as handle:
        merged = case.sample(STEPS)
        assert handle.report().merged_share > 0.1
    assert calls and min(calls) < full
    assert not torch.equal(merged, dense)
    assert tiny.snapshot(case.model) == before
    assert torch.equal(case.sample(STEPS), dense)


@pytest.mark.parametrize("role", ["norm1", "attn1"])
def test_a_pack_that_wraps_forward_in_mid_run_goes_on_working(unet: tiny.Case, role: str) -> None:
    module = dict(unet.model.named_modules())[next(n for n, _ in unet.model.named_modules() if n.endswith(role))]
    entered: list[int] = []

    def wrap(mod: nn.Module, *_: Any) -> None:
        inner = mod.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            entered.append(1)
            return inner(*args, **kwargs)

        mod.forward = forward  # type: ignore[method-assign]

    x, cond = unet.latent(1), unet.cond(1)
    with accelerate(unet.model, MERGE) as handle:
        clean = unet.sample(STEPS, x, cond)
        handle.end()
        once = module.register_forward_pre_hook(lambda mod, args: (wrap(mod), once.remove())[0])
        wrapped = unet.sample(STEPS, x, cond)
        assert torch.equal(wrapped, clean)
        assert len(entered) == len(STEPS) - 1
        assert handle.report().served == 3
    del module.forward
    assert tiny.overridden(unet.model) == []


def test_a_module_called_twice_in_one_forward_merges_once(unet: tiny.Case) -> None:
    """Reference-only ControlNet and perturbed attention enter a block's attention a second time."""
    lengths: list[int] = []
    dense_again: list[Tensor] = []
    modules = dict(unet.model.named_modules())
    name = next(n for n in modules if n.endswith("transformer_blocks.0"))
    block: Any = modules[name]
    plain = block.attn1.forward
    inputs = block.attn1.register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))
    block.attn1.to_q.register_forward_pre_hook(lambda m, args: lengths.append(args[0].shape[1]))

    def twice(m: nn.Module, args: Any, output: Tensor) -> None:
        if not dense_again:
            dense_again.append(output)
            again = block.attn1(args[0])
            torch.testing.assert_close(again, plain(args[0]))
            dense_again.append(again)

    hook = block.attn1.register_forward_hook(twice)
    with accelerate(unet.model, MERGE) as handle:
        unet(unet.latent(1), 900.0, unet.cond(1))
        report = handle.report()
    inputs.remove(), hook.remove()
    assert len(dense_again) == 2
    assert not torch.equal(*dense_again)
    assert lengths[1] < lengths[0]
    assert lengths[3] == lengths[2] == lengths[0]
    assert report.layers[name].searched == 1
    assert report.layers[name].tokens == 256
