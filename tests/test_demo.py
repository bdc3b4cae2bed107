"""The demo: its outputs, its recipe file, its mistakes; the shipped model and classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from skipstone.core.demo.classifier import accuracy, held_out_accuracy, load_classifier
from skipstone.core.demo.model import WEIGHTS, load_demo
from skipstone.core.demo.pictures import CLASSES, draw_pictures
from skipstone.core.demo.run import DemoOptions, run_demo
from skipstone.core.errors import RecipeError
from skipstone.core.recipe import Recipe, TokenMerge

KEYS = {"time_ratio", "macs_ratio", "psnr_db", "ssim", "tokens_merged_share", "seed", "device", "recipe"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A short demo, and where it wrote."""
    out = tmp_path_factory.mktemp("demo")
    return run_demo(DemoOptions(steps=4, rounds=1, seed=3, out=out)), out


def test_it_writes_the_picture_and_the_figures(made: tuple[dict[str, Any], Path]) -> None:
    result, out = made
    assert set(result) >= KEYS
    assert json.loads((out / "demo.json").read_text()) == json.loads(json.dumps(result))
    width, height = Image.open(out / "demo.png").size
    assert width > 1000 and height > 400


def test_its_figures_belong_together(made: tuple[dict[str, Any], Path]) -> None:
    result, _ = made
    assert 0 < result["tokens_merged_share"] < 0.75
    assert result["macs_ratio"] > 1
    assert result["macs"]["dense"] / result["macs"]["Skipstone"] == pytest.approx(result["macs_ratio"])
    assert 20 < result["psnr_db"] < 100 and 0.5 < result["ssim"] < 1
    assert result["seed"] == 3 and result["device"] == "cpu"
    assert Recipe.from_dict(result["recipe"]).merge is not None


def test_a_recipe_file_is_run_as_it_says(tmp_path: Path) -> None:
    Recipe(merge=TokenMerge(threshold=1.0), name="off").save(tmp_path / "off.json")
    result = run_demo(DemoOptions(recipe=tmp_path / "off.json", steps=2, rounds=1, out=tmp_path))
    assert result["tokens_merged_share"] == 0 and result["macs_ratio"] == 1
    assert result["psnr_db"] is None, "equal pictures have no PSNR, and JSON no infinity"
    assert result["recipe"]["name"] == "off"


def test_wrong_options_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--steps"):
        run_demo(DemoOptions(steps=1, out=tmp_path))
    with pytest.raises(RecipeError, match=r"absent\.json"):
        run_demo(DemoOptions(recipe=tmp_path / "absent.json", out=tmp_path))


def test_the_shipped_model_is_small_and_has_a_thousand_tokens_at_its_finest_attention() -> None:
    assert all(path.stat().st_size < 6_000_000 for path in WEIGHTS.values())
    unet = load_demo().unet
    assert unet.config.sample_size**2 >= 1024 and unet.config.down_block_types[0] == "CrossAttnDownBlock2D"


def test_the_shipped_classifier_names_drawn_pictures() -> None:
    assert held_out_accuracy(load_classifier(), count=200, seed=99) > 0.98


@pytest.mark.parametrize("kind", WEIGHTS)
def test_what_the_shipped_models_draw_is_readable(kind: str) -> None:
    pipe = load_demo(kind)
    pipe.set_progress_bar_config(disable=True)
    labels = torch.arange(len(CLASSES)).repeat(2)
    generator = torch.Generator().manual_seed(11)
    pictures = pipe(labels, 20, generator=generator, output_type="pt").images
    assert accuracy(load_classifier(), pictures, labels) >= 0.85


def test_drawing_depends_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, labels = draw_pictures(6, 5)
    again, _ = draw_pictures(6, 5)
    other, _ = draw_pictures(6, 6)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert labels.shape == (6,) and torch.equal(torch.random.get_rng_state(), state)
