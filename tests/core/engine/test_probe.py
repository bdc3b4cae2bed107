"""Interrupted wherever it may be, the count of multiply-adds leaves no hook behind."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from interrupts import interrupted
from torch import nn

from skipstone.core.measure import hooks, macs
from skipstone.core.measure.macs import CostProbe


class Attention(nn.Module):
    """Separate and fused projections, as the probe knows them."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(4, 4), nn.Linear(4, 4)
        self.inner = nn.Module()
        self.inner.qkv = nn.Linear(4, 12)
        self.conv = nn.Conv1d(3, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.to_q(x) + self.to_k(x)) + self.inner.qkv(x)[..., :4]


def test_interrupted_anywhere_a_closed_probe_leaves_no_hook() -> None:
    model, x = Attention(), torch.ones(1, 3, 4)
    places = 0
    while True:
        counted = CostProbe(model)

        def run(counted: CostProbe = counted) -> None:
            with counted:
                model(x)

        stopped = interrupted(run, places, {macs.__file__, hooks.__file__})
        counted.close()
        assert not tiny.hooked(model), places
        if not stopped:
            break
        places += 1
    assert places > 60 and counted.macs > 0


def test_interrupted_before_it_is_left_a_probe_needs_no_closing() -> None:
    model, x = Attention(), torch.ones(1, 3, 4)
    model.conv.register_forward_hook(pressed)
    with pytest.raises(KeyboardInterrupt), CostProbe(model):
        model(x)
    assert len(tiny.hooked(model)) == 1


def pressed(*_: Any) -> None:
    raise KeyboardInterrupt
