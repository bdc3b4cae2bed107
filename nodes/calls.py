"""ComfyUI's sampling runs and forwards in the engine's terms: timesteps, streams, latent size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..core.engine.call import Call
from ..core.engine.clock import Stream
from ..core.errors import Decline
from .samplers import ONE_CALL_PER_SIGMA, churns, name_of

TRAIN_STEPS = 1000.0
"""All noise schedules are mapped to this many training timesteps."""

_COMPILE = "torch.compile"
"""Key of the wrapper that ComfyUI's TorchCompileModel adds."""

_ROUNDING = 1e-4
"""Share of a noise level within which a sampler's own arithmetic may miss it."""


def planned_timesteps(sampler: Any, sigmas: Tensor, model_sampling: Any) -> list[float] | None:
    """Timesteps of the calls to come, one per call; None for samplers that also evaluate elsewhere (heun, SDE, adaptive).

    Args:
        sampler: of ComfyUI.
        sigmas: noise levels [steps + 1], falling; the last one is reached, not evaluated.
        model_sampling: of the model.
    """
    if calls_ahead(sampler, sigmas) is None:
        return None
    return [training_timestep(model_sampling, sigma) for sigma in sigmas[:-1]]


def calls_ahead(sampler: Any, sigmas: Tensor) -> int | None:
    """Number of calls in a run; None for samplers for which it is not known.

    Args:
        sampler: of ComfyUI.
        sigmas: noise levels [steps + 1], falling.
    """
    return len(sigmas) - 1 if name_of(sampler) in ONE_CALL_PER_SIGMA and not churns(sampler) else None


def training_timestep(model_sampling: Any, sigma: Tensor) -> float:
    """The training timestep in [0, 999] whose noise is nearest to `sigma`, by the model's own sigma table.

    `model_sampling.timestep` does not serve: continuous schedules return something else than timesteps. Waits for the
    device once.

    Args:
        model_sampling: of the model.
        sigma: noise level, 0-dim.
    """
    return _timestep(model_sampling.sigmas, float(_nearest(model_sampling.sigmas, sigma)))


def timestep_and_step(model_sampling: Any, sigma: Tensor, schedule: Tensor | None) -> tuple[float, int | None]:
    """:func:`training_timestep`, and the sampler's step that evaluates at `sigma`: the last one that begins at or above it.

    Samplers such as dpm_2 and dpmpp_sde also evaluate between the schedule's levels. Waits for the device once.

    Args:
        model_sampling: of the model.
        sigma: noise level, 0-dim.
        schedule: noise levels of the sampler's steps [steps + 1], falling; None if unknown.
    """
    nearest = _nearest(model_sampling.sigmas, sigma)
    if schedule is None:
        return _timestep(model_sampling.sigmas, float(nearest)), None
    begun = (schedule >= sigma.to(schedule.device) * (1 - _ROUNDING)).sum().to(nearest.device)
    place, steps = torch.stack([nearest, begun]).tolist()
    return _timestep(model_sampling.sigmas, place), max(0, steps - 1)


def _nearest(table: Tensor, sigma: Tensor) -> Tensor:
    return (table - sigma.to(table.device).clamp(table[0], table[-1])).abs().argmin()


def _timestep(table: Tensor, place: float) -> float:
    return place * (TRAIN_STEPS - 1) / max(1, len(table) - 1)


def call_of(
    model_sampling: Any, x: Tensor, sigma: Tensor, options: Mapping[str, Any], strengths: tuple[float, ...] = ()
) -> Call:
    """Describe one forward.

    Args:
        model_sampling: of the model.
        x: latent [rows, C, H, W], or another shape [rows, C, ...] (video, packed).
        sigma: noise levels [rows].
        options: its transformer_options.
        strengths: :func:`hook_strengths` of the model.

    Raises :class:`Decline` for a batch that cannot be divided into streams.
    """
    timestep, step = timestep_and_step(model_sampling, sigma.flatten()[0], options.get("sample_sigmas"))
    streams = streams_of(options, x.shape[0], strengths)
    compiled = _COMPILE in options.get("wrappers", {}).get("apply_model", {})
    return Call(timestep, tuple(x.shape[2:]), streams, input=x, step=step, compiled=compiled)


def hook_strengths(model: Any) -> tuple[float, ...]:
    """Strengths of the hooks that are on the weights at this forward. Keyframes change them in the middle of a run.

    Args:
        model: a `BaseModel`.
    """
    hooks = getattr(getattr(model, "current_patcher", None), "current_hooks", None)
    return tuple(hook.hook_keyframe.strength for hook in getattr(hooks, "hooks", ()))


def streams_of(options: Mapping[str, Any], rows: int, strengths: tuple[float, ...] = ()) -> tuple[Stream, ...]:
    """One stream per cond in the batch.

    Its key has the cond's uuid and index (area conds share one uuid), its place among equals, the attention blocks that
    another node replaces in this forward, so that the extra pass of PAG or SLG has its own pairs, the frames of its
    context window, and the strengths of its hooks: values that were cached under other weights do not serve.

    Args:
        options: transformer_options of the forward.
        rows: in the batch.
        strengths: :func:`hook_strengths` of the model.
    """
    conds = list(options.get("cond_or_uncond") or (0,))
    uuids = list(options.get("uuids") or (None,) * len(conds))
    if rows % len(conds) or len(uuids) != len(conds):
        raise Decline(f"{rows} rows cannot be shared out among {len(conds)} conds")
    replaced, window = replaced_blocks(options), window_of(options)
    seen: Counter[Hashable] = Counter()
    streams = []
    for cond in zip(uuids, conds, strict=True):
        streams.append(Stream((cond, seen[cond], replaced, window, strengths), rows // len(conds)))
        seen[cond] += 1
    return tuple(streams)


def replaced_blocks(options: Mapping[str, Any]) -> frozenset[Hashable]:
    """The attention blocks that another node replaces in this forward, as PAG and SLG do in their extra pass."""
    patches = options.get("patches_replace") or {}
    return frozenset((kind, block) for kind, blocks in patches.items() for block in blocks)


Window = tuple[tuple[int, ...], int | None]
"""The frames of a context window, and the frame before it that ComfyUI adds for causal models."""


def window_of(options: Mapping[str, Any]) -> Window | None:
    """The context window of this forward; None for a forward of all frames."""
    window = options.get("context_window")
    frames = getattr(window, "index_list", None)
    return None if frames is None else (tuple(frames), getattr(window, "causal_anchor_index", None))


class Windows:
    """The context windows of one run. They must stay the same: a cached value is valid for its own frames only."""

    def __init__(self) -> None:
        """Start before the first call."""
        self._known: set[Window] = set()
        self._first: float | None = None
        self._moved = False

    def check(self, timestep: float, options: Mapping[str, Any]) -> None:
        """Register one forward. Raises :class:`Decline` from the first window on that the first call did not have.

        Args:
            timestep: of the call.
            options: transformer_options of the forward.
        """
        window = window_of(options)
        if window is None:
            return
        if self._first is None:
            self._first = timestep
        if timestep == self._first:
            self._known.add(window)
        self._moved = self._moved or window not in self._known
        if self._moved:
            raise Decline(
                "context windows that move from step to step cannot be cached: use the standard_static schedule",
                timestep,
            )
