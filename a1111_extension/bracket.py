"""Skipstone on one U-Net for one pass: two root hooks around the engine's calls.

Leaf overrides live for one U-Net call, the two hooks until :meth:`UNetBracket.end`. Nothing else touches the model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..core.engine.call import Call
from ..core.engine.engine import Engine
from ..core.engine.meter import Report
from ..core.errors import Decline
from ..core.recipe import Recipe
from .labels import StepRows

log = logging.getLogger("skipstone")


class UNetBracket:
    """The hooks and the run of one pass. The calls to come are not known here, so the run is an unplanned one.

    rows: labels the rows of the U-Net's calls. foreign: the calls to come belong to another job; they run plain.
    last_step: they are those of the sampler's last step.
    """

    def __init__(self, unet: nn.Module, recipe: Recipe) -> None:
        """Begin. Raises :class:`SkipstoneError` for a model that cannot be served; nothing is touched then."""
        self.rows = StepRows()
        self.foreign = False
        self.last_step = False
        self._broken = False
        self._engine = Engine(unet, recipe)
        self._session = self._engine.begin()
        self._handles = [
            unet.register_forward_pre_hook(self._before, with_kwargs=True),
            unet.register_forward_hook(self._after, with_kwargs=True, always_call=True),
        ]

    def end(self) -> Report:
        """Take everything off the model, free the run's state and return its report. May be called twice."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        return self._engine.end()

    def _before(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.foreign or self._broken:
            return
        try:
            self._session.begin_call(self._call(args, kwargs))
        except Decline as reason:
            self._session.decline_call(str(reason))
        except Exception as error:
            self._session.end_call()
            self._broken = True
            self._session.meter.note(f"the rest of the pass ran dense: {error}")
            log.exception("Skipstone stopped serving this pass; the image comes dense")

    def _after(self, unet: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self._session.end_call(output)

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        inputs = self._engine.family.inputs(args, kwargs)
        latent, timestep = inputs.latent, inputs.timestep
        if not isinstance(latent, Tensor) or latent.ndim != 4:
            raise Decline("its input is no picture latent [batch, channels, height, width]")
        if not isinstance(timestep, Tensor) or not timestep.numel():
            raise Decline("no timestep could be read from its arguments")
        now = float(timestep.flatten()[0])
        options = kwargs.get("transformer_options") or {}
        streams = self.rows.label(now, latent.shape[0], options.get("cond_or_uncond"))
        return Call(now, (latent.shape[2], latent.shape[3]), streams, self.last_step, latent)
