"""`skipstone bench calls`: its ways draw the same noises, and its figures belong together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny

from skipstone.core.errors import RecipeError
from skipstone.lab.bench import calls as bench
from skipstone.lab.bench.calls import FEWER, OURS, PEERS, CallBench, run_call_bench


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
    assert names == [FEWER, OURS, *PEERS, "Spectrum"]
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
    assert OURS in page.read_text()


@pytest.mark.parametrize(
    ("options", "line"),
    [({"calls": (20,)}, "--calls between 2 and 19"), ({"samplers": ("eulr",)}, "no sampler 'eulr'")],
)
def test_mistakes_are_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        CallBench(**options).check()
