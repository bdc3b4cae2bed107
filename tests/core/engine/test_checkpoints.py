"""Checkpoints on real models: when pairs are searched, when they are reused, and that the report says so."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.engine.merge import PairsFound
from skipstone.core.engine.pair_store import PairStore
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

STEPS = [999.0 - 111.0 * k for k in range(10)]
EVERY = {"threshold": 0.5, "bucket": 1}


@pytest.fixture(params=["diffusers", "dit"])
def case(request: pytest.FixtureRequest) -> tiny.Case:
    """A U-Net and a transformer: when pairs are searched is the same in all families."""
    return tiny.BUILDERS[request.param]()


def run(
    case: tiny.Case, merge: TokenMerge, steps: list[float] = STEPS, planned: bool = True
) -> tuple[Tensor, Any, list]:
    """Result, report and what was searched."""
    found: list[PairsFound] = []
    with accelerate(case.model, merge, observer=found.append) as handle:
        handle.begin(steps if planned else None)
        return case.sample(steps), handle.end(), found


def test_every_checkpoint_is_the_same_as_no_cache(case: tiny.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, report, _ = run(case, TokenMerge(**EVERY, checkpoints="every"))
    assert (report.searched, report.reused) == (len(STEPS) * report.served, 0)

    class NoMemory(dict):
        """Forgets all it is given."""

        def __setitem__(self, *_: Any) -> None: ...

        def get(self, *_: Any) -> None: ...

    plain = PairStore.__init__

    def forgetful(self: Any) -> None:
        plain(self)
        self._stored = NoMemory()

    monkeypatch.setattr(PairStore, "__init__", forgetful)
    uncached, _, _ = run(case, TokenMerge(**EVERY, checkpoints="every"))
    assert torch.equal(cached, uncached)


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "unplanned"])
def test_only_the_first_call_searches_when_the_list_says_so(case: tiny.Case, planned: bool) -> None:
    searches = []
    _, report, found = run(case, TokenMerge(**EVERY, checkpoints=(0,)), planned=planned)
    searches = [(f.layer, f.call) for f in found]
    assert sorted(searches) == sorted((name, 0) for name in report.layers)
    assert report.searched == report.served
    assert report.reused == report.served * (len(STEPS) - 1)
    for layer in report.layers.values():
        assert len(set(layer.kept_by_call.values())) == 1
        assert list(layer.kept_by_call) == list(range(len(STEPS)))


@pytest.mark.parametrize("checkpoints", [(0, 4, 7), "config_3", "config_five", (3,), (0, 49, 50, 51)], ids=str)
def test_searches_happen_at_the_planned_calls(case: tiny.Case, checkpoints: Any) -> None:
    merge = TokenMerge(**EVERY, checkpoints=checkpoints)
    _, report, found = run(case, merge)
    expected = {
        "(0, 4, 7)": {0, 1},
        "config_3": {0, 1, 2, 4, 5, 6, 8, 9},
        "config_five": set(range(10)),
        "(3,)": {0, 1},
        "(0, 49, 50, 51)": {0, 9},
    }[str(checkpoints)]
    assert {f.call for f in found} == expected
    assert report.searched == len(expected) * report.served
    assert report.searched + report.reused == len(STEPS) * report.served


def test_reused_pairs_merge_the_same_tokens_of_new_values(case: tiny.Case) -> None:
    """Between checkpoints the pairs are those of the checkpoint, the mean is of the present values."""
    _, _, every = run(case, TokenMerge(**EVERY, checkpoints="every"))
    cached, _, once = run(case, TokenMerge(**EVERY, checkpoints=(0,)))
    searched, _, _ = run(case, TokenMerge(**EVERY, checkpoints="every"))
    assert not torch.equal(cached, searched)
    first = {f.layer: f.pairs.partner for f in every if f.call == 0}
    assert all(torch.equal(first[f.layer], f.pairs.partner) for f in once)


def test_absolute_lists_and_counting_from_one(case: tiny.Case) -> None:
    for fields, calls in (({}, {0, 4, 7}), ({"index_base": 1}, {0, 3, 6})):
        _, report, found = run(case, TokenMerge(**EVERY, checkpoints=(0, 4, 7, 12), absolute=True, **fields))
        assert {f.call for f in found} == calls
        (note,) = report.notes
        assert "dropped" in note and str(12 - len(fields)) in note


def test_entries_past_the_papers_run_are_told(case: tiny.Case) -> None:
    _, report, _ = run(case, TokenMerge(**EVERY, checkpoints="config_adaptive"))
    assert report.notes == ["checkpoints 51 lie past the last call and were dropped"]
    assert "51" in report.summary()


def test_image_to_image_searches_where_the_full_run_would(case: tiny.Case) -> None:
    steps = [t for t in (999.0 - 19.98 * k for k in range(51)) if t <= 500]
    _, _, found = run(case, TokenMerge(**EVERY, checkpoints="config_3"), steps)
    assert sorted({f.call for f in found}) == [0, 5, 10, 20, 21, 22, 23, 24]


def test_a_restart_searches_anew(case: tiny.Case) -> None:
    steps = [900.0, 600.0, 300.0, 700.0, 400.0, 100.0]
    _, report, found = run(case, TokenMerge(**EVERY, checkpoints=(0,)), steps, planned=False)
    assert {f.call for f in found} == {0, 3}
    assert report.calls == 6


def test_leaving_the_plan_searches_anew_and_goes_on_unplanned(case: tiny.Case) -> None:
    found: list[PairsFound] = []
    with accelerate(case.model, TokenMerge(**EVERY, checkpoints=(0,)), observer=found.append) as handle:
        handle.begin([900.0, 700.0, 500.0, 300.0])
        case.sample([900.0, 800.0, 700.0, 500.0])
        report = handle.end()
    assert {f.call for f in found} == {0, 1}
    assert not report.planned


def test_a_checkpoint_outside_the_window_is_made_up_for_inside(case: tiny.Case) -> None:
    merge = TokenMerge(**EVERY, checkpoints=(0, 10), start=0.5)
    _, report, found = run(case, merge)
    assert {f.call for f in found} == {5}
    assert {k for layer in report.layers.values() for k in layer.kept_by_call} == {5, 6, 7, 8, 9}


def test_random_destinations_change_at_checkpoints_only(case: tiny.Case) -> None:
    x, cond = case.latent(), case.cond()
    found: list[PairsFound] = []
    merge = TokenMerge(threshold=-1, bucket=1, checkpoints=(0, 2), absolute=True, destination="random")
    with accelerate(case.model, merge, observer=found.append) as handle:
        handle.begin([900.0, 700.0, 500.0, 300.0])
        for t in (900.0, 700.0, 500.0, 300.0):
            case(x, t, cond)
    destinations: dict[str, list[list[int]]] = {}
    for f in found:
        alone = [i for i, p in enumerate(f.pairs.partner[0].tolist()) if p == i]
        destinations.setdefault(f.layer, []).append(alone)
    assert all(len(d) == 2 and d[0] != d[1] for d in destinations.values())
    assert len({str(d[0]) for d in destinations.values()}) == len(destinations)


@pytest.mark.parametrize("case", tiny.BUILDERS, indirect=True)
def test_conditionings_joined_anew_at_each_call_keep_their_pairs(case: tiny.Case) -> None:
    """ldm's and k-diffusion's guidance concatenate the conds at every call."""
    found: list[PairsFound] = []
    with accelerate(case.model, TokenMerge(**EVERY, checkpoints=(0,)), observer=found.append) as handle:
        for t in STEPS[:5]:
            case(case.latent(), t, case.cond().clone())
        assert handle.report().calls == 5
    assert {f.call for f in found} == {0}
