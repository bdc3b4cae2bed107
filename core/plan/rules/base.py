"""What a block rule is: rows for a run whose calls are known, and one row at a time for other runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from ...models.graph import BlockGraph
from ..run import Horizon

Rows = np.ndarray
"""bool [T, masked blocks]: True where a block runs."""


@dataclass(frozen=True)
class Moment:
    """One call of a run.

    Args:
        index: of the call, 0 the first.
        step: of the sampler, where the host knows it; a rule decides once for all calls of a step.
        timestep: training timestep.
        before: timestep of the call before, its own at the first call.
        input: what the network is called on [rows, ...], for rules that decide by it; None where it is not known.
    """

    index: int
    timestep: float
    before: float
    step: int | None = None
    input: Tensor | None = None

    @property
    def turn(self) -> int:
        """The number by which an interval counts."""
        return self.index if self.step is None else self.step


class Rule(Protocol):
    """One way of choosing which blocks run. Its dataclass fields are the settings of :class:`BlockSkip` that it reads.

    The first call of a run always runs everything, whatever a rule says.
    """

    @property
    def unannounced(self) -> str:
        """What cannot be followed where the calls are not known ahead, in one line; empty where nothing is lost."""

    def rows(self, graph: BlockGraph, horizon: Horizon) -> Rows | None:
        """Rows for the calls `horizon.timesteps`, in an array of their own; None for a rule that decides call by call."""

    def row(self, graph: BlockGraph, horizon: Horizon, at: Moment) -> np.ndarray:
        """bool [masked blocks] for one call of a run whose calls are not known."""


def full_calls(calls: int, every: int) -> list[int]:
    """Indices of the full calls: every `every`-th, from 0 on."""
    return list(range(0, calls, every))


def rows_with(calls: int, graph: BlockGraph, full: Sequence[int], depth: int) -> Rows:
    """Rows in which the calls `full` run everything, the others the blocks of at most this depth (-1: none)."""
    rows = np.tile(row_to(graph, depth), (calls, 1))
    rows[list(full)] = True
    return rows


def row_to(graph: BlockGraph, depth: int) -> np.ndarray:
    """bool [masked blocks]: those of at most this depth."""
    return np.array([graph.blocks[i].depth <= depth for i in graph.masked], dtype=bool)


def per_step(rows: Rows, horizon: Horizon) -> Rows:
    """Rows of the sampler's steps, repeated for the calls of each step."""
    return rows.repeat(horizon.stages, axis=0)[: len(horizon.timesteps or ())]


def steps_of(horizon: Horizon) -> int:
    """Number of the sampler's steps in a run whose calls are known."""
    return -(-len(horizon.timesteps or ()) // horizon.stages)
