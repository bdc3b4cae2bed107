"""`skipstone profile` and `skipstone plan`: a small model is measured, and its plans are printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from skipstone.cli import main as cli
from skipstone.cli import profile as command
from skipstone.cli.profile import MakeProfile, Plan, make_profile, show_plan
from skipstone.core.errors import RecipeError
from skipstone.core.forecast.profile import Profile


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
        (["profile", "demo", "--speedups", "0.5"], "--speedups must be above 1"),
        (["plan", "nowhere.safetensors"], "cannot use profile 'nowhere.safetensors'"),
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert line in capsys.readouterr().err
