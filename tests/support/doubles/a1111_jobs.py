"""What the tests of the A1111 script share: a tiny job, the same request once more, and the reports."""

from __future__ import annotations

from dataclasses import asdict
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import tiny
import torch
from doubles import a1111

from skipstone.a1111_extension.settings import PanelSettings

REQUEST = (
    "unet", "latent", "cond", "uncond", "timesteps", "enable_hr", "forge", "sampler_name", "counted", "predicts",
)  # fmt: skip
"""Fields of a job that decide on its picture."""

_DENSE: WeakKeyDictionary[torch.nn.Module, dict[tuple[Any, ...], torch.Tensor]] = WeakKeyDictionary()

ON = (True, 0.0)
"""Panel on, at a threshold that merges much in a tiny random network."""

LAYERS = 3
"""Transformer blocks of the tiny network at the latent's own resolution."""


def args_of(**values: Any) -> tuple[Any, ...]:
    """The host's argument list for a panel that is on."""
    return tuple(asdict(PanelSettings(enabled=True, **values)).values())


def job_of(case: tiny.Case, **options: Any) -> a1111.Job:
    return a1111.Job(case.model, case.latent(1), case.cond(1, seed=5), case.cond(1, seed=6), **options)


def fresh(job: a1111.Job, **options: Any) -> a1111.Job:
    """The same request once more."""
    return a1111.Job(**{**{name: getattr(job, name) for name in REQUEST}, **options})


def runs(host: a1111.Host) -> list[Any]:
    """The reports kept, newest first."""
    return host.module._script.HISTORY.runs()


def refused(job: a1111.Job) -> list[str]:
    """The comments under the picture that refuse something. Each run leaves another one, with its number and figures."""
    return [text for text in job.comments if not text.startswith("Skipstone, run ")]


def dense(host: a1111.Host, job: a1111.Job) -> torch.Tensor:
    """The picture as it is without Skipstone, of a network that no test changes. It is drawn once for each request."""
    values = (getattr(job, name) for name in REQUEST[1:])
    request = (host.calls, host.on_step, *(v.numpy().tobytes() if isinstance(v, torch.Tensor) else v for v in values))
    drawn = _DENSE.setdefault(job.unet, {})
    if request not in drawn:
        drawn[request] = dense_now(host, job)
    return drawn[request]


def dense_now(host: a1111.Host, job: a1111.Job) -> torch.Tensor:
    """The picture of the network as it is now. No hook of the script is called."""
    script = SimpleNamespace()
    for name in ("before_process", "process", "process_before_every_sampling", "post_sample", "postprocess_batch"):
        setattr(script, name, lambda *a, **k: None)
    script.postprocess = script.post_sample
    return host.process_images(script, fresh(job))
