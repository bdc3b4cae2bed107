"""Ends of pipeline runs: finished, cancelled or raising, their state dies; and DiT pipelines."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.engine import session as session_module
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

MERGE = TokenMerge(threshold=0.8, bucket=1, checkpoints="config_1")
STEPS = 6


def evaluations(network: torch.nn.Module) -> list[float]:
    """Timesteps of the network's forwards from here on."""
    seen: list[float] = []
    network.register_forward_pre_hook(lambda m, args, kwargs: seen.append(float(args[1])), with_kwargs=True)
    return seen


class Stop(Exception):
    """Raised by a callback."""


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Weak references to all sessions made from here on."""
    refs: list[weakref.ref[Any]] = []
    plain = session_module.Session.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        refs.append(weakref.ref(self))
        plain(self, *args, **kwargs)

    monkeypatch.setattr(session_module.Session, "__init__", init)
    return refs


def alive(refs: list[weakref.ref[Any]]) -> int:
    """How many still live."""
    gc.collect()
    return sum(ref() is not None for ref in refs)


def test_state_dies_with_the_pipelines_run(sessions: list[weakref.ref[Any]]) -> None:
    pipe = tiny.sd_pipeline()
    with accelerate(pipe, MERGE) as handle:
        tiny.run_sd(pipe, STEPS)
        assert len(sessions) == 1
        assert alive(sessions) == 0
        assert handle.report().calls == STEPS


@pytest.mark.parametrize("kind", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["callback", "network"])
def test_state_dies_when_the_run_raises(
    kind: type[BaseException], where: str, sessions: list[weakref.ref[Any]]
) -> None:
    pipe = tiny.sd_pipeline()
    dense = tiny.run_sd(pipe, STEPS)
    installed_on: list[dict] = []

    def stop(*_: Any) -> Any:
        if len(seen) > 2:
            raise kind

    def callback(pipe: Any, step: int, t: Tensor, kwargs: dict) -> dict:
        if where == "callback":
            stop()
        return kwargs

    seen = evaluations(pipe.unet)
    deep = next(m for n, m in reversed(list(pipe.unet.named_modules())) if n.endswith(".ff"))
    hook = deep.register_forward_pre_hook(stop if where == "network" else lambda *_: None)
    before = tiny.snapshot(pipe.unet)
    with accelerate(pipe, MERGE) as handle:
        installed_on.append(tiny.snapshot(pipe.unet))
        with pytest.raises(kind):
            tiny.run_sd(pipe, STEPS, callback_on_step_end=callback)
        assert alive(sessions) == 0
        assert handle.engine.running is None
        assert tiny.snapshot(pipe.unet) == installed_on[0]
        assert handle.report().calls == 3
    assert tiny.snapshot(pipe.unet) == before
    hook.remove()
    assert torch.equal(tiny.run_sd(pipe, STEPS), dense)


def test_a_run_interrupted_by_the_pipelines_own_flag_ends() -> None:
    pipe = tiny.sd_pipeline()

    def callback(pipe: Any, step: int, t: Tensor, kwargs: dict) -> dict:
        pipe._interrupt = step == 2
        return kwargs

    with accelerate(pipe, MERGE) as handle:
        tiny.run_sd(pipe, STEPS, callback_on_step_end=callback)
        assert handle.engine.running is None
        assert handle.report().calls == 3
        tiny.run_sd(pipe, STEPS)
        assert handle.report().calls == STEPS


def test_an_instance_progress_bar_is_called_and_put_back() -> None:
    pipe = tiny.sd_pipeline()
    plain, calls = pipe.progress_bar, []
    pipe.progress_bar = own = lambda *args, **kwargs: (calls.append(1), plain(*args, **kwargs))[1]
    with accelerate(pipe, MERGE):
        tiny.run_sd(pipe, 3)
    assert calls == [1]
    assert pipe.__dict__["progress_bar"] is own
    assert "maybe_free_model_hooks" not in pipe.__dict__


def test_the_unet_of_an_accelerated_pipeline_may_be_removed_in_mid_run() -> None:
    pipe = tiny.sd_pipeline()
    handle = accelerate(pipe, MERGE)

    def callback(pipe: Any, step: int, t: Tensor, kwargs: dict) -> dict:
        if step == 2:
            handle.remove()
        return kwargs

    before = tiny.snapshot(tiny.sd_pipeline().unet)
    tiny.run_sd(pipe, STEPS, callback_on_step_end=callback)
    assert handle.report().calls == 3
    assert tiny.snapshot(pipe.unet) == before


# DiT


def run_dit(pipe: Any, steps: int = 5) -> Any:
    """Two class-conditional pictures."""
    return pipe(
        class_labels=[1, 2],
        num_inference_steps=steps,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
    ).images


def test_a_dit_pipeline() -> None:
    pipe = tiny.dit_pipeline()
    before, dense = tiny.snapshot(pipe.transformer), run_dit(pipe)
    with accelerate(pipe, MERGE) as handle:
        first = run_dit(pipe)
        report = handle.report()
        assert (report.calls, report.served, report.planned) == (5, 2, True)
        assert report.merged_share > 0.1
        assert handle.engine.running is None
        assert (run_dit(pipe) == first).all()
    assert (first != dense).any()
    assert tiny.snapshot(pipe.transformer) == before
    assert (run_dit(pipe) == dense).all()


def test_a_dit_pipeline_that_raises_lets_go(sessions: list[weakref.ref[Any]]) -> None:
    pipe = tiny.dit_pipeline()
    with accelerate(pipe, MERGE):
        hook = pipe.transformer.transformer_blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_dit(pipe)
        hook.remove()
        assert alive(sessions) == 0
        assert tiny.overridden(pipe.transformer) == []


def test_the_papers_guided_forward_is_served() -> None:
    """`forward_with_cfg` calls `forward` without `__call__`, where hooks would not fire."""
    case = tiny.paper_dit()
    x, t, y = case.latent(4), torch.full((4,), 500.0), torch.tensor([1, 2, 10, 10])
    with torch.no_grad():
        dense = case.model.forward_with_cfg(x, t, y, 4.0)
        with accelerate(case.model, TokenMerge(threshold=0.5, bucket=1)) as handle:
            merged = case.model.forward_with_cfg(x, t, y, 4.0)
            assert handle.report().served == 2
        assert not torch.equal(merged, dense)
        assert torch.equal(case.model.forward_with_cfg(x, t, y, 4.0), dense)
