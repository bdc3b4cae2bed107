"""The model that a mask is trained on: a denoiser, its network's blocks, and their costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...engine.observation import Observation, observe
from ...errors import ModelError
from ...models import Family, recognise, unwrapped
from ...models.graph import BlockGraph
from ...plan.block_plan import graph_of
from ...plan.liveness import State, liveness
from ...recipe.block_skip import BlockSkip
from ...recipe.mask import Mask
from ..denoiser import Denoiser, Trajectory
from .costs import Costs, measure_costs
from .gated import Caches, CallGates, GatedNetwork, Outcome


class Place(NamedTuple):
    """Where a run is before a call.

    Args:
        at: the trajectory.
        caches: of the call before; None before the first.

    Example:
        >>> Place(model.denoiser.begin([0])).caches is None
        True
    """

    at: Trajectory
    caches: Caches | None = None


@dataclass(frozen=True)
class MaskedModel:
    """A denoiser with its block graph, its network under gates and its costs. Made by :func:`prepare`.

    Args:
        denoiser: network, calls and sampler.
        family: name of the model's family.
        graph: of the network.
        gated: the network under gates.
        costs: of the blocks.

    Example:
        >>> model.shape, model.rollout([0, 1]).shape
        ((4, 4), torch.Size([2, 6]))
    """

    denoiser: Denoiser
    family: str
    graph: BlockGraph
    gated: GatedNetwork
    costs: Costs

    @property
    def calls(self) -> int:
        """Number of calls of a run, T."""
        return len(self.denoiser.timesteps)

    @property
    def shape(self) -> tuple[int, int]:
        """(T, L)."""
        return self.calls, len(self.graph.masked)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.denoiser.network.parameters()).device

    def predictor(self, at: Trajectory, call: int) -> Callable[[], Tensor]:
        """Return a function that runs the network at one place of a trajectory.

        Args:
            at: the trajectory.
            call: number of the call.
        """
        return lambda: self.denoiser.predict(at, call)

    def dense(self, at: Trajectory, call: int) -> Outcome:
        """Run a call dense.

        Args:
            at: the trajectory.
            call: number of the call.
        """
        return self.gated.dense(self.predictor(at, call), self.denoiser.timesteps[call])

    def masked(self, at: Trajectory, call: int, row: CallGates, caches: Caches | None) -> Outcome:
        """Run a call under gates.

        Args:
            at: the trajectory.
            call: number of the call.
            row: gates.
            caches: of the call before.
        """
        return self.gated(self.predictor(at, call), row, caches, self.denoiser.timesteps[call])

    def recomputed(self, at: Trajectory, call: int, row: CallGates, caches: Caches | None) -> Outcome:
        """Run a call under gates without keeping activations: the backward pass evaluates it again.

        Args:
            at: the trajectory.
            call: number of the call.
            row: gates.
            caches: of the call before.
        """
        return self.gated.recomputed(self.predictor(at, call), row, caches, self.denoiser.timesteps[call])

    def dense_run(self, seeds: Sequence[int]) -> Iterator[Outcome]:
        """Run dense, call by call.

        Args:
            seeds: of the samples.
        """
        at = self.denoiser.begin(seeds)
        for call in range(self.calls):
            outcome = self.dense(at, call)
            yield outcome
            at = self.denoiser.advance(at, outcome.output, call)

    @torch.no_grad()
    def rollout(self, seeds: Sequence[int], run: np.ndarray | None = None) -> Tensor:
        """The final latents [B, ...]. Only the blocks that the mask needs are evaluated.

        Args:
            seeds: of the samples.
            run: mask bool [T, L]; None for dense.
        """
        at = self.denoiser.begin(seeds)
        rows = None if run is None else running(run, self.graph)
        caches: Caches | None = None
        for call in range(self.calls):
            row = CallGates(None) if rows is None else CallGates(rows[call])
            outcome = self.masked(at, call, row, None if rows is None else caches)
            at, caches = self.denoiser.advance(at, outcome.output, call), outcome.caches
        return at.x

    def mask(self, run: np.ndarray, **more: Any) -> Mask:
        """Make a mask of this network and these calls.

        Args:
            run: bool [T, L].
            more: other fields of :class:`Mask`.
        """
        graph, timesteps = self.graph, tuple(map(float, self.denoiser.timesteps))
        names = tuple(graph.blocks[i].name for i in graph.masked)
        more |= {"signature": graph.signature, "forecast": self.gated.forecast}
        return Mask(run, self.family, names, timesteps, graph.caching, **more)


def running(run: np.ndarray, graph: BlockGraph) -> np.ndarray:
    """Masked blocks that have to be evaluated, bool [T, L]: those that are neither reused nor dead.

    Args:
        run: mask bool [T, L].
        graph: of the network.

    Example:
        >>> running(np.array([[True] * 4, [True, False, False, True]]), model.graph)[1].tolist()
        [True, False, False, True]
    """
    return (liveness(run, graph) == State.RUN)[:, list(graph.masked)]


def prepare(
    denoiser: Denoiser,
    caching: Literal["auto", "output", "branch", "difference"] = "auto",
    split: bool = False,
    loss_at: str = "end",
    checkpointing: bool = False,
    forecast: bool = False,
) -> MaskedModel:
    """Recognise a denoiser's network, and count one call.

    Args:
        denoiser: network, calls and sampler.
        caching: what is cached of a block (:class:`BlockSkip`).
        split: mask the branches of a block one by one (:class:`BlockSkip`).
        loss_at: "end" for the loss after the last block, "output" for the network's output.
        checkpointing: evaluate each block again in the backward pass instead of keeping its activations.
        forecast: extrapolate cached values linearly.

    Raises :class:`ModelError` for a network of no known family.

    Example:
        >>> prepare(model.denoiser)
        Traceback (most recent call last):
        skipstone.core.errors.ModelError: ...
    """
    root = unwrapped(denoiser.network)
    family = recognise(root)
    graph = graph_of(BlockSkip(caching=caching, split=split), family, root)
    end = _end_block(family, root) if loss_at == "end" else None
    with torch.no_grad():
        at = denoiser.begin([0])
        costs = measure_costs(graph, root, lambda: denoiser.predict(at, 0))
        seen = _observed(graph, lambda: denoiser.predict(at, 0))
    gated = GatedNetwork(graph, end, checkpointing, forecast, seen)
    return MaskedModel(denoiser, family.name, graph, gated, costs)


def _observed(graph: BlockGraph, call: Callable[[], Any]) -> Observation | None:
    """What the blocks pass on; None unless differences are cached. Raises :class:`ModelError` if one passes nothing on."""
    if graph.caching != "difference":
        return None
    seen = observe(graph, call)
    for number, why in seen.unfit.items():
        raise ModelError(f"{graph.blocks[number].name} {why}: no mask can be trained for this network")
    return seen


def _end_block(family: Family, root: nn.Module) -> nn.Module:
    """The last block that is run as a whole."""
    whole = next(caching for caching in ("output", "difference") if caching in family.cachings)
    graph = family.graph(root, whole)
    return graph.blocks[graph.masked[-1]].module
