"""Skipstone on one U-Net for one pass: hooks around the engine's calls.

Leaf overrides live for one U-Net call, the hooks until :meth:`UNetBracket.end`. Nothing else touches the model. Where whole
calls may be skipped, an override of the U-Net's `forward` takes the place of the hooks. It stays above those of extensions,
so that a skipped call skips ControlNet as well.

An extension may replace the U-Net's `forward` and run the blocks several times in one call: ControlNet's reference modes
first run them on the reference, to fill the banks that attention reads in the picture's own pass. There the parts of the
engine begin with the picture's pass, and the others run in full.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.engine.call import Call, one_timestep
from ..core.engine.engine import Engine
from ..core.engine.kernel import SDPA
from ..core.engine.override import beneath, override_in
from ..core.engine.report import Report
from ..core.engine.root_hooks import RootHooks
from ..core.engine.run_log import RunLog
from ..core.engine.session import Session
from ..core.errors import Decline
from ..core.plan.run import Horizon
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .host import Step
from .labels import StepRows
from .noise import Levels
from .share import WorkShare

_EXTRA_PASS = "an extension's extra passes through the U-Net (such as ControlNet's reference) ran unaccelerated"
_NO_PASS = "an extension replaces the U-Net's forward, and no pass through the blocks starts from the picture's latent"


class UNetBracket:
    """The hooks and the run of one pass.

    Args:
        unet: the U-Net or transformer.
        recipe: the methods to run.
        levels: reads the noise levels of the model, which are used to skip calls.
        timesteps: reads the network's timestep argument at each call of the pass, once the sampler began; None where they
            are not known.
        steps: reads :attr:`Horizon.levels` and :attr:`Horizon.slopes` of the whole pass, once the sampler began.

    Attributes:
        skips_calls: whether whole calls of the U-Net may be skipped.
        log: the calls of the pass.
        work: how much of the U-Net's work the layers do that merge or prune tokens.

    Raises :class:`SkipstoneError` for a model that cannot be served; nothing is touched then.
    """

    def __init__(
        self,
        unet: nn.Module,
        recipe: Recipe,
        levels: Callable[[], Levels] | None = None,
        timesteps: Callable[[], Sequence[float] | None] = lambda: None,
        steps: Callable[[], tuple[Sequence[float], Sequence[float]]] = lambda: ((), ()),
    ) -> None:
        """Install."""
        self._engine = Engine(unet, recipe, kernels=SDPA)
        self._unet, self._read_levels, self._read_timesteps, self._read_steps = unet, levels, timesteps, steps
        self._levels: Levels | None = None
        self.skips_calls = self._engine.skips_calls
        self.log = RunLog()
        self.work = WorkShare(unet)
        self._counts_work = any(isinstance(m, (TokenMerge, TokenPrune)) and not m.neutral for m in recipe.methods)
        self._rows = StepRows()
        self._foreign = False
        self._step, self._first_step = Step(), 0
        self._session: Session | None = None
        self._waiting: Tensor | None = None
        self._level = 0.0
        self._hooks = self._hook()
        self._removers = [self._hooks.remove, self.work.remove]
        self._first = _first_block(unet) if self._engine.has_parts else None
        if self._first is not None:
            self._removers.append(self._first.register_forward_pre_hook(self._on_pass).remove)

    def end(self) -> Report:
        """Take everything off the model, free the run's state and return its report. May be called twice."""
        for remove in reversed(self._removers):
            remove()
        self._removers = []
        report = self._engine.end()
        self.log.compare([report])
        self.log.end()
        return report

    def new_step(self, step: Step, conds: int | None, foreign: bool = False) -> None:
        """A sampler step begins.

        Args:
            step: which one.
            conds: number of cond rows in it, the unconds follow; None where that is not known.
            foreign: it belongs to another job; its calls run plain.
        """
        self._foreign = foreign
        self._rows.new_step(conds)
        if not foreign:
            self._step = step
        if self.skips_calls:
            self._stay_on_top()

    def _hook(self) -> RootHooks:
        return RootHooks(self._unet, self._before, self._after, overrides=self.skips_calls)

    def _stay_on_top(self) -> None:
        """Install once more where an extension replaced the U-Net's forward since. Below it, the old override only passes on."""
        own = override_in(self._unet)
        if own is None or getattr(own.around, "__self__", None) is not self._hooks:
            self._hooks.remove()
            self._hooks = self._hook()
            self._removers.append(self._hooks.remove)

    def _before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Prepare a call; returns its output where it is skipped."""
        if self._foreign:
            return None
        self.log.begin()
        waits = self._first is not None and self._is_replaced()
        self._session = self._engine.enter(lambda: self._call(args, kwargs), parts=not waits)
        answer = self._session.forecast_or_none()
        if waits and answer is None:
            self._waiting = self._engine.family.inputs(args, kwargs).latent
        elif self._counts_work and answer is None:
            self.work.begin(self._session.meter.report)
        return answer

    def _is_replaced(self) -> bool:
        """Return whether an extension replaced the U-Net's forward."""
        forward = beneath(self._unet)
        return getattr(forward, "__func__", None) is not type(self._unet).forward

    def _on_pass(self, first: nn.Module, args: tuple[Any, ...]) -> None:
        """A pass through the blocks begins. In a replaced forward, the engine's parts begin with the picture's."""
        if self._waiting is None or self._session is None:
            return
        if not same_picture(args[0], self._waiting):
            self._session.meter.note(_EXTRA_PASS)
            return
        self._waiting = None
        self._session.begin_parts()

    def _after(self, output: Any) -> Any:
        session, self._session = self._session, None
        waiting, self._waiting = self._waiting, None
        if session is None:
            return None
        if waiting is not None:
            session.decline_call(_NO_PASS, self._level)
        self.work.end(session.meter.report, output is not None)
        corrected = session.leave(output)
        self.log.update(session.meter.report, [session.meter.report])
        return corrected

    def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        if self._engine.running is None:
            self._begin()
        inputs = self._engine.family.inputs(args, kwargs)
        latent, options = inputs.latent, kwargs.get("transformer_options") or {}
        if not isinstance(latent, Tensor) or latent.ndim != 4:
            raise Decline("its input is no picture latent [batch, channels, height, width]")
        time = one_timestep(inputs.timestep)
        self._level = time * (self._engine.family.time_scale or 1.0)
        streams = self._rows.label(self._level, latent.shape[0], options.get("cond_or_uncond"))
        noise = self._levels(time, options) if self._levels else None
        size = (latent.shape[2], latent.shape[3])
        return Call(self._level, size, streams, self._step.last, latent, self._number, noise)

    def _begin(self) -> None:
        """Begin the run at its first call: its steps are known only now. After a switch of the model, they are what is left."""
        self._first_step = self._step.number or 0
        left = self._step.steps - self._first_step if self._step.steps else None
        scale = self._engine.family.time_scale or 1.0
        calls = [scale * t for t in (self._read_timesteps() or ())][self._first_step :]
        levels, slopes = (
            tuple(one)[self._first_step :] for one in (self._read_steps() if self.skips_calls else ((), ()))
        )
        kind = {"stochastic": self._step.noisy, "multistep": self._step.multistep}
        self._engine.start(Horizon(tuple(calls), steps=left, levels=levels, slopes=slopes, **kind))
        self._levels = self._read_levels() if self._read_levels and self.skips_calls else None

    @property
    def _number(self) -> int | None:
        """Number of the step in this run."""
        return None if self._step.number is None else self._step.number - self._first_step


def _first_block(unet: nn.Module) -> nn.Module | None:
    """Where each pass through a U-Net's blocks begins; None for other networks."""
    blocks = getattr(unet, "input_blocks", None)
    return blocks[0] if isinstance(blocks, nn.ModuleList) and len(blocks) else None


def same_picture(hidden: Any, latent: Any) -> bool:
    """Return whether a pass through the blocks runs on the call's latent.

    Inpainting models have further channels behind the latent's four, which extensions replace; those do not count. Waits
    for the device only where the tensors do not share their memory.

    Args:
        hidden: what the pass begins with [B, C, h, w].
        latent: of the call [B, C, h, w].
    """
    if not isinstance(hidden, Tensor) or not isinstance(latent, Tensor) or hidden.shape != latent.shape:
        return False
    if hidden.data_ptr() == latent.data_ptr():
        return True
    return torch.equal(hidden[:, :4], latent[:, :4].to(hidden.dtype))
