"""The sampler of a pass: whether calls can be skipped with it, how many steps it makes, and whether it adds noise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature
from typing import Any

_REFUSED = {
    "DPM adaptive": "it chooses its steps during the run: take another sampler, such as DPM++ 2M",
    "DPM fast": "its calls follow no steps: take another sampler, such as DPM++ 2M",
    "HeunPP2": "it calls the model at several noise levels in each step: take another sampler, such as Heun",
    "LCM": "models for LCM need each of their few steps: use token merging",
}
"""Name of a sampler -> why no call is skipped with it."""

_NOISY = re.compile(r"\ba\b|SDE|DDPM|LCM")
"""In the name of a sampler that adds noise: ancestral ("Euler a"), and the others."""


def sampler_of(p: Any) -> Any:
    """The sampler object of the pass that is about to begin; None where the host has none yet."""
    return getattr(p, "sampler", None)


def sampler_refusal(p: Any) -> str:
    """Why no call can be skipped with this pass's sampler; empty when it can."""
    name = _name(sampler_of(p))
    return f"{name} is not supported, because {_REFUSED[name]}" if name in _REFUSED else ""


def adds_noise(sampler: Any) -> bool:
    """Does this sampler add noise at its steps? With an eta of 0 it does not."""
    takes_eta = callable(func := getattr(sampler, "func", None)) and "eta" in signature(func).parameters
    eta = getattr(sampler, "eta", None)
    return bool(eta) if takes_eta and eta is not None else bool(_NOISY.search(_name(sampler)))


class StepCount:
    """Reads the number of steps from the schedule that the sampler's function is called with.

    The host counts the steps that the user asked for. DDIM makes one fewer in most runs, and others in img2img.

    Attributes:
        steps: None before the sampler's function begins, and for one without a schedule.
    """

    def __init__(self, sampler: Any) -> None:
        """Watch until :meth:`remove`. The host makes a new sampler for each pass."""
        self.steps: int | None = None
        self._sampler = sampler
        self._func = getattr(sampler, "func", None)
        if callable(self._func):
            sampler.func = self._placed = self._watched(self._func)

    def remove(self) -> None:
        """Put the sampler's own function back. It may be called twice."""
        if callable(self._func) and self._sampler.func is self._placed:
            self._sampler.func = self._func

    def _watched(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(func)  # the host reads the names of its parameters
        def run(*args: Any, **kwargs: Any) -> Any:
            self.steps = _steps_in(kwargs, _name(self._sampler))
            return func(*args, **kwargs)

        return run


def _steps_in(arguments: Mapping[str, Any], name: str) -> int | None:
    """The number of steps in the arguments of a sampler's function: of PLMS and UniPC the number of calls."""
    schedule = next((arguments[key] for key in ("sigmas", "sigma_sched", "timesteps") if key in arguments), None)
    if schedule is None:
        return None
    return len(schedule) - (name not in ("PLMS", "UniPC"))


def _name(sampler: Any) -> str:
    return str(getattr(getattr(sampler, "config", None), "name", ""))
