"""The host's U-Net and checkpoint, and the host's features that exclude Skipstone's."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from .sampler import adds_noise, is_multistep, sampler_refusal


def patcher_of(p: Any) -> Any:
    """Forge's and reForge's patcher of the U-Net; None in A1111."""
    return getattr(getattr(p.sd_model, "forge_objects", None), "unet", None)


def unet_of(p: Any) -> nn.Module:
    """The U-Net that a processing object samples with: Forge's and reForge's patcher holds it, A1111's model has it."""
    patcher = patcher_of(p)
    return patcher.model.diffusion_model if patcher is not None else p.sd_model.model.diffusion_model


def checkpoint_of(p: Any) -> str:
    """The checkpoint loaded in that model. A refiner may load another one into the same modules during a pass."""
    return str(getattr(getattr(p.sd_model, "sd_checkpoint_info", None), "filename", ""))


def is_hires(p: Any) -> bool:
    """Is this the second pass of a hires fix?"""
    return bool(getattr(p, "is_hr_pass", False))


def loaded_model() -> Any:
    """The model that is loaded; None before one is, and in Forge while another one is chosen, which the next picture loads.
    The host's `shared.sd_model` would load one."""
    data = getattr(_module("sd_models"), "model_data", None)
    chosen = getattr(data, "forge_loading_parameters", None)
    if chosen and str(chosen) != getattr(data, "forge_hash", ""):
        return None
    return getattr(data, "sd_model", None)


def model_kind() -> str:
    """The kind of the model that is loaded: "sd", "sdxl", "sd3", "other", or "" before one is."""
    model = loaded_model()
    kinds = {"is_sdxl": "sdxl", "is_sd3": "sd3", "is_sd1": "sd", "is_sd2": "sd"}
    found = [kind for mark, kind in kinds.items() if getattr(model, mark, False)]
    return "" if model is None else [*found, "other"][0]


def option(name: str, default: Any) -> Any:
    """A setting of the web UI.

    Args:
        name: of the setting.
        default: for hosts without it.
    """
    return getattr(getattr(_module("shared"), "opts", None), name, default)


def typeface() -> str:
    """Path of the host's TrueType letters; empty without them. Its Pillow may have letters of one size only."""
    return str(getattr(_module("paths_internal"), "roboto_ttf_file", "") or "")


def models_folder() -> Path:
    """Where the host keeps its models."""
    return Path(_module("paths_internal").models_path)


def stopped() -> bool:
    """Is the picture under way one that was interrupted or skipped?"""
    state = getattr(_module("shared"), "state", None)
    return bool(getattr(state, "interrupted", False) or getattr(state, "skipped", False))


def refusal(p: Any) -> str:
    """Why the pass that is about to begin cannot be accelerated; empty when it can."""
    try:
        unet_of(p)
    except AttributeError as error:
        return f"this web UI keeps its model where Skipstone does not know it ({error})"
    if getattr(_module("sd_unet"), "current_unet", None) is not None:
        return "an SD Unet such as TensorRT replaces the U-Net: set Settings > SD Unet to None"
    return ""


def calls_refusal(p: Any) -> str:
    """Why no whole call can be skipped in this pass; empty when some can. Forge Neo's Spectrum is known once it is installed, which
    may be after the pass began."""
    options = getattr(patcher_of(p), "model_options", None) or {}
    wrapper = getattr(options.get("model_function_wrapper"), "__qualname__", "")
    own = "the web UI's own Spectrum skips calls already: turn one of the two off"
    return own if "spectrum" in wrapper.lower() else sampler_refusal(p)


def attention_refusal(p: Any) -> str:
    """Why tokens cannot be merged or pruned in the pass that is about to begin; empty when they can."""
    if _own_merging(p) > 0:
        return "the web UI's own token merging is on: set its ratio to 0 in Settings > Optimizations"
    if _hypertile(hires=is_hires(p)):
        return "Hypertile splits the U-Net's attention into tiles: turn it off in Settings > Hypertile"
    return ""


@dataclass(frozen=True)
class Step:
    """A step of the sampler.

    Args:
        number: of the step, from 0; None where the host does not count.
        steps: number of steps of the pass, as far as it is known.
        last: whether it is the last one.
        noisy: whether the sampler adds noise.
        multistep: whether the sampler continues the outputs of earlier steps.
    """

    number: int | None = None
    steps: int | None = None
    last: bool = False
    noisy: bool = False
    multistep: bool = False

    @classmethod
    def of(cls, denoiser: Any, steps: int | None = None) -> Step:
        """The step of an evaluation.

        The host counts two evaluations per step for samplers of second order, which make one in the last.

        Args:
            denoiser: the host's, with its count of evaluations.
            steps: number of steps in the sampler's schedule. Without it the host's own number counts, which is wrong for
                adaptive samplers and for restarts.
        """
        sampler = getattr(denoiser, "sampler", None)
        kind = {"noisy": adds_noise(sampler), "multistep": is_multistep(sampler)}
        counted, total = getattr(denoiser, "steps", None), getattr(denoiser, "total_steps", None)
        if not counted or not total:
            return cls(**kind)
        number, steps = int(denoiser.step) // max(1, total // counted), steps or counted
        return cls(number, steps, number == steps - 1, **kind)


def _own_merging(p: Any) -> float:
    """The host's ToMe ratio: as applied to the model (A1111), or as set (Forge applies it to a copy)."""
    applied = getattr(p.sd_model, "applied_token_merged_ratio", 0)
    asked = getattr(p, "get_token_merging_ratio", None)
    return max(applied, asked(for_hr=is_hires(p)) if asked else 0)


def _hypertile(hires: bool) -> bool:
    return bool(option("hypertile_enable_unet", False) or (hires and option("hypertile_enable_unet_secondpass", False)))


def _module(name: str) -> Any:
    try:
        return import_module(f"modules.{name}")
    except ImportError:
        return None
