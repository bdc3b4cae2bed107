"""Networks of a few numbers with known block graphs, and a sampler for them: for mask training by hand computation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from skipstone.core.calibrate.denoiser import Trajectory
from skipstone.core.calibrate.masks.costs import Costs
from skipstone.core.calibrate.masks.gated import GatedNetwork
from skipstone.core.calibrate.masks.masked_model import MaskedModel
from skipstone.core.models.graph import Block, BlockGraph, GraphBuilder

WIDTH = 6


class Node(nn.Module):
    """tanh(W x + b t): one block."""

    def __init__(self, generator: torch.Generator) -> None:
        """Own weights, float64."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5)
        self.drift = nn.Parameter(torch.randn(WIDTH, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x [B, WIDTH], t [] -> [B, WIDTH]."""
        return torch.tanh(x @ self.weight + self.drift * t)


class Chain(nn.Module):
    """Blocks one after the other; each output is the whole state."""

    caching = "output"

    def __init__(self, count: int = 4, seed: int = 0) -> None:
        """Random weights."""
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.nodes = nn.ModuleList(Node(generator) for _ in range(count))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The last block's output."""
        for node in self.nodes:
            x = node(x, t)
        return x

    def graph(self) -> BlockGraph:
        """Who reads whom."""
        builder = GraphBuilder("output")
        for number, node in enumerate(self.nodes):
            builder.add(Block(f"nodes.{number}", "block", node, number))
        return builder.build()


class Residual(Chain):
    """Every block adds a branch to the state."""

    caching = "branch"

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The state after all branches."""
        for node in self.nodes:
            x = x + node(x, t)
        return x

    def graph(self) -> BlockGraph:
        """Who reads whom."""
        builder = GraphBuilder("branch")
        for number, node in enumerate(self.nodes):
            builder.add(Block(f"nodes.{number}", "block", node, number))
        return builder.build()


class Skips(Chain):
    """A U-Net: the first half's outputs are added to the second half's inputs, outermost last."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The last block's output."""
        half, skips = len(self.nodes) // 2, []
        for node in self.nodes[:half]:
            x = node(x, t)
            skips.append(x)
        for node in self.nodes[half:]:
            x = node(x + skips.pop(), t)
        return x

    def graph(self) -> BlockGraph:
        """Who reads whom."""
        builder, skips, half = GraphBuilder("output"), [], len(self.nodes) // 2
        for number, node in enumerate(self.nodes):
            if number >= half:
                builder.join(skips.pop())
            builder.add(Block(f"nodes.{number}", "block", node, number))
            if number < half:
                skips.append(builder.state)
        return builder.build()


@dataclass
class ToyDenoiser:
    """x goes a step along the network's output at each call; `calls_made` counts forwards."""

    network: nn.Module
    timesteps: tuple[float, ...] = tuple(float(t) for t in np.linspace(1.0, 0.0, 6))
    stride: float = 0.2
    calls_made: int = 0
    begun: list[list[int]] = field(default_factory=list)
    on_predict: Callable[[int], None] = lambda call: None

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Noise [B, WIDTH], one generator per seed."""
        self.begun.append(list(seeds))
        rows = [torch.randn(WIDTH, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in seeds]
        return Trajectory(torch.stack(rows))

    def predict(self, at: Trajectory, call: int) -> Tensor:
        """One forward."""
        self.calls_made += 1
        self.on_predict(call)
        return self.network(at.x, torch.tensor(self.timesteps[call], dtype=torch.float64))

    def advance(self, at: Trajectory, output: Tensor, call: int) -> Trajectory:
        """Euler."""
        return Trajectory(at.x + self.stride * output)

    def fork(self, at: Trajectory) -> Trajectory:
        """No history."""
        return Trajectory(at.x.detach())


def toy(
    network: Chain | None = None, calls: int = 6, costs: Sequence[float] | None = None, **gated: bool
) -> MaskedModel:
    """A model without a catalogue: blocks of equal or given cost, nothing else costs."""
    network = Residual() if network is None else network
    network.requires_grad_(False)
    graph = network.graph()
    each = np.ones(len(graph)) if costs is None else np.asarray(costs, dtype=np.float64)
    denoiser = ToyDenoiser(network, tuple(float(t) for t in np.linspace(1.0, 0.0, calls)))
    return MaskedModel(denoiser, "toy", graph, GatedNetwork(graph, **gated), Costs(graph, each, 0.0))
