"""The block side of a plan: settings bound to a model's blocks and to the calls of one run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from ..errors import MaskError, SkipstoneError
from ..models.family import Family
from ..models.graph import BlockGraph
from ..recipe.block_skip import BlockSkip, Caching
from ..recipe.mask import Mask, load_mask
from . import rule_rows as rules
from .liveness import State, derive, rectified
from .mapping import crossed, depth_rows, nearest
from .mask_fit import fitted, mapped
from .memory import peak_bytes, within
from .run import Positions

_NO_QUAD = "mode='quad' needs the number of calls, which is not known ahead here: full calls were evenly spaced"


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
        stages: int = 1,
    ) -> None:
        """Bind. stages: calls in each step of the sampler; an interval decides once for all of a step.

        Raises :class:`MaskError` for a mask that does not fit.
        """
        self.settings, self._graph, self._stages = settings, graph, max(1, stages)
        self._passed: tuple[int, int, int] | None = None
        self._mask = _load(settings, graph, family)
        if self._mask is not None and self._mask.forecast:
            self.settings = replace(settings, forecast=True)
        self._positions = Positions.of_run(timesteps, train_steps) if timesteps else Positions(train_steps - 1)
        self._everything = np.ones(len(graph), dtype=bool)
        self._always = np.zeros(len(graph), dtype=bool)
        self._run = self._states = self._kept = None
        if timesteps:
            self._run = self.planned_mask(timesteps)
            self._states, self._kept = self._rectified(self._run)

    @property
    def notes(self) -> list[str]:
        """What the report should say of settings that cannot be followed in this run."""
        quad = self.settings.rule == "deepcache" and self.settings.mode == "quad"
        return [_NO_QUAD] if quad and self._states is None else []

    def abandon(self) -> None:
        """The run left its plan."""
        self._run = self._states = self._kept = None

    def run_always(self, blocks: Iterable[int]) -> None:
        """These blocks are read from outside: they run at every call, on inputs that are real."""
        graph = self._graph
        for i in sorted(blocks, reverse=True):
            self._always[[i, *(graph.reads[i] if graph.blocks[i].derived else ())]] = True
        self._graph = replace(graph, head=graph.head | frozenset(np.flatnonzero(self._always).tolist()))
        if self._run is not None:
            self._run[:, self._always[list(graph.masked)]] = True
            self._states, self._kept = self._rectified(self._run)

    def fit(self, sizes: np.ndarray, costs: np.ndarray, room: float) -> str:
        """After the first call of a planned run: keep to `room` bytes, and say what will be held.

        sizes, costs int [L]: bytes of one cached value, multiply-adds of one run. Blocks that save least per byte run first.
        """
        if self._run is None or self._states is None or self._kept is None:
            return (
                ""
                if room == float("inf")
                else "the memory budget is kept block by block: the calls are not known ahead"
            )
        sizes = sizes * (1 + self.settings.forecast)
        if (peak := peak_bytes(self._states, self._kept, sizes)) <= room:
            return f"predicted cache peak {peak / 2**20:.1f} MiB"
        masked = list(self._graph.masked)
        worth = costs[masked] * (~self._run).sum(axis=0) / np.maximum(1, sizes[masked])
        self._run = within(self._run, worth, lambda run: self._peak(run, sizes) <= room)
        self._states, self._kept = self._rectified(self._run)
        always, peak = int(self._run.all(axis=0).sum()), peak_bytes(self._states, self._kept, sizes)
        return (
            f"memory budget: {always} of {len(masked)} blocks always run; predicted cache peak {peak / 2**20:.1f} MiB"
        )

    def _peak(self, run: np.ndarray, sizes: np.ndarray) -> int:
        return peak_bytes(*self._rectified(run), sizes)

    def _rectified(self, run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """States, and whose value to keep: for a forecast also past its next run, while any later call reuses it."""
        how = "liveness" if self._always.any() else self.settings.rectify
        states, kept = rectified(run, self._graph, how)
        return states, np.logical_or.accumulate(kept[::-1])[::-1] if self.settings.forecast else kept

    def row(
        self, index: int, timestep: float, last: bool = False, step: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(states [L], whose value to keep [L]) at a call. last, step: the host's word on whether this is the last step and
        which one it is; read where the calls are not known."""
        if self._states is not None and self._kept is not None:
            return self._states[index], self._kept[index]
        served = self._inside(timestep) and index > 0 and not (last and self.settings.last_full)
        runs = derive(self._unplanned(index, timestep, step)[None], self._graph)[0] if served else self._everything
        return np.where(runs | self._always, State.RUN, State.REUSE).astype(np.int8), self._everything

    def planned_mask(self, timesteps: tuple[float, ...]) -> np.ndarray:
        """The settings as a mask bool [T, masked blocks] for a run whose calls are known."""
        calls, settings = len(timesteps), self.settings
        if self._mask is not None:
            run = mapped(self._mask, timesteps).run.copy()
        elif settings.rule == "depths":
            run = depth_rows(self._depth_rows(), [self._positions.at(t) for t in timesteps])
        else:
            run = self._by_steps(-(-calls // self._stages)).repeat(self._stages, axis=0)[:calls]
        run[[not self._inside(t) for t in timesteps]] = True
        run[0] = True
        if settings.last_full:
            run[-1] = True
        return run

    def _unplanned(self, index: int, timestep: float, step: int | None) -> np.ndarray:
        """The row of a call that nobody announced. What a mask runs between two calls runs at the later one, and so does a
        list's full call."""
        if self._mask is not None:
            now = nearest(self._mask.timesteps, timestep)
            return np.asarray(crossed(self._mask.run, self._from(index, now), now).any(axis=0))
        if self.settings.rule != "depths":
            return self._by_rule(index if step is None else step)
        rows, now = self._depth_rows(), self._depth_index(timestep)
        passed = crossed(rows, self._from(index, now), now)
        return passed[passed.all(axis=1).argmax()] if passed.all(axis=1).any() else rows[now]

    def _from(self, index: int, now: int) -> int:
        """The row of the call before this one; asked again in the same call (split batches), the same."""
        if self._passed is None or self._passed[0] != index:
            self._passed = (index, now if self._passed is None else self._passed[2], now)
        return self._passed[1]

    def _by_steps(self, steps: int) -> np.ndarray:
        """An interval rule's rows bool [steps, masked blocks]."""
        if self.settings.rule == "deepcache":
            every, branch, mode = self.settings.every, self.settings.branch, self.settings.mode
            return rules.deepcache(steps, self._graph, every, branch, mode)
        return np.stack([self._by_rule(k) for k in range(steps)])

    def _by_rule(self, index: int) -> np.ndarray:
        every, branch = self.settings.every, self.settings.branch
        if self.settings.rule == "deepcache":
            return rules.deepcache(every, self._graph, every, branch)[index % every]
        return rules.interval(every, self._graph, every)[index % every]

    def _depth_rows(self) -> np.ndarray:
        return rules.depths(self.settings.depths, self._graph)

    def _depth_index(self, timestep: float) -> int:
        return round(self._positions.at(timestep) * len(self.settings.depths))

    def _inside(self, timestep: float) -> bool:
        at, settings = self._positions.at(timestep), self.settings
        return settings.start <= at and (at < settings.end or settings.end >= 1.0)


def evenly(calls: int, train_steps: int = 1000) -> tuple[float, ...]:
    """Timesteps of a full, evenly spaced run of `calls` calls. Raises :class:`SkipstoneError` for none."""
    if calls < 1:
        raise SkipstoneError(f"{calls} calls make no run: give a number from 1 on")
    return tuple(float(t) for t in np.linspace(train_steps - 1, 0, calls))


def compiled(settings: BlockSkip, graph: BlockGraph, family: str, timesteps: tuple[float, ...]) -> Mask:
    """The settings as a mask of their own, for a run whose calls are known. Raises :class:`MaskError`.

    It runs as the settings do: a forecast goes with it. Of a mask whose timesteps these are, what was learned stays.
    """
    plan = SkipPlan(settings, graph, family, timesteps)
    run, forecast = plan.planned_mask(timesteps), plan.settings.forecast
    if (given := _load(settings, graph, family)) is not None:
        return replace(mapped(given, timesteps), run=run, signature=graph.signature, forecast=forecast)
    names = tuple(graph.blocks[i].name for i in graph.masked)
    provenance: dict[str, Any] = {"rule": settings.rule, "every": settings.every, "branch": settings.branch}
    provenance["depths"] = list(settings.depths)
    return Mask(run, family, names, timesteps, graph.caching, None, provenance, graph.signature, forecast)


def graph_of(settings: BlockSkip, family: Family, network: nn.Module) -> BlockGraph:
    """The blocks that the settings speak of. Raises :class:`MaskError` for what cannot be cached, or split, on this family."""
    mask = load_mask(settings)
    split = settings.split if mask is None else any(s.startswith("transformer block ") for s in mask.signature)
    if split and not family.splits:
        raise MaskError(f"split=True takes U-Nets' transformers apart, a {family.name} has none: use split=False")
    caching = _caching(settings, mask, family)
    return family.graph(network, caching, split=True) if split else family.graph(network, caching)


def _caching(settings: BlockSkip, mask: Mask | None, family: Family) -> Caching:
    wanted = mask.caching if mask is not None else settings.caching
    if wanted == "auto":
        return family.cachings[0]
    if wanted not in family.cachings:
        raise MaskError(f"caching {wanted!r} is not possible on a {family.name}: use {' or '.join(family.cachings)}")
    return wanted


def _load(settings: BlockSkip, graph: BlockGraph, family: str) -> Mask | None:
    mask = load_mask(settings)
    return None if mask is None else fitted(mask, family, graph)
