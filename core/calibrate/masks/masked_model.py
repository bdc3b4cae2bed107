"""What a mask is trained on: a denoiser, its network's blocks, and what they cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...models import recognise, unwrapped
from ...models.graph import BlockGraph
from ...plan.block_plan import graph_of
from ...plan.liveness import State, liveness
from ...recipe.block_skip import BlockSkip
from ...recipe.mask import Mask
from ..denoiser import Denoiser, Trajectory
from .costs import Costs, measure_costs
from .gated import Caches, CallGates, GatedNetwork, Outcome


class Place(NamedTuple):
    """Where a run stands before a call. caches: of the call before; None before the first."""

    at: Trajectory
    caches: Caches | None = None


@dataclass(frozen=True)
class MaskedModel:
    """A denoiser with its block graph, its network under gates and its costs. Make one with :func:`prepare`."""

    denoiser: Denoiser
    family: str
    graph: BlockGraph
    gated: GatedNetwork
    costs: Costs

    @property
    def calls(self) -> int:
        """T."""
        return len(self.denoiser.timesteps)

    @property
    def shape(self) -> tuple[int, int]:
        """(T, L)."""
        return self.calls, len(self.graph.masked)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.denoiser.network.parameters()).device

    def predictor(self, at: Trajectory, call: int) -> Callable[[], Tensor]:
        """The network call at a place of a trajectory."""
        return lambda: self.denoiser.predict(at, call)

    def dense(self, at: Trajectory, call: int) -> Outcome:
        """A dense call."""
        return self.gated.dense(self.predictor(at, call), self.denoiser.timesteps[call])

    def masked(self, at: Trajectory, call: int, row: CallGates, caches: Caches | None) -> Outcome:
        """A call under gates."""
        return self.gated(self.predictor(at, call), row, caches, self.denoiser.timesteps[call])

    def recomputed(self, at: Trajectory, call: int, row: CallGates, caches: Caches | None) -> Outcome:
        """The same, evaluated again in the backward pass in place of keeping activations."""
        return self.gated.recomputed(self.predictor(at, call), row, caches, self.denoiser.timesteps[call])

    @torch.no_grad()
    def rollout(self, seeds: Sequence[int], run: np.ndarray | None = None) -> Tensor:
        """The final latents [B, ...] under a mask bool [T, L], or dense. Only what the mask needs is evaluated."""
        at = self.denoiser.begin(seeds)
        rows = None if run is None else running(run, self.graph)
        caches: Caches | None = None
        for call in range(self.calls):
            row = CallGates(None) if rows is None else CallGates(rows[call])
            outcome = self.masked(at, call, row, None if rows is None else caches)
            at, caches = self.denoiser.advance(at, outcome.output, call), outcome.caches
        return at.x

    def mask(self, run: np.ndarray, **more: Any) -> Mask:
        """A mask of this network for these calls."""
        graph, timesteps = self.graph, tuple(map(float, self.denoiser.timesteps))
        names = tuple(graph.blocks[i].name for i in graph.masked)
        more |= {"signature": graph.signature, "forecast": self.gated.forecast}
        return Mask(run, self.family, names, timesteps, graph.caching, **more)


def running(run: np.ndarray, graph: BlockGraph) -> np.ndarray:
    """Which masked blocks have to be evaluated, bool [T, L]: those that are neither reused nor dead."""
    return (liveness(run, graph) == State.RUN)[:, list(graph.masked)]


def prepare(
    denoiser: Denoiser,
    caching: Literal["auto", "output", "branch"] = "auto",
    split: bool = False,
    loss_at: str = "end",
    checkpointing: bool = False,
    forecast: bool = False,
) -> MaskedModel:
    """Look a denoiser's network over and count one call. Raises :class:`ModelError` for a network of no known family."""
    root = unwrapped(denoiser.network)
    family = recognise(root)
    graph = graph_of(BlockSkip(caching=caching, split=split), family, root)
    end = _end_block(family.graph(root, "output")) if loss_at == "end" else None
    gated = GatedNetwork(graph, end, checkpointing, forecast)
    with torch.no_grad():
        at = denoiser.begin([0])
        costs = measure_costs(graph, root, lambda: denoiser.predict(at, 0))
    return MaskedModel(denoiser, family.name, graph, gated, costs)


def _end_block(graph: BlockGraph) -> nn.Module:
    return graph.blocks[graph.masked[-1]].module
