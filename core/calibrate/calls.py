"""Profiles a model, and chooses the calls that run and how the others are forecast: proposed by the profile, run to judge.

Proposals come from even spreads and from shortest paths through the profile's one-call errors. Each is run closed-loop,
through the engine, on noises of its own; the least error wins, and the winner's errors are measured on further noises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..engine.call import Call
from ..engine.clock import Stream
from ..engine.engine import Engine
from ..errors import ModelError, RecipeError
from ..forecast.names import CallPredictorName, Space
from ..forecast.profile import HeldOut, Profile, gram_of
from ..forecast.shortest_path import best_keys, one_call_costs
from ..forecast.space import Noise
from ..measure.fidelity import relative_errors
from ..measure.macs import count_macs
from ..models.family import identity
from ..plan.call_plan import Keys, dense_keys, even_keys
from ..plan.run import Horizon
from ..recipe.call_skip import CallSkip
from ..recipe.recipe import Method, Recipe
from .denoiser import Denoiser, Trajectory

_DEARER = 0.03
"""Share by which a joint proposal may cost more than the plan that it is compared with."""


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


@dataclass(frozen=True)
class Proposal:
    """One way to skip calls.

    Args:
        keys: steps at which the network runs.
        space: what is forecast.
        predictor: how.
        name: how the keys were chosen.
        beside: methods that act at the calls that run.
        profile: path of the profile that has the weights, for the predictor "fitted".

    Example:
        >>> Proposal((0, 2), "eps").settings().keys
        (0, 2)
    """

    keys: Keys
    space: Space
    predictor: CallPredictorName = "line"
    name: str = "even"
    beside: tuple[Method, ...] = ()
    profile: str = ""

    def settings(self) -> CallSkip:
        """Return the proposal as settings of call skipping."""
        return CallSkip(keys=self.keys, space=self.space, predictor=self.predictor, profile=self.profile)


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
    engine, at = Engine(denoiser.network, Recipe.of([settings, *beside])), denoiser.begin(seeds)
    session = engine.start(denoiser.horizon)
    for number, timestep in enumerate(denoiser.timesteps):
        x = denoiser.network_input(at, number)
        call = Call(timestep, tuple(x.shape[2:]), (Stream("all", len(x)),), input=x, noise=denoiser.noise(number))
        output = engine.forward(partial(_same, call), partial(denoiser.predict, at, number))
        at = denoiser.advance(at, output, number)
    surprises = session.surprises
    for reason, what in engine.end().declined.items():
        if what == ["call skipping"]:
            raise RecipeError(reason)
    return at.x, surprises


def macs_of(denoiser: ProfiledDenoiser, proposal: Proposal) -> int:
    """Return the multiply-adds of a run of one sample.

    Args:
        denoiser: the model with its sampler.
        proposal: which calls run, and what acts there.

    Example:
        >>> macs_of(denoiser, Proposal((0, 4, 7, 11), "eps"))  # doctest: +SKIP
        48000
    """
    return count_macs(lambda: closed_loop(denoiser, [0], proposal.settings(), proposal.beside))


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
    grams = [dense(denoiser, part)[1] for part in _parts(seeds, batch)]
    sizes = [len(part) for part in _parts(seeds, batch)]
    gram = np.average(grams, axis=0, weights=sizes)
    return Profile(
        gram, tuple(denoiser.timesteps), noises, identity(denoiser.network), denoiser.sampler, denoiser.guidance,
        provenance={"samples": len(seeds)},
    )  # fmt: skip


POWERS = {"even, denser early": 1.25, "even, denser late": 0.85}
"""Name of a spread -> its power (:func:`skipstone.core.plan.call_plan.dense_keys`)."""


def proposals(known: Profile, calls: int, spaces: Iterable[Space] = ("eps", "x0"), file: str = "") -> list[Proposal]:
    """Return what is worth a try: spread keys, and shortest paths by two measures of what an error counts.

    Args:
        known: the profile.
        calls: how many steps run.
        spaces: what may be forecast; the first one with all keys, the others with some.
        file: path of the profile; with it, fitted forecasts are tried on some of the keys, too.

    Example:
        >>> found = proposals(profile(denoiser, seeds=range(4)), calls=4)
        >>> found[0].name, found[0].keys, found[0].space
        ('even', (0, 4, 7, 11), 'eps')
    """
    weights = known.step_weights() if known.sensitivity is None else known.sensitivity
    found = []
    for place, space in enumerate(spaces):
        costs = one_call_costs(known, space, "line")
        found.append(Proposal(even_keys(known.steps, calls), space, name="even"))
        found.append(Proposal(best_keys(costs, calls), space, name="shortest path"))
        if place == 0:
            found.append(Proposal(best_keys(costs, calls, np.sqrt(weights)), space, name="weighted shortest path"))
            found += [Proposal(dense_keys(known.steps, calls, p), space, name=n) for n, p in POWERS.items()]
    if file:
        path = Proposal(best_keys(one_call_costs(known, "eps", "fitted"), calls), "eps", name="shortest path")
        fitted = [path, *(proposal for proposal in found if not proposal.name.startswith("weighted"))]
        found += [replace(proposal, space="eps", predictor="fitted", profile=file) for proposal in fitted]
    first: dict[tuple[Keys, Space, CallPredictorName], Proposal] = {}
    for proposal in found:
        first.setdefault((proposal.keys, proposal.space, proposal.predictor), proposal)
    return list(first.values())


def joint_proposal(
    denoiser: ProfiledDenoiser, alone: HeldOut, beside: Sequence[Method]
) -> tuple[Proposal, float] | None:
    """Return the proposal that costs what a plan of calls alone costs, with more calls and further methods at them, and its
    share of the multiply-adds; None if these methods do not save another call.

    Args:
        denoiser: the model with its sampler.
        alone: the plan.
        beside: methods that act at the calls that run.

    Example:
        >>> plan = HeldOut((0, 4, 7, 11), "eps", "line", errors=(0.01, 0.02))
        >>> joint_proposal(denoiser, plan, [])  # doctest: +SKIP
        None
    """
    steps, found = len(denoiser.timesteps), None
    whole = count_macs(lambda: dense(denoiser, [0]))
    for calls in range(len(alone.keys) + 1, steps + 1):
        tried = Proposal(even_keys(steps, calls), alone.space, beside=tuple(beside))
        share = macs_of(denoiser, tried) / whole if calls < steps else 1.0
        if share > alone.cost(steps) * (1 + _DEARER):
            break
        found = tried, share
    return found


@dataclass(frozen=True)
class Judged:
    """A proposal and its errors.

    Args:
        proposal: the keys and how the other calls are forecast.
        errors: relative error of each noise's final latent.

    Example:
        >>> Judged(Proposal((0, 2), "eps"), errors=(0.01, 0.04)).score  # geometric mean 0.02, arithmetic mean 0.025
        0.0225...
    """

    proposal: Proposal
    errors: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean of geometric and arithmetic mean: typical pictures count, and those that turn into others."""
        logs = np.log(np.maximum(self.errors, 1e-9)).mean()
        return float((np.exp(logs) + np.mean(self.errors)) / 2)


def choose(
    denoiser: ProfiledDenoiser,
    tried: Sequence[Proposal],
    choosing: Sequence[int],
    promised: Sequence[int],
    reference: Callable[[Sequence[int]], Tensor],
    batch: int = 4,
) -> tuple[HeldOut, list[Judged]]:
    """Return the best proposal with its held-out errors, and all of them as judged.

    Args:
        denoiser: the model with its sampler.
        tried: the proposals.
        choosing: seeds on which they are compared.
        promised: other seeds, on which the winner's errors are measured.
        reference: returns the dense latents of seeds.
        batch: samples that run together.

    Example:
        >>> tried = [Proposal((0, 4, 7, 11), space) for space in ("eps", "x0")]
        >>> best, judged = choose(denoiser, tried, range(4), range(4, 14), lambda seeds: dense(denoiser, seeds)[0])
        >>> len(judged), len(best.errors), best.quantile(0.9) >= best.quantile(0.5)
        (2, 10, True)
    """
    judged = [judge(denoiser, proposal, choosing, reference, batch) for proposal in tried]
    best = min(judged, key=lambda found: found.score).proposal
    return held_out(denoiser, best, promised, reference, batch), judged


def judge(
    denoiser: ProfiledDenoiser,
    proposal: Proposal,
    choosing: Sequence[int],
    reference: Callable[[Sequence[int]], Tensor],
    batch: int = 4,
) -> Judged:
    """Return a proposal with its errors, as :func:`choose` compares them.

    Args:
        denoiser: the model with its sampler.
        proposal: what is run.
        choosing: seeds.
        reference: returns the dense latents of seeds.
        batch: samples that run together.

    Example:
        >>> found = judge(denoiser, Proposal((0, 4, 7, 11), "eps"), range(4), lambda seeds: dense(denoiser, seeds)[0])
        >>> len(found.errors)
        4
    """
    return Judged(proposal, _errors(denoiser, proposal, choosing, reference, batch)[0])


def held_out(
    denoiser: ProfiledDenoiser,
    best: Proposal,
    promised: Sequence[int],
    reference: Callable[[Sequence[int]], Tensor],
    batch: int = 4,
    share: float = 0.0,
) -> HeldOut:
    """Return a proposal as a plan, with its errors on noises that were not used to choose it.

    Args:
        denoiser: the model with its sampler.
        best: the proposal.
        promised: seeds.
        reference: returns the dense latents of seeds.
        batch: samples that run together.
        share: measured share of the multiply-adds, if other methods act at the calls.

    Example:
        >>> plan = held_out(denoiser, Proposal((0, 4, 7, 11), "eps"), range(9), lambda seeds: dense(denoiser, seeds)[0])
        >>> len(plan.errors), plan.beside
        (9, ())
    """
    errors, one_call = _errors(denoiser, best, promised, reference, batch)
    beside = tuple(Recipe.of(best.beside).plain())
    return HeldOut(best.keys, best.space, best.predictor, errors, one_call, best.name, beside, share)


def _errors(
    denoiser: ProfiledDenoiser,
    proposal: Proposal,
    seeds: Sequence[int],
    reference: Callable[[Sequence[int]], Tensor],
    batch: int,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return each sample's error, and the one-call errors that 95 % of the batches stay under at each key but the first."""
    errors, surprises = [], []
    for part in _parts(seeds, batch):
        final, found = closed_loop(denoiser, part, proposal.settings(), proposal.beside)
        errors += relative_errors(final, reference(part)).tolist()
        surprises.append([found.get(key, 0.0) for key in proposal.keys[1:]])
    return tuple(errors), tuple(np.quantile(np.asarray(surprises), 0.95, axis=0).tolist())


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


def _parts(seeds: Sequence[int], batch: int) -> list[Sequence[int]]:
    return [seeds[i : i + batch] for i in range(0, len(seeds), batch)]


def _same(call: Call) -> Call:
    return call
