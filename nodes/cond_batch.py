"""A whole batch of conds as one forward of the engine, so that ControlNets and hooks are skipped together with the network."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.engine.call import Call
from ..core.engine.clock import Stream
from ..core.forecast.space import Noise
from .calls import replaced_blocks, timestep_and_step, window_of

Conds = Sequence[list[dict[str, Any]] | None]
"""What `calc_cond_batch` evaluates: a list of conds for each side of the guidance. None is left out."""


@dataclass(frozen=True)
class CondBatch:
    """One evaluation of `calc_cond_batch`. ComfyUI answers it with the denoised latent of each entry of `conds`.

    Args:
        conds: the entries.
        x: the latent [B, ...], in the sampler's scale.
        sigma: its noise level, 0-dim, in the host's memory.
        options: the transformer_options.
        active: place of each entry that is evaluated -> identity of what is evaluated for it. The others are zero.
    """

    conds: Conds
    x: Tensor
    sigma: Tensor
    options: Mapping[str, Any]
    active: Mapping[int, Hashable]

    @classmethod
    def of(cls, conds: Conds, x: Tensor, sigma: Tensor, model_options: Mapping[str, Any]) -> CondBatch:
        """Read the arguments of `calc_cond_batch`. Waits for the device once.

        Args:
            conds: the entries.
            x: the latent [B, ...], in the sampler's scale.
            sigma: its noise level [B].
            model_options: with the transformer_options.
        """
        level = sigma.flatten()[0].cpu()
        sides = {place: tuple(_active(entry, level)) for place, entry in enumerate(conds) if entry}
        active = {place: found for place, found in sides.items() if found}
        return cls(conds, x, level, model_options.get("transformer_options") or {}, active)

    def call(self, model_sampling: Any) -> Call:
        """This evaluation for the engine: the latent once per active entry [entries x B, ...], one stream each.

        A stream's key also holds the attention blocks that another node replaces, so that the extra pass of PAG or SLG has a
        stream of its own, and the frames of the context window.
        """
        schedule = self.options.get("sample_sigmas")
        timestep, step = timestep_and_step(model_sampling, self.sigma, schedule)
        more, rows = (replaced_blocks(self.options), window_of(self.options)), self.x.shape[0]
        streams = tuple(Stream((place, found, *more), rows) for place, found in self.active.items())
        noise, repeated = noise_of(model_sampling, float(self.sigma)), torch.cat([self.x] * len(streams))
        return Call(timestep, tuple(self.x.shape[2:]), streams, input=repeated, step=step, noise=noise)

    def joined(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """The outputs of the active entries [entries x B, ...]; None if another node changed their form.

        Args:
            outputs: what `calc_cond_batch` returned.
        """
        found = [outputs[place] for place in self.active] if len(outputs) == len(self.conds) else []
        return torch.cat(found) if found and all(one.shape == self.x.shape for one in found) else None

    def split(self, joined: Tensor) -> list[Tensor]:
        """What `calc_cond_batch` would return, from the outputs of the active entries."""
        parts = dict(zip(self.active, joined.chunk(len(self.active)), strict=True))
        return [parts[place] if place in parts else torch.zeros_like(self.x) for place in range(len(self.conds))]


def _active(conds: Sequence[Mapping[str, Any]], sigma: Tensor) -> Iterator[Hashable]:
    """The identity of each cond that is evaluated at a noise level (0-dim), with what acts on it there."""
    for place, cond in enumerate(conds):
        if cond.get("timestep_end", 0.0) <= sigma <= cond.get("timestep_start", float("inf")):
            yield (
                cond.get("uuid", place),
                *_controls(cond.get("control"), sigma),
                *_keyframes(cond.get("hooks"), sigma),
            )


def _controls(control: Any, sigma: Tensor) -> Iterator[bool]:
    """Which ControlNets of a chain act at a noise level."""
    while control is not None:
        most, least = getattr(control, "timestep_range", None) or (float("inf"), 0.0)
        yield bool(least <= sigma <= most)
        control = getattr(control, "previous_controlnet", None)


def _keyframes(hooks: Any, sigma: Tensor) -> Iterator[int]:
    """How many keyframes of each hook have begun: they change its strength."""
    for hook in getattr(hooks, "hooks", ()):
        frames = getattr(getattr(hook, "hook_keyframe", None), "keyframes", ())
        yield sum(bool(frame.start_t >= sigma) for frame in frames)


def noise_of(model_sampling: Any, sigma: float) -> Noise | None:
    """The noise level of a sampler's latent, whose picture the model predicts; None for models without one.

    Args:
        model_sampling: of the model.
        sigma: its noise level.
    """
    kinds = {kind.__name__ for kind in type(model_sampling).__mro__}
    if kinds & {"IMG_TO_IMG", "IMG_TO_IMG_FLOW", "V_PREDICTION_DDPM"}:
        return None
    if "CONST" in kinds:
        return Noise.of_flow(sigma, "x0")
    return Noise.of_karras(sigma, "x0", scaled=False) if kinds & {"EPS", "COSMOS_RFLOW"} else None
