"""A denoiser of a few numbers: a smooth noise predictor with DDIM steps, for what profiles and chooses calls."""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin

import torch
from torch import Tensor, nn

from skipstone.core.calibrate.denoiser import Trajectory
from skipstone.core.forecast.space import Noise
from skipstone.core.plan.run import Horizon


class Predictor(nn.Module):
    """Predicts noise from x [B, 4, h, w] and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.8), requires_grad=False)
        self.calls = 0

    def forward(self, x: Tensor, timestep: float) -> Tensor:
        """The noise [B, 4, h, w] in x."""
        self.calls += 1
        return torch.tanh(self.weight * x + torch.sin(torch.tensor(timestep / 150)) / 2)


class ToyDenoiser:
    """A variance-preserving run of T steps."""

    sampler, guidance, stochastic = "Toy", 1.0, False

    def __init__(self, steps: int = 12) -> None:
        self.network = Predictor()
        self.timesteps = tuple(950.0 * (1 - k / steps) + 20 for k in range(steps))

    @property
    def horizon(self) -> Horizon:
        """The calls ahead."""
        return Horizon(self.timesteps)

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Noise of each seed's own generator."""
        return Trajectory(
            torch.stack([torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(s)) for s in seeds])
        )

    def predict(self, at: Trajectory, call: int) -> Tensor:
        """The network's output."""
        return self.network(at.x, self.timesteps[call])

    def network_input(self, at: Trajectory, call: int) -> Tensor:
        """What the network takes."""
        return at.x

    def guided(self, output: Tensor) -> Tensor:
        """The output itself."""
        return output

    def noise(self, call: int) -> Noise:
        """The level of a call; after the last one, no noise."""
        angle = pi / 2 * (self.timesteps[call] / 1000 if call < len(self.timesteps) else 0.0)
        return Noise(cos(angle), sin(angle), "eps")

    def advance(self, at: Trajectory, output: Tensor, call: int) -> Trajectory:
        """A DDIM step."""
        here, there = self.noise(call), self.noise(call + 1)
        x0 = (at.x - here.sigma * output) / here.alpha
        return Trajectory(there.alpha * x0 + there.sigma * output)

    def fork(self, at: Trajectory) -> Trajectory:
        """The same place."""
        return Trajectory(at.x.clone())
