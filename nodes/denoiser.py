"""A ComfyUI model and sampler as a denoiser to train masks on (:class:`skipstone.core.calibrate.denoiser.Denoiser`).

ComfyUI's samplers are loops that call the model. Training needs one step at a time, so each step runs the loop from its
beginning with the predictions made so far, and stops it at the next call. This works for any sampler without a copy of its
code, and gives exact gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from torch import Tensor, nn

from ..core.calibrate.denoiser import Trajectory
from ..core.calibrate.masks.trainer import StopTraining
from ..core.errors import RecipeError
from ..core.models import unwrapped
from .calls import planned_timesteps
from .weights import KeptNorms

Conditioning = list[list[Any]]
"""ComfyUI's: entries of an embedding [1, tokens, channels] and a dict of its options."""


@dataclass(frozen=True)
class History:
    """The past of a trajectory.

    Args:
        start: the first latents [B, ...].
        seeds: the seed of each sample.
        denoised: the denoised latents [B, ...] predicted since, one tensor per step.
    """

    start: Tensor
    seeds: tuple[int, ...]
    denoised: tuple[Tensor, ...] = ()


class Loop:
    """A sampler's loop over a list of noise levels, one step at a time."""

    def __init__(self, sampler: Any, sigmas: Tensor, guider: Any, options: dict[str, Any]) -> None:
        """The loop, without the decorator that keeps gradients out of the sampler's function.

        Args:
            sampler: a `KSAMPLER`.
            sigmas: noise levels [steps + 1], falling.
            guider: the `CFGGuider`, which some samplers read.
            options: the model options of the run.
        """
        function = sampler.sampler_function
        self._name = getattr(function, "__name__", "sampler").removeprefix("sample_")
        self._function, self._extra = getattr(function, "__wrapped__", function), sampler.extra_options
        self._sigmas, self._guider, self._options = sigmas, guider, options

    def after(self, start: Tensor, seed: int, denoised: Sequence[Tensor]) -> Tensor:
        """The latent [1, ...] before the next call, or the final one.

        Args:
            start: the first latent [1, ...].
            seed: for samplers that add noise.
            denoised: the predictions so far, each [1, ...].
        """
        script = _Script(self._guider, denoised)
        extra_args = {"model_options": self._options, "seed": seed}
        try:
            return self._function(
                script, start, self._sigmas, extra_args=extra_args, callback=None, disable=True, **self._extra
            )
        except _Reached as place:
            return place.x

    @torch.enable_grad()
    def check_gradients(self) -> None:
        """Raise :class:`RecipeError` for a sampler whose steps pass no gradients."""
        one = torch.ones(1, 4, 8, 8, device=self._sigmas.device, requires_grad=True)
        try:
            self.after(one.detach(), 0, [one] * (len(self._sigmas) - 1)).sum().backward()
        except RuntimeError:
            raise RecipeError(
                f"the sampler {self._name} passes no gradients: train with euler, or with the form search"
            ) from None


class _Reached(Exception):
    """A loop needs a prediction that has not been made yet."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


class _Script:
    """Replaces the model in a sampler's loop and returns earlier predictions."""

    def __init__(self, guider: Any, denoised: Sequence[Tensor]) -> None:
        self.inner_model = guider
        self._left = list(denoised)

    def __call__(self, x: Tensor, sigma: Tensor, **kwargs: Any) -> Tensor:
        if not self._left:
            raise _Reached(x)
        return self._left.pop(0)


class SamplerDenoiser:
    """One sampling run of a model that ComfyUI has loaded: its network, its guidance, its sampler.

    If the positive conditioning has several entries, each sample uses one of them, chosen by its seed.
    """

    def __init__(
        self, guider: Any, sampler: Any, sigmas: Tensor, shape: Sequence[int], options: dict[str, Any]
    ) -> None:
        """Before the first step.

        Args:
            guider: a `CFGGuider` in a run.
            sampler: a `KSAMPLER`.
            sigmas: noise levels [steps + 1], falling.
            shape: of one latent, without the batch.
            options: the model options of the run.

        Raises :class:`RecipeError` for samplers that cannot be used.
        """
        self._guider, self._sampler, self._sigmas, self._options = guider, sampler, sigmas, options
        self._shape = tuple(shape)
        planned = planned_timesteps(sampler, sigmas, guider.inner_model.model_sampling)
        if planned is None:
            raise RecipeError(
                "masks are trained with samplers that call the model once a step: choose euler or dpmpp_2m"
            )
        self.timesteps = tuple(planned)
        self._loop = Loop(sampler, sigmas, guider, options)
        self._parts: list[int] | None = None

    def check_gradients(self) -> None:
        """Raise :class:`RecipeError` for a sampler whose steps pass no gradients. Called only for forms that take them."""
        self._loop.check_gradients()

    @property
    def network(self) -> nn.Module:
        """The U-Net or transformer."""
        return unwrapped(self._guider.inner_model.diffusion_model)

    def begin(self, seeds: Sequence[int]) -> Trajectory:
        """Noise from each seed's own generator, scaled to the sampler's first noise level, and conditionings."""
        noise = torch.stack([torch.randn(self._shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
        noise = noise.to(self._sigmas.device)
        most = self._sampler.max_denoise(self._guider, self._sigmas)
        scaling = self._guider.inner_model.model_sampling.noise_scaling
        x = scaling(self._sigmas[0], noise, torch.zeros_like(noise), most)
        return Trajectory(x, self._conds(seeds, noise), History(x, tuple(seeds)))

    def predict(self, at: Trajectory, call: int) -> Tensor:
        """Denoised latents [2, B, ...], without and with the conditioning (guidance of 1: [1, B, ...]).

        Args:
            at: the trajectory.
            call: number of the call.
        """
        sigma, model = self._sigmas[call].expand(len(at.x)), self._guider.inner_model
        norms = KeptNorms() if torch.is_grad_enabled() else nullcontext()
        with self._forwards(len(at.x)), stoppable(), norms:
            comfy.model_management.throw_exception_if_processing_interrupted()
            outputs = comfy.samplers.calc_cond_batch(model, at.cond, at.x, sigma, self._options)
        return torch.stack(outputs)

    def advance(self, at: Trajectory, output: Tensor, call: int) -> Trajectory:
        """Guidance, then the sampler's step, sample by sample: a sample never depends on the others in its batch.

        Args:
            at: the trajectory.
            output: of :meth:`predict`.
            call: number of the call.
        """
        with stoppable():
            denoised = (*at.history.denoised, self._guided(at, output, call))
        history = History(at.history.start, at.history.seeds, denoised)
        rows = [
            self._loop.after(history.start[b : b + 1], seed, [d[b : b + 1] for d in history.denoised])
            for b, seed in enumerate(history.seeds)
        ]
        return Trajectory(torch.cat(rows), at.cond, history)

    def fork(self, at: Trajectory) -> Trajectory:
        """The same point of the trajectory, detached."""
        denoised = tuple(d.detach() for d in at.history.denoised)
        return Trajectory(at.x.detach(), at.cond, History(at.history.start, at.history.seeds, denoised))

    @contextmanager
    def _forwards(self, samples: int) -> Iterator[None]:
        """Check that a call splits into the same forwards as the first one: cached values belong to a forward and a row."""
        parts: list[int] = []

        def enter(module: nn.Module, args: Any) -> None:
            parts.append(len(args[0]) // samples)
            self._compare(parts, len(parts))

        handle = self.network.register_forward_pre_hook(enter)
        try:
            yield
        finally:
            handle.remove()
        self._parts = parts if self._parts is None else self._parts
        self._compare(parts or [0])

    def _compare(self, parts: list[int], known: int | None = None) -> None:
        if self._parts is not None and parts != self._parts[:known]:
            raise RecipeError(
                "training needs the same conditionings at every step: use prompts without start and end, or fewer samples"
            )

    def _guided(self, at: Trajectory, output: Tensor, call: int) -> Tensor:
        if len(output) == 1:
            return output[0]
        sigma, (uncond, cond) = self._sigmas[call].expand(len(at.x)), at.cond
        return comfy.samplers.cfg_function(
            self._guider.inner_model, output[1], output[0], self._guider.cfg, at.x, sigma, self._options, cond, uncond
        )

    def _conds(self, seeds: Sequence[int], noise: Tensor) -> list[Any]:
        """[without, with] conditioning in the form that the model expects; only the second for a guidance of 1."""
        conds = {
            "positive": _rows(self._guider.original_conds["positive"], seeds),
            "negative": [dict(entry) for entry in self._guider.original_conds["negative"]],
        }
        made = comfy.samplers.process_conds(
            self._guider.inner_model, noise, conds, noise.device, torch.zeros_like(noise), seed=seeds[0]
        )
        return [made["positive"]] if self._guider.cfg == 1.0 else [made["negative"], made["positive"]]


def _rows(entries: Sequence[dict[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """For several prompts, one entry with a row for each sample. One prompt, or prompts that take turns, stay as they are."""
    if len(entries) == 1 or any("start_percent" in entry for entry in entries):
        return [dict(entry) for entry in entries]
    chosen = [entries[_drawn(seed, len(entries))] for seed in seeds]
    try:
        return [{key: _joined([entry[key] for entry in chosen]) for key in chosen[0]}]
    except (KeyError, RuntimeError):
        raise RecipeError("the combined prompts differ in kind: give them the same length and no areas") from None


def _drawn(seed: int, count: int) -> int:
    return int(torch.randint(count, (), generator=torch.Generator().manual_seed(seed)))


def _joined(values: list[Any]) -> Any:
    return torch.cat(values) if isinstance(values[0], Tensor) else values[0]


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn Cancel, which newer ComfyUI raises in the middle of a network, into the end of training."""
    try:
        yield
    except comfy.model_management.InterruptProcessingException:
        raise StopTraining from None
