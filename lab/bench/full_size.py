"""What a run with merged tokens would cost on SD1.5's U-Net at its real size: the small model's merged shares, SD1.5's shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...core.engine.layer_report import LayerReport
from ...core.engine.report import Report
from ...core.measure.macs import count_macs, matching_macs, module_macs
from ...core.recipe.token_merge import TokenMerge
from ...core.tokens.grid import Grid, top_left
from .one_block import LATENT_FACTOR
from .unet import UNetInputs, sd15_unet


@dataclass(frozen=True)
class FullSize:
    """SD1.5's U-Net at a picture's size, without weights.

    Args:
        side: of the latent.
        macs: multiply-adds of one call for one sample.
        attention: self-attentions at the latent's own resolution.

    Example:
        >>> large = FullSize.sd15(1024)  # doctest: +SKIP
        >>> len(large.attention), round(large.macs / 1e12, 2)  # doctest: +SKIP
        (5, 2.34)
    """

    side: int
    macs: int
    attention: tuple[Any, ...]

    @classmethod
    def sd15(cls, size: int) -> FullSize:
        """Return SD1.5's U-Net at a size.

        Args:
            size: side of the pictures in pixels.

        Raises :class:`ModelError` without diffusers.
        """
        with torch.device("meta"):
            unet = sd15_unet()
            inputs = UNetInputs(unet, 1, size)
            macs = count_macs(lambda: unet(inputs.latent(), torch.tensor(1), inputs.context))
        widest = unet.config.block_out_channels[0]
        found = [m for name, m in unet.named_modules() if name.endswith("attn1") and m.to_q.in_features == widest]
        return cls(size // LATENT_FACTOR, macs, tuple(found))

    def share(self, report: Report, merge: TokenMerge | None) -> float:
        """Return what a run would cost, as a share of the dense run's multiply-adds.

        The finest layers merge the small model's share of tokens, call by call; all others run in full, as does what is not
        self-attention. The pair search is counted where the small model searched.

        Args:
            report: of the small model's run.
            merge: how it merged; None if it did not.
        """
        run = report.calls_run / report.calls
        layers = _finest(report)
        if merge is None or not layers:
            return run
        saved = sum(
            self._attention(1.0) - np.mean([self._attention(k) for k in layer.kept_by_call.values()])
            for layer in layers
        )
        searched = sum(layer.searched / (layer.searched + layer.reused) for layer in layers)
        per_call = len(self.attention) / len(layers) * (saved - searched * self._search(merge))
        return run * (1 - float(per_call) / self.macs)

    def _attention(self, kept: float) -> int:
        """Return the multiply-adds of one self-attention on a share of the tokens."""
        attention = self.attention[0]
        return module_macs(attention, "attn1", round(kept * self.side**2), self._channels, None)

    def _search(self, merge: TokenMerge) -> int:
        """Return the multiply-adds of one pair search."""
        partition = top_left(Grid(self.side, self.side, 1), merge.stride, torch.device("cpu"))
        metric = torch.empty(1, self.side**2, self._channels, device="meta")
        return matching_macs(partition, metric, merge.matching)

    @property
    def _channels(self) -> int:
        return int(self.attention[0].to_q.in_features)


def _finest(report: Report) -> list[LayerReport]:
    """Return the served layers with the most tokens in a call."""
    tokens = {name: layer.tokens / len(layer.kept_by_call) for name, layer in report.layers.items()}
    return [report.layers[name] for name, count in tokens.items() if count == max(tokens.values())]
