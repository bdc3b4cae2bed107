"""What mask training asks of a host: a network, the calls of one run, and the sampler between them.

Anything that has these members can be trained on. For diffusers pipelines see :mod:`skipstone.pipelines.denoiser`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Trajectory:
    """A batch on its way from noise to picture.

    x: the latent [B, ...] before the next call. cond: conditioning, in the form that this denoiser's `predict` expects.
    history: what the sampler remembers of earlier calls; None where it remembers nothing.
    """

    x: Tensor
    cond: Any = None
    history: Any = None


class Denoiser(Protocol):
    """One run of T network calls on batches of samples."""

    @property
    def network(self) -> nn.Module:
        """The U-Net or transformer whose blocks are masked. Its weights are not changed."""

    @property
    def timesteps(self) -> tuple[float, ...]:
        """Training timestep of each call, falling; as many as there are calls."""

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Noise and conditioning, one sample per seed, from generators of its own: a seed always gives the same sample,
        whatever its batch-mates, and the same noise in samplers that add some."""

    def predict(self, at: Trajectory, call: int) -> Tensor:
        """The network's output at call 0..T-1: exactly one forward of `network`, guidance's halves in one batch."""

    def advance(self, at: Trajectory, output: Tensor, call: int) -> Trajectory:
        """The sampler's step with an output of :meth:`predict`, differentiable in x and output. `at` may be used up."""

    def fork(self, at: Trajectory) -> Trajectory:
        """The same place on a trajectory of its own, without gradients."""
