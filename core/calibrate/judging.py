"""Judges proposals closed-loop: each is run through the engine on noises of its own, and the best one's errors are
measured on further noises."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from ..forecast.profile import HeldOut
from ..measure.fidelity import relative_errors
from ..recipe.recipe import Recipe
from .profiling import ProfiledDenoiser, closed_loop, parts
from .proposals import Proposal

_MOVED = ", moved"
"""Ends the name of a proposal whose keys were moved."""

_LEAST = 1e-9
"""Errors below this count as this."""

_SCREENING, _FINALISTS = 3, 4
"""All proposals run on the noises' first third, the best four on the others, too."""


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
        return _score(np.asarray(self.errors))

    @property
    def moved(self) -> bool:
        """Whether keys were moved (:func:`refined`)."""
        return self.proposal.name.endswith(_MOVED)

    def beats(self, other: Judged) -> bool:
        """Return whether the score is lower by more than the standard error of the difference, which is a jackknife's.

        Args:
            other: of the same noises.

        Example:
            >>> steady = Judged(Proposal((0, 2), "eps"), errors=(0.02, 0.02, 0.02, 0.02))
            >>> [replace(steady, errors=errors).beats(steady) for errors in ((0.01,) * 4, (0.03, 0.03, 0.03, 1e-3))]
            [True, False]
        """
        own, theirs = np.asarray(self.errors), np.asarray(other.errors)
        without = (
            [np.delete(np.arange(len(own)), i) for i in range(len(own))] if len(own) > 1 else [np.arange(len(own))]
        )
        gains = np.log([_score(theirs[kept]) / max(_score(own[kept]), _LEAST) for kept in without])
        deviation = np.sqrt((len(own) - 1) * gains.var())
        return bool(np.log(other.score / max(self.score, _LEAST)) > deviation)


def _score(errors: np.ndarray) -> float:
    return float((np.exp(np.log(np.maximum(errors, _LEAST)).mean()) + errors.mean()) / 2)


@dataclass(frozen=True)
class Chosen:
    """A plan, and what it was chosen from.

    Args:
        plan: the winner with its held-out errors.
        finals: what ran on all noises, the winner first, the others by their scores.
        early: what ran on the first noises alone.

    Example:
        >>> tried = [Proposal((0, 4, 7, 11), space) for space in ("eps", "x0")]
        >>> found = choose(denoiser, tried, range(6), range(6, 16), lambda seeds: dense(denoiser, seeds)[0])
        >>> len(found.finals), len(found.early), len(found.plan.errors)
        (2, 0, 10)
    """

    plan: HeldOut
    finals: list[Judged]
    early: list[Judged]


def choose(
    denoiser: ProfiledDenoiser,
    tried: Sequence[Proposal],
    choosing: Sequence[int],
    promised: Sequence[int],
    reference: Callable[[Sequence[int]], Tensor],
    batch: int = 4,
    refine: bool = False,
) -> Chosen:
    """Choose a proposal: all run on the noises' first third, the best four and the first one on the others, too.

    The first one, which is Auto's own choice, stands unless another one :meth:`~Judged.beats` it: the best of many is often the
    luckiest.

    Args:
        denoiser: the model with its sampler.
        tried: the proposals.
        choosing: seeds on which they are compared.
        promised: other seeds, on which the winner's errors are measured.
        reference: returns the dense latents of seeds.
        batch: samples that run together.
        refine: whether the keys of the one that is best on the first third are moved, too (:func:`refined`).

    Example:
        >>> tried = [Proposal((0, 4, 7, 11), space) for space in ("eps", "x0")]
        >>> found = choose(denoiser, tried, range(4), range(4, 14), lambda seeds: dense(denoiser, seeds)[0])
        >>> found.plan.quantile(0.9) >= found.plan.quantile(0.5)
        True
    """
    first = choosing[: max(1, len(choosing) // _SCREENING)]
    screened = [judge(denoiser, proposal, first, reference, batch) for proposal in tried]
    own = screened[0]
    if refine:
        screened += refined(denoiser, min(screened, key=_by_score), first, reference, batch)
    ranked = sorted(screened, key=_by_score)
    final = [own, *(one for one in ranked[:_FINALISTS] if one is not own)]
    finals = [_further(denoiser, one, choosing[len(first) :], reference, batch) for one in final]
    own, *others = finals
    winner = min((one for one in others if one.beats(own)), key=_by_score, default=own)
    rest = sorted((one for one in finals if one is not winner), key=_by_score)
    early = [one for one in ranked if not any(one is other for other in final)]
    return Chosen(held_out(denoiser, winner.proposal, promised, reference, batch), [winner, *rest], early)


def _by_score(one: Judged) -> float:
    return one.score


def _further(
    denoiser: ProfiledDenoiser,
    one: Judged,
    seeds: Sequence[int],
    reference: Callable[[Sequence[int]], Tensor],
    batch: int,
) -> Judged:
    """Return a proposal with its errors on further noises added."""
    return (
        replace(one, errors=one.errors + _errors(denoiser, one.proposal, seeds, reference, batch)[0]) if seeds else one
    )


def refined(
    denoiser: ProfiledDenoiser,
    start: Judged,
    choosing: Sequence[int],
    reference: Callable[[Sequence[int]], Tensor],
    batch: int = 4,
) -> list[Judged]:
    """Return what is tried from a proposal on: one key is moved by a step at a time, and stays where that measures better, until
    no move does.

    Args:
        denoiser: the model with its sampler.
        start: the proposal.
        choosing: seeds on which moves are compared.
        reference: returns the dense latents of seeds.
        batch: samples that run together.

    Example:
        >>> start = judge(denoiser, Proposal((0, 1, 2, 11), "eps"), range(4), lambda seeds: dense(denoiser, seeds)[0])
        >>> found = refined(denoiser, start, range(4), lambda seeds: dense(denoiser, seeds)[0])
        >>> best = min(found, key=lambda one: one.score)
        >>> best.score < start.score, best.proposal.name
        (True, 'even, moved')
    """
    best, tried, before = start, {start.proposal.keys: start}, None
    while best is not before:
        before = best
        for place, by in itertools.product(range(1, len(best.proposal.keys)), (-1, 1)):
            moved = _moved(best.proposal, place, by, len(denoiser.timesteps))
            if moved is None or moved.keys in tried:
                continue
            tried[moved.keys] = judge(denoiser, moved, choosing, reference, batch)
            best = min(best, tried[moved.keys], key=lambda found: found.score)
    return list(tried.values())[1:]


def _moved(proposal: Proposal, place: int, by: int, steps: int) -> Proposal | None:
    """Return a proposal with one key moved; None if another key is there, or the run has no such step."""
    key = proposal.keys[place] + by
    if key in proposal.keys or not 0 < key < steps:
        return None
    keys = (*proposal.keys[:place], key, *proposal.keys[place + 1 :])
    return replace(proposal, keys=keys, name=f"{proposal.name.removesuffix(_MOVED)}{_MOVED}")


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
    for part in parts(seeds, batch):
        final, found = closed_loop(denoiser, part, proposal.settings(), proposal.beside)
        errors += relative_errors(final, reference(part)).tolist()
        surprises.append([found.get(key, 0.0) for key in proposal.keys[1:]])
    return tuple(errors), tuple(np.quantile(np.asarray(surprises), 0.95, axis=0).tolist())
