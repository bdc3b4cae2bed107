"""Copies and pickles of a model with our hooks are those of the plain model."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from skipstone.core.engine.copies import copied_without, without_attribute, without_hooks
from skipstone.core.engine.override import Override


def through_torch(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "first protocol": lambda model: pickle.loads(pickle.dumps(model, protocol=0)),
    "torch.save": through_torch,
    "inside another": lambda model: copy.deepcopy({"pipe": [model]})["pipe"][0],
}
copying = pytest.mark.parametrize("copied", COPIES.values(), ids=list(COPIES))


class Engine:
    """Has what no copy can take: a lambda. Counts its calls."""

    def __init__(self) -> None:
        self.calls, self.local = 0, lambda: None

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.calls += 1

    def after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.calls += 1

    def around(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        return inner(*args, **kwargs)


def hooked(model: nn.Module) -> tuple[Engine, Callable[[], None]]:
    engine = Engine()
    handles = (
        model.register_forward_pre_hook(engine.before, with_kwargs=True),
        model.register_forward_hook(engine.after, with_kwargs=True, always_call=True),
    )
    undo = copied_without(model, without_hooks(*handles))
    return engine, lambda: (undo(), *[handle.remove() for handle in handles])[0]


def overridden(model: nn.Module) -> tuple[Engine, Callable[[], None]]:
    engine, before = Engine(), dict(model.__dict__)
    override = Override(model, engine.around, repeats=True)
    override.install()
    undo = copied_without(model, without_attribute(model, "forward", before))
    return engine, lambda: (undo(), override.remove())[0]


def plain_forward(*args: Any, **kwargs: Any) -> str:
    return "own"


ways = pytest.mark.parametrize("install", [hooked, overridden])


@copying
@ways
def test_a_copy_is_that_of_the_plain_model(copied: Callable[[Any], Any], install: Callable[..., Any]) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.GELU()), torch.ones(2, 4)
    plain, dense = tiny.snapshot(copied(model)), model(x)
    engine, _ = install(model)
    other = copied(model)
    assert tiny.snapshot(other) == plain and set(vars(other)) == set(vars(copied(other)))
    assert torch.equal(model(x), dense) and engine.calls
    calls = engine.calls
    assert torch.equal(other(x), dense) and engine.calls == calls


@copying
def test_hooks_and_forwards_of_others_are_copied_as_ever(copied: Callable[[Any], Any]) -> None:
    model = nn.Linear(2, 2)
    model.forward = plain_forward
    model.register_forward_hook(print)
    hooked(model)
    other = copied(model)
    assert list(other._forward_hooks.values()) == [print] and other.forward is plain_forward
    assert len(model._forward_hooks) == 2 and len(model._forward_hooks_always_called) == 1


@copying
def test_an_override_gives_way_to_the_forward_that_stood_there(copied: Callable[[Any], Any]) -> None:
    model = nn.Linear(2, 2)
    model.forward = plain_forward
    overridden(model)
    assert copied(model).forward is plain_forward and copied(model)(torch.zeros(2)) == "own"


@ways
def test_taken_off_nothing_is_left(install: Callable[..., Any]) -> None:
    model = nn.Linear(2, 2)
    before = {name: copy.copy(value) for name, value in vars(model).items()}
    _, undo = install(model)
    undo()
    assert vars(model) == before


def test_it_keeps_no_model_alive() -> None:
    model = nn.Linear(2, 2)
    copied_without(model)
    gc.disable()
    gone = weakref.ref(model)
    del model
    gc.enable()
    assert gone() is None
