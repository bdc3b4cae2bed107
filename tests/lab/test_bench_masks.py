"""`skipstone bench masks`: its rows, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image

from skipstone.core.calibrate.masks.masked_model import prepare
from skipstone.core.errors import MaskError, RecipeError
from skipstone.core.recipe.mask import Mask
from skipstone.lab.bench import mask_forms
from skipstone.lab.bench import masks as bench_masks
from skipstone.lab.bench.mask_quality import own_loss
from skipstone.lab.bench.masks import MaskBench, run_mask_bench
from skipstone.pipelines.denoiser import denoiser_of

QUICK = {"model": "tiny", "steps": 6, "noises": 2, "targets": (0.8, 0.55)}


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_masks, "load_model", lambda model, device: tiny.dit_pipeline())


def made(tmp_path: Path, steps: int = 6, share: float = 0.5) -> Path:
    model = prepare(denoiser_of(tiny.dit_pipeline(), steps))
    run = np.ones(model.shape, dtype=bool)
    run[1 : 1 + round(steps * (1 - share))] = False
    model.mask(run).save(tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_a_trained_mask_stands_beside_its_peers_at_its_budget(tmp_path: Path) -> None:
    options = MaskBench(**QUICK, files=(made(tmp_path),), out=tmp_path / "b.json")  # type: ignore[arg-type]
    result = run_mask_bench(options, lambda line: None)
    names = [(row["target"], row["name"]) for row in result["rows"]]
    assert (0.55, "mine") in names and (0.8, "mine") not in names
    rules = ("interval", "interval, last full", "feature variation")
    assert {n for t, n in names if t == 0.55} == {
        *rules, *(f"{rule}, forecast" for rule in rules), "mine", "dense, 3 steps", "dense, 4 steps",
    }  # fmt: skip
    assert all(
        row["share"] <= row["target"] + 0.01 + 1e-9
        for row in result["rows"]
        if row["name"] != "mine" and "dense" not in row["name"]
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
    with pytest.raises(RecipeError, match="no form of training is called 'papre'"):
        run_mask_bench(MaskBench(train=("papre",)))


def test_forms_are_trained_once_for_every_seed_and_shown_with_their_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mask_forms.FORMS, "search", {"passes": 1, "tries": 2, "refine_batch": 2, "profile_batch": 1})
    more = {"train": ("paper", "search"), "passes": 2, "batch": 1, "seeds": 2, "router": True, "targets": (0.8,)}
    options = MaskBench(**{**QUICK, **more}, masks=tmp_path / "m", out=tmp_path / "b.json", plot=tmp_path / "p.png")  # type: ignore[arg-type]
    result = run_mask_bench(options, lambda line: None)
    rows = {row["name"]: row for row in result["rows"]}
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        f"tiny-6-gown-{form}-80-{seed}.safetensors" for form in ("paper", "search") for seed in (0, 1)
    ]
    made = [Mask.load(tmp_path / "m" / f"tiny-6-gown-paper-80-{seed}.safetensors") for seed in (0, 1)]
    assert [m.provenance["seed"] for m in made] == [0, 1] and made[0].provenance["settings"]["batch"] == 1
    assert rows["trained: paper"]["seeds"] == rows["router"]["seeds"] == 2 and rows["interval"]["spread"] is None
    assert rows["trained: search, forecast"]["spread"]["rel_l2"] >= 0
    before, after = rows["trained: paper"]["rectified"]
    assert after <= before <= 0.8 + 1e-9 and before > 0.6
    assert min(Image.open(tmp_path / "p.png").size) > 300
    titles = [t.title for t in bench_masks.tables(result)]
    assert len(titles) == 2 and "before and after rectification" in titles[1]


def test_kept_masks_are_taken_unless_their_settings_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    train = mask_forms.train
    monkeypatch.setattr(mask_forms, "train", lambda d, s, **k: (trained.append(s.seed), train(d, s, **k))[1])
    denoiser = denoiser_of(tiny.dit_pipeline(), 6)
    for passes in (2, 2, 3):
        mask_forms.MaskTrainer(denoiser, "tiny", tmp_path, passes, 1).mask("paper", 0.8, 4)
    assert trained == [4, 4]


def test_the_own_loss_is_zero_where_all_runs_and_the_feature_loss_where_not() -> None:
    model = prepare(denoiser_of(tiny.dit_pipeline(), 4))
    run = np.ones(model.shape, dtype=bool)
    assert own_loss(model, run, [1, 2]) == 0.0
    run[2] = False
    assert own_loss(model, run, [1, 2]) > 1e-6
