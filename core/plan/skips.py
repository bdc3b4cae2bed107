"""The block side of a plan: settings bound to a model's blocks and to the calls of one run."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..blocks.graph import BlockGraph, Caching
from ..errors import MaskError, SkipstoneError
from ..recipe_skip import BlockSkip
from ..schedule import Positions
from . import rules
from .liveness import State, derive, kept_after, liveness
from .mask import Mask


class SkipPlan:
    """Which block does what at which call.

    Where the calls are known, dead blocks are left out and caches freed; where they are not, a rule is followed call by
    call, a list or mask by timestep, every block of a row runs, and no cache is freed before the end.
    """

    def __init__(
        self,
        settings: BlockSkip,
        graph: BlockGraph,
        family: str,
        timesteps: tuple[float, ...] | None,
        train_steps: float = 1000.0,
    ) -> None:
        """Bind. Raises :class:`MaskError` for a mask that does not fit."""
        self._settings, self._graph = settings, graph
        self._mask = _load(settings, graph, family)
        self._positions = Positions.of_run(timesteps, train_steps) if timesteps else Positions(train_steps - 1)
        self._everything = np.ones(len(graph), dtype=bool)
        self._states = self._kept = None
        if timesteps:
            run = self.planned_mask(timesteps)
            self._states, self._kept = liveness(run, graph), kept_after(run, graph)

    def abandon(self) -> None:
        """The run left its plan."""
        self._states = self._kept = None

    def row(self, index: int, timestep: float, last: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """(states [L], whose value to keep [L]) at a call. last: the host's word, read where the calls are not known."""
        if self._states is not None and self._kept is not None:
            return self._states[index], self._kept[index]
        served = self._inside(timestep) and index > 0 and not (last and self._settings.last_full)
        runs = derive(self._unplanned(index, timestep)[None], self._graph)[0] if served else self._everything
        return np.where(runs, State.RUN, State.REUSE).astype(np.int8), self._everything

    def planned_mask(self, timesteps: tuple[float, ...]) -> np.ndarray:
        """The settings as a mask bool [T, masked blocks] for a run whose calls are known."""
        calls, settings = len(timesteps), self._settings
        if self._mask is not None:
            run = self._mask.mapped(timesteps).run.copy()
        elif settings.rule == "depths":
            run = self._depth_rows()[[self._depth_index(t) for t in timesteps]]
        else:
            run = np.stack([self._by_rule(k) for k in range(calls)])
            if settings.rule == "deepcache" and settings.mode == "quad":
                run = rules.deepcache(calls, self._graph, settings.every, settings.branch, settings.mode)
        run[[not self._inside(t) for t in timesteps]] = True
        run[0] = True
        if settings.last_full:
            run[-1] = True
        return run

    def _unplanned(self, index: int, timestep: float) -> np.ndarray:
        if self._mask is not None:
            return self._mask.row_at(timestep)
        return (
            self._depth_rows()[self._depth_index(timestep)] if self._settings.rule == "depths" else self._by_rule(index)
        )

    def _by_rule(self, index: int) -> np.ndarray:
        every, branch = self._settings.every, self._settings.branch
        if self._settings.rule == "deepcache":
            return rules.deepcache(every, self._graph, every, branch)[index % every]
        return rules.interval(every, self._graph, every)[index % every]

    def _depth_rows(self) -> np.ndarray:
        return rules.depths(self._settings.depths, self._graph)

    def _depth_index(self, timestep: float) -> int:
        return round(self._positions.at(timestep) * len(self._settings.depths))

    def _inside(self, timestep: float) -> bool:
        at, settings = self._positions.at(timestep), self._settings
        return settings.start <= at and (at < settings.end or settings.end >= 1.0)


def evenly(calls: int, train_steps: int = 1000) -> tuple[float, ...]:
    """Timesteps of a full, evenly spaced run of `calls` calls. Raises :class:`SkipstoneError` for none."""
    if calls < 1:
        raise SkipstoneError(f"{calls} calls make no run: give a number from 1 on")
    return tuple(float(t) for t in np.linspace(train_steps - 1, 0, calls))


def compiled(settings: BlockSkip, graph: BlockGraph, family: str, timesteps: tuple[float, ...]) -> Mask:
    """The settings as a mask of their own, for a run whose calls are known. Raises :class:`MaskError`."""
    run = SkipPlan(settings, graph, family, timesteps).planned_mask(timesteps)
    names = tuple(graph.blocks[i].name for i in graph.masked)
    given = settings.load_mask()
    provenance: dict[str, Any] = {"rule": settings.rule, "every": settings.every, "branch": settings.branch}
    provenance["depths"] = list(settings.depths)
    return Mask(run, family, names, timesteps, graph.caching, None, given.provenance if given else provenance)


def caching_of(settings: BlockSkip, cachings: tuple[Caching, ...], family: str) -> Caching:
    """What to cache on a family. Raises :class:`MaskError` for a kind that it cannot."""
    mask = settings.load_mask()
    if mask is not None:
        return mask.caching
    if settings.caching == "auto":
        return cachings[0]
    if settings.caching not in cachings:
        raise MaskError(f"caching {settings.caching!r} is not possible on a {family}: use {' or '.join(cachings)}")
    return settings.caching


def _load(settings: BlockSkip, graph: BlockGraph, family: str) -> Mask | None:
    mask = settings.load_mask()
    if mask is not None:
        mask.check(family, graph)
    return mask
