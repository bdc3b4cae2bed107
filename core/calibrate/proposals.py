"""Proposals of which calls run and how the others are forecast: spread evenly, or by shortest paths through a profile's errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ..forecast.names import CallPredictorName, Space
from ..forecast.profile import HeldOut, Profile
from ..forecast.shortest_path import best_keys, one_call_costs
from ..measure.macs import count_macs
from ..plan.call_plan import Keys, dense_keys, even_keys
from ..plan.step_lengths import gap_comes_early
from ..recipe.call_skip import CallSkip
from ..recipe.recipe import Method
from .profiling import ProfiledDenoiser, closed_loop, dense

_DEARER = 0.03
"""Share by which a joint proposal may cost more than the plan that it is compared with."""


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


POWERS = {"even, gaps mixed": 1.0, "even, denser early": 1.25, "even, denser late": 0.85}
"""Name of a spread -> its power (:func:`skipstone.core.plan.call_plan.dense_keys`)."""


def proposals(
    known: Profile, calls: int, spaces: Iterable[Space] = (), file: str = "", corrects: bool = False
) -> list[Proposal]:
    """Return what is worth a try: spread keys, and shortest paths by two measures of what an error counts. Auto's own choice
    without a profile is the first.

    Args:
        known: the profile.
        calls: how many steps run.
        spaces: what may be forecast; the first one with all keys, the others with some. By default the noise, the picture,
            and the network's output where it is neither.
        file: path of the profile; with it, fitted forecasts are tried on some of the keys, too.
        corrects: whether Auto corrects the forecasts of the noise in such a run; uncorrected they are tried on even keys then.

    Example:
        >>> found = proposals(profile(denoiser, seeds=range(4)), calls=4)
        >>> found[0].name, found[0].keys, found[0].space
        ('even', (0, 4, 8, 11), 'eps')
    """
    found = []
    for place, space in enumerate(spaces or _spaces(known)):
        costs = one_call_costs(known, space, "line")
        found.append(Proposal(even_keys(known.steps, calls), space, name="even"))
        found.append(Proposal(best_keys(costs, calls), space, name="shortest path"))
        if place == 0:
            found += [Proposal(best_keys(costs, calls, w), space, name=n) for n, w in known.path_weights().items()]
            found += [Proposal(dense_keys(known.steps, calls, p), space, name=n) for n, p in POWERS.items()]
    if file:
        path = Proposal(best_keys(one_call_costs(known, "eps", "fitted"), calls), "eps", name="shortest path")
        fitted = [path, *(proposal for proposal in found if not proposal.name.startswith("weighted"))]
        found += [replace(proposal, space="eps", predictor="fitted", profile=file) for proposal in fitted]
    if corrects:
        own = found[0]
        found = [replace(one, predictor="corrected") if _is_corrected(one) else one for one in found]
        found[:1] = [
            replace(found[0], keys=even_keys(known.steps, calls, early=gap_comes_early(known.timesteps, "corrected"))),
            own,
        ]
    first: dict[tuple[Keys, Space, CallPredictorName], Proposal] = {}
    for proposal in found:
        first.setdefault((proposal.keys, proposal.space, proposal.predictor), proposal)
    return list(first.values())


def _is_corrected(proposal: Proposal) -> bool:
    """Return whether a proposal can be corrected: a line on the noise."""
    return (proposal.predictor, proposal.space) == ("line", "eps")


def _spaces(known: Profile) -> list[Space]:
    """Return the noise, the picture, and the output where it is another quantity, such as a velocity."""
    found: list[Space] = ["eps", "x0"]
    return found if known.noises[-1].predicts in found else [*found, "raw"]


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
        predictor = alone.predictor if alone.predictor == "corrected" else "line"
        keys = even_keys(steps, calls, early=gap_comes_early(denoiser.timesteps, predictor))
        tried = Proposal(keys, alone.space, predictor, beside=tuple(beside))
        share = macs_of(denoiser, tried) / whole if calls < steps else 1.0
        if share > alone.cost(steps) * (1 + _DEARER):
            break
        found = tried, share
    return found
