"""Doubles of what training uses of ComfyUI: its guider, its samplers' loops, its conds, Cancel and the progress bar."""

from __future__ import annotations

import sys
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

Options = dict[str, Any]


@torch.no_grad()
def sample_euler(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Options, callback: Any = None, disable: Any = None
) -> Tensor:
    """k-diffusion's, as ComfyUI has it: one call a step."""
    for sigma, after in pairwise(sigmas):
        denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
        x = x + (x - denoised) / sigma * (after - sigma)
    return x


@torch.no_grad()
def sample_dpmpp_2m(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Options, callback: Any = None, disable: Any = None
) -> Tensor:
    """Remembers the prediction before, and looks at the guider on the way."""
    before = None
    assert model.inner_model.inner_model.model_sampling is not None
    for k, (sigma, after) in enumerate(pairwise(sigmas)):
        denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
        used = denoised if before is None or k == len(sigmas) - 2 else 1.5 * denoised - 0.5 * before
        x, before = after / sigma * x + (1 - after / sigma) * used, denoised
    return x


def sample_euler_ancestral(
    model: Any, x: Tensor, sigmas: Tensor, extra_args: Options, callback: Any = None, disable: Any = None
) -> Tensor:
    """Adds noise drawn by the run's seed; its inner loop passes no gradients."""
    generator = torch.Generator().manual_seed(extra_args["seed"])
    for sigma, after in pairwise(sigmas):
        denoised = model(x, sigma * x.new_ones(len(x)), **extra_args)
        with torch.no_grad():
            x = denoised + (x - denoised) * (after / sigma) * 0.8
            x = x + after * 0.6 * torch.randn(x.shape, generator=generator)
    return x


def sample_heun(model: Any, x: Tensor, sigmas: Tensor, **kwargs: Any) -> Tensor:
    """Calls twice a step: never trained on."""
    raise NotImplementedError


FUNCTIONS = {
    f.__name__.removeprefix("sample_"): f for f in (sample_euler, sample_dpmpp_2m, sample_euler_ancestral, sample_heun)
}


class Sampler:
    """`comfy.samplers.Sampler`."""

    def max_denoise(self, model_wrap: Any, sigmas: Tensor) -> bool:
        """Does the run begin at the noisiest level of all?"""
        return float(sigmas[0]) >= float(model_wrap.inner_model.model_sampling.sigmas[-1])


class KSAMPLER(Sampler):
    """`comfy.samplers.KSAMPLER`."""

    def __init__(self, sampler_function: Any) -> None:
        self.sampler_function, self.extra_options = sampler_function, {}


class CFGGuider:
    """`comfy.samplers.CFGGuider`, as far as a sampler of one's own sees it."""

    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher, self.model_options = model_patcher, model_patcher.model_options

    def set_conds(self, positive: Any, negative: Any) -> None:
        """`convert_cond`."""
        self.original_conds = {
            name: [{**more, "cross_attn": tensor} for tensor, more in conds]
            for name, conds in (("positive", positive), ("negative", negative))
        }

    def set_cfg(self, cfg: float) -> None:
        """The scale."""
        self.cfg = cfg

    def sample(
        self, noise: Tensor, latent: Tensor, sampler: Any, sigmas: Tensor, disable_pbar: bool = False, seed: int = 0
    ) -> Tensor:
        """One run."""
        self.inner_model = self.model_patcher.model
        options = {"transformer_options": {"wrappers": {}}}
        return sampler.sample(
            self, sigmas, {"model_options": options, "seed": seed}, None, noise, latent, None, disable_pbar
        )


def process_conds(
    model: Any, noise: Tensor, conds: Options, device: Any, latent: Any = None, seed: Any = None
) -> Options:
    """Conds are repeated to the batch."""
    return {
        name: [{**c, "cross_attn": _repeated(c["cross_attn"], len(noise))} for c in entries]
        for name, entries in conds.items()
    }


def _repeated(tensor: Tensor, rows: int) -> Tensor:
    return tensor if len(tensor) == rows else tensor.expand(rows, *tensor.shape[1:])


def calc_cond_batch(model: Any, conds: list[Any], x: Tensor, sigma: Tensor, options: Options) -> list[Tensor]:
    """Each side's prediction; sides whose conds are not alike come in forwards of their own. Cancel is raised from within."""
    sides = [c[0]["cross_attn"] for c in conds]
    together = [sides] if len({s.shape for s in sides}) == 1 else [[s] for s in sides]
    outputs: list[Tensor] = []
    for group in together:
        batch, t = torch.cat([x] * len(group)), torch.cat([sigma] * len(group))
        out = model.apply_model(batch, t, c_crossattn=torch.cat(group), transformer_options={})
        outputs += out.chunk(len(group))
        sys.modules["comfy.model_management"].throw_exception_if_processing_interrupted()
    return outputs


def cfg_function(
    model: Any, cond: Tensor, uncond: Tensor, scale: float, x: Tensor, sigma: Tensor, *more: Any
) -> Tensor:
    """Guidance."""
    return uncond + (cond - uncond) * scale


def calculate_sigmas(sampling: Any, scheduler: str, steps: int) -> Tensor:
    """Evenly spaced timesteps, then 0."""
    return torch.cat([sampling.sigmas[torch.linspace(999, 0, steps).round().long()], torch.zeros(1)])


class KSampler:
    """`comfy.samplers.KSampler`, as far as its noise levels go."""

    SAMPLERS, SCHEDULERS = tuple(FUNCTIONS), ("normal", "karras")

    def __init__(self, model: Any, steps: int, device: Any, sampler: str, scheduler: str) -> None:
        self.sigmas = calculate_sigmas(model.get_model_object("model_sampling"), scheduler, steps).to(device)


SAMPLERS: Options = {
    "KSampler": KSampler,
    "Sampler": Sampler,
    "CFGGuider": CFGGuider,
    "process_conds": process_conds,
    "calc_cond_batch": calc_cond_batch,
    "cfg_function": cfg_function,
    "calculate_sigmas": calculate_sigmas,
    "sampler_object": lambda name: KSAMPLER(FUNCTIONS[name]),
}
"""Names of `comfy.samplers`."""


class InterruptProcessingException(Exception):
    """What the cancel button raises."""


def load_models_gpu(models: list[Any], force_full_load: bool = False) -> None:
    """Notes which model was to be loaded as a whole."""
    for model in models:
        model.wholly_loaded = force_full_load


def management() -> Options:
    """Names of `comfy.model_management`: Cancel raises a flag, which is taken down where it is raised as an error."""
    state = SimpleNamespace(cancelled=False)

    def interrupt_current_processing(value: bool = True) -> None:
        state.cancelled = value

    def throw() -> None:
        if state.cancelled:
            state.cancelled = False
            raise InterruptProcessingException

    return {
        "interrupt_current_processing": interrupt_current_processing,
        "processing_interrupted": lambda: state.cancelled,
        "intermediate_device": lambda: torch.device("cpu"),
        "throw_exception_if_processing_interrupted": throw,
        "InterruptProcessingException": InterruptProcessingException,
        "load_models_gpu": load_models_gpu,
    }


class ProgressBar:
    """`comfy.utils.ProgressBar`: remembers where it was set."""

    shown: ClassVar[list[tuple[int, int]]] = []

    def __init__(self, total: int) -> None:
        self.total = total

    def update_absolute(self, value: int) -> None:
        """How far; Cancel is raised from here."""
        ProgressBar.shown.append((value, self.total))
        sys.modules["comfy.model_management"].throw_exception_if_processing_interrupted()
