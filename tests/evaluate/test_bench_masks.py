"""`skipstone bench masks`: its rows, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny

from skipstone.core.calibrate.masks.subject import prepare
from skipstone.core.errors import MaskError, RecipeError
from skipstone.core.evaluate import bench_masks
from skipstone.core.evaluate.bench_masks import MaskBench, run_mask_bench
from skipstone.core.pipelines.denoisers import denoiser_of

QUICK = {"model": "tiny", "steps": 6, "noises": 2, "targets": (0.8, 0.55)}


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_masks, "load_pipeline", lambda model: tiny.dit_pipeline())


def made(tmp_path: Path, steps: int = 6, share: float = 0.5) -> Path:
    subject = prepare(denoiser_of(tiny.dit_pipeline(), steps))
    run = np.ones(subject.shape, dtype=bool)
    run[1 : 1 + round(steps * (1 - share))] = False
    subject.mask(run).save(tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_a_trained_mask_stands_beside_its_peers_at_its_budget(tmp_path: Path) -> None:
    options = MaskBench(**QUICK, files=(made(tmp_path),), out=tmp_path / "b.json")  # type: ignore[arg-type]
    result = run_mask_bench(options, lambda line: None)
    names = [(row["target"], row["name"]) for row in result["rows"]]
    assert (0.55, "mine") in names and (0.8, "mine") not in names
    assert {n for t, n in names if t == 0.55} == {
        "interval", "interval, forecast", "feature variation", "feature variation, forecast", "mine", "dense, 4 steps"
    }  # fmt: skip
    assert all(
        row["share"] <= row["target"] + 1e-9
        for row in result["rows"]
        if row["name"] not in ("mine", "dense, 4 steps", "dense, 5 steps")
    )
    assert all(row["rel_l2"] > 0 for row in result["rows"])
    assert json.loads((tmp_path / "b.json").read_text())["rows"] == json.loads(json.dumps(result["rows"]))


def test_what_does_not_compare_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MaskError, match="--steps 6"):
        run_mask_bench(MaskBench(**QUICK, files=(made(tmp_path, steps=8),), out=tmp_path / "b.json"))  # type: ignore[arg-type]
    with pytest.raises(MaskError, match="near none"):
        run_mask_bench(MaskBench(**{**QUICK, "targets": (0.9,)}, files=(made(tmp_path),), out=tmp_path / "b.json"))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="targets"):
        run_mask_bench(MaskBench(targets=(1.5,)))
