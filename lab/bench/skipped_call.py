"""The time of a skipped call in diffusers, on a shipped model: what a forecast costs in place of the network."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import nn

from ...core.measure.timing import clock_of
from ...core.recipe.auto import Auto
from ...core.recipe.call_skip import CallSkip
from ...pipelines.accelerate import accelerate
from ...pipelines.loading import draw_batch
from ...pipelines.network import network_of
from ..demo_models.loading import load_model
from .figures import Table

T = TypeVar("T")
_STEPS, _SPEEDUP, _GUIDANCE, _SEED = 20, 4.0, 3.0, 60_000


def skipped_call_costs(
    model: str, profile: Path | None = None, pictures: int = 8, device: str = "cpu"
) -> dict[str, dict[str, float]]:
    """Return milliseconds of the network's calls, and of the skipped ones for each way. The ways take turns, picture by picture.

    Args:
        model: a shipped model.
        profile: with the guard of this profile, too.
        pictures: drawn for each way.
        device: where it runs.

    Example:
        >>> list(skipped_call_costs("demo-dit"))  # doctest: +SKIP
        ['the network', 'line on raw', 'line on eps', 'line on x0']
    """
    pipe, seconds = load_model(model, device), defaultdict[str, list[float]](list)
    clock = clock_of(torch.device(device))
    pipe.set_progress_bar_config(disable=True)
    for seed in range(pictures):
        for name, method in _ways(profile).items():
            with accelerate(pipe, method) as handle, timed(network_of(pipe), clock) as took:
                draw_batch(pipe, ["sun"], [_SEED + seed], _STEPS, _GUIDANCE, None, "latent")
                chosen = handle.chosen()
            keys = chosen.calls.keys if chosen and isinstance(chosen.calls, CallSkip) else ()
            for step, value in enumerate(took):
                seconds[name if step not in keys else NETWORK].append(value)
    return {name: {"min_ms": min(values) * 1e3, "median_ms": median(values) * 1e3} for name, values in seconds.items()}


NETWORK = "the network"


def _ways(profile: Path | None) -> dict[str, CallSkip | Auto]:
    ways: dict[str, CallSkip | Auto] = {
        f"line on {space}": CallSkip(speedup=_SPEEDUP, space=space) for space in ("raw", "eps", "x0")
    }
    return ways | ({"by profile, with guard": Auto(speedup=_SPEEDUP, profile=str(profile))} if profile else {})


@contextmanager
def timed(network: nn.Module, clock: Callable[[], float] = time.perf_counter) -> Iterator[list[float]]:
    """Give the seconds of each forward of a network, above all that is installed on it.

    Args:
        network: the network.
        clock: time in seconds.

    Example:
        >>> network = nn.Identity()
        >>> with timed(network) as took:
        ...     network(1), network(2)
        (1, 2)
        >>> len(took), "forward" in vars(network)
        (2, False)
    """

    def seconds(forward: Callable[[], object]) -> float:
        started = clock()
        forward()
        return clock() - started

    with each_forward(network, seconds) as took:
        yield took


@contextmanager
def each_forward(network: nn.Module, measure: Callable[[Callable[[], object]], T]) -> Iterator[list[T]]:
    """Measure each forward of a network, above all that is installed on it.

    Args:
        network: the network.
        measure: runs the forward that it is given, and returns a figure.

    Example:
        >>> network = nn.Identity()
        >>> with each_forward(network, lambda forward: str(forward())) as found:
        ...     network(1)
        1
        >>> found
        ['None']
    """
    before, inner, found = network.__dict__.get("forward"), network.forward, list[T]()

    def forward(*args: Any, **kwargs: Any) -> Any:
        output: list[Any] = []
        found.append(measure(lambda: output.append(inner(*args, **kwargs))))
        return output.pop()

    network.__dict__["forward"] = forward
    try:
        yield found
    finally:
        if before is None:
            del network.__dict__["forward"]
        else:
            network.__dict__["forward"] = before


def skipped_call_tables(costs: Mapping[str, Mapping[str, float]], model: str) -> list[Table]:
    """Return the table of :func:`skipped_call_costs`; none without figures.

    Args:
        costs: what it returned.
        model: its name.

    Example:
        >>> skipped_call_tables({"line on eps": {"min_ms": 0.25, "median_ms": 0.5}}, "demo")[0].rows
        (('line on eps', '0.25', '0.50'),)
    """
    rows = tuple((name, f"{row['min_ms']:.2f}", f"{row['median_ms']:.2f}") for name, row in costs.items())
    title = f"{model}: milliseconds of a call, one picture with guidance"
    return [Table(title, ("call", "least", "median"), rows)] if rows else []
