"""`skipstone profile`: measure a model once, and choose the steps that run for each speed-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from torch import Tensor

from ..core.calibrate.judging import Judged, choose, held_out, judge
from ..core.calibrate.profiling import dense, profile, sensitivity, with_plans
from ..core.calibrate.proposals import Proposal, joint_proposal, proposals
from ..core.errors import ProfileError, RecipeError
from ..core.forecast.names import described
from ..core.forecast.profile import HeldOut, Profile
from ..core.models.family import identity
from ..core.plan.call_plan import FEWEST_STEPS
from ..core.recipe.presets import as_recipe
from ..core.recipe.recipe import Method
from ..lab.demo_models.loading import load_model
from ..pipelines.denoiser import PipelineDenoiser, denoiser_of
from ..pipelines.samplers import set_sampler

Model = Annotated[str, tyro.conf.Positional]

_PROFILED, _CHOOSING, _PROMISED = 0, 10_000, 20_000
"""First seeds of the noises for the profile, for choosing, and for the promised errors: disjoint."""


@dataclass(frozen=True)
class MakeProfile:
    """Measure a model with one sampler, number of steps and guidance, and choose which steps to run for some speed-ups.

    Example:
        >>> MakeProfile("demo").speedups[0]
        1.3
    """

    model: Model
    """"demo", "demo-dit", "demo-flow", a diffusers folder, or a single .safetensors checkpoint."""
    steps: int = 20
    """Sampling steps."""
    guidance: float | None = None
    """Guidance scale; the pipeline's own by default."""
    sampler: str = ""
    """Short name of a sampler of diffusers, such as euler_a or dpmpp_2m_karras; the pipeline's own by default."""
    speedups: tuple[float, ...] = (1.3, 1.5, 1.8, 2.0, 2.5, 3.0, 4.0)
    """Speed-ups to choose steps for."""
    beside: tuple[str, ...] = ()
    """Presets or recipe files of merging, pruning or block skipping. Each is tried at the steps that run, with more of these
    for the same cost, and kept where it measures better by more than the standard error."""
    samples: int = 8
    """Dense pictures that are recorded."""
    sensitivity: int = 2
    """Pictures in which each call's output is moved a little, to see what an error there does. Each costs about steps / 2 dense
    pictures; 0 leaves it out."""
    choosing: int = 36
    """Noises on which the proposals are compared: all on a third of them, the best four on all. Even steps, which Auto has
    without a profile, stay unless another proposal is better by more than the standard error."""
    extend: bool = False
    """Keep the file that is there, with its dense runs and its plans for other speed-ups."""
    refine: bool = False
    """Also move single steps of the best proposal while that measures better: some 30 more proposals for each speed-up."""
    promised: int = 128
    """Further noises on which the promised errors are measured; 9 at least. With 128, the 90% error is that of 85 to 95% of
    new pictures, in 19 of 20 profiles; with 32, of 79 to 98%."""
    batch: int = 4
    """Pictures that run together."""
    prompts: tuple[str, ...] = ()
    """Texts, or class names and numbers; each sample takes one of them."""
    size: int | None = None
    """Picture side in pixels; the model's own by default."""
    frames: int | None = None
    """Frames of a video; the pipeline's own by default."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps."""
    half: bool = False
    """Run the network in fp16."""
    config: Path | None = None
    """For a single checkpoint: local diffusers folder of the same kind of model."""
    out: Path = Path("profile.safetensors")
    """File to write."""


def make_profile(options: MakeProfile, say: Callable[[str], Any] = print) -> Profile:
    """Record, choose, measure, and write the profile. The file is complete after each speed-up.

    Args:
        options: what to measure.
        say: prints progress.

    Raises :class:`SkipstoneError` for bad input.

    Example:
        >>> make_profile(MakeProfile("demo", steps=8))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 8 steps are too few to forecast any: give more than 8
    """
    _check(options)
    joined = [(name, _methods(name)) for name in options.beside]
    denoiser = _denoiser(options)
    found = _kept(denoiser, options.out) if options.extend else _recorded(denoiser, options, say)
    judging = _Judging(denoiser, options, say)
    for calls in sorted({max(2, round(found.steps / s)) for s in options.speedups}, reverse=True):
        best = judging.best(proposals(found, calls, file=str(options.out), corrects=denoiser.horizon.corrects(calls)))
        further = [judging.joint(best, methods, name) for name, methods in joined]
        others = tuple(plan for plan in found.plans if plan.beside or len(plan.keys) != calls)
        found = with_plans(replace(found, plans=others), [best.plan, *(plan for plan in further if plan)])
        found.save(options.out)
    say(f"wrote {options.out}")
    return found


def _recorded(denoiser: PipelineDenoiser, options: MakeProfile, say: Callable[[str], Any]) -> Profile:
    """Record the profile of dense runs, with the sensitivity of each call if that is wanted, and write it."""
    found = profile(denoiser, range(_PROFILED, _PROFILED + options.samples), options.batch)
    if options.sensitivity:
        moved = sensitivity(denoiser, range(_PROFILED, _PROFILED + options.sensitivity), options.batch)
        found = replace(found, sensitivity=moved)
    say(f"recorded {options.samples} dense pictures of {found.steps} calls")
    found.save(options.out)
    return found


def _kept(denoiser: PipelineDenoiser, path: Path) -> Profile:
    """Return the profile of a file. Raises :class:`ProfileError` if it is of another run."""
    known = Profile.load(path)
    known.fits(identity(denoiser.network))
    there = (known.timesteps, known.sampler, known.guidance)
    if there != (tuple(denoiser.timesteps), denoiser.sampler, denoiser.guidance):
        raise ProfileError(
            f"{path.name} is of {known.steps} steps of {known.sampler} with guidance {known.guidance:g}: give these, or leave out "
            "--extend"
        )
    return known


class _Best(NamedTuple):
    """The best proposal of call skipping alone: its errors on the noises for choosing, and its plan."""

    judged: Judged
    plan: HeldOut


class _Judging:
    """Compares proposals on noises of their own, measures the winners on others, and prints who won and who lost."""

    def __init__(self, denoiser: PipelineDenoiser, options: MakeProfile, say: Callable[[str], Any]) -> None:
        self._denoiser, self._batch, self._say = denoiser, options.batch, say
        self._reference, self._refine = _Reference(denoiser), options.refine
        self._choosing = range(_CHOOSING, _CHOOSING + options.choosing)
        self._promised = range(_PROMISED, _PROMISED + options.promised)

    def best(self, tried: Sequence[Proposal]) -> _Best:
        """The best of several proposals."""
        found = choose(
            self._denoiser, tried, self._choosing, self._promised, self._reference, self._batch, self._refine
        )
        best, *others = found.finals
        self._say(_line(found.plan, self._steps))
        self._say(f"    won on {len(self._choosing)} noises: {_scored(best)}")
        for one in others:
            chance = " (not better by more than chance)" if one.score < best.score else ""
            self._say(f"    lost: {_scored(one)}{chance}")
        for one in found.early:
            if not one.moved:
                self._say(f"    lost on {len(one.errors)} noises: {_scored(one)}")
        if moves := sum(one.moved for one in (*found.finals, *found.early)):
            self._say(f"    single steps moved: {moves} ways tried")
        return _Best(best, found.plan)

    def joint(self, alone: _Best, methods: Sequence[Method], name: str) -> HeldOut | None:
        """More calls with other methods at them, if that is better than calls alone at the same cost."""
        found = joint_proposal(self._denoiser, alone.plan, methods)
        if found is None:
            self._say(f"    lost: {name} at the steps that run saves less than another step costs")
            return None
        proposal, share = found
        judged = judge(self._denoiser, proposal, self._choosing, self._reference, self._batch)
        if not judged.beats(alone.judged):
            self._say(f"    lost: {_scored(judged)}, with {name} at {len(proposal.keys)} steps")
            return None
        plan = held_out(self._denoiser, proposal, self._promised, self._reference, self._batch, share)
        self._say(f"{_line(plan, self._steps)}, with {name}")
        return plan

    @property
    def _steps(self) -> int:
        return len(self._denoiser.timesteps)


def _methods(name: str) -> tuple[Method, ...]:
    """The methods of a preset or recipe file that act at the calls that run."""
    found = as_recipe(name)
    if found.calls or found.auto:
        raise RecipeError(f"--beside {name} skips calls itself: give merging, pruning or block skipping")
    return found.methods


def _check(options: MakeProfile) -> None:
    if options.steps <= FEWEST_STEPS:
        raise RecipeError(f"{options.steps} steps are too few to forecast any: give more than {FEWEST_STEPS}")
    least = {"samples": 1, "sensitivity": 0, "choosing": 2, "promised": 9, "batch": 1}
    for name, low in least.items():
        if getattr(options, name) < low:
            raise RecipeError(f"--{name} {getattr(options, name)} is too few: give {low} at least")
    if not options.speedups or min(options.speedups) <= 1:
        raise RecipeError("--speedups must be above 1, such as 1.5 2 3")


def _denoiser(options: MakeProfile) -> PipelineDenoiser:
    pipe = load_model(options.model, options.device, options.half, options.config)
    set_sampler(pipe, options.sampler)
    video = {"num_frames": options.frames} if options.frames else {}
    return denoiser_of(pipe, options.steps, options.guidance, options.prompts, size=options.size, **video)


class _Reference:
    """The dense latents of seeds, drawn once."""

    def __init__(self, denoiser: PipelineDenoiser) -> None:
        self._denoiser = denoiser
        self._drawn: dict[tuple[int, ...], Tensor] = {}

    def __call__(self, seeds: Sequence[int]) -> Tensor:
        key = tuple(seeds)
        if key not in self._drawn:
            self._drawn[key] = dense(self._denoiser, seeds)[0]
        return self._drawn[key]


def _line(plan: HeldOut, steps: int) -> str:
    q50, q90, q95 = (plan.quantile(share) for share in (0.5, 0.9, 0.95))
    return (
        f"{len(plan.keys)} of {steps} steps ({1 / plan.cost(steps):.2f}x): {_named(plan)}; error under "
        f"{q50:.4f} / {q90:.4f} / {q95:.4f} for 50 / 90 / 95% of pictures, {plan.turned:.0%} another picture"
    )


def _scored(one: Judged) -> str:
    return f"{_named(one.proposal)}: {one.score:.4f}"


def _named(plan: HeldOut | Proposal) -> str:
    return f"{plan.name}, {described(plan.predictor, plan.space)}"
