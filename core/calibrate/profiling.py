"""Profiles a model: its dense runs as one Gram matrix, and runs with skipped calls, through the engine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..engine.call import Call
from ..engine.clock import Stream
from ..engine.engine import Engine
from ..engine.report import Report
from ..errors import ModelError, RecipeError
from ..forecast.profile import HeldOut, Profile, gram_of
from ..forecast.space import Noise
from ..models.family import identity
from ..plan.run import Horizon
from ..recipe.call_skip import CallSkip
from ..recipe.recipe import Method, Recipe
from .denoiser import Denoiser, Trajectory

_PART = 0.1
"""How far an output is moved towards the one before, to see what an error there does."""


class ProfiledDenoiser(Denoiser, Protocol):
    """A denoiser that knows its noise levels.

    Args:
        sampler: name of the sampler.
        guidance: scale of classifier-free guidance.
    """

    sampler: str
    guidance: float

    @property
    def horizon(self) -> Horizon:
        """What is known of the run ahead, as a host has it."""

    def network_input(self, at: Trajectory, call: int) -> Tensor:
        """Return the latents that `predict` gives the network [rows, ...].

        Args:
            at: the trajectory.
            call: number of the call, from 0.
        """

    def guided(self, output: Tensor) -> Tensor:
        """Return an output of `predict` with guidance applied."""

    def noise(self, call: int) -> Noise | None:
        """Return the noise level of a call; None if it is not known."""


@torch.no_grad()
def dense(denoiser: ProfiledDenoiser, seeds: Sequence[int]) -> tuple[Tensor, np.ndarray]:
    """Return the final latents [B, ...] of a dense run, and its Gram matrix float64 [2T, 2T].

    Args:
        denoiser: the model with its sampler.
        seeds: one per sample.

    Example:
        >>> latents, gram = dense(denoiser, seeds=[0, 1])  # 12 calls
        >>> latents.shape, gram.shape
        (torch.Size([2, 4, 4, 4]), (24, 24))
    """
    at, inputs, outputs = denoiser.begin(seeds), [], []
    for call in range(len(denoiser.timesteps)):
        output = denoiser.predict(at, call)
        inputs.append(denoiser.network_input(at, call)[-len(seeds) :].clone())
        outputs.append(denoiser.guided(output)[:, : inputs[0].shape[1]].clone())
        at = denoiser.advance(at, output, call)
    return at.x, gram_of(torch.stack(inputs), torch.stack(outputs))


@torch.no_grad()
def closed_loop(
    denoiser: ProfiledDenoiser, seeds: Sequence[int], settings: CallSkip, beside: Iterable[Method] = ()
) -> tuple[Tensor, dict[int, float]]:
    """Return the final latents [B, ...] of a run with skipped calls, and the one-call error at each key.

    Args:
        denoiser: the model with its sampler.
        seeds: one per sample.
        settings: which calls run, and how the others are forecast.
        beside: methods that act at the calls that run.

    Raises :class:`RecipeError` where no call is skipped, for the reason that a user's report would give.

    Example:
        >>> latents, errors = closed_loop(denoiser, [0, 1], CallSkip(keys=(0, 1, 5, 11)))
        >>> latents.shape, sorted(errors)
        (torch.Size([2, 4, 4, 4]), [5, 11])
    """
    latents, surprises, report = accelerated(denoiser, seeds, [settings, *beside])
    for reason, what in report.declined.items():
        if what == ["call skipping"]:
            raise RecipeError(reason)
    return latents, surprises


@torch.no_grad()
def accelerated(
    denoiser: ProfiledDenoiser, seeds: Sequence[int], methods: Iterable[Method]
) -> tuple[Tensor, dict[int, float], Report]:
    """Return the final latents [B, ...] of a run with any methods, the one-call error at each key, and the report.

    Args:
        denoiser: the model with its sampler.
        seeds: one per sample.
        methods: of the recipe.

    Example:
        >>> accelerated(denoiser, [0, 1], [CallSkip(calls=4)])[2].calls_run
        4
    """
    engine, at = Engine(denoiser.network, Recipe.of(methods)), denoiser.begin(seeds)
    session = engine.start(denoiser.horizon)
    for number, timestep in enumerate(denoiser.timesteps):
        x = denoiser.network_input(at, number)
        call = Call(timestep, tuple(x.shape[2:]), (Stream("all", len(x)),), input=x, noise=denoiser.noise(number))
        output = engine.forward(partial(_same, call), partial(denoiser.predict, at, number))
        at = denoiser.advance(at, output, number)
    surprises = session.surprises
    return at.x, surprises, engine.end()


def profile(denoiser: ProfiledDenoiser, seeds: Sequence[int], batch: int = 4) -> Profile:
    """Return the profile of dense runs, without plans.

    Args:
        denoiser: the model with its sampler.
        seeds: one per sample.
        batch: samples that run together.

    Raises :class:`ModelError` if the sampler's noise levels are not known, or for several calls per step.

    Example:
        >>> found = profile(denoiser, seeds=range(4))
        >>> found.steps, found.provenance
        (12, {'samples': 4})
    """
    steps, stages = len(denoiser.timesteps), denoiser.horizon.stages
    if stages > 1:
        raise ModelError(
            f"{denoiser.sampler} calls the model {stages} times a step: profile with another, such as euler"
        )
    noises = tuple(noise for noise in map(denoiser.noise, range(steps)) if noise is not None)
    if len(noises) < steps:
        raise ModelError(f"the noise levels of {denoiser.sampler} are not known: use another sampler to profile")
    grams = [dense(denoiser, part)[1] for part in parts(seeds, batch)]
    sizes = [len(part) for part in parts(seeds, batch)]
    gram = np.average(grams, axis=0, weights=sizes)
    return Profile(
        gram, tuple(denoiser.timesteps), noises, identity(denoiser.network), denoiser.sampler, denoiser.guidance,
        provenance={"samples": len(seeds)},
    )  # fmt: skip


@torch.no_grad()
def sensitivity(denoiser: ProfiledDenoiser, seeds: Sequence[int], batch: int = 4) -> np.ndarray:
    """Return how far an error in the output of each call moves the final latents, float64 [T]: the norm of the change over that
    of the error.

    Each output is moved a little towards the one before, as reuse would move it, and the run goes on from there: for T calls,
    about T / 2 dense runs.

    Args:
        denoiser: the model with its sampler.
        seeds: one per sample.
        batch: samples that run together.

    Example:
        >>> found = sensitivity(denoiser, seeds=range(2))
        >>> found.shape, bool(found.min() > 0)
        ((12,), True)
    """
    squares = sum(_sensitivity(denoiser, part) * len(part) for part in parts(seeds, batch))
    return np.sqrt(squares / len(seeds))


def _sensitivity(denoiser: ProfiledDenoiser, seeds: Sequence[int]) -> np.ndarray:
    """Return the mean squares of :func:`sensitivity` for samples that run together."""
    at, before, forks, errors = denoiser.begin(seeds), None, [], []
    for call in range(len(denoiser.timesteps)):
        output = denoiser.predict(at, call)
        moved = output + _PART * ((output / 2 if before is None else before) - output)
        errors.append(denoiser.guided(moved - output).double().square().flatten(1).sum(dim=1))
        forks.append(denoiser.advance(denoiser.fork(at), moved, call))
        at, before = denoiser.advance(at, output, call), output
    changes = [_to_the_end(denoiser, fork, call + 1) - at.x for call, fork in enumerate(forks)]
    moves = [change.double().square().flatten(1).sum(dim=1) for change in changes]
    ratios = [(move / error.clamp(min=1e-12)).mean() for move, error in zip(moves, errors, strict=True)]
    return torch.stack(ratios).cpu().numpy()


def _to_the_end(denoiser: ProfiledDenoiser, at: Trajectory, call: int) -> Tensor:
    """Return the final latents of a run that goes on from a call."""
    for number in range(call, len(denoiser.timesteps)):
        at = denoiser.advance(at, denoiser.predict(at, number), number)
    return at.x


def with_plans(known: Profile, plans: Iterable[HeldOut]) -> Profile:
    """Return the profile with further held-out plans.

    Args:
        known: the profile.
        plans: the plans to add.

    Example:
        >>> plan = HeldOut((0, 5, 11), "eps", "line", errors=(0.01, 0.02))
        >>> len(with_plans(profile(denoiser, seeds=range(2)), [plan]).plans)
        1
    """
    return replace(known, plans=(*known.plans, *plans))


def parts(seeds: Sequence[int], batch: int) -> list[Sequence[int]]:
    """Return the seeds in parts of up to `batch`, in order.

    Args:
        seeds: one per sample.
        batch: samples that run together.

    Example:
        >>> parts([5, 6, 7], batch=2)
        [[5, 6], [7]]
    """
    return [seeds[i : i + batch] for i in range(0, len(seeds), batch)]


def _same(call: Call) -> Call:
    return call
