"""Call skipping in one sampling run: one engine for all batches of conds, above the engines of the other methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from torch import Tensor

from ..core.engine.engine import Engine
from ..core.engine.report import Report
from ..core.engine.session import Session
from ..core.models import unwrapped
from ..core.plan.run import Horizon
from ..core.plan.step_lengths import slopes
from ..core.recipe.auto import Auto
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.recipe import Method, Recipe
from .calls import TRAIN_STEPS, planned_timesteps
from .cond_batch import CondBatch, noise_of
from .samplers import DECLINED, NOISE_INSIDE_STEPS, adds_noise, is_dpmpp_2m, is_first_order, is_multistep, name_of

WholeCallMethod: TypeAlias = CallSkip | Auto
"""Methods that choose the calls at which the model runs."""


class WholeCalls:
    """Call skipping in one run. The engine is made at the first call, whose model it needs."""

    def __init__(self, settings: WholeCallMethod, sampler: Any, sigmas: Tensor, below: Sequence[Method] = ()) -> None:
        """Before the first call.

        Args:
            settings: which calls are skipped.
            sampler: a `KSAMPLER`.
            sigmas: noise levels of its steps [steps + 1], falling.
            below: the methods that act at the calls that run.
        """
        self._below = below
        self._settings, self._sampler, self._sigmas = _suited(settings, sampler), sampler, sigmas
        self._engine: Engine | None = None
        self._session: Session | None = None
        self._steps: dict[int, int] = {}

    def begin(self, model: Any) -> None:
        """Begin the run, at its first call.

        Args:
            model: a `BaseModel`.
        """
        if self._engine is None:
            timesteps = planned_timesteps(self._sampler, self._sigmas, model.model_sampling)
            engine = Engine(unwrapped(model.diffusion_model), Recipe.of([self._settings]), below=self._below)
            self._session = engine.start(self._run(timesteps, model.model_sampling))
            self._engine = engine

    def _run(self, timesteps: list[float] | None, model_sampling: Any) -> Horizon:
        continues, sigmas = is_dpmpp_2m(self._sampler), self._sigmas.tolist()
        known = continues or is_first_order(self._sampler)
        levels = [noise_of(model_sampling, sigma) for sigma in sigmas] if known else []
        return Horizon(
            tuple(timesteps or ()),
            TRAIN_STEPS,
            steps=len(self._sigmas) - 1,
            stochastic=adds_noise(self._sampler),
            multistep=is_multistep(self._sampler),
            levels=tuple(level.ratio for level in levels if level is not None),
            slopes=slopes(sigmas) if continues else (),
        )

    def answer(self, executor: Any, batch: CondBatch, model: Any, *args: Any) -> list[Tensor]:
        """Evaluate the conds, or return the forecast of their outputs where the plan skips the call.

        Args:
            executor: the next wrapper of `calc_cond_batch`.
            batch: its arguments, read.
            model: a `BaseModel`.
            args: the other arguments of `calc_cond_batch`.
        """
        outputs: list[list[Tensor]] = []
        ran: list[Tensor | None] = []

        def run() -> Tensor | None:
            outputs.append(executor(model, *args))
            ran.append(batch.joined(outputs[0]))
            return ran[0]

        assert self._engine is not None
        joined = self._engine.forward(lambda: batch.call(model.model_sampling), run)
        return outputs[0] if outputs and joined is ran[0] else batch.split(joined)

    @property
    def report(self) -> Report | None:
        """What was done so far; None before the first call."""
        return self._session.meter.report if self._session else None

    @property
    def horizon(self) -> Horizon | None:
        """What is known ahead of the calls that run; None before the first call."""
        return self._session.horizon_of_runs if self._session else None

    @property
    def beside(self) -> tuple[Method, ...]:
        """Methods that were chosen with the calls, and act at those that run."""
        return self._session.beside if self._session else ()

    def step_of_runs(self, step: int | None) -> int | None:
        """The number of a step among those that run, for methods that count steps.

        Args:
            step: number of the sampler's step, which runs.
        """
        return step if step is None else self._steps.setdefault(step, len(self._steps))

    def end(self) -> Report | None:
        """End the run and return its report; None if no call was made."""
        engine, self._engine, self._session = self._engine, None, None
        return engine.end() if engine else None


def _suited(settings: WholeCallMethod, sampler: Any) -> WholeCallMethod:
    """The settings; with `hold` in place of a line for samplers whose noise it would amplify."""
    lines = isinstance(settings, CallSkip) and settings.predictor in ("auto", "line")
    return replace(settings, predictor="hold") if lines and name_of(sampler) in NOISE_INSIDE_STEPS else settings


def unfit(guider: Any, sampler: Any, latent_shapes: Any) -> str:
    """Why whole calls cannot be skipped in a run; empty if they can.

    Args:
        guider: of the run.
        sampler: a `KSAMPLER`.
        latent_shapes: the shapes of the latents that newer ComfyUI packs into one; None in older versions.
    """
    other = (guider.model_options.get("transformer_options") or {}).get("easycache")
    if other is not None:
        return f"{getattr(other, 'name', 'EasyCache')} also skips calls of this model: keep one of the two nodes"
    if len(latent_shapes or ()) > 1:
        return "video with sound is not forecast"
    return DECLINED.get(name_of(sampler), "")
