"""Call skipping: exactly the chosen calls reach the network, and what stands in for the others is the right combination."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import namedtuple
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Barrier, Thread
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.forecast import history as history_module
from skipstone.core.forecast.history import History
from skipstone.core.forecast.names import SPACES
from skipstone.core.forecast.predictors import PREDICTORS
from skipstone.core.forecast.space import Noise
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = tuple(950.0 - 100 * k for k in range(10))
HALF = CallSkip(calls=5)
HALF_RUNS = [950.0, 750.0, 550.0, 250.0, 50.0]
"""The steps 0, 2, 4, 7 and 9."""


class Net(nn.Module):
    """A smooth network of no family, which notes the timestep of each forward of its own.

    form: makes what it returns of its prediction.
    """

    def __init__(self, form: Callable[[Tensor], Any] = lambda x: x) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.7), requires_grad=False)
        self.form, self.seen = form, []
        self.on_forward: Callable[[float], None] = lambda t: None

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor | None = None) -> Any:
        """A prediction [rows, 4, ...] of x [rows, C, ...]."""
        t = float(torch.as_tensor(timestep).flatten()[0])
        self.seen.append(t)
        self.on_forward(t)
        shift = 0.0 if context is None else context.flatten(1).mean(1).view(-1, *[1] * (x.ndim - 1))
        return self.form(torch.tanh(self.weight * x[:, :4] + t / 1000 + shift))


@dataclass
class Host:
    """A host with the plainest sampler: one step along the prediction, cond and uncond guided."""

    net: Net
    recipe: Recipe
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        """Make the engine."""
        self.engine = Engine(self.net, self.recipe)

    def forward(self, x: Tensor, t: float, streams: Sequence[str], **call: Any) -> Any:
        """One forward of the given conds, in this order."""
        rows = torch.cat([x] * len(streams))
        conds = torch.stack([torch.full((1,), SHIFT[s]) for s in streams]).repeat_interleave(x.shape[0], 0)
        described = Call(
            t, tuple(x.shape[2:]), tuple(Stream(s, x.shape[0]) for s in streams), input=rows, noise=noise_of(t), **call
        )
        return self.engine.forward(lambda: described, lambda: self.net(rows, t, conds))

    def sample(self, forwards: Callable[[float], Sequence[Sequence[str]]], steps: Sequence[float] = STEPS) -> Tensor:
        """A picture; `forwards` lists the conds of each forward of a step."""
        x = tiny.noise(1, 4, 8, 8)
        for t in steps:
            found = {}
            for streams in forwards(t):
                found.update(zip(streams, self.forward(x, t, streams).chunk(len(streams)), strict=True))
            x = x + 0.1 * sum(found.values()) / len(found)
        return x


def noise_of(t: float) -> Noise:
    """A variance-preserving level that predicts eps."""
    sigma = min(0.999, t / 1000)
    return Noise((1 - sigma**2) ** 0.5, sigma, "eps")


def host(calls: CallSkip, *more: Any, form: Callable[[Tensor], Any] = lambda x: x) -> Host:
    """A host with a network of its own."""
    return Host(Net(form), Recipe.of([calls, *more]))


SHIFT = {"cond": 0.2, "uncond": -0.3}
BATCHED, SPLIT = [["cond", "uncond"]], [["cond"], ["uncond"]]
LAYOUTS: dict[str, tuple[Callable[[float], Any], int]] = {
    "batched": (lambda t: BATCHED, 5),
    "split": (lambda t: SPLIT, 10),
    "reordered": (lambda t: BATCHED if t % 200 == 50 else [["uncond", "cond"]], 5),
    "split and joined in turn": (lambda t: BATCHED if t > 500 else SPLIT, 3 + 2 * 2),
    "uncond dropped": (lambda t: BATCHED if t > 500 else [["cond"]], 5),
}
"""How a host lays out its forwards -> forwards of the network in half of ten calls."""


@pytest.mark.parametrize("layout", LAYOUTS)
def test_exactly_the_chosen_calls_reach_the_network(layout: str) -> None:
    forwards, count = LAYOUTS[layout]
    one = host(HALF)
    with one.engine.run(STEPS):
        picture = one.sample(forwards)
    assert sorted(set(one.net.seen), reverse=True) == HALF_RUNS
    assert len(one.net.seen) == count
    report = one.engine.report
    assert (report.calls, report.calls_run, report.calls_forecast, report.planned) == (10, 5, 5, True)
    assert report.lines()[0] == "ran 5 of 10 calls, forecast 5 (line on eps)" and not report.idle
    assert report.to_dict()["calls_run"] == 5 and report.cache_bytes > 0
    dense = host(CallSkip(speedup=1.0)).sample(forwards)
    assert 0 < (picture - dense).norm() < 0.02 * dense.norm()


@pytest.mark.parametrize(
    ("calls", "kind", "note"),
    [
        (5, {"stochastic": True}, "adds noise"),
        (4, {"multistep": True}, "continues outputs"),
        (5, {"multistep": True}, ""),
    ],
)
def test_where_fewer_steps_may_do_as_well_the_report_says_so(calls: int, kind: dict[str, bool], note: str) -> None:
    one = host(CallSkip(calls=calls))
    one.engine.start(Horizon(STEPS, **kind))
    one.sample(lambda t: BATCHED)
    notes = [found for found in one.engine.end().notes if "fewer steps may do as well" in found]
    assert len(notes) == bool(note) and all(note in found for found in notes)


def test_however_conds_are_laid_out_the_picture_is_the_same() -> None:
    pictures = []
    for layout in ("batched", "split", "reordered"):
        one = host(HALF)
        with one.engine.run(STEPS):
            pictures.append(one.sample(LAYOUTS[layout][0]))
    torch.testing.assert_close(pictures[1], pictures[0])
    torch.testing.assert_close(pictures[2], pictures[0])


def test_a_cond_that_enters_in_mid_run_makes_its_calls_full_until_it_has_a_line() -> None:
    one = host(HALF)
    with one.engine.run(STEPS):
        one.sample(lambda t: BATCHED if t < 500 else [["cond"]])
    assert one.net.seen == [950, 750, 550, 450, 350, 250, 50]
    assert one.engine.report.calls_forecast == 3


def test_a_run_with_every_call_full_is_bit_identical_and_keeps_nothing() -> None:
    one, dense = host(CallSkip(calls=10)), host(CallSkip(speedup=1.0)).sample(lambda t: BATCHED)
    with one.engine.run(STEPS):
        assert torch.equal(one.sample(lambda t: BATCHED), dense)
    assert one.engine.report.cache_bytes == 0 and one.engine.report.calls_forecast == 0


WINDOW = CallSkip(calls=5, start=0.3, end=0.8)
"""The steps 3 to 7 of ten lie in it. Half of the calls would leave out 1, 3, 5, 6 and 8."""


@pytest.mark.parametrize("known", [True, False], ids=["calls known", "steps known"])
def test_outside_of_start_and_end_every_call_runs(known: bool) -> None:
    one = host(WINDOW)
    one.engine.start(Horizon(STEPS) if known else Horizon(steps=10))
    one.sample(lambda t: BATCHED)
    report = one.engine.end()
    assert [k for k, t in enumerate(STEPS) if t not in one.net.seen] == [3, 5, 6]
    assert (report.calls_run, report.calls_forecast) == (7, 3)


def test_a_gate_stays_open_outside_of_start_and_end() -> None:
    one = host(CallSkip(rule="easycache", threshold=10.0, start=0.3, end=0.8))
    with one.engine.run(STEPS):
        one.sample(lambda t: BATCHED)
    assert [k for k, t in enumerate(STEPS) if t not in one.net.seen] == [3, 4, 5, 6, 7]


# What stands in


def along(x0: Tensor, eps: Tensor, at: Noise) -> tuple[Tensor, Tensor]:
    """Input and output where picture and noise stay the same: every sampler is linear there."""
    x = at.alpha * x0 + at.sigma * eps
    out = {"eps": eps, "x0": x0, "v": at.alpha * eps - at.sigma * x0, "flow": eps - x0, "-flow": x0 - eps}
    return x, out[at.predicts]


@pytest.mark.parametrize("predicts", ["eps", "x0", "v", "flow", "-flow"])
def test_where_picture_and_noise_are_constant_every_space_and_predictor_is_exact(predicts: Any) -> None:
    x0, eps = tiny.noise(1, 4, 8, 8, seed=1).double(), tiny.noise(1, 4, 8, 8, seed=2).double()
    flow = "flow" in predicts
    for space in ("x0", "eps"):
        for name in (n for n in PREDICTORS if n != "spectrum"):
            engine = Engine(Net(), Recipe.of([CallSkip(calls=4, space=space, predictor=name)]))
            with engine.run(STEPS):
                for t in STEPS:
                    sigma = t / 1000
                    at = Noise.of_flow(sigma, predicts) if flow else Noise((1 - sigma**2) ** 0.5, sigma, predicts)
                    x, truth = along(x0, eps, at)
                    call = Call(t, (8, 8), (Stream("cond", 1),), input=x, noise=at)
                    found = engine.forward(lambda call=call: call, lambda truth=truth: truth.clone())
                    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)
            assert engine.report.calls_forecast == 6


def test_hold_on_the_raw_output_is_reuse() -> None:
    one = host(CallSkip(every=3, space="raw", predictor="hold", tail=0))
    with one.engine.run(STEPS):
        x, outputs = tiny.noise(1, 4, 8, 8), []
        for t in STEPS:
            outputs.append(one.forward(x, t, ["cond"]))
            x = x + 0.1 * outputs[-1]
    assert all(torch.equal(outputs[k], outputs[k - k % 3]) for k in range(10))
    assert not torch.equal(outputs[0], outputs[3])


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_forecast_has_the_type_and_shape_of_the_networks_output(space: str, dtype: torch.dtype) -> None:
    one = host(CallSkip(calls=4, space=space), form=lambda x: x.to(dtype))
    with one.engine.run(STEPS):
        found = [one.forward(tiny.noise(2, 4, 8, 8), t, ["cond", "uncond"]) for t in STEPS]
    assert {(f.dtype, f.shape) for f in found} == {(dtype, (4, 4, 8, 8))}
    assert one.engine.report.calls_forecast == 6 and all(f.isfinite().all() for f in found)


def test_returned_tensors_may_be_changed_in_place_by_the_host() -> None:
    """Samplers write into a prediction: neither the kept values nor later forecasts change."""
    plain, rough = [], []
    for found, spoil in ((plain, False), (rough, True)):
        one = host(CallSkip(calls=4, predictor="hold", space="raw"))
        with one.engine.run(STEPS):
            for t in STEPS:
                out = one.forward(tiny.noise(1, 4, 8, 8), t, ["cond"])
                found.append(out.clone())
                if spoil:
                    out.zero_()
    assert all(torch.equal(a, b) for a, b in zip(plain, rough, strict=True))


Pair = namedtuple("Pair", ["sample", "extra"])


class Sampled(dict):
    """diffusers' output object: an ordered mapping with attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)
        self.__dict__.update(values)


FORMS: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = {
    "tuple": (lambda x: (x, x.mean()), lambda out: out[0]),
    "named tuple": (lambda x: Pair(x, "more"), lambda out: out.sample),
    "mapping": (lambda x: Sampled(sample=x), lambda out: out.sample),
    "list of rows": (lambda x: list(x.unbind()), lambda out: torch.stack(out)),
    "list in a tuple": (lambda x: (list(x.unbind()),), lambda out: torch.stack(out[0])),
    "learned variance": (lambda x: torch.cat([x, 1 + x / 2], 1), lambda out: out),
}


@pytest.mark.parametrize("form", FORMS)
def test_outputs_of_all_forms_are_forecast_in_their_form(form: str) -> None:
    make, read = FORMS[form]
    one, x = host(HALF, form=make), tiny.noise(2, 4, 8, 8)
    with one.engine.run(STEPS):
        found = [one.forward(x, t, ["cond"]) for t in STEPS]
    assert one.net.seen == HALF_RUNS, one.engine.report.lines()
    assert len({type(out) for out in found}) == 1
    for t, out in list(zip(STEPS, found, strict=True))[2:]:  # the first gap knows one value only
        truth = read(make(torch.tanh(0.7 * x + t / 1000 + SHIFT["cond"])))
        torch.testing.assert_close(read(out), truth, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("channels", [5, 9])
def test_further_input_channels_are_not_taken_for_the_latent(channels: int) -> None:
    """Inpainting: latent, mask and masked picture come in, four channels go out."""
    one, latent, found = host(replace(HALF, space="difference")), tiny.noise(1, 4, 8, 8), []
    with one.engine.run(STEPS):
        for k, t in enumerate(STEPS):
            x = torch.cat([latent, tiny.noise(1, channels - 4, 8, 8, seed=10 + k)], 1)
            found.append(one.forward(x, t, ["cond"]))
    assert one.net.seen == HALF_RUNS and one.engine.report.forecast_as == "line on difference"
    torch.testing.assert_close(found[3], torch.tanh(0.7 * latent + 0.65 + SHIFT["cond"]), rtol=0.05, atol=0.05)


def test_an_output_of_another_size_than_the_input_is_forecast_as_it_is() -> None:
    one = host(HALF, form=lambda x: x[..., ::2, ::2])
    with one.engine.run(STEPS):
        found = [one.forward(tiny.noise(1, 4, 8, 8), t, ["cond"]) for t in STEPS]
    assert one.net.seen == HALF_RUNS and one.engine.report.forecast_as == "line on raw"
    assert {f.shape for f in found} == {(1, 4, 4, 4)}


@pytest.mark.parametrize(
    "strange", [None, "text", object(), 3, {}, (), torch.zeros(7, 4)], ids=lambda s: type(s).__name__
)
def test_a_network_that_returns_nothing_that_can_be_forecast_runs_at_every_call(strange: Any) -> None:
    one = host(HALF, form=lambda x: strange)
    with one.engine.run(STEPS):
        assert all(one.forward(tiny.noise(1, 4, 8, 8), t, ["cond"]) is strange for t in STEPS)
    report = one.engine.report
    assert one.net.seen == list(STEPS) and report.calls_forecast == 0
    assert strange is None or any("nothing can be forecast" in reason for reason in report.declined)


# Runs


@pytest.mark.parametrize(
    ("calls", "runs"),
    [
        (CallSkip(every=3), [0, 3, 6, 9]),
        (CallSkip(speedup=2.5), [0, 3, 5, 8]),
        (CallSkip(keys=(0, 1, 5)), [0, 1, 5]),
        (CallSkip(every=5, warmup=3), [0, 1, 2, 5]),
    ],
    ids=str,
)
def test_unannounced_runs_skip_step_by_step(calls: CallSkip, runs: list[int]) -> None:
    one = host(calls)
    with one.engine.run():
        one.sample(lambda t: SPLIT)
    assert one.net.seen == [STEPS[k] for k in runs for _ in range(2)]
    assert one.engine.report.calls_forecast == 10 - len(runs) and not one.engine.report.planned


def test_a_host_that_knows_its_last_step_or_their_number_runs_the_tail() -> None:
    last, counted = host(CallSkip(every=4)), host(CallSkip(calls=4))
    with last.engine.run():
        for t in STEPS:
            last.forward(tiny.noise(1, 4, 8, 8), t, ["cond"], last=t == STEPS[-1])
    counted.engine.begin(steps=10)
    for step, t in enumerate(STEPS):
        counted.forward(tiny.noise(1, 4, 8, 8), t, ["cond"], step=step)
    counted.engine.end()
    assert last.net.seen == [STEPS[k] for k in (0, 4, 8, 9)]
    assert counted.net.seen == [STEPS[k] for k in (0, 3, 6, 9)]


def test_a_run_that_leaves_its_announced_calls_runs_there_and_goes_on_step_by_step() -> None:
    one = host(CallSkip(every=2))
    with one.engine.run(STEPS):
        one.sample(lambda t: SPLIT, (950.0, 850.0, 750.0, 600.0, 500.0, 400.0))
    assert one.net.seen == [t for t in (950.0, 750.0, 600.0, 500.0) for _ in range(2)]
    report = one.engine.report
    assert not report.planned and report.calls == 6 and any("not announced" in note for note in report.notes)


def test_more_steps_than_announced_all_run() -> None:
    one = host(CallSkip(calls=2))
    one.engine.begin(steps=4)
    for step, t in enumerate(STEPS):
        one.forward(tiny.noise(1, 4, 8, 8), t, ["cond"], step=step)
    one.engine.end()
    assert one.net.seen == [950.0, 650.0, *STEPS[4:]]


@pytest.mark.parametrize(
    ("calls", "reason"),
    [
        (CallSkip(calls=11), "calls=11, but this run has 10 steps: give at most 10"),
        (CallSkip(keys=(0, 12)), "keys has step 12, but this run's last step is 9"),
    ],
    ids=str,
)
def test_what_does_not_fit_the_run_is_said_and_every_call_runs(calls: CallSkip, reason: str) -> None:
    one, dense = host(calls), host(CallSkip(speedup=1.0)).sample(lambda t: BATCHED)
    with one.engine.run(STEPS):
        assert torch.equal(one.sample(lambda t: BATCHED), dense)
    assert one.engine.report.declined == {reason: ["call skipping"]}
    assert len(one.net.seen) == 10


@pytest.mark.parametrize(("steps", "distilled"), [(8, False), (10, True)])
def test_few_steps_and_distilled_samplers_are_declined_unless_steps_are_chosen(steps: int, distilled: bool) -> None:
    for calls, runs in ((CallSkip(speedup=2.0), steps), (CallSkip(every=2), steps // 2 + 1)):
        one = host(calls)
        one.engine.start(Horizon(STEPS[:steps], distilled=distilled))
        one.sample(lambda t: BATCHED, STEPS[:steps])
        report = one.engine.end()
        assert len(one.net.seen) == runs
        assert all("use token merging" in reason and len(reason) < 300 for reason in report.declined)
        assert bool(report.declined) == (runs == steps)


def test_a_nested_run_of_another_size_changes_nothing() -> None:
    alone, outer = host(HALF), host(HALF)
    with alone.engine.run(STEPS):
        expected = alone.sample(lambda t: SPLIT)

    def within(t: float) -> Any:
        if t == 550.0:
            with outer.engine.run(STEPS):
                for inner in STEPS:
                    outer.forward(tiny.noise(1, 4, 4, 4), inner, ["cond"])
        return SPLIT

    with outer.engine.run(STEPS):
        assert torch.equal(outer.sample(within), expected)
    assert len(outer.net.seen) == 2 * 5 + 5


def test_a_new_size_in_mid_run_makes_the_call_full() -> None:
    one = host(HALF)
    with one.engine.run(STEPS):
        for t in STEPS:
            side = 8 if t > 500 else 12
            assert one.forward(tiny.noise(1, 4, side, side), t, ["cond"]).shape[-1] == side
    assert one.net.seen == [950, 750, 550, 450, 350, 250, 50]


def test_tiles_and_repeated_levels_are_streams_of_their_own() -> None:
    tiles = [tiny.noise(1, 4, 8, 8, seed=s) for s in (1, 2, 3)]
    one = host(HALF)
    with one.engine.run(STEPS):
        for t in STEPS:
            for x in tiles:
                found = one.forward(x, t, ["cond"])
                error = (found - torch.tanh(0.7 * x + t / 1000 + SHIFT["cond"])).abs().max()
                assert error < (0.11 if t > 800 else 0.04)  # the first gap knows one value only
    assert one.net.seen == [t for t in HALF_RUNS for _ in tiles]
    assert one.engine.report.calls == 10


def test_second_order_steps_follow_their_step_and_share_a_level_with_the_next() -> None:
    """Heun: the second stage of a step is at the level of the next step's first."""
    levels = [STEPS[0], *(t for t in STEPS[1:6] for _ in range(2))][:-1]
    one = host(CallSkip(every=2))
    one.engine.begin(levels, stages=2)
    for t in levels:
        one.forward(tiny.noise(1, 4, 8, 8), t, ["cond"])
    report = one.engine.end()
    assert one.net.seen == [950, 850, 750, 650, 550, 450][: len(one.net.seen)]
    assert report.calls == len(levels) == 10 and report.calls_run == len(one.net.seen) == 6


def test_cancelled_in_the_network_the_next_run_is_as_if_nothing_had_been() -> None:
    one, stop = host(HALF), {"at": 550.0}

    def cancel(t: float) -> None:
        if t == stop.get("at"):
            raise KeyboardInterrupt

    with one.engine.run(STEPS):
        expected = one.sample(lambda t: SPLIT)
    one.net.on_forward = cancel
    with pytest.raises(KeyboardInterrupt), one.engine.run(STEPS):
        one.sample(lambda t: SPLIT)
    assert one.engine.running is None
    stop.clear()
    one.net.seen.clear()
    with one.engine.run(STEPS):
        assert torch.equal(one.sample(lambda t: SPLIT), expected)
    assert len(one.net.seen) == 10


def test_an_unexpected_error_in_a_forecast_runs_the_rest_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    one, dense = host(HALF), host(CallSkip(speedup=1.0))

    def fault(*args: Any) -> Tensor:
        raise ZeroDivisionError("in a test")

    with one.engine.run(STEPS):
        x = y = tiny.noise(1, 4, 8, 8)
        for t in STEPS:
            if t == 650.0:
                monkeypatch.setattr(history_module, "weighted", fault)
            x = x + 0.1 * one.forward(x, t, ["cond"])
            y = y + 0.1 * dense.forward(y, t, ["cond"])
    report = one.engine.report
    assert one.net.seen == [950.0, 750.0, 650.0, 550.0, 450.0, 350.0, 250.0, 150.0, 50.0]
    assert (x - y).norm() < 0.01 * y.norm()
    assert report.calls == 10 and report.calls_forecast == 1
    assert any("rest of the run was not accelerated: ZeroDivisionError: in a test" in note for note in report.notes)


@pytest.mark.parametrize("rule", ["easycache", "seacache"])
@pytest.mark.parametrize("layout", ["batched", "split"])
def test_a_gate_runs_by_how_much_the_input_changed(layout: str, rule: str) -> None:
    runs = {}
    for threshold in (0.0, 0.1, 0.3, 10.0):
        one = host(CallSkip(rule=rule, threshold=threshold, predictor="hold", space="difference"))
        with one.engine.run(STEPS):
            one.sample(LAYOUTS[layout][0])
        runs[threshold] = len(set(one.net.seen))
        assert len(one.net.seen) == runs[threshold] * (2 if layout == "split" else 1)
    assert runs[0.0] == 10 and 10 > runs[0.1] > runs[0.3] > runs[10.0]
    assert runs[10.0] == (3 if rule == "easycache" else 2), (
        "EasyCache needs two calls to know how outputs follow inputs"
    )


def test_seacaches_gate_without_noise_levels_runs_all_and_says_so() -> None:
    one, x = host(CallSkip(rule="seacache")), tiny.noise(1, 4, 8, 8)
    with one.engine.run(STEPS):
        for t in STEPS:
            described = Call(t, (8, 8), (Stream("cond", 1),), input=x)
            one.engine.forward(lambda now=described: now, lambda t=t: one.net(x, t, torch.zeros(1, 1)))
    assert one.net.seen == list(STEPS)
    assert list(one.engine.report.declined) == ["seacache needs the noise levels, which are not known here"]


def test_the_gate_goes_on_after_a_change_of_size() -> None:
    one = host(CallSkip(rule="easycache", threshold=0.05, predictor="hold", space="raw"))
    with one.engine.run(STEPS):
        x = tiny.noise(1, 4, 8, 8)
        for t in STEPS:
            x = tiny.noise(1, 4, 12, 12) if t == 650.0 else x
            x = x + 0.3 * one.forward(x, t, ["cond"])
    after = [t for t in one.net.seen if t < 650.0]
    assert len([t for t in after if t > 50.0]) >= 2


# On a model


def test_with_merging_and_a_block_rule_parts_count_only_the_calls_that_run() -> None:
    case = tiny.dit()
    merge, skip = TokenMerge(threshold=0.5, bucket=1, checkpoints=(0, 2)), BlockSkip(rule="interval", every=2)
    with accelerate(case.model, Recipe.of([HALF, merge, skip])) as handle:
        handle.begin(STEPS)
        case.sample(STEPS)
        report = handle.end()
    assert (report.calls, report.calls_run, report.planned) == (10, 5, True)
    assert report.blocks_run + report.blocks_reused + report.blocks_dead == 5 * 4
    assert report.blocks_run == 3 * 4  # calls 0, 2 and 4 of the five
    assert {c for layer in report.layers.values() for c in layer.kept_by_call} == {0, 2, 4}
    with accelerate(case.model, Recipe.of([merge, skip])) as handle:
        handle.begin(HALF_RUNS)
        case.sample(HALF_RUNS)
        alone = handle.end()
    assert report.layers == alone.layers and report.headline() == f"{report.lines()[0]}; {alone.headline()}"


def test_off_on_off_leaves_nothing_and_copies_are_plain() -> None:
    case = tiny.dit()
    before, dense = tiny.snapshot(case.model), case.sample(STEPS)
    with accelerate(case.model, CallSkip(every=2)) as handle:
        picture = case.sample(STEPS)
        copies = [copy.deepcopy(case.model), pickle.loads(pickle.dumps(case.model))]
        assert handle.report().calls_forecast == 5
    assert not torch.equal(picture, dense) and tiny.snapshot(case.model) == before
    for twin in copies:
        case.model = twin
        assert not tiny.overridden(twin) and torch.equal(case.sample(STEPS), dense)


def test_with_gradients_every_call_runs_and_they_flow() -> None:
    case = tiny.dit()
    with accelerate(case.model, CallSkip(every=2)) as handle:
        for t in STEPS:
            x = case.latent().requires_grad_()
            case.call(case.model, x, torch.full((2,), t), case.cond()).sum().backward()
            assert x.grad is not None and x.grad.abs().sum() > 0
        report = handle.report()
    assert report.calls_forecast == 0 and any("gradients are enabled" in reason for reason in report.declined)


def test_the_values_kept_die_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[weakref.ref[History]] = []
    plain = History.__init__

    def init(self: History, *args: Any) -> None:
        kept.append(weakref.ref(self))
        plain(self, *args)

    monkeypatch.setattr(History, "__init__", init)
    case = tiny.dit()
    with accelerate(case.model, CallSkip(every=2)) as handle:
        handle.begin(STEPS)
        case.sample(STEPS)
        assert kept and any(ref() is not None for ref in kept)
        handle.end()
        gc.collect()
        assert all(ref() is None for ref in kept)


def test_threads_draw_their_own_pictures_on_one_network() -> None:
    case, meet = tiny.dit(), Barrier(2)
    latents, conds = [case.latent(seed=s) for s in (1, 2)], case.cond()
    with accelerate(case.model, CallSkip(every=2)) as handle:
        alone = [case.sample(STEPS, x, conds) for x in latents]
        together: dict[int, tuple[Tensor, int]] = {}

        def draw(n: int) -> None:
            meet.wait()
            together[n] = case.sample(STEPS, latents[n], conds), handle.report().calls_forecast
            handle.end()

        threads = [Thread(target=draw, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for n in range(2):
        picture, skipped = together[n]
        assert torch.equal(picture, alone[n]) and skipped == 5


def test_a_model_whose_inside_is_read_runs_at_every_step() -> None:
    case, seen = tiny.dit(), []
    block = case.model.transformer_blocks[0]  # type: ignore[union-attr,index]
    hook = block.register_forward_hook(lambda m, args, out: seen.append(out))
    with accelerate(case.model, CallSkip(every=2)) as handle:
        case.sample(STEPS)
        report = handle.report()
    hook.remove()
    assert len(seen) == 10 and report.calls_forecast == 0
    (reason,) = report.declined
    assert "<lambda> reads what the model computes inside" in reason and len(reason) < 300


def test_without_skipped_calls_no_override_is_needed() -> None:
    case = tiny.dit()
    before = tiny.snapshot(case.model)
    for neutral in (CallSkip(speedup=1.0), CallSkip(every=1), CallSkip(rule="easycache", threshold=0.0)):
        with accelerate(case.model, neutral):
            assert tiny.snapshot(case.model) == before
