"""Modules that were compiled themselves (`module.compile()`): their compiled call is overridden, and our code is never traced."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from torch import nn
from torch._dynamo.utils import counters

from skipstone.core.engine.override import Override, beneath, override_in
from skipstone.core.engine.root_hooks import RootHooks
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.pipelines.accelerate import accelerate


class Small(nn.Module):
    """A module of nobody's library, which are not traced by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Weight the input."""
        return x * self.weight


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Each test compiles for itself."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def whole(module: nn.Module) -> nn.Module:
    """Compile a module as one graph: anything that cannot be traced is an error."""
    module.compile(backend="eager", fullgraph=True)
    return module


def test_an_override_runs_the_compiled_call_and_is_not_traced() -> None:
    module, x = whole(Small()), torch.ones(1, 2)
    wanted, before = module(x), dict(vars(module))
    for _ in range(2):
        overrides = [Override(module, lambda inner, x: 2 * inner(x)), Override(module, lambda inner, x: 1 + inner(x))]
        for override in overrides:
            override.install()
        assert override_in(module) is overrides[1] and not isinstance(beneath(module), Override)
        assert torch.equal(module(x), 1 + 2 * wanted)
        for override in reversed(overrides):
            override.remove()
        assert vars(module) == before
    assert torch.equal(module(x), wanted) and counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("overrides", [False, True])
def test_the_bracket_of_a_compiled_network_is_an_override(overrides: bool) -> None:
    module, x, seen = whole(Small()), torch.ones(1, 2), []
    wanted, before = module(x), dict(vars(module))
    hooks = RootHooks(module, lambda args, kwargs: seen.append(args), seen.append, overrides)
    assert torch.equal(module(x), wanted) and len(seen) == 2
    assert override_in(copy.deepcopy(module)) is None
    hooks.remove()
    assert vars(module) == before and counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("recipe", [CallSkip(every=2), BlockSkip(rule="interval", every=2)], ids=["calls", "blocks"])
def test_a_pipeline_whose_network_was_compiled_in_place(recipe: Any) -> None:
    plain, pipe = tiny.dit_pipeline(), tiny.dit_pipeline()
    given: dict[str, Any] = {"class_labels": [1], "num_inference_steps": 5, "output_type": "np"}

    def drawn(pipe: Any) -> Any:
        return torch.as_tensor(pipe(**given, generator=torch.Generator().manual_seed(0)).images)

    with accelerate(plain, recipe):
        wanted = drawn(plain)
    pipe.transformer.compile(backend="eager")
    with accelerate(pipe, recipe) as handle:
        pictures, graphs = [], []
        for _ in range(3):
            pictures.append(drawn(pipe))
            graphs.append(counters["stats"]["unique_graphs"])
        assert not handle.report().idle and not handle.report().declined
    assert all(torch.allclose(picture, wanted, atol=1e-5) for picture in pictures)
    assert graphs[0] > 0 and graphs[1] == graphs[2]
