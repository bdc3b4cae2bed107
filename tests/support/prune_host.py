"""For tests of token pruning: a small host with guidance, and which tokens a layer keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tiny
import torch
from torch import Tensor

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.merge import PairsFound
from skipstone.core.engine.report import Report
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate

STEPS = [float(t) for t in np.linspace(999, 0, 7)]
PRUNE = TokenPrune(ratio=0.4)
CONDS = ("cond", "uncond")
Layouts = Callable[[int], Sequence[Sequence[str]]]


def run(
    case: tiny.Case, recipe: Any, x: Tensor | None = None, steps: Sequence[float] | None = STEPS
) -> tuple[Tensor, Report]:
    """A run of a bare model by hand, and its report."""
    with accelerate(case.model, recipe) as handle:
        handle.begin(steps)
        picture = case.sample(STEPS, x)
        return picture, handle.end()


class Host:
    """Two samples under cond and uncond with guidance, evaluated in any batching; notes who was pruned where."""

    def __init__(self, case: tiny.Case, recipe: Recipe, tell_input: bool = True) -> None:
        self.case, self.tell_input = case, tell_input
        self.cond = {name: case.cond(2, seed=20 + i) for i, name in enumerate(CONDS)}
        self.found: dict[tuple[str, int, Any], Tensor] = {}
        self.engine = Engine(case.model, recipe, observer=self._note)

    def _note(self, found: PairsFound) -> None:
        at = 0
        for stream in found.streams:
            self.found[found.layer, found.call, stream.key] = found.pairs.partner[at : at + stream.rows]
            at += stream.rows

    def forward(self, t: float, names: Sequence[str], x: Tensor) -> dict[str, Tensor]:
        batch = torch.cat([x] * len(names))
        streams = tuple(Stream(n, len(x)) for n in names)
        given = batch if self.tell_input else None
        with self.engine.call(Call(t, tuple(x.shape[2:]), streams, input=given)):
            out = self.case(batch, t, torch.cat([self.cond[n] for n in names]))
        return dict(zip(names, out.split(len(x)), strict=True))

    def run(self, layouts: Layouts) -> Tensor:
        x = self.case.latent(2, seed=30)
        with self.engine.run(STEPS):
            for k, t in enumerate(STEPS):
                out: dict[str, Tensor] = {}
                for names in layouts(k):
                    out |= self.forward(t, names, x)
                x = tiny.step(x, out["uncond"] + 2 * (out["cond"] - out["uncond"]))
        return x


LAYOUTS: dict[str, Layouts] = {
    "batched": lambda k: [CONDS],
    "swapped": lambda k: [CONDS[::-1]],
    "split": lambda k: [["cond"], ["uncond"]],
    "split and swapped": lambda k: [["uncond"], ["cond"]],
    "changing": lambda k: [["uncond"], ["cond"]] if k % 2 else [CONDS],
}


def bases(partner: Tensor, side: tuple[int, int]) -> Tensor:
    """Which tokens of a fully pruned layer are kept: exactly the bases."""
    return partner == torch.arange(side[0] * side[1])


def cells(values: Tensor) -> Tensor:
    """[B, 16, 16] or [B, 256] -> [B, 64, 4]: the values of each 2x2 cell, row by row."""
    return values.reshape(-1, 8, 2, 8, 2).transpose(2, 3).reshape(-1, 64, 4)


def kept_in_cells(partner: Tensor) -> Tensor:
    """Place of the one token that each cell of a fully pruned 16x16 layer keeps [B, 64]."""
    return cells(bases(partner, (16, 16)).int()).argmax(2)


def most_dynamic(before: Tensor, after: Tensor, least: bool = False) -> Tensor:
    """Place of the token in each cell where two outputs [B, C, 16, 16] differ most, or least [B, 64]."""
    change = cells((after - before).abs().mean(1))
    return change.argmin(2) if least else change.argmax(2)
