"""`skipstone bench calls`: its ways draw the same noises, and its figures belong together."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from diffusers import DDIMScheduler

from skipstone.core.calibrate.profiling import dense, profile, with_plans
from skipstone.core.errors import RecipeError
from skipstone.core.forecast.profile import HeldOut
from skipstone.lab.bench import calls as bench
from skipstone.lab.bench.call_tables import verdict
from skipstone.lab.bench.calls import CORRECTED, FEWER, LINE, PEERS, CallBench, measure, run_call_bench
from skipstone.lab.bench.promise import coverage, interval
from skipstone.lab.bench.same_noise import noise_of, noises_for, spans
from skipstone.lab.bench.skipped_call import timed
from skipstone.pipelines import samplers
from skipstone.pipelines.denoiser import denoiser_of
from skipstone.pipelines.samplers import set_sampler


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a tiny DiT."""
    out = tmp_path_factory.mktemp("bench") / "calls.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "load_model", lambda *given: tiny.dit_pipeline())
        options = CallBench(
            model="tiny", steps=10, calls=(5,), samplers=("ddim",), guidance=(1.0,), noises=2, peers=True, out=out
        )
        return run_call_bench(options, lambda line: None)


def test_every_way_is_measured_beside_fewer_steps(result: dict[str, Any]) -> None:
    names = [row["name"] for row in result["rows"]]
    assert names == [FEWER, LINE, CORRECTED, *PEERS, "Spectrum"]
    fewer = result["rows"][0]
    assert fewer["ratio"] == fewer["low"] == fewer["high"] == 1
    for row in result["rows"]:
        assert row["low"] <= row["ratio"] <= row["high"] and row["calls"] == 5
        assert row["ratio"] == pytest.approx(row["geometric"] / fewer["geometric"])


def test_its_tables_can_be_shown_again(result: dict[str, Any], tmp_path: Path) -> None:
    from skipstone.core.files import write_json

    write_json(tmp_path / "calls.json", result)
    page = tmp_path / "page.md"
    page.write_text("<!-- bench calls tiny, 20 steps -->\n<!-- end of bench calls tiny, 20 steps -->\n")
    run_call_bench(CallBench(model="tiny", load=tmp_path / "calls.json", markdown=page), lambda line: None)
    assert LINE in page.read_text()


@pytest.mark.parametrize(
    ("options", "line"),
    [({"calls": (20,)}, "--calls between 2 and 19"), ({"samplers": ("eulr",)}, "no sampler 'eulr'")],
)
def test_mistakes_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        CallBench(**options).check()


def test_a_sampler_without_its_package_is_named_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samplers, "find_spec", lambda name: None if name == "scipy" else object())
    assert measure(CallBench(samplers=("lms",)), print, "")["absent"] == ["lms (needs scipy)"]
    with pytest.raises(RecipeError, match="the sampler lms needs scipy: pip install scipy"):
        set_sampler(SimpleNamespace(scheduler=DDIMScheduler()), "lms")


def test_one_line_per_sampler_shows_its_verdict(result: dict[str, Any], tmp_path: Path) -> None:
    from skipstone.core.files import write_json

    write_json(tmp_path / "calls.json", result)
    page = tmp_path / "page.md"
    page.write_text("<!-- bench calls contracts -->\n<!-- end of bench calls contracts -->\n")
    options = CallBench(load=tmp_path / "calls.json", markdown=page, brief=True, section="contracts")
    run_call_bench(options, lambda line: None)
    (line,) = [line for line in page.read_text().splitlines() if line.startswith("| ddim")]
    assert line.count("|") == 4 and any(word in line for word in ("better", "level", "worse"))


def test_a_verdict_counts_by_the_intervals() -> None:
    rows = [{"low": low, "high": high} for low, high in ((0.4, 0.9), (0.9, 1.1), (1.1, 1.3), (0.2, 0.3))]
    assert verdict(rows) == "2 better, 1 level, 1 worse"


def test_the_promise_is_checked_on_fresh_noises_plan_by_plan() -> None:
    denoiser = denoiser_of(tiny.dit_pipeline(), 10, 1.0)
    keys = (0, 2, 5, 7, 9)
    never, always = ((error,) * 19 for error in (0.0, 9.0))
    plans = [HeldOut(keys, "eps", "line", errors, (bound,) * 4) for errors, bound in ((never, 0.0), (always, 9.0))]
    first, second = coverage(with_plans(profile(denoiser, range(2)), plans), denoiser, noises=6)
    assert first["covered"] == [0.0, 0.0, 0.0] and first["guard"] == 1.0
    assert second["covered"] == [1.0, 1.0, 1.0] and second["guard"] == 0.0
    assert second["promised"] == [9.0, 9.0, 9.0] and second["turned"][0] == 1.0


def test_the_interval_of_a_share_narrows_with_more_noises() -> None:
    few, many = interval(0.9, 32), interval(0.9, 512)
    assert few[0] < many[0] < 0.9 < many[1] < few[1] <= 1


def test_fewer_steps_add_the_noise_of_the_steps_that_they_take_the_place_of() -> None:
    many, few = (_ancestral(steps) for steps in (8, 4))
    fine, coarse = noises_for(many, many, [3, 4]), noises_for(many, few, [3, 4])
    assert [float(noise.var()) for noise in coarse] == pytest.approx([1.0] * 4, abs=0.15)
    shares = [[float((own * noise).mean()) for own in fine] for noise in coarse]
    for own, part in zip(shares[:-1], spans(many.timesteps, few.timesteps)[:-1], strict=True):
        assert max(own) == own[part[-1]] > 0.5, "the last step's decays least"
        assert all(abs(share) < 0.15 for i, share in enumerate(own) if i not in part)


def test_only_while_it_is_asked_for_and_for_equal_steps_the_noise_is_their_own() -> None:
    many, few = (_ancestral(steps) for steps in (4, 2))
    alone, reference = dense(few, [3, 4])[0], dense(many, [3, 4])[0]
    with noise_of(many, many, [3, 4]):
        assert torch.equal(dense(many, [3, 4])[0], reference)
    with noise_of(many, few, [3, 4]):
        assert not torch.equal(dense(few, [3, 4])[0], alone)
    assert torch.equal(dense(few, [3, 4])[0], alone)


def _ancestral(steps: int) -> Any:
    pipe = tiny.dit_pipeline()
    set_sampler(pipe, "euler_a")
    return denoiser_of(pipe, steps, 1.0)


def test_each_step_of_the_longer_run_lies_in_one_of_the_shorter() -> None:
    many = [1000 - 50 * k for k in range(20)]
    parts = spans(many, [1000 - 143 * k for k in range(7)])
    assert [i for part in parts for i in part] == list(range(20)) and all(parts)


def test_forwards_are_timed_above_what_is_installed_and_nothing_is_left() -> None:
    network, ticks = torch.nn.Identity(), iter((1.0, 3.0, 10.0, 10.5))
    network.__dict__["forward"] = installed = lambda x: x + 1
    with timed(network, lambda: next(ticks)) as took:
        assert (network(1), network(2)) == (2, 3)
    assert took == [2.0, 0.5] and vars(network)["forward"] is installed
