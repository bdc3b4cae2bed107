"""How proposals of a profile are compared: early losers on few noises, the best on all, and chance does not win."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from skipstone.core.calibrate import judging
from skipstone.core.calibrate.judging import Chosen, choose
from skipstone.core.calibrate.proposals import Proposal

FIRST = Proposal((0, 4, 8, 11), "eps")
KEYS = [(0, k, 8, 11) for k in (1, 2, 3, 5, 6, 7)]


def chosen(monkeypatch: pytest.MonkeyPatch, better: Sequence[float], spread: float, noises: int = 12) -> Chosen:
    """Of the first proposal and others that have so many times its error, with noise of their own on each."""

    def errors(
        _: Any, proposal: Proposal, seeds: Sequence[int], *more: Any
    ) -> tuple[tuple[float, ...], tuple[float, ...]]:
        factor = 1.0 if proposal is FIRST else better[KEYS.index(proposal.keys)]
        own = [np.random.default_rng((seed, *proposal.keys)).normal() * spread for seed in seeds]
        found = [0.02 * factor * np.exp(noise) for noise in ([0.0] * len(own) if proposal is FIRST else own)]
        return tuple(found), (0.0,) * 3

    monkeypatch.setattr(judging, "_errors", errors)
    tried = [FIRST, *(Proposal(keys, "eps") for keys in KEYS[: len(better)])]
    return choose(None, tried, range(noises), range(100, 109), lambda seeds: None)  # type: ignore[arg-type, return-value]


def test_what_is_surely_better_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, [1.2, 0.5, 1.1], spread=0.1)
    assert found.plan.keys == KEYS[1] and len(found.plan.errors) == 9


def test_auto_s_own_choice_stands_where_another_is_better_by_chance_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, [0.97], spread=0.5)
    own, other = found.finals
    assert own.proposal is FIRST and found.plan.keys == FIRST.keys and other.score < own.score


def test_all_run_on_a_third_of_the_noises_and_the_best_and_the_first_one_on_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = chosen(monkeypatch, [0.5, 0.6, 0.7, 0.8, 0.9, 0.95], spread=0.0)
    assert [one.proposal.keys for one in found.finals] == [KEYS[0], KEYS[1], KEYS[2], KEYS[3], FIRST.keys]
    assert {len(one.errors) for one in found.finals} == {12} and {len(one.errors) for one in found.early} == {4}
    assert [one.proposal.keys for one in found.early] == KEYS[4:]


def test_with_one_noise_the_lower_error_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, [0.99], spread=0.0, noises=1).plan.keys == KEYS[0]
