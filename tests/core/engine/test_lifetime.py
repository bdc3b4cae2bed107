"""Runs that end, raise or are interrupted: nothing is kept, nothing outside is disturbed."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.merge import MergePart
from skipstone.core.engine.session import Call, Session
from skipstone.core.engine.token_layer import TokenLayer
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.tokens.maps import Pairs, TokenMap
from skipstone.pipelines.accelerate import accelerate

STEPS = (981.0, 650.0, 320.0, 1.0)
MERGE = TokenMerge(threshold=0.5, bucket=1)


class Stop(Exception):
    """Raised inside a forward by the tests."""


def raise_at(model: nn.Module, kind: type[BaseException] = Stop, forward: int = 2) -> Any:
    """Make the model's n-th forward raise deep inside; returns the hook's handle."""
    deep = [m for n, m in model.named_modules() if n.endswith((".ff", ".mlp"))][-1]
    count = [0]

    def hook(*_: Any) -> None:
        count[0] += 1
        if count[0] == forward:
            raise kind

    return deep.register_forward_pre_hook(hook)


# Exceptions and cancelling


def test_an_exception_inside_forward_leaves_nothing(case: tiny.Case) -> None:
    before, dense = tiny.snapshot(case.model), case.sample(STEPS)
    handle = accelerate(case.model, MERGE)
    clean = case.sample(STEPS)
    installed = tiny.snapshot(case.model)
    hook = raise_at(case.model)
    with pytest.raises(Stop):
        case.sample(STEPS)
    hook.remove()
    assert tiny.snapshot(case.model) == installed
    assert torch.equal(case.sample(STEPS), clean)
    handle.remove()
    assert tiny.snapshot(case.model) == before
    assert torch.equal(case.sample(STEPS), dense)


def test_after_an_interrupt_the_next_forward_and_remove_put_all_right(either: tiny.Case) -> None:
    """torch calls no hook on KeyboardInterrupt, so the overrides stay until the next forward, end or removal."""
    before = tiny.snapshot(either.model)
    with accelerate(either.model, TokenMerge(threshold=0.5, bucket=1, checkpoints="every")) as handle:
        clean = either.sample(STEPS)
        hook = raise_at(either.model, KeyboardInterrupt, forward=1)
        with pytest.raises(KeyboardInterrupt):
            either.sample(STEPS)
        hook.remove()
        assert torch.equal(either.sample(STEPS), clean)
        hook = raise_at(either.model, KeyboardInterrupt, forward=1)
        with pytest.raises(KeyboardInterrupt):
            either.sample(STEPS)
        hook.remove()
        handle.remove()
        assert tiny.snapshot(either.model) == before


# Nothing is kept, nothing is disturbed


@pytest.fixture
def born(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Any]]:
    """Weak references to all sessions, layers, pairs and maps made from here on."""
    refs: list[weakref.ref[Any]] = []

    def watch(cls: type) -> None:
        plain: Callable[..., None] = cls.__init__

        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            refs.append(weakref.ref(self))
            plain(self, *args, **kwargs)

        monkeypatch.setattr(cls, "__init__", init)

    for cls in (Session, MergePart, TokenLayer, Pairs, TokenMap):
        watch(cls)
    return refs


def alive(refs: list[weakref.ref[Any]]) -> set[str]:
    """Kinds of objects that still live."""
    gc.collect()
    return {type(o).__name__ for o in (ref() for ref in refs) if o is not None}


def test_a_runs_state_dies_with_it(either: tiny.Case, born: list[weakref.ref[Any]]) -> None:
    handle, cond = accelerate(either.model, MERGE), either.cond()
    either.sample(STEPS, cond=cond)
    assert alive(born) == {"Session", "MergePart", "TokenLayer", "Pairs", "TokenMap"}
    handle.end()
    assert alive(born) == set()
    handle.remove()


def test_a_run_that_raised_dies_with_the_handle(either: tiny.Case, born: list[weakref.ref[Any]]) -> None:
    hook = raise_at(either.model)
    with pytest.raises(Stop), accelerate(either.model, MERGE):
        either.sample(STEPS)
    hook.remove()
    assert len(born) > 3
    assert alive(born) == set()


def test_a_new_run_drops_the_state_of_the_one_before(unet: tiny.Case, born: list[weakref.ref[Any]]) -> None:
    with accelerate(unet.model, MERGE):
        unet.sample(STEPS)
        first = list(born)
        unet(unet.latent(), STEPS[0], unet.cond())
        assert alive(first) == set()
        assert "Session" in alive(born)


def test_a_host_that_keeps_the_session_keeps_no_cache(unet: tiny.Case, born: list[weakref.ref[Any]]) -> None:
    engine = Engine(unet.model, Recipe(MERGE))
    session = engine.begin()
    with engine.call(Call(900.0, (16, 16), (Stream("cond", 2),))):
        unet(unet.latent(), 900.0, unet.cond())
    assert "TokenMap" in alive(born)
    engine.end()
    assert alive(born) == {"Session"}
    assert session.meter.report.calls == 1


def test_no_activation_outlives_its_forward(unet: tiny.Case) -> None:
    seen: list[weakref.ref[Tensor]] = []
    norms = [m for n, m in unet.model.named_modules() if n.endswith("norm1")]
    hooks = [m.register_forward_pre_hook(lambda m, args: seen.append(weakref.ref(args[0]))) for m in norms]
    with accelerate(unet.model, MERGE):
        unet(unet.latent(), 900.0, unet.cond())
        gc.collect()
        assert len(seen) == len(norms)
        assert all(ref() is None for ref in seen)
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("destination", ["top_left", "random"])
def test_global_random_states_are_untouched(either: tiny.Case, destination: Any) -> None:
    case, x, cond = either, either.latent(), either.cond()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    with accelerate(case.model, TokenMerge(threshold=0.5, bucket=1, destination=destination)) as handle:
        case.sample(STEPS, x, cond)
        assert handle.report().merged_share > 0.1
    assert torch.equal(torch.get_rng_state(), states[0])
    assert repr(np.random.get_state()) == repr(states[1])
    assert random.getstate() == states[2]


def test_random_destinations_follow_the_recipes_seed(unet: tiny.Case) -> None:
    def result(seed: int) -> Tensor:
        with accelerate(unet.model, TokenMerge(threshold=0.5, bucket=1, destination="random", seed=seed)):
            return unet.sample(STEPS)

    torch.manual_seed(1)
    first = result(0)
    torch.manual_seed(2)
    assert torch.equal(result(0), first)
    assert not torch.equal(result(1), first)
