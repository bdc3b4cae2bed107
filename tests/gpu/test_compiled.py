"""torch.compile and CUDA graphs: skipped calls recompile nothing, and no forecast reads memory that a replay writes over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import tiny
import torch
from gpu import CUDA, DEVICE, DTYPES, apart, moved, needs_cuda, pipeline
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pipelines import Running
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.pipelines.accelerate import accelerate

CALLS, STEPS = CallSkip(every=2), 6
CLOSE = 1e-3
"""Furthest that the picture of a compiled network may be from the network's own, in fp32: kernels sum in another order."""


@pytest.fixture(scope="module", autouse=True)
def compiler() -> None:
    """Skip where inductor has no compiler to work with."""
    try:
        torch.compile(lambda x: x.sin() + 1)(torch.ones(4, device=DEVICE))
    except Exception as error:  # its kinds differ by what is missing
        pytest.skip(f"inductor compiles nothing here: {type(error).__name__}: {str(error).splitlines()[0]}")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Each test compiles for itself."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compiled(running: Running, way: str) -> None:
    """Compile a pipeline's network, as users do."""
    where, _, mode = way.partition(" ")
    name = "unet" if getattr(running.pipe, "unet", None) is not None else "transformer"
    if where == "network":
        setattr(running.pipe, name, torch.compile(running.network, mode=mode))
    elif where == "module":
        running.network.compile(mode=mode)
    else:
        running.network.compile_repeated_blocks(mode=mode)


WAYS = [
    ("dit", "network default"),
    ("dit", "network reduce-overhead"),
    ("dit", "module default"),
    ("text_to_image", "network reduce-overhead"),
    ("text_to_image", "blocks default"),
]


@pytest.mark.parametrize(("name", "way"), WAYS if CUDA else WAYS[:1])
def test_pictures_match_and_later_ones_compile_nothing(name: str, way: str) -> None:
    plain = pipeline(name)
    with accelerate(plain.pipe, CALLS) as handle:
        wanted, plan = plain(STEPS), handle.report()
    running = pipeline(name)
    compiled(running, way)
    with accelerate(running.pipe, CALLS) as handle:
        pictures = [running(STEPS).clone()]
        graphs = counters["stats"]["unique_graphs"]
        pictures += [running(STEPS).clone() for _ in range(2)]
        report = handle.report()
    assert graphs > 0 and counters["stats"]["unique_graphs"] == graphs
    assert (report.calls_run, report.forecast_as, report.declined) == (plan.calls_run, plan.forecast_as, {})
    assert all(apart(picture, wanted) < CLOSE for picture in pictures)
    assert torch.equal(pictures[1], pictures[2])


@pytest.mark.parametrize("way", ["network default", "network reduce-overhead"] if CUDA else ["network default"])
def test_masks_of_a_compiled_network(way: str) -> None:
    """Its blocks are left out between its graphs; the third picture compiles nothing more."""
    recipe = BlockSkip(rule="interval", every=2)
    plain = pipeline("dit")
    with accelerate(plain.pipe, recipe):
        wanted = plain(STEPS)
    running = pipeline("dit")
    compiled(running, way)
    with accelerate(running.pipe, recipe) as handle:
        pictures = [running(STEPS).clone() for _ in range(2)]
        graphs = counters["stats"]["unique_graphs"]
        pictures.append(running(STEPS).clone())
        report = handle.report()
    assert report.blocks_reused > 0 and not report.declined
    assert all(apart(picture, wanted) < CLOSE for picture in pictures)
    assert counters["stats"]["unique_graphs"] == graphs


class Replayed(nn.Module):
    """A network as one CUDA graph with static inputs and outputs: each call writes over what the last one returned."""

    def __init__(self, case: tiny.Case, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = case.model.to(DEVICE, dtype)
        self._given = moved([case.latent(), torch.full((2,), 900.0), case.cond()], DEVICE, dtype)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.no_grad():
            for _ in range(3):
                case.call(self.inner, *self._given)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(self._graph):
            self.output = case.call(self.inner, *self._given)

    def forward(self, x: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Replay the graph on copies of the arguments."""
        for buffer, value in zip(self._given, (x, timestep, encoder_hidden_states), strict=True):
            buffer.copy_(value)
        self._graph.replay()
        return self.output


@needs_cuda
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_forecast_never_reads_a_graphs_own_output(dtype: torch.dtype) -> None:
    case = tiny.diffusers_unet()
    network, steps = Replayed(case, dtype), [900.0 - 100 * k for k in range(8)]
    x0, cond = moved([case.latent(), case.cond()], DEVICE, dtype)

    def sampled(fresh: bool) -> list[Tensor]:
        x, outputs = x0, []
        module: Any = Fresh(network) if fresh else network
        with accelerate(module, CallSkip(every=3)) as handle, torch.no_grad():
            handle.begin(steps)
            for t in steps:
                output = module(x, torch.full((2,), t, device=DEVICE, dtype=dtype), cond)
                outputs.append(output.clone())
                x = tiny.step(x, output)
            assert handle.end().calls_forecast > 0
        return outputs

    shared, owned = sampled(False), sampled(True)
    assert all(map(torch.equal, shared, owned)) and all(output.isfinite().all() for output in owned)


class Fresh(nn.Module):
    """The same network, with an output of its own at each call."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """Run the network and copy its output."""
        return self.inner(x, timestep, encoder_hidden_states).clone()
