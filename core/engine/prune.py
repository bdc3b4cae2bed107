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
from .frames import by_frame, pictures_of
from .token_layer import PairSearch
from .token_part import TokenPart, seeded


class PrunePart(TokenPart[TokenPrune]):
    """Prunes the tokens most similar to their base. Bases are the tokens whose prediction changes most.

    Bases stay the same between two checkpoints. They depend on the calls before the last checkpoint, the layer and the seed.

    Args:
        settings: pruning settings.
        args: further arguments of :class:`TokenPart`.
        kwargs: further arguments of :class:`TokenPart`.

    Example:
        >>> from skipstone.core.engine.meter import Meter
        >>> from skipstone.core.plan.run import Horizon
        >>> part = PrunePart(TokenPrune(ratio=0.5), [], Horizon(), Meter())
        >>> part.find(0, torch.rand(1, 16, 8), Grid(4, 4, 1), crossing="").pairs.merged  # 8 of 16 tokens are pruned
        (8,)
    """

    verb = "pruned"

    def __init__(self, settings: TokenPrune, *args: Any, **kwargs: Any) -> None:
        """Prepare; nothing is changed on the model."""
        super().__init__(settings, *args, **kwargs)
        self._dynamics = Dynamics(settings.align_cfg)
        self._chosen_at = 0
        self._frames: Call | None = None
        self._folded: dict[Hashable, Hashable] = {}

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide this forward; False leaves it unchanged. Its output is read in both cases.

        Args:
            tick: the call that the forward belongs to.
            call: the forward.
        """
        epoch, serves = self.epoch, super().begin(tick, call)
        self._frames = by_frame(call)
        if self._frames is not None:
            self._folded.update(zip(call.keys(), self._frames.keys(), strict=True))
            self._dynamics.arrive(self._frames, tick.new)
        if self.epoch != epoch:
            self._chosen_at = tick.index
            self._dynamics.settle()
        return serves

    def listen(self, output: Tensor) -> None:
        """Register the network's raw prediction, from which the dynamics of the next calls are computed."""
        if self._frames is None:
            return
        pictures = pictures_of(output, self.call)
        if pictures is not None:
            self._dynamics.note(self.index, self._frames, pictures)
        else:
            self.meter.note(
                f"no dynamics: the network returns {list(output.shape)} for a latent {list(self.call.latent)}"
            )
        self._frames = None

    def end(self) -> None:
        """Release the forward's tensors."""
        self._frames = None
        super().end()

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the state of streams that left the run."""
        super().forget(keys)
        self._dynamics.forget([self._folded.pop(key, key) for key in keys])

    def close(self) -> None:
        """Report the layers that were never entered, and free everything."""
        super().close()
        self._dynamics = Dynamics(self.settings.align_cfg)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return super().nbytes + self._dynamics.nbytes

    def find(self, number: int, raw: Tensor, grid: Grid, crossing: str) -> PairSearch:
        """Choose bases, compare tokens with them, and prune the most similar (DaTo, arXiv 2501.00375).

        Args:
            number: the layer's place in the network, part of the random seed.
            raw: hidden state [B, N, C].
            grid: the tokens as a picture.
            crossing: not used: all samples prune equally many tokens.
        """
        settings, (batch, tokens, _) = self.settings, raw.shape
        count = prune_count(tokens, self._plan.share(settings.ratios, self.index, self.call.timestep))
        if not count:
            everyone = torch.arange(tokens, device=raw.device).repeat(batch, 1)
            return PairSearch(Pairs(everyone, (0,) * batch, "keep"), 0)
        score = self._score(number, grid, raw)
        offsets = base_offsets(score, grid, settings.stride)
        partition = chosen(grid, settings.stride, offsets.expand(batch, -1))
        pairs = prune_pairs(raw, partition, count, settings.matching, settings.recover_from)
        macs = matching_macs(partition, raw, settings.matching)
        return PairSearch(pairs, macs + (recovery_macs(raw, count) if settings.recover_from == "kept" else 0))

    def _score(self, number: int, grid: Grid, raw: Tensor) -> Tensor:
        """Return gamma * dynamics + alpha * noise [B, h, w], or only the noise [1, h, w] if there are no dynamics.

        All samples share the noise, so that a picture does not depend on its place in the batch.
        """
        settings = self.settings
        generator = seeded(settings.seed, number, self._chosen_at)
        noise = torch.randn(1, grid.h, grid.w, generator=generator)
        turned = Random(generator.initial_seed()).random() < settings.flip_prob
        noise = noise.to(raw.device, non_blocking=raw.is_cuda)
        dynamics = self._dynamics.of_forward() if settings.base == "dynamics" else None
        if dynamics is None:
            return noise
        if len(dynamics) != len(raw):
            self.meter.note("no dynamics: a token covers several frames")
            return noise
        scaled = unit_deviation(dynamics) if settings.normalise else dynamics
        gamma = -settings.gamma if turned else settings.gamma
        return gamma * pooled(scaled, grid) + settings.alpha * noise
