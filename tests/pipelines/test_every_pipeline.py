"""Every pipeline that the README names, as the pipeline itself: calls and blocks run as planned, the rest is declined."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from pipelines import ANY_NETWORK, PIPELINES, Running
from skipstone.core.errors import ModelError
from skipstone.core.models import recognise
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.noise import is_flow

EVERY_2 = BlockSkip(rule="interval", every=2)
MERGES = [TokenMerge(threshold=-1.0, bucket=1, max_downsample=8), TokenPrune(ratio=0.5, max_downsample=8)]


EVERYTHING = {**PIPELINES, **ANY_NETWORK}


@pytest.fixture(params=EVERYTHING, scope="module")
def anything(request: pytest.FixtureRequest) -> Iterator[Running]:
    """Each pipeline in turn."""
    yield EVERYTHING[request.param]()


@pytest.fixture(scope="module")
def dense(anything: Running) -> torch.Tensor:
    """What it draws without us."""
    return anything()


@pytest.fixture
def running(anything: Running) -> Running:
    """Each pipeline whose network is of a family that we know."""
    if not anything.family:
        pytest.skip("whole calls only")
    return anything


@contextmanager
def forwards_of(network: nn.Module) -> Iterator[list[Any]]:
    """The forwards that the network itself runs, as its inputs. Hooks of torch would also count those that are skipped."""
    kind, seen = type(network), []
    plain = kind.forward

    @wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(args[0] if args else next(iter(kwargs.values())))
        return plain(self, *args, **kwargs)

    kind.forward = forward
    try:
        yield seen
    finally:
        kind.forward = plain


def test_every_second_call_reaches_no_network(anything: Running, dense: torch.Tensor) -> None:
    """Cond and uncond alike, with the meaning of the network's output known, and nothing left afterwards."""
    before = tiny.snapshot(anything.network)
    with forwards_of(anything.network) as seen, accelerate(anything.pipe, CallSkip(every=2)) as handle:
        picture, report = anything(), handle.report()
    ran = anything.calls if anything.always else -(-anything.calls // 2)
    assert len(seen) == ran * anything.forwards
    assert report.planned and (report.calls, report.calls_run) == (anything.calls, ran)
    if anything.always:
        assert torch.equal(picture, dense) and "reads what the model computes" in " ".join(report.declined)
    else:
        assert (report.forecast_as, report.declined) == ("line on eps", {})
        assert picture.isfinite().all() and 0 < (picture - dense).norm() < dense.norm()
    assert tiny.snapshot(anything.network) == before


def test_neutral_recipes_install_nothing_and_a_full_plan_changes_no_bit(anything: Running, dense: torch.Tensor) -> None:
    before = tiny.snapshot(anything.network)
    for recipe in (Recipe(), CallSkip(speedup=1.0), CallSkip(every=1)):
        with accelerate(anything.pipe, recipe):
            assert tiny.snapshot(anything.network) == before
    with accelerate(anything.pipe, CallSkip(calls=anything.calls)) as handle:
        assert torch.equal(anything(), dense)
    assert handle.report().calls_forecast == 0


def test_a_constant_velocity_is_forecast_without_error(anything: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along a straight path the noise is constant, but only with the right noise level and sign of the velocity."""
    if not is_flow(anything.pipe.scheduler):
        pytest.skip("no flow model")
    kind, found = type(anything.network), []
    plain = kind.forward

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        found.append(found[0] if found else plain(*args, **kwargs))
        return found[0]

    monkeypatch.setattr(kind, "forward", forward)
    dense, forwards = anything(), len(found)
    with accelerate(anything.pipe, CallSkip(every=2, predictor="hold")) as handle:
        picture = anything()
    assert handle.report().forecast_as == "hold on eps" and len(found) < 2 * forwards
    assert (picture - dense).norm() < 1e-5 * dense.norm()


def test_every_second_call_runs_no_block(running: Running, dense: torch.Tensor) -> None:
    """Of a run whose calls are known; blocks that the pipeline reads (SAG) run at every call."""
    graph = recognise(running.network).graph(running.network)
    always = running.always
    with accelerate(running.pipe, EVERY_2) as handle:
        picture, report = running(), handle.report()
    calls = running.calls
    assert report.planned and report.calls == calls
    full = -(-calls // 2)
    assert report.blocks_run == running.forwards * (full * len(graph) + (calls - full) * always)
    assert report.blocks == running.forwards * calls * len(graph)
    assert picture.isfinite().all() and 0 < (picture - dense).norm() < 0.9 * dense.norm()
    assert torch.equal(running(), dense)


@pytest.mark.parametrize("method", MERGES, ids=["merge", "prune"])
def test_merging_and_pruning_are_served_or_declined_in_one_line(
    running: Running, dense: torch.Tensor, method: TokenMerge | TokenPrune
) -> None:
    if not running.merges:
        with pytest.raises(ModelError) as refusal:
            accelerate(running.pipe, method)
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 300
        return
    with accelerate(running.pipe, method) as handle:
        picture, report = running(), handle.report()
    assert report.planned and report.served > 0 and report.merged_share > 0.2
    assert picture.isfinite().all() and not torch.equal(picture, dense)
    assert all("\n" not in reason and len(reason) < 300 for reason in report.declined)
