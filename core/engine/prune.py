"""Dynamics-aware token pruning in one run (DaTo, arXiv 2501.00375)."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from random import Random
from typing import Any

import torch
from torch import Tensor

from ..measure.macs import matching_macs, recovery_macs
from ..recipe.token_prune import TokenPrune
from ..tokens.grid import Grid, chosen
from ..tokens.maps import Pairs
from ..tokens.prune import base_offsets, pooled, prune_count, prune_pairs, unit_deviation
from .call import Call
from .clock import Tick
from .dynamics import Dynamics
from .token_layer import Found
from .token_part import TokenPart, seeded


class PrunePart(TokenPart[TokenPrune]):
    """The tokens most similar to their base are left out, where bases are the tokens whose prediction changes most.

    Between two checkpoints the bases stay: they depend on the calls before the last one, the layer and the seed alone.
    """

    verb = "pruned"

    def __init__(self, settings: TokenPrune, *args: Any, **kwargs: Any) -> None:
        """Before the first call; the arguments are those of :class:`TokenPart`."""
        super().__init__(settings, *args, **kwargs)
        self._dynamics = Dynamics(settings.align_cfg)
        self._chosen_at = 0
        self._listening = False

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide this forward; False leaves it alone. Its output is read all the same."""
        epoch, serves = self.epoch, super().begin(tick, call)
        self._listening = len(call.latent) == 2
        if self._listening:
            self._dynamics.arrive(call, tick.new)
        if self.epoch != epoch:
            self._chosen_at = tick.index
            self._dynamics.settle()
        return serves

    def listen(self, output: Tensor) -> None:
        """The network's raw prediction: what the next calls' dynamics are made of."""
        if (
            self._listening
            and output.ndim == 4
            and (len(output), *output.shape[2:]) == (self.call.rows, *self.call.latent)
        ):
            self._dynamics.note(self.index, self.call, output)
        elif self._listening:
            self.meter.note(
                f"no dynamics: the network returns {list(output.shape)} for a latent {list(self.call.latent)}"
            )
        self._listening = False

    def end(self) -> None:
        """Let go of the forward's tensors."""
        self._listening = False
        super().end()

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free what is kept of streams that left the run."""
        super().forget(keys)
        self._dynamics.forget(keys)

    def close(self) -> None:
        """Report which layers were never entered, and free everything."""
        super().close()
        self._dynamics = Dynamics(self.settings.align_cfg)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        return super().nbytes + self._dynamics.nbytes

    def find(self, number: int, raw: Tensor, grid: Grid, crossing: str) -> Found:
        """Choose bases, compare with them, prune the most similar."""
        settings, (batch, tokens, _) = self.settings, raw.shape
        count = prune_count(tokens, self._plan.share(settings.ratios, self.index, self.call.timestep))
        if not count:
            everyone = torch.arange(tokens, device=raw.device).repeat(batch, 1)
            return Found(Pairs(everyone, (0,) * batch, "keep"), 0)
        score = self._score(number, grid, raw.device)
        offsets = base_offsets(score, grid, settings.stride)
        partition = chosen(grid, settings.stride, offsets.expand(batch, -1))
        pairs = prune_pairs(raw, partition, count, settings.matching, settings.recover_from)
        macs = matching_macs(partition, raw, settings.matching)
        return Found(pairs, macs + (recovery_macs(raw, count) if settings.recover_from == "kept" else 0))

    def _score(self, number: int, grid: Grid, device: torch.device) -> Tensor:
        """gamma * dynamics + alpha * noise [B, h, w]; the noise alone, [1, h, w], where there are no dynamics.

        The noise is the same for all samples, so that a picture never depends on its place in the batch.
        """
        settings = self.settings
        generator = seeded(settings.seed, number, self._chosen_at)
        noise = torch.randn(1, grid.h, grid.w, generator=generator)
        turned = Random(generator.initial_seed()).random() < settings.flip_prob
        noise = noise.to(device, non_blocking=device.type == "cuda")
        dynamics = self._dynamics.of_forward() if settings.base == "dynamics" else None
        if dynamics is None:
            return noise
        scaled = unit_deviation(dynamics) if settings.normalise else dynamics
        gamma = -settings.gamma if turned else settings.gamma
        return gamma * pooled(scaled, grid) + settings.alpha * noise
