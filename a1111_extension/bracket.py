"""Skipstone on one U-Net for one pass: hooks around the engine's calls.

Leaf overrides live for one U-Net call, the hooks until :meth:`UNetBracket.end`. Nothing else touches the model.

An extension may replace the U-Net's `forward` and run the blocks several times in one call: ControlNet's reference modes
first run them on the reference, to fill the banks that attention reads in the picture's own pass. There the engine's call
begins with the picture's pass, and the others run in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.engine.call import Call, one_timestep
from ..core.engine.engine import Engine
from ..core.engine.report import Report
from ..core.engine.root_hooks import RootHooks
from ..core.errors import Decline
from ..core.recipe.recipe import Recipe
from .labels import StepRows

_EXTRA_PASS = "an extension's extra passes through the U-Net (such as ControlNet's reference) ran unaccelerated"
_NO_PASS = "an extension replaces the U-Net's forward, and no pass through the blocks starts from the picture's latent"

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class UNetBracket:
    """The hooks and the run of one pass. The calls to come are not known here, so the run is an unplanned one.

    rows: labels the rows of the U-Net's calls. foreign: the calls to come belong to another job; they run plain.
    last_step, step: whether they are of the sampler's last step, and which step they are of; None where that is not known.
    """

    def __init__(self, unet: nn.Module, recipe: Recipe) -> None:
        """Begin. Raises :class:`SkipstoneError` for a model that cannot be served; nothing is touched then."""
        self.rows = StepRows()
        self.foreign = False
        self.last_step = False
        self.step: int | None = None
        self._engine = Engine(unet, recipe)
        self._session = self._engine.begin()
        self._waiting: _Arguments | None = None
        self._first = _first_block(unet)
        self._unet = unet
        self._removers = [RootHooks(unet, self._before, self._after).remove]
        if self._first is not None:
            self._removers.append(self._first.register_forward_pre_hook(self._on_pass).remove)

    def end(self) -> Report:
        """Take everything off the model, free the run's state and return its report. May be called twice."""
        for remove in self._removers:
            remove()
        self._removers = []
        return self._engine.end()

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.foreign:
            return
        if self._first is not None and "forward" in self._unet.__dict__:
            self._waiting = (args, kwargs)
        else:
            self._begin(args, kwargs)

    def _on_pass(self, first: nn.Module, args: tuple[Any, ...]) -> None:
        """A pass through the blocks begins. In a replaced forward, the engine's call begins with the picture's."""
        if self._waiting is None:
            return
        if not same_picture(args[0], self._engine.family.inputs(*self._waiting).latent):
            self._session.meter.note(_EXTRA_PASS)
            return
        waiting, self._waiting = self._waiting, None
        self._begin(*waiting)

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._engine.enter(lambda: self._call(args, kwargs))

    def _after(self, output: Any) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._session.decline_call(_NO_PASS)
        self._session.leave(output)

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        inputs = self._engine.family.inputs(args, kwargs)
        latent, timestep = inputs.latent, inputs.timestep
        if not isinstance(latent, Tensor) or latent.ndim != 4:
            raise Decline("its input is no picture latent [batch, channels, height, width]")
        now = one_timestep(timestep) * self._engine.family.time_scale
        options = kwargs.get("transformer_options") or {}
        streams = self.rows.label(now, latent.shape[0], options.get("cond_or_uncond"))
        return Call(now, (latent.shape[2], latent.shape[3]), streams, self.last_step, latent, self.step)


def _first_block(unet: nn.Module) -> nn.Module | None:
    """Where each pass through a U-Net's blocks begins; None for other networks."""
    blocks = getattr(unet, "input_blocks", None)
    return blocks[0] if isinstance(blocks, nn.ModuleList) and len(blocks) else None


def same_picture(hidden: Any, latent: Any) -> bool:
    """Does a pass that begins with `hidden` [B, C, h, w] run on the call's latent?

    Inpainting models have further channels behind the latent's four, which extensions replace; those do not count. Waits
    for the device only where the tensors do not share their memory.
    """
    if not isinstance(hidden, Tensor) or not isinstance(latent, Tensor) or hidden.shape != latent.shape:
        return False
    if hidden.data_ptr() == latent.data_ptr():
        return True
    return torch.equal(hidden[:, :4], latent[:, :4].to(hidden.dtype))
