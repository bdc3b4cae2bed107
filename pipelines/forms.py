"""How a network takes the latents and the time of a call, and gives its output: plain, packed as Flux's, or as observed."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from ..core.models import recognise
from .packing import flux_positions, packed, unpacked
from .prompts import NetworkArguments


class Form(Protocol):
    """How one kind of network takes a call."""

    @property
    def sign(self) -> float:
        """Sign of the network's output in what the sampler gets."""

    def taken(self, latents: Tensor) -> Tensor:
        """Return latents [B, C, ...] as the network takes them."""

    def run(self, network: nn.Module, x: Tensor, t: Tensor, arguments: NetworkArguments) -> Tensor:
        """Run a network.

        Args:
            network: the U-Net or transformer.
            x: its input, of :meth:`taken` [rows, ...].
            t: training timestep, a tensor [].
            arguments: its other arguments.

        Returns:
            Its output [rows, ...].
        """

    def prediction(self, output: Tensor) -> Tensor:
        """Return an output without what is no prediction, such as a learned variance."""

    def latents(self, prediction: Tensor) -> Tensor:
        """Return a prediction in the shape of the latents, with the sign that the sampler expects."""


class Plain:
    """Latents as they are, and a time argument in training timesteps or shares of them.

    Args:
        network: the U-Net or transformer.
        channels: of the latents.

    Example:
        >>> import torch
        >>> Plain(nn.Identity(), channels=4).prediction(torch.zeros(1, 8, 2, 2)).shape  # without the learned variance
        torch.Size([1, 4, 2, 2])
    """

    sign = 1.0

    def __init__(self, network: nn.Module, channels: int) -> None:
        """Find the unit of the network's time."""
        self._channels = channels
        self._time_scale = recognise(network, anything=True).time_scale or 1.0

    def taken(self, latents: Tensor) -> Tensor:
        """Return the latents."""
        return latents

    def run(self, network: nn.Module, x: Tensor, t: Tensor, arguments: NetworkArguments) -> Tensor:
        """Run a network of diffusers.

        Args:
            network: the U-Net or transformer.
            x: its input [rows, C, h, w].
            t: training timestep, a tensor [].
            arguments: its other arguments.
        """
        found: Tensor = network(x, timestep=self._time(t, x), return_dict=False, **arguments)[0]
        return found

    def _time(self, t: Tensor, x: Tensor) -> Tensor:
        t = t.to(x.device).expand(len(x))
        return t if self._time_scale == 1 else t.to(x.dtype) / self._time_scale

    def prediction(self, output: Tensor) -> Tensor:
        """Return the first channels."""
        return output[:, : self._channels]

    def latents(self, prediction: Tensor) -> Tensor:
        """Return the prediction."""
        return prediction


class Packed(Plain):
    """Tokens of 2 x 2 latent pixels with their positions, as Flux takes them.

    Args:
        network: the transformer.
        size: height and width of the latents.

    Example:
        >>> import torch
        >>> form, latents = Packed(nn.Identity(), (4, 4)), torch.rand(1, 16, 4, 4)
        >>> torch.equal(form.latents(form.taken(latents)), latents)
        True
    """

    def __init__(self, network: nn.Module, size: tuple[int, ...]) -> None:
        """Store the size, which tokens do not show."""
        super().__init__(network, channels=0)
        self._size = size

    def taken(self, latents: Tensor) -> Tensor:
        """Return latents [B, C, h, w] as tokens [B, h/2 w/2, 4C]."""
        return packed(latents)

    def run(self, network: nn.Module, x: Tensor, t: Tensor, arguments: NetworkArguments) -> Tensor:
        """Run Flux's network.

        Args:
            network: the transformer.
            x: its input [rows, tokens, 4C].
            t: training timestep, a tensor [].
            arguments: its other arguments.
        """
        positions = flux_positions(x.new_empty(1, 1, *self._size), arguments["encoder_hidden_states"])
        return super().run(network, x, t, {**arguments, **positions})

    def prediction(self, output: Tensor) -> Tensor:
        """Return the output."""
        return output

    def latents(self, prediction: Tensor) -> Tensor:
        """Return tokens as latents [B, C, h, w]."""
        return unpacked(prediction, self._size)
