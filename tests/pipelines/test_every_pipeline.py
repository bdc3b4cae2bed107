"""Every pipeline that the README names, as the pipeline itself: calls, blocks and tokens are skipped as planned."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import served
import tiny
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from pipelines import PIPELINES, Running
from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.nest import leaves
from skipstone.core.engine.report import Report
from skipstone.core.engine.sight import Sight
from skipstone.core.models import recognise
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.noise import is_flow

SHORT = 3
CORRECTED = (
    "DDIMScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "DPMSolverMultistepScheduler",
)
"""Samplers whose steps are known."""
EVERY_2 = BlockSkip(rule="interval", every=2)
MERGES = [TokenMerge(threshold=-1.0, bucket=1, max_downsample=8), TokenPrune(ratio=0.5, max_downsample=8)]


@pytest.fixture(params=PIPELINES, scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    """Each pipeline in turn."""
    yield PIPELINES[request.param]()


@pytest.fixture(scope="module")
def dense(running: Running) -> torch.Tensor:
    """What it draws without us."""
    return running()


@pytest.fixture(scope="module")
def short(running: Running) -> torch.Tensor:
    """A short run without us."""
    return running(SHORT)


@contextmanager
def forwards_of(network: nn.Module) -> Iterator[list[Any]]:
    """The forwards that the network itself runs, as its arguments. Hooks of torch would also count those that are skipped."""
    kind, seen = type(network), []
    plain = kind.forward

    @wraps(plain)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append((args, kwargs))
        return plain(self, *args, **kwargs)

    kind.forward = forward
    try:
        yield seen
    finally:
        kind.forward = plain


def test_every_second_call_reaches_no_network(running: Running, dense: torch.Tensor) -> None:
    """Cond and uncond alike, with the meaning of the network's output known, and nothing left afterwards."""
    before = tiny.snapshot(running.network)
    with forwards_of(running.network) as seen, accelerate(running.pipe, CallSkip(every=2)) as handle:
        picture, report = running(), handle.report()
    ran = running.calls if running.always else -(-running.calls // 2)
    assert len(seen) == ran * running.forwards
    assert report.planned and (report.calls, report.calls_run) == (running.calls, ran)
    if running.always:
        assert torch.equal(picture, dense) and "reads what the model computes" in " ".join(report.declined)
    else:
        corrected = type(running.pipe.scheduler).__name__ in CORRECTED
        assert report.forecast_as == f"{'corrected ' * corrected}line on eps" and not report.declined
        assert picture.isfinite().all() and 0 < (picture - dense).norm() < dense.norm()
    assert tiny.snapshot(running.network) == before
    reasons = "; ".join(report.declined)
    served.check(served.DIFFUSERS, type(running.pipe).__name__, "calls", reasons or served.SERVED)


def test_neutral_recipes_install_nothing_and_a_full_plan_changes_no_bit(running: Running, dense: torch.Tensor) -> None:
    before = tiny.snapshot(running.network)
    for recipe in (Recipe(), CallSkip(speedup=1.0), CallSkip(every=1)):
        with accelerate(running.pipe, recipe):
            assert tiny.snapshot(running.network) == before
    with accelerate(running.pipe, CallSkip(calls=running.calls)) as handle:
        assert torch.equal(running(), dense)
    assert handle.report().calls_forecast == 0


def test_a_constant_velocity_is_forecast_without_error(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along a straight path the noise is constant, but only with the right noise level and sign of the velocity."""
    if not is_flow(running.pipe.scheduler):
        pytest.skip("no flow model")
    kind, found = type(running.network), []
    plain = kind.forward

    @wraps(plain)
    def forward(*args: Any, **kwargs: Any) -> Any:
        found.append(found[0] if found else plain(*args, **kwargs))
        return found[0]

    monkeypatch.setattr(kind, "forward", forward)
    dense, forwards = running(), len(found)
    with accelerate(running.pipe, CallSkip(every=2, predictor="hold")) as handle:
        picture = running()
    assert handle.report().forecast_as == "hold on eps" and len(found) < 2 * forwards
    assert (picture - dense).norm() < 1e-5 * dense.norm()


def test_every_second_call_runs_no_block(running: Running, dense: torch.Tensor) -> None:
    """Of a run whose calls are known; blocks that the pipeline reads (SAG) run at every call."""
    graph, before = recognise(running.network).graph(running.network), tiny.snapshot(running.network)
    always = running.always
    with accelerate(running.pipe, EVERY_2) as handle:
        picture, report = running(), handle.report()
    calls = running.calls
    assert report.planned and report.calls == calls
    full = -(-calls // 2)
    assert report.blocks_run == running.forwards * (full * len(graph) + (calls - full) * always)
    assert report.blocks == running.forwards * calls * len(graph)
    assert picture.isfinite().all() and 0 < (picture - dense).norm() < 0.9 * dense.norm()
    assert tiny.snapshot(running.network) == before
    served.check(served.DIFFUSERS, type(running.pipe).__name__, "blocks", served.SERVED)


def test_reused_blocks_give_the_same_input_the_same_output(running: Running, dense: torch.Tensor) -> None:
    """Whatever a block passes on, and however it is called: the difference to it is added to the right tensor."""
    with forwards_of(running.network) as seen:
        running()
    args, kwargs = seen[0]
    family = recognise(running.network)
    for caching in (c for c in family.cachings if c != "output"):
        engine = Engine(running.network, Recipe.of([BlockSkip(rule="interval", every=2, caching=caching)]))
        outputs = []
        with torch.no_grad(), engine.run((900.0, 500.0)):
            for t in (900.0, 500.0):
                with engine.call(Call(t, (8, 8), (Stream("all", len(args[0] if args else kwargs["hidden_states"])),))):
                    output = running.network(*args, **kwargs)
                outputs.append([value for _, value in leaves(output) if isinstance(value, torch.Tensor)])
        assert engine.report.blocks_reused == len(family.graph(running.network, caching)), caching
        for full, reused in zip(*outputs, strict=True):
            assert (full - reused).norm() < 1e-5 * full.norm(), caching


class Kernels(TorchFunctionMode):
    """The numbers of rows, queries and keys that PyTorch's attention kernel runs on."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, int]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function of torch."""
        if func is F.scaled_dot_product_attention:
            q, k, *_ = [*args, *(kwargs or {}).values()]
            self.seen.append((len(q), q.shape[2], k.shape[2]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", MERGES, ids=["merge", "prune"])
def test_merging_and_pruning_are_served(running: Running, short: torch.Tensor, method: TokenMerge | TokenPrune) -> None:
    with Kernels() as kernels, accelerate(running.pipe, method) as handle:
        picture, report = running(SHORT), handle.report()
    assert report.planned and report.served > 0 and report.merged_share > 0.2
    assert picture.isfinite().all() and not torch.equal(picture, short)
    assert all("\n" not in reason and len(reason) < 300 for reason in report.declined)
    if method is MERGES[1] and not recognise(running.network).sites(running.network):
        check_kernels(running, short, report, kernels.seen)
    served.check(served.DIFFUSERS, type(running.pipe).__name__, method.kind.removeprefix("token_"), served.SERVED)


def check_kernels(running: Running, short: torch.Tensor, report: Report, seen: list[tuple[int, int, int]]) -> None:
    """Of joint and rotary attention, the report says what the kernels ran on, and the first call runs in full.

    Afterwards the pipeline draws as before.
    """
    with Kernels() as plain:
        assert torch.equal(running(SHORT), short)
    assert not _get_current_function_mode_stack()
    first = len(plain.seen) // SHORT
    assert seen[:first] == plain.seen[:first]
    changed = [(was, now) for was, now in zip(plain.seen, seen, strict=True) if was != now]
    assert len(changed) == report.searched + report.reused == report.served * running.forwards * (SHORT - 1)
    assert all((rows, q) == was[:2] and k < was[2] for was, (rows, q, k) in changed), "queries are all there"
    gone = sum(layer.tokens - layer.kept for layer in report.layers.values())
    assert gone == sum(rows * (before - k) for (rows, _, before), (_, _, k) in changed)


def test_the_tokens_taken_for_the_pictures_are_those_that_change_with_the_latent(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first attention of text and picture, where the keys of the text depend on the prompt alone."""
    if recognise(running.network).sites(running.network):
        pytest.skip("its hidden states are merged")
    found: list[tuple[Any, torch.Tensor]] = []
    plain = Sight.see

    def see(self: Sight, where: Any, attention: Any) -> None:
        plain(self, where, attention)
        found.append((self.spans[where], attention.k))

    monkeypatch.setattr(Sight, "see", see)
    runs = []
    for seed in (0, 1):
        with accelerate(running.pipe, MERGES[0]):
            running(1, generator=torch.Generator().manual_seed(seed))
        runs.append(next((span, key) for span, key in found if span))
        found.clear()
    (span, one), (same, other) = runs
    wanted = torch.zeros(span.total, dtype=torch.bool)
    wanted[span.start : span.start + span.tokens] = True
    assert span == same and torch.equal((one != other).any(3).any(1).any(0), wanted)
