"""`skipstone bench speed` draws with pipelines as they are: models have their real sizes, and each way runs what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights

import pipelines
from skipstone.core.errors import RecipeError
from skipstone.lab.bench import speed_models, speed_ways
from skipstone.lab.bench.speed import SpeedBench, measure, run_speed_bench
from skipstone.lab.bench.speed_models import Place, Whole, speed_model, weighted
from skipstone.lab.bench.speed_tables import tables

STEPS = 10
BILLIONS = {
    "sd15": 0.860, "sdxl": 2.567, "flux": 11.901, "qwen_image": 20.430, "z_image": 6.155, "wan_1.3b": 1.419,
    "wan_14b": 14.288,
}  # fmt: skip
"""Parameters of the released networks. SD3.5 Large takes seconds to make even without weights."""
TINY = {"sd15": pipelines.text_to_image, "qwen_image": pipelines.qwen_image, "z_image": pipelines.z_image}


@pytest.mark.parametrize("model", BILLIONS)
def test_models_have_the_size_of_the_released_ones(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(make: Any, place: Place) -> Any:
        with init_empty_weights(include_buffers=False):
            return make()

    monkeypatch.setattr(speed_models, "weighted", empty)
    whole = speed_model(model, Place("cpu", torch.bfloat16))
    assert sum(p.numel() for p in whole.network.parameters()) / 1e9 == pytest.approx(BILLIONS[model], abs=5e-4)


def test_weights_are_made_in_the_wanted_precision_and_draw_finite_pictures() -> None:
    tiny = pipelines.wan()
    network = weighted(
        lambda: type(tiny.pipe.transformer)(**tiny.pipe.transformer.config), Place("cpu", torch.bfloat16)
    )
    kinds = {p.dtype for p in network.parameters()}
    assert kinds == {torch.bfloat16, torch.float32} and network.blocks[0].scale_shift_table.dtype == torch.float32
    tiny.pipe.transformer = network
    assert tiny().isfinite().all()


def _tiny(model: str, place: Place) -> Whole:
    running = TINY[model]()
    return Whole(running.pipe, running.arguments, STEPS, "tiny")


@pytest.fixture(scope="module")
def found() -> Any:
    options = SpeedBench(models=tuple(TINY), device="cpu", dtype="float32", rounds=1, speedups=(1.5, 2.0))
    return measure(options, lambda line: None, "skipstone bench speed", _tiny)


@pytest.mark.parametrize("place", range(len(TINY)))
def test_auto_runs_as_many_steps_as_it_says_and_stands_beside_as_few(found: Any, place: int) -> None:
    rows = {row["way"]: row for row in found["models"][place]["rows"]}
    assert rows["dense"]["full"] == STEPS and rows["Auto 1.5x"]["full"] == 7 and rows["Auto 2x"]["full"] == 5
    assert rows["7 steps"]["steps"] == 7 and rows["5 steps"]["steps"] == 5
    assert rows["Auto 2x"]["cache_bytes"] > 0 and rows["dense"]["cache_bytes"] is None


def test_a_skipped_forward_is_a_few_operations(found: Any) -> None:
    for model in found["models"]:
        calls = model["calls"]
        assert calls["skipped"]["ops"] < 12 < 100 < calls["the network"]["ops"]


def test_packages_join_where_they_serve_the_network(found: Any) -> None:
    ways = {model["model"]: [row["way"] for row in model["rows"]] for model in found["models"]}
    assert "DeepCache, every 2" in ways["sd15"] and "diffusers TaylorSeer, every 2" in ways["qwen_image"]
    absent = {model["model"]: model["absent"] for model in found["models"]}
    assert absent["z_image"] and all(
        "enable_cache" in line for line in absent["z_image"]
    )  # diffusers has no hooks for it
    assert set(found["absent"]) == {f"z_image, {line}" for line in absent["z_image"]}


def test_a_fault_of_ours_is_no_line_in_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    monkeypatch.setattr(speed_ways, "accelerate", broken)
    with pytest.raises(RecursionError):
        measure(SpeedBench(models=("sd15",), device="cpu", rounds=1, peers=False), lambda line: None, make=_tiny)


def test_the_model_itself_is_left_as_it_was() -> None:
    whole = _tiny("sd15", Place("cpu", torch.float32))
    before = whole.draw(STEPS)
    measure(
        SpeedBench(models=("sd15",), device="cpu", rounds=1, speedups=(2.0,), peers=False),
        lambda line: None,
        make=lambda *_: whole,
    )
    assert torch.equal(whole.draw(STEPS), before) and "forward" not in vars(whole.network)


def test_a_model_that_does_not_fit_leaves_the_others_figures() -> None:
    def make(model: str, place: Place) -> Whole:
        if model == "flux":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 24 GiB")
        return _tiny(model, place)

    options, kept = (
        SpeedBench(models=("flux", "sd15"), device="cpu", rounds=1, speedups=(2.0,), peers=False),
        list[Any](),
    )
    figures = measure(options, lambda line: None, make=make, keep=lambda result: kept.append(len(result["models"])))
    assert [model["model"] for model in figures["models"]] == ["sd15"] and kept == [0, 1]
    assert figures["absent"] == ["flux (CUDA out of memory. Tried to allocate 24 GiB)"]


def test_figures_are_shown_again(found: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [table.title.split(",")[0] for table in tables(found)[:-1]] == list(TINY)
    page = tmp_path / "page.md"
    page.write_text("<!-- bench speed -->\n<!-- end of bench speed -->\n")
    from skipstone.core.files import write_json

    write_json(tmp_path / "speed.json", found)
    run_speed_bench(SpeedBench(load=tmp_path / "speed.json", markdown=page))
    assert "| Auto 2x | 5 |" in page.read_text() and "skipped, ms" in page.read_text()


@pytest.mark.parametrize("options", [{"steps": 4}, {"rounds": 0}, {"dtype": "int8"}, {"speedups": (1.0,)}])
def test_mistakes_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        SpeedBench(device="cpu", **options).check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(RecipeError, match="--device cpu"):
        run_speed_bench(SpeedBench())
