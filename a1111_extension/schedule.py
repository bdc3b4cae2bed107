"""The schedule of a pass: what its sampler's function is called with, and the calls of the network that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from ..core.plan.step_lengths import slopes
from .host import option
from .noise import ratios, schedule_sigmas, timesteps_of
from .sampler import name_of

_ONE_CALL_PER_SIGMA = frozenset(
    {"Euler", "Euler a", "LMS", "DPM++ 2M", "DPM++ 2M SDE", "DPM++ 2M SDE Heun", "DPM++ 3M SDE"}
    | {"DDPM", "DEIS", "IPNDM", "IPNDM_V"}  # Forge's
)
"""Samplers that evaluate each noise level of their schedule once, but the last, which they reach."""


class Schedule:
    """Watches what a sampler's function is called with, until :meth:`remove`. The host makes a new sampler for each pass.

    The host counts the steps that the user asked for. DDIM makes one fewer in most runs, and others in img2img.
    """

    def __init__(self, sampler: Any) -> None:
        """Watch."""
        self._sampler = sampler
        self._arguments: Mapping[str, Any] = {}
        self._func = getattr(sampler, "func", None)
        if callable(self._func):
            sampler.func = self._placed = self._watched(self._func)

    def remove(self) -> None:
        """Put the sampler's own function back. It may be called twice."""
        if callable(self._func) and self._sampler.func is self._placed:
            self._sampler.func = self._func

    def goes_on(self, before: Schedule) -> None:
        """Continue the schedule of a pass whose sampler goes on with another model.

        Args:
            before: of that pass.
        """
        self._arguments = before._arguments

    @property
    def steps(self) -> int | None:
        """The number of steps, of PLMS and UniPC the number of calls. None before the sampler begins, and without a schedule."""
        given = next(
            (self._arguments[key] for key in ("sigmas", "sigma_sched", "timesteps") if key in self._arguments), None
        )
        return None if given is None else len(given) - (name_of(self._sampler) not in ("PLMS", "UniPC"))

    def timesteps(self) -> list[float] | None:
        """Timestep argument of the network at each call, in order. None for samplers that also evaluate elsewhere.

        Waits for the device once.
        """
        name, arguments = name_of(self._sampler), self._arguments
        if name in _ONE_CALL_PER_SIGMA and "sigmas" in arguments and not arguments.get("s_churn"):
            return timesteps_of(self._sampler, arguments["sigmas"][:-1])
        if name not in _OF_TIMESTEPS or "timesteps" not in arguments:
            return None
        rising = [float(t) for t in arguments["timesteps"]]
        return _OF_TIMESTEPS[name](rising, bool(arguments.get("is_img2img")))

    def levels_and_slopes(self, p: Any) -> tuple[Sequence[float], Sequence[float]]:
        """:attr:`Horizon.levels` and :attr:`Horizon.slopes` of the pass; empty for samplers whose steps are not known. Waits for
        the device once.

        Args:
            p: the processing object.
        """
        name, arguments = name_of(self._sampler), self._arguments
        if name in ("Euler", "DPM++ 2M") and "sigmas" in arguments and not arguments.get("s_churn"):
            sigmas = arguments["sigmas"].tolist()
            return ratios(p, sigmas), slopes(sigmas) if name == "DPM++ 2M" else ()
        if name == "DDIM" and "timesteps" in arguments:
            return schedule_sigmas(self._sampler, [int(t) for t in reversed(arguments["timesteps"])]), ()
        return (), ()

    def _watched(self, func: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(func)  # the host reads the names of its parameters
        def run(*args: Any, **kwargs: Any) -> Any:
            self._arguments = kwargs
            return func(*args, **kwargs)

        return run


def _ddim(rising: list[float], img2img: bool) -> list[float]:
    """From the noisy end on, without the cleanest, which is reached."""
    return rising[:0:-1]


def _plms(rising: list[float], img2img: bool) -> list[float]:
    """As DDIM, with a second call in the first step, at the timestep of the next one."""
    return [*rising[-1:], *rising[-2:-1], *rising[-2:0:-1]]


def _unipc(rising: list[float], img2img: bool) -> list[float] | None:
    """Evenly from 999 to 0, the last one left out; image to image begins at its own. Other spacings are not known here."""
    if option("uni_pc_skip_type", "time_uniform") != "time_uniform":
        return None
    first, calls = rising[-1] if img2img else 999.0, len(rising)
    return [first * (calls - call) / calls for call in range(calls)]


_OF_TIMESTEPS: dict[str, Callable[[list[float], bool], list[float] | None]] = {
    "DDIM": _ddim,
    "DDIM CFG++": _ddim,
    "PLMS": _plms,
    "UniPC": _unipc,
}
"""Name of a sampler -> the calls of a schedule of rising timesteps."""
