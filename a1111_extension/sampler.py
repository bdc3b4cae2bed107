"""The sampler of a pass: whether calls can be skipped with it, and whether it adds noise."""

from __future__ import annotations

import re
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


_MULTISTEP = re.compile(
    r"DPM\+\+ [23]M|LMS|PLMS|UniPC|DEIS|IPNDM|Res Multistep|SA Solver|ER SDE|Gradient Estimation", re.I
)
"""In the name of a sampler that continues the outputs of earlier steps."""


def sampler_of(p: Any) -> Any:
    """The sampler object of the pass that is about to begin; None where the host has none yet."""
    return getattr(p, "sampler", None)


def sampler_refusal(p: Any) -> str:
    """Why no call can be skipped with this pass's sampler; empty when it can."""
    return refusal_of(name_of(sampler_of(p)))


def refusal_of(name: str) -> str:
    """The same for a sampler by its name in the host's list."""
    return f"{name} is not supported, because {_REFUSED[name]}" if name in _REFUSED else ""


def adds_noise(sampler: Any) -> bool:
    """Does this sampler add noise at its steps? With an eta of 0 it does not."""
    takes_eta = callable(func := getattr(sampler, "func", None)) and "eta" in signature(func).parameters
    eta = getattr(sampler, "eta", None)
    return bool(eta) if takes_eta and eta is not None else bool(_NOISY.search(name_of(sampler)))


def is_multistep(sampler: Any) -> bool:
    """Does this sampler continue the outputs of earlier steps?"""
    return bool(_MULTISTEP.search(name_of(sampler)))


def name_of(sampler: Any) -> str:
    """The name of a sampler in the host's list; empty where there is none."""
    return str(getattr(getattr(sampler, "config", None), "name", ""))
