"""The interface through which masks are trained on a host: a network, the calls of one run, and the sampler between them.

Training works on any object with these members. For diffusers pipelines see :mod:`skipstone.pipelines.denoiser`.

Example: a network that is called with latents and timesteps, and Euler steps.
    >>> import torch
    >>> class Straight:
    ...     def __init__(self, network, timesteps):
    ...         self.network, self.timesteps = network, timesteps
    ...     def begin(self, seeds):
    ...         noises = [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(s)) for s in seeds]
    ...         return Trajectory(torch.stack(noises))
    ...     def predict(self, at, call):
    ...         return self.network(at.x)
    ...     def advance(self, at, output, call):
    ...         return Trajectory(at.x - output / len(self.timesteps))
    ...     def fork(self, at):
    ...         return Trajectory(at.x.detach())
    >>> denoiser = Straight(nn.Conv2d(4, 4, 1), (999.0, 500.0))
    >>> start = denoiser.begin([0, 1, 2])
    >>> denoiser.advance(start, denoiser.predict(start, 0), 0).x.shape
    torch.Size([3, 4, 8, 8])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Trajectory:
    """A batch of samples between two calls of a run.

    Args:
        x: latents [B, ...] before the next call.
        cond: conditioning, in the form that this denoiser's `predict` expects.
        history: what the sampler keeps of earlier calls; None if it keeps nothing.

    Example:
        >>> import torch
        >>> Trajectory(torch.zeros(2, 4, 8, 8)).history is None
        True
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
        """Training timestep of each call, falling; one per call."""

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Draw noise and conditioning, one sample per seed.

        Each sample has a generator of its own: a seed always gives the same sample, whatever else is in the batch, and the same
        noise in samplers that add some.
        """

    def predict(self, at: Trajectory, call: int) -> Tensor:
        """Run the network once: exactly one forward of `network`, with both halves of guidance in one batch.

        Args:
            at: where the samples are.
            call: number of the call, from 0.
        """

    def advance(self, at: Trajectory, output: Tensor, call: int) -> Trajectory:
        """Make the sampler's step, differentiable in x and output. `at` may be used up.

        Args:
            at: where the samples are.
            output: of :meth:`predict`.
            call: number of the call, from 0.
        """

    def fork(self, at: Trajectory) -> Trajectory:
        """Return an independent copy of a trajectory, without gradients."""
