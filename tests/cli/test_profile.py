"""`skipstone profile` and `skipstone plan`: a small model is measured, and its plans are printed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from skipstone.cli import main as cli
from skipstone.cli import profile as command
from skipstone.cli.plan import Plan, show_plan
from skipstone.cli.profile import MakeProfile, make_profile
from skipstone.core.calibrate import judging
from skipstone.core.calibrate.judging import Judged
from skipstone.core.errors import ProfileError, RecipeError
from skipstone.core.forecast.profile import Profile
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A profile of a tiny DiT for 10 steps, and what was said."""
    out, said = tmp_path_factory.mktemp("profile") / "p.safetensors", list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "load_model", lambda *given: tiny.dit_pipeline())
        options = MakeProfile(
            "tiny", steps=10, guidance=1.0, speedups=(2.0,), samples=2, choosing=2, promised=9, out=out
        )
        make_profile(options, said.append)
    return out, said


def test_it_chooses_calls_and_measures_them_on_other_noises(made: tuple[Path, list[str]]) -> None:
    out, said = made
    known = Profile.load(out)
    (plan,) = known.plans
    assert len(plan.keys) == 5 and len(plan.errors) == 9 and known.steps == 10
    assert any(line.startswith("5 of 10 steps (2.00x)") for line in said)
    assert any("lost: " in line for line in said), "losers are shown"
    assert known.sensitivity is not None and known.sensitivity.shape == (10,) and known.sensitivity.min() > 0
    assert any("shortest path by sensitivity" in line for line in said)


def test_single_steps_are_moved_where_that_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge likes late steps: the first stays, the others move to the end."""
    monkeypatch.setattr(command, "load_model", lambda *given: tiny.dit_pipeline())
    monkeypatch.setattr(judging, "judge", lambda _, tried, *more: Judged(tried, (1 / sum(tried.keys),)))
    monkeypatch.setattr(judging, "_further", lambda _, one, *more: one)
    quick = MakeProfile("tiny", 10, 1.0, speedups=(2.5,), samples=1, sensitivity=0, choosing=2, refine=True, promised=9)
    make_profile(replace(quick, out=tmp_path / "p.safetensors"), (said := list[str]()).append)
    (plan,) = Profile.load(tmp_path / "p.safetensors").plans
    assert plan.keys == (0, 7, 8, 9) and plan.name.endswith(", moved") and plan.name.count("moved") == 1
    assert any(line.strip().startswith("single steps moved: ") for line in said)


def test_a_profile_is_extended_by_further_speed_ups(
    made: tuple[Path, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dense runs and other plans stay, and a plan for the same number of calls is measured again."""
    monkeypatch.setattr(command, "load_model", lambda *given: tiny.dit_pipeline())
    monkeypatch.setattr(command, "profile", None)  # nothing is recorded
    known, out = Profile.load(made[0]), tmp_path / "p.safetensors"
    others = tuple(replace(known.plans[0], keys=keys, one_call=()) for keys in ((0, 9), (0, 3, 9)))
    replace(known, plans=(*known.plans, *others)).save(out)
    again = MakeProfile("tiny", 10, 1.0, speedups=(3.3,), choosing=2, promised=9, extend=True, out=out)
    make_profile(again, (said := list[str]()).append)
    found = Profile.load(out)
    assert [len(plan.keys) for plan in found.plans] == [5, 2, 3] and found.plans[-1].one_call
    assert found.gram.tolist() == known.gram.tolist() and not any("recorded" in line for line in said)
    stopped = iter([command._Judging.best])

    def best(judging: command._Judging, tried: object) -> object:
        return next(stopped)(judging, tried)  # type: ignore[arg-type]

    monkeypatch.setattr(command._Judging, "best", best)
    with pytest.raises(StopIteration):
        make_profile(replace(again, speedups=(3.3, 5.0)), said.append)
    assert [len(plan.keys) for plan in Profile.load(out).plans] == [5, 2, 3], (
        "what was not measured again is still there"
    )
    with pytest.raises(ProfileError, match=r"is of 10 steps of DDIMScheduler with guidance 1: give these"):
        make_profile(replace(again, guidance=2.0), said.append)


def test_methods_beside_are_kept_where_they_measure_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other run of the blocks is left out, so more steps run for the same cost; the judge is fixed."""
    Recipe.of([BlockSkip(rule="interval", every=2)]).save(tmp_path / "blocks.json")
    Recipe.of([TokenMerge(threshold=1.0)]).save(tmp_path / "nothing.json")
    monkeypatch.setattr(command, "load_model", lambda *given: tiny.dit_pipeline())
    given = tuple(str(tmp_path / name) for name in ("blocks.json", "nothing.json"))
    quick = MakeProfile("tiny", 10, 1.0, speedups=(2.5,), beside=given, samples=1, choosing=2, promised=9)
    quick = replace(quick, out=tmp_path / "p.safetensors")
    for better in (True, False):
        monkeypatch.setattr(
            command, "judge", lambda _, tried, *more, e=better: Judged(tried, (1e-9 if e else 9.0,) * 2)
        )
        make_profile(quick, (said := list[str]()).append)
        alone, *joint = Profile.load(quick.out).plans
        assert len(alone.keys) == 4 and alone.beside == () and len(joint) == better
        for plan in joint:
            assert len(plan.keys) > 4 and plan.share <= 0.4 * 1.03 and len(plan.errors) == 9
            assert Recipe.of_plain(plan.beside).methods == (BlockSkip(rule="interval", every=2),)
        lost = [line for line in said if "lost: " in line and ".json" in line]
        assert "nothing.json at the steps that run saves less than another step costs" in lost[-1]
        assert len(lost) == 1 + (not better)


def test_a_plan_is_printed_with_its_promise_and_drawn(made: tuple[Path, list[str]], tmp_path: Path) -> None:
    said: list[str] = []
    show_plan(Plan(made[0], speedup=2.0, png=tmp_path / "plan.png"), said.append)
    assert said[0].startswith("runs 5 of 10 steps: 0, ") and "90% of pictures stay under an error of" in said[2]
    assert (tmp_path / "plan.png").stat().st_size > 5000


def test_a_plan_for_an_error_that_cannot_be_met_is_refused(made: tuple[Path, list[str]]) -> None:
    with pytest.raises(RecipeError, match="cannot be met by this profile"):
        show_plan(Plan(made[0], max_error=1e-9))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["profile", "demo", "--steps", "8"], "8 steps are too few to forecast any"),
        (["profile", "demo", "--promised", "3"], "--promised 3 is too few"),
        (["profile", "demo", "--beside", "auto:fast"], "--beside auto:fast skips calls itself"),
        (["profile", "demo", "--speedups", "0.5"], "--speedups must be above 1"),
        (["plan", "nowhere.safetensors"], "cannot use profile 'nowhere.safetensors'"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert line in capsys.readouterr().err
