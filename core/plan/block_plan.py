"""The block side of a plan: block skipping bound to a model's blocks and to the calls of one run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from ..errors import MaskError, SkipstoneError
from ..forecast.predictors import PREDICTORS
from ..models.family import Family
from ..models.graph import BlockGraph
from ..recipe.block_skip import BlockSkip, Caching
from ..recipe.mask import Mask, load_mask
from .liveness import State, derive, rectified
from .mask_fit import mapped
from .memory import fit_budget, peak_bytes
from .rules import followed, rule_of
from .rules.base import Moment
from .rules.by_mask import ByMask
from .run import Horizon

_UNPLANNED_BUDGET = "the memory budget is kept block by block: the calls are not known ahead"


class BlockPlan:
    """Decides what each block does at each call.

    When the calls are known, unused runs are dropped and caches are freed early. When they are not, a rule is evaluated
    call by call and a mask is read by timestep; every block of a row runs, and caches are kept to the end.

    Args:
        settings: which rule or mask to follow.
        graph: the model's blocks.
        family: name of the model's family.
        horizon: the calls of the run.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> blocks = tuple(Block(name, "block", nn.Identity(), 0) for name in "ab")
        >>> chain = BlockGraph(blocks, (frozenset(), frozenset({0})), frozenset({1}))
        >>> plan = BlockPlan(BlockSkip(rule="interval", every=2), chain, "toy", Horizon((999.0, 500.0, 0.0)))
        >>> [State(s).name for s in plan.row(1, 500.0)[0]]
        ['DEAD', 'REUSE']
    """

    def __init__(self, settings: BlockSkip, graph: BlockGraph, family: str, horizon: Horizon) -> None:
        """Bind the settings. Raises :class:`MaskError` for a mask that does not fit the model."""
        self._rule = rule_of(settings, graph, family)
        self.settings = followed(settings, self._rule)
        self._graph, self._horizon = graph, horizon
        self._asked: tuple[int, float, float] | None = None
        self._everything = np.ones(len(graph), dtype=bool)
        self._always = np.zeros(len(graph), dtype=bool)
        self._run = self._states = self._kept = None
        if horizon.timesteps and (run := self.planned_rows()) is not None:
            self._run = run
            self._states, self._kept = self._rectified(run)

    def heads(self) -> np.ndarray:
        """Return for each block the first of those whose differences are kept as one sum, int [L].

        They are neighbours in one stack that run, and are reused, at the same calls of the run.
        """
        if self._states is None or self._kept is None:
            return np.arange(len(self._graph))
        return self._heads(self._states, self._kept)

    def _heads(self, *tables: np.ndarray) -> np.ndarray:
        heads = np.arange(len(self._graph))
        for i in range(1, len(heads)) if self._graph.caching == "difference" else ():
            if self._graph.follows(i) and all(np.array_equal(table[:, i], table[:, i - 1]) for table in tables):
                heads[i] = heads[i - 1]
        return heads

    @property
    def notes(self) -> list[str]:
        """Report lines about settings that cannot be followed in this run."""
        return [self._rule.unannounced] if self._rule.unannounced and self._states is None else []

    def abandon(self) -> None:
        """Decide call by call from now on, because the run left its announced calls."""
        self._run = self._states = self._kept = None

    def run_always(self, blocks: Iterable[int]) -> None:
        """Run these blocks at every call on real inputs, because code outside the graph reads them."""
        graph = self._graph
        for i in sorted(blocks, reverse=True):
            self._always[[i, *(graph.reads[i] if graph.blocks[i].derived else ())]] = True
        self._graph = replace(graph, head=graph.head | frozenset(np.flatnonzero(self._always).tolist()))
        if self._run is not None:
            self._run[:, self._always[list(graph.masked)]] = True
            self._states, self._kept = self._rectified(self._run)

    def fit(self, sizes: np.ndarray, costs: np.ndarray, budget: float) -> str:
        """Limit the cache to a budget. Call it after the first call, when sizes and costs are known.

        Blocks that save least per byte run at every call.

        Args:
            sizes: int [L], bytes of one cached value of each block.
            costs: int [L], multiply-adds of one run of each block.
            budget: bytes.

        Returns:
            A report line, or "".
        """
        if self._run is None or self._states is None or self._kept is None:
            return _UNPLANNED_BUDGET if budget < float("inf") else ""
        if self.settings.forecast:
            sizes = sizes * min(PREDICTORS[self.settings.predictor].keeps, int(self._run.any(axis=1).sum()))
        if (peak := self._peak(self._run, sizes)) <= budget:
            return f"predicted cache peak {peak / 2**20:.1f} MiB"
        masked = list(self._graph.masked)
        worth = costs[masked] * (~self._run).sum(axis=0) / np.maximum(1, sizes[masked])
        self._run = fit_budget(self._run, worth, lambda run: self._peak(run, sizes) <= budget)
        self._states, self._kept = self._rectified(self._run)
        always, peak = int(self._run.all(axis=0).sum()), self._peak(self._run, sizes)
        return (
            f"memory budget: {always} of {len(masked)} blocks always run; predicted cache peak {peak / 2**20:.1f} MiB"
        )

    def _peak(self, run: np.ndarray, sizes: np.ndarray) -> int:
        states, kept = self._rectified(run)
        heads = self._heads(states, kept)
        return peak_bytes(states, kept, np.where(heads == np.arange(len(heads)), sizes, 0))

    def _rectified(self, run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return states, and whose value to keep. A forecast needs a value past its next run, while any call reuses it."""
        how = "liveness" if self._always.any() else self.settings.rectify
        states, kept = rectified(run, self._graph, how)
        return states, np.logical_or.accumulate(kept[::-1])[::-1] if self.settings.forecast else kept

    def row(
        self, index: int, timestep: float, last: bool = False, step: int | None = None, input: Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the states int8 [L] and bool [L], whose value to keep, at a call.

        Args:
            index: number of the call, from 0.
            timestep: training timestep.
            last: whether the host counts this as the last step. Used only when the calls are not known.
            step: number of the sampler step, by the host's count. Used only when the calls are not known.
            input: what the network is called on [rows, ...]. Used only when the calls are not known.
        """
        if self._states is not None and self._kept is not None:
            return self._states[index], self._kept[index]
        served = self._horizon.inside(self.settings, timestep) and index > 0
        if not served or (last and self.settings.last_full):
            runs = self._everything
        else:
            at = Moment(index, timestep, self._before(index, timestep), step, input)
            runs = derive(self._rule.row(self._graph, self._horizon, at)[None], self._graph)[0]
        return np.where(runs | self._always, State.RUN, State.REUSE).astype(np.int8), self._everything

    def planned_rows(self) -> np.ndarray | None:
        """Return bool [T, masked] for a run whose calls are known; None for a rule that decides call by call."""
        run = self._rule.rows(self._graph, self._horizon)
        if run is None:
            return None
        run[[not self._horizon.inside(self.settings, t) for t in self._horizon.timesteps or ()]] = True
        run[0] = True
        if self.settings.last_full:
            run[-1] = True
        return run

    def mask(self, family: str) -> Mask:
        """Return the plan of a run whose calls are known as a mask, with the settings' `forecast`.

        A mask that already has these timesteps keeps its learned probabilities.

        Args:
            family: name of the model's family.

        Raises :class:`MaskError` for a rule that decides call by call.
        """
        run, timesteps, graph = self.planned_rows(), self._horizon.timesteps or (), self._graph
        if run is None:
            raise MaskError(f"rule {self.settings.rule!r} decides at each call: it cannot be written as a mask")
        if isinstance(self._rule, ByMask):
            given = mapped(self._rule.mask, timesteps)
            return replace(given, run=run, signature=graph.signature, forecast=self.settings.forecast)
        names = tuple(graph.blocks[i].name for i in graph.masked)
        read = ("rule", "every", "branch", "depths")
        provenance = {name: _plain(getattr(self.settings, name)) for name in read}
        forecast = self.settings.forecast
        return Mask(run, family, names, timesteps, graph.caching, None, provenance, graph.signature, forecast)

    def _before(self, index: int, timestep: float) -> float:
        """Return the timestep of the call before. Later forwards of the same call (split batches) get the same answer."""
        if self._asked is None or self._asked[0] != index:
            self._asked = (index, timestep if self._asked is None else self._asked[2], timestep)
        return self._asked[1]


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def even_timesteps(calls: int, train_steps: int = 1000) -> tuple[float, ...]:
    """Return the timesteps of a full, evenly spaced run.

    Args:
        calls: number of calls.
        train_steps: number of training timesteps.

    Raises :class:`SkipstoneError` for less than one call.

    Example:
        >>> even_timesteps(3)
        (999.0, 499.5, 0.0)
    """
    if calls < 1:
        raise SkipstoneError(f"{calls} calls make no run: give a number from 1 on")
    return tuple(float(t) for t in np.linspace(train_steps - 1, 0, calls))


def rule_mask(settings: BlockSkip, graph: BlockGraph, family: str, timesteps: tuple[float, ...]) -> Mask:
    """Return block skip settings as a mask for a run whose calls are known (:meth:`BlockPlan.mask`).

    Args:
        settings: which rule or mask to follow.
        graph: the model's blocks.
        family: name of the model's family.
        timesteps: training timestep of each call.

    Raises :class:`MaskError` for a mask that does not fit the model, or a rule that decides call by call.

    Example:
        >>> from torch import nn
        >>> from skipstone.core.models.graph import Block
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 0),), (frozenset(),), frozenset({0}))
        >>> rule_mask(BlockSkip(rule="interval", every=2), graph, "toy", even_timesteps(4)).run.ravel().tolist()
        [True, False, True, False]
    """
    return BlockPlan(settings, graph, family, Horizon(timesteps)).mask(family)


def graph_of(settings: BlockSkip, family: Family, network: nn.Module) -> BlockGraph:
    """Return the blocks of a network that these settings can skip.

    Args:
        settings: `caching`, `split` and the mask choose the blocks.
        family: the network's family.
        network: the U-Net or transformer.

    Raises :class:`MaskError` if this family cannot be cached or split that way.

    Example:
        >>> from diffusers import DiTTransformer2DModel
        >>> from skipstone.core.models import recognise
        >>> network = DiTTransformer2DModel(num_attention_heads=2, attention_head_dim=8, num_layers=2)
        >>> len(graph_of(BlockSkip(rule="interval"), recognise(network), network))  # attention and MLP of each block
        4
    """
    mask = load_mask(settings)
    split = settings.split if mask is None else any(s.startswith("transformer block ") for s in mask.signature)
    if split and not family.splits:
        raise MaskError(f"split=True splits the transformers of U-Nets, a {family.name} has none: use split=False")
    caching = _caching(settings, mask, family)
    return family.graph(network, caching, split=True) if split else family.graph(network, caching)


def _caching(settings: BlockSkip, mask: Mask | None, family: Family) -> Caching:
    wanted = mask.caching if mask is not None else settings.caching
    if wanted == "auto":  # a forecast of what a whole block adds costs less than those of its parts, and is closer
        forecast = settings.forecast and mask is None and "difference" in family.cachings
        return "difference" if forecast else family.cachings[0]
    if wanted == "branch" and wanted not in family.cachings and "difference" in family.cachings:
        return "difference"  # as it was called before
    if wanted not in family.cachings:
        raise MaskError(f"caching {wanted!r} is not possible on a {family.name}: use {' or '.join(family.cachings)}")
    return wanted
