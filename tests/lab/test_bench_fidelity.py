"""`skipstone bench fidelity`: every way starts from the dense run's noises, and fewer steps are the yardstick."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from PIL import Image

from skipstone.core.errors import RecipeError
from skipstone.core.measure.fidelity import frechet_distance, relative_error
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.lab.bench import fidelity as bench_fidelity
from skipstone.lab.bench import fidelity_tables
from skipstone.lab.bench.fidelity import FidelityBench, Painter, run_fidelity_bench
from skipstone.lab.bench.fidelity_tables import FIDELITY
from skipstone.lab.bench.fidelity_ways import FEWER, Way, ways

ROOT = Path(__file__).parents[2]
DRAWN = ("3 steps", "2 steps", "DeepCache 2", "CA-ToMe 0.7")


def few(*names: str) -> Any:
    """The ways of these names, and the user's files."""
    return lambda model, steps, files=(): [
        c for c in ways(model, steps, files) if c.name in names or c.group == "files"
    ]


@pytest.fixture(scope="module")
def made(narrow: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], FidelityBench]:
    """A small bench of the narrow U-Net, with files that merge nothing, fit another model, and have no call to act on."""
    folder = tmp_path_factory.mktemp("fidelity")
    Recipe(merge=TokenMerge(threshold=0.999999, absolute=True, checkpoints=(0,)), name="idle").save(
        folder / "idle.json"
    )
    Recipe(skip=BlockSkip(caching="branch")).save(folder / "branch.json")
    Recipe(skip=BlockSkip(every=2, end=0.01)).save(folder / "nothing.json")
    page = folder / "page.md"
    page.write_text("<!-- bench fidelity -->\n<!-- end of bench fidelity -->")
    options = FidelityBench(
        models=("unet",),
        files=(folder / "idle.json", folder / "branch.json", folder / "nothing.json"),
        steps=4,
        noises=2,
        seeds=(0, 1),
        rounds=0,
        weights=narrow["unet"],
        plot=folder / "plot.png",
        out=folder / "fidelity.json",
        markdown=page,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_fidelity, "ways", few(*DRAWN))
        return run_fidelity_bench(options, lambda line: None), options


def rows_of(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    (model,) = result["models"]
    return {row["name"]: row for row in model["rows"]}


def test_relative_error_is_the_mean_over_samples() -> None:
    dense = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    assert relative_error(dense + torch.tensor([[0.0, 5.0], [0.0, 0.0]]), dense) == pytest.approx(0.5)
    assert relative_error(dense, dense) == 0


def test_frechet_distance_is_that_of_two_normal_distributions() -> None:
    features = tiny.noise(4000, 2)
    features = (features - features.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(features.T))).T
    moved = features * torch.tensor([2.0, 1.0]) + torch.tensor([0.0, 3.0])
    assert frechet_distance(moved, features) == pytest.approx(9 + (2 - 1) ** 2, abs=1e-3)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-5)


def test_each_row_has_its_figures_for_each_seed(made: tuple[dict[str, Any], FidelityBench]) -> None:
    rows = rows_of(made[0])
    assert list(rows) == [*DRAWN, "idle"]
    for row in rows.values():
        assert [len(row[key]) for key in ("error", "psnr_db", "ssim", "frechet", "readable")] == [2] * 5
        assert row["times_faster"] is None
    assert rows["2 steps"]["error"][0] > rows["3 steps"]["error"][0] > rows["CA-ToMe 0.7"]["error"][0] > 0
    assert rows["2 steps"]["psnr_db"][0] < rows["3 steps"]["psnr_db"][0]
    assert rows["2 steps"]["error"][0] != rows["2 steps"]["error"][1]


def test_multiply_adds_are_counted(made: tuple[dict[str, Any], FidelityBench]) -> None:
    rows = rows_of(made[0])
    assert rows["3 steps"]["share"] == pytest.approx(3 / 4, abs=1e-3)
    assert 0.5 < rows["DeepCache 2"]["share"] < 0.75
    assert 0.7 < rows["CA-ToMe 0.7"]["share"] < 1


def test_what_does_nothing_differs_in_nothing(made: tuple[dict[str, Any], FidelityBench]) -> None:
    row = rows_of(made[0])["idle"]
    assert row["error"] == [0.0, 0.0] and row["psnr_db"] == [None, None]
    assert row["ssim"] == pytest.approx([1, 1])
    assert row["frechet"] == pytest.approx([0, 0], abs=1e-4)
    assert fidelity_tables._cells(row)[4] == "equal"


def test_a_file_that_does_not_fit_is_told_and_the_rest_is_drawn(made: tuple[dict[str, Any], FidelityBench]) -> None:
    misfit, idle = made[0]["absent"]
    assert misfit.startswith("branch on the unet: caching 'branch' is not possible")
    assert idle.startswith("nothing on the unet: ran 88 of 88 blocks")


def test_fewer_steps_stand_beside_by_interpolation() -> None:
    rows = [
        {"group": FEWER, "share": 0.5, "error": [0.1, 0.3]},
        {"group": FEWER, "share": 0.25, "error": [0.4]},
        {"group": "DeepCache", "share": 0.75, "error": [0.0]},
        {"group": "DeepCache", "share": 0.3, "error": [0.0]},
        {"group": "DeepCache", "share": 0.2, "error": [0.0]},
    ]
    found = [row["fewer_steps_error"] for row in bench_fidelity._beside_fewer_steps(rows)]
    assert found == [pytest.approx(0.2), pytest.approx(0.4), pytest.approx(0.1), pytest.approx(0.36), None]


def test_it_writes_json_a_plot_and_the_marked_section(made: tuple[dict[str, Any], FidelityBench]) -> None:
    result, options = made
    assert json.loads(options.out.read_text()) == json.loads(json.dumps(result))
    assert "Infinity" not in options.out.read_text() and "NaN" not in options.out.read_text()
    assert Image.open(options.plot).size[0] > 500
    assert options.markdown and "| DeepCache 2 | " in options.markdown.read_text()


def test_mean_and_spread_over_seeds() -> None:
    assert fidelity_tables._spread([1.0, 3.0], ".1f") == "2.0±1.4"
    assert fidelity_tables._spread([1.0], ".1f") == "1.0"


def test_times_can_be_taken_later(
    made: tuple[dict[str, Any], FidelityBench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, options = made
    monkeypatch.setattr(bench_fidelity, "ways", few(*DRAWN))
    later = replace(options, rounds=1, keep=options.out, out=tmp_path / "x.json", plot=tmp_path / "x.png")
    monkeypatch.setattr(bench_fidelity, "_compare", lambda *args: pytest.fail("drawn again"))
    timed = run_fidelity_bench(later, lambda line: None, "later")
    for name, row in rows_of(timed).items():
        before = rows_of(result)[name]
        assert {**row, "times_faster": None} == json.loads(json.dumps(before))
        assert row["times_faster"] > 0
    assert timed["timed"] and not result["timed"] and timed["machine"] == result["machine"]
    assert timed["command"].endswith("; later")
    with pytest.raises(RecipeError, match="made with --steps 4"):
        run_fidelity_bench(replace(later, steps=7))


def test_models_that_are_kept_are_not_drawn_again(
    made: tuple[dict[str, Any], FidelityBench], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, options = made
    monkeypatch.setattr(bench_fidelity, "_compare", lambda kind, *rest: {**result["models"][0], "model": kind})
    both = replace(options, models=("unet", "dit"), weights=None, keep=options.out)
    more = replace(both, out=tmp_path / "x.json", plot=tmp_path / "x.png")
    assert [m["model"] for m in run_fidelity_bench(more, lambda line: None)["models"]] == ["unet", "dit"]


def test_some_of_the_ways_run_on_each_model(narrow: dict[str, Path]) -> None:
    for model in FidelityBench.models:
        painter = Painter(model, FidelityBench(steps=8, weights=narrow[model]))
        dense = painter.draw(count=1)
        for way in ways(model, 8)[model == "unet" :: 6]:  # type: ignore[arg-type]
            drawn = painter.draw(way, count=1)
            assert drawn.shape == dense.shape and torch.isfinite(drawn).all(), way.name
        assert torch.equal(painter.draw(count=1), dense) and not torch.equal(painter.draw(seed=1, count=1), dense)
        assert not tiny.hooked(painter.pipe.network)


def test_names_are_unique_and_the_control_has_fewer_steps() -> None:
    for model, most in (("unet", 50), ("dit", 6)):
        names = [c.name for c in ways(model, most)]  # type: ignore[arg-type]
        assert len(set(names)) == len(names)
        steps = [c.steps for c in ways(model, most) if c.group == FEWER]  # type: ignore[arg-type]
        assert steps == sorted(set(steps), reverse=True) and max(steps) < most  # type: ignore[type-var]


def test_mask_files_and_recipe_files_become_contenders(tmp_path: Path) -> None:
    Recipe(skip=BlockSkip(every=7)).save(tmp_path / "seven.json")
    *_, recipe, mask = ways("unet", 10, (tmp_path / "seven.json", tmp_path / "trained.safetensors"))
    assert recipe == Way("seven", "files", Recipe(skip=BlockSkip(every=7)))
    assert mask.recipe and mask.recipe.skip == BlockSkip(mask=str(tmp_path / "trained.safetensors"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"noises": 1}, "2 or more"),
        ({"seeds": ()}, "must be a seed"),
        ({"weights": Path("x")}, "for one model"),
        ({"files": (Path("absent.json"),), "noises": 2, "seeds": (0,), "steps": 2, "models": ("unet",)}, "absent.json"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: dict[str, Any], line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        run_fidelity_bench(FidelityBench(**options), lambda line: None)


def test_the_documentation_has_a_place_for_the_tables() -> None:
    text = (ROOT / "docs" / "benchmarks" / "pictures.md").read_text(encoding="utf-8")
    begin, end = FIDELITY.markers
    assert text.count(begin) == 1 and text.index(begin) < text.index(end)


def test_the_flow_model_has_ways_and_a_sampler_of_its_own() -> None:
    names = [way.name for way in ways("flow", steps=4)]
    assert {"2 steps", "FORA 2, forecast", "pruned 50%", "CA-ToMe 0.9"} <= {*names} and len(names) == len({*names})
    model = {"model": "flow", "dense_macs": 4e9, "readable": [1.0], "rows": []}
    (table,) = FIDELITY.tables({"models": [model], "steps": 20, "noises": 4, "seeds": [0]})
    assert table.title.startswith(
        "the demo's flow model, 20 Euler steps with guidance, 4 noises x 1 seeds; dense: 1 GMAC"
    )
