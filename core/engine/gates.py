"""Gates: decide during a run, from the network's input, whether it runs. Each waits for the device once per call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import isfinite, prod

import torch
from torch import Tensor

from ..forecast.space import Noise
from ..recipe.call_skip import CallRule, CallSkip

_ENDLESS = float("inf")


class Gate(ABC):
    """Adds up the changes of a run's inputs since the network last ran, and opens when they reach a threshold.

    Args:
        threshold: sum of changes at which the network runs again.
    """

    needs_noise = False
    """Whether the change is not known without noise levels."""

    def __init__(self, threshold: float) -> None:
        """Start before the first call."""
        self._threshold, self._sum = threshold, 0.0

    def opens(self, x: Tensor, noise: Noise | None = None) -> bool:
        """Return whether the network runs on an input.

        Args:
            x: the input [rows, channels, ...].
            noise: its noise level; None if it is not known.
        """
        self._sum += self._change(x, noise)
        return self._sum >= self._threshold

    def ran(self, x: Tensor | None, output: Tensor, noise: Noise | None = None) -> None:
        """Register a call that ran.

        Args:
            x: the network's input [rows, channels, ...].
            output: its output [rows, ...].
            noise: the noise level.
        """
        if x is not None:
            self._sum = 0.0
            self._learn(x, output, noise)

    @abstractmethod
    def _change(self, x: Tensor, noise: Noise | None) -> float:
        """Return the change since the input before; infinite where it is not known."""

    @abstractmethod
    def _learn(self, x: Tensor, output: Tensor, noise: Noise | None) -> None:
        """Store what is needed of a call that ran."""


class EasyCacheGate(Gate):
    """EasyCache's gate (arXiv 2507.02860): the change is that of the output, predicted as the input's times their last ratio.

    Args:
        threshold: relative change of the output at which the network runs again.

    Example:
        >>> gate, one = EasyCacheGate(threshold=0.5), torch.ones(1)
        >>> gate.ran(one, one), gate.ran(2 * one, 2 * one)  # the output changes as much as the input
        (None, None)
        >>> gate.opens(2.5 * one), gate.opens(3.5 * one)  # 0.25, then 0.75 of the output
        (False, True)
    """

    def __init__(self, threshold: float) -> None:
        """Start before the first call."""
        super().__init__(threshold)
        self._input: Tensor | None = None
        self._known: tuple[Tensor, Tensor] | None = None
        self._ratio = self._size = 0.0
        self._learned: tuple[Tensor, ...] = ()  # numbers on the device, which are read with the next change

    def _change(self, x: Tensor, noise: Noise | None) -> float:
        before, self._input = self._input, x.detach().clone()
        if before is None or before.shape != x.shape:
            return _ENDLESS
        change, *learned = _read(_mean(x, before), *self._learned)
        if learned:
            self._size = learned[-1]
        if len(learned) > 1:
            moved, changed, _ = learned
            self._ratio = changed / moved if moved and isfinite(moved + changed) else 0.0
        self._learned = ()
        return self._ratio * change / self._size if self._ratio and self._size else _ENDLESS

    def _learn(self, x: Tensor, output: Tensor, noise: Noise | None) -> None:
        known, self._known = self._known, (x.detach().clone(), output.detach().clone())
        self._input, self._learned = self._known[0], (output.abs().mean(),)
        if known is None:
            return
        if known[0].shape == x.shape and known[1].shape == output.shape:
            self._learned = _mean(x, known[0]), _mean(output, known[1]), *self._learned
        else:
            self._ratio = 0.0


class SeaCacheGate(Gate):
    """SeaCache's gate (arXiv 2602.18993): the change is the relative L1 distance of the inputs, of which a Wiener filter keeps
    what is picture and not noise at their noise levels.

    Args:
        threshold: sum of relative distances at which the network runs again.

    Example:
        >>> gate, level = SeaCacheGate(threshold=0.3), Noise(0.6, 0.8, "eps")
        >>> x = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> gate.ran(x, x, level), gate.opens(1.2 * x, level), gate.opens(1.5 * x, level)  # 0.2, then 0.25 more
        (None, False, True)
    """

    needs_noise = True

    def __init__(self, threshold: float) -> None:
        """Start before the first call."""
        super().__init__(threshold)
        self._filtered: Tensor | None = None

    def _change(self, x: Tensor, noise: Noise | None) -> float:
        if noise is None or x.ndim < 3:
            return _ENDLESS
        before, self._filtered = self._filtered, picture_part(x, noise)
        if before is None or before.shape != self._filtered.shape:
            return _ENDLESS
        change, size = _read(_mean(self._filtered, before), before.abs().mean())
        return change / max(size, 1e-16)

    def _learn(self, x: Tensor, output: Tensor, noise: Noise | None) -> None:
        self._filtered = None if noise is None or x.ndim < 3 else picture_part(x, noise)


def picture_part(x: Tensor, noise: Noise) -> Tensor:
    """Return an input filtered by the gains of the best linear denoiser for pictures whose power falls as 1/f^2, float32.

    Along each side the gain goes as `S / (alpha^2 S + sigma^2)`, S = 1/f^2 (1/f^3 with frames); all gains together have
    mean 1, so that distances at different noise levels compare (SeaCache, eq. 7).

    Args:
        x: input [rows, channels, height, width], or with frames [rows, channels, frames, height, width].
        noise: its noise level.

    Example:
        >>> clear = Noise(1.0, 0.0, "eps")
        >>> x = torch.rand(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(picture_part(x, clear), x, atol=1e-4)  # without noise nothing is filtered
        True
    """
    sides = tuple(range(2, x.ndim))
    gains = [_gains(x.shape[side], len(sides), noise).to(x.device, non_blocking=x.is_cuda) for side in sides]
    gain = prod(
        (g.reshape(-1, *[1] * (x.ndim - 1 - side)) for side, g in zip(sides, gains, strict=True)), start=torch.ones(())
    )
    spectrum = torch.fft.fftn(x.detach().float(), dim=sides)
    return torch.fft.ifftn(spectrum * (gain / gain.mean()), dim=sides).real


def _gains(size: int, sides: int, noise: Noise) -> Tensor:
    """Return the gain at each frequency of a side, float32 [size]."""
    power = torch.fft.fftfreq(size).abs() ** (3 if sides > 2 else 2)  # that of the noise over that of the picture
    return 1 / (noise.alpha**2 + noise.sigma**2 * power).clamp(min=1e-12)


_GATES: dict[CallRule, type[Gate]] = {"easycache": EasyCacheGate, "seacache": SeaCacheGate}


def gate_of(settings: CallSkip) -> Gate | None:
    """Return the gate of the settings' rule; None for rules that choose calls ahead.

    Example:
        >>> gate_of(CallSkip(rule="even")) is None
        True
    """
    return _GATES[settings.rule](settings.threshold) if settings.gated else None


def _mean(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean absolute difference, a tensor []."""
    return (a.float() - b.float()).abs().mean()


def _read(*values: Tensor) -> list[float]:
    """Return tensors [] as numbers, waiting for the device once."""
    return torch.stack([value.float() for value in values]).tolist()
