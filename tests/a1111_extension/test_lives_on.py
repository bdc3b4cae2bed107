"""What lives on after a job: the reports that are kept, and no tensor of the job."""

from __future__ import annotations

import gc
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import fresh

pytest_plugins = ["doubles.a1111_fixtures"]

TIMES = tuple(999.0 - 120.5 * k for k in range(9))
METHODS: dict[str, dict[str, Any]] = {
    "preset": {"level": "Fast"},
    "merging and calls": {"threshold": 0.0, "calls_speedup": 2.0},
    "blocks": {"threshold": 1, "rule": "interval", "every": 3, "forecast": True},
    "pruning": {"threshold": 1, "dato": "dato_coco"},
}


def tensors() -> int:
    """How many live in this process."""
    gc.collect()
    return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def draw(host: a1111.Host, job: a1111.Job, settings: Any, raises: bool = False) -> None:
    """A picture, which may end in an exception inside the U-Net."""

    def on_step(p: a1111.Job, step: int) -> None:
        if raises and step == 6:
            raise RuntimeError("raised on purpose")

    host.on_step = on_step
    with pytest.raises(RuntimeError, match="on purpose") if raises else nullcontext():
        host.process_images(host.script(), fresh(job, timesteps=TIMES), settings)


@pytest.mark.parametrize("method", METHODS)
def test_no_tensor_of_a_job_lives_on(host: a1111.Host, job: a1111.Job, method: str) -> None:
    """The first makes what is kept for a size of picture. The last one ends in an exception; the next job cleans up after it."""
    counts = []
    for raises in (False, False, True):
        draw(host, job, {"enabled": True, **METHODS[method]}, raises)
        draw(host, job, False)
        counts.append(tensors())
    assert len(set(counts)) == 1, counts
