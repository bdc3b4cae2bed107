"""Records a profile during a dense run of the user's own, for hosts without `skipstone profile`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import SkipstoneError
from ..forecast.history import fits
from ..forecast.profile import Profile, gram_of
from ..forecast.space import Noise
from .call import Call
from .meter import Meter


class Recording:
    """The inputs and outputs of one run: the first row of each call.

    Args:
        path: where the profile goes.
        network: identifies the network.
        timesteps: training timestep of each call to come.

    Example:
        >>> from .clock import Stream
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     recording, meter = Recording(folder + "/p.safetensors", "toy", (900.0, 500.0)), Meter()
        ...     for index, t in enumerate((900.0, 500.0)):
        ...         x = torch.ones(1, 4, 8, 8)
        ...         call = Call(t, (8, 8), (Stream("cond", 1),), input=x, noise=Noise(0.6, 0.8, "eps"))
        ...         recording.add(index, call, x)
        ...     recording.save(meter)
        ...     meter.report.notes
        ['recorded a profile of 2 steps: the next pictures use it']
    """

    def __init__(self, path: str, network: str, timesteps: Sequence[float]) -> None:
        """Start empty."""
        self._path, self._network, self._timesteps = path, network, tuple(timesteps)
        self._kept: dict[int, tuple[Tensor, Tensor, Noise]] = {}

    def add(self, index: int, call: Call, output: Tensor) -> None:
        """Keep one call. The last forward of a call counts: the conditional one where a host splits them.

        Args:
            index: number of the call.
            call: the forward, with its input [rows, ...] and noise level.
            output: the network's output [rows, ...].
        """
        if call.noise is None or call.input is None or not fits(output, call.input):
            return
        channels = min(output.shape[1], call.input.shape[1])
        x, o = (value[-1:, :channels].detach().to("cpu", torch.float32) for value in (call.input, output))
        self._kept[index] = x, o, call.noise

    def save(self, meter: Meter) -> None:
        """Write the profile if the run was complete, and report it."""
        if len(self._kept) < len(self._timesteps):
            meter.note("no profile was recorded: the run was not complete, or the host does not give the noise levels")
            return
        inputs, outputs, noises = zip(*(self._kept[i] for i in range(len(self._timesteps))), strict=True)
        gram = gram_of(torch.stack(inputs), torch.stack(outputs))
        try:
            Profile(gram, self._timesteps, tuple(noises), self._network, provenance={"recorded": 1}).save(self._path)
            meter.note(f"recorded a profile of {len(noises)} steps: the next pictures use it")
        except SkipstoneError as error:
            meter.note(str(error))
