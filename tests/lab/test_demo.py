"""The demos: their outputs, what they show, their mistakes; the shipped models and classifier."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from skipstone.cli import main as cli
from skipstone.cli.demo import demo
from skipstone.core.calibrate.masks.settings import TrainSettings
from skipstone.core.engine.report import Report
from skipstone.core.errors import RecipeError
from skipstone.core.forecast.profile import Profile
from skipstone.core.measure.fidelity import relative_error
from skipstone.core.models.family import identity
from skipstone.core.plan import call_plan
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.lab.demo import figures, run
from skipstone.lab.demo import mask as mask_demo
from skipstone.lab.demo.flow import flow_sheet
from skipstone.lab.demo.options import DemoOptions
from skipstone.lab.demo.sheet import CAPTION, GAP, SCALE, difference
from skipstone.lab.demo.ways import Drawing, Drawn, Way, measure
from skipstone.lab.demo_models.classifier import accuracy, load_classifier
from skipstone.lab.demo_models.model import WEIGHTS, load_demo, profile_of
from skipstone.lab.demo_models.pictures import CLASSES, draw_pictures
from skipstone.lab.demo_models.pipeline import to_pictures, to_pil
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.denoiser import PipelineDenoiser

KEYS = {"time_ratio", "macs_ratio", "psnr_db", "ssim", "tokens_merged_share", "seed", "device", "recipe"}


FEW = CLASSES[:3]


def narrow_demo(narrow: dict[str, Path], options: DemoOptions) -> dict[str, Any]:
    """What a demo of the narrow models returns; it draws three icons."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, path in narrow.items():
            patch.setitem(WEIGHTS, kind, path)
        patch.setattr(call_plan, "FEWEST_STEPS", 3)
        patch.setattr(run, "flow_sheet", partial(flow_sheet, steps=1))
        for module in (run, mask_demo):
            patch.setattr(module, "Drawing", partial(Drawing, prompts=FEW))
        for module in (run, mask_demo, figures):
            patch.setattr(module, "CLASSES", FEW)
        return demo(options)


@pytest.fixture(scope="module")
def made(narrow: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A short demo, and where it wrote."""
    out = tmp_path_factory.mktemp("demo")
    return narrow_demo(narrow, DemoOptions(steps=5, rounds=1, seed=3, out=out)), out


def test_it_writes_the_picture_and_the_figures(made: tuple[dict[str, Any], Path]) -> None:
    result, out = made
    assert set(result) >= KEYS
    assert json.loads((out / "demo.json").read_text()) == json.loads(json.dumps(result))
    width, height = Image.open(out / "demo.png").size
    assert width == len(FEW) * (64 * SCALE + GAP) + GAP and height > 1000


def test_its_figures_belong_together(made: tuple[dict[str, Any], Path]) -> None:
    result, _ = made
    assert 0 < result["tokens_merged_share"] < 0.75
    assert result["macs_ratio"] > 1
    assert result["macs"]["dense"] / result["macs"]["Skipstone"] == pytest.approx(result["macs_ratio"])
    assert 20 < result["psnr_db"] < 100 and 0.5 < result["ssim"] < 1
    assert result["seed"] == 3 and result["device"] == "cpu"
    assert Recipe.from_dict(result["recipe"]).merge is not None


def test_a_speed_up_is_shown_first_beside_fewer_steps_at_its_cost(made: tuple[dict[str, Any], Path]) -> None:
    dense, auto, fewer, *others = made[0]["ways"]
    assert [dense["name"], auto["name"], fewer["name"]] == ["dense", "2.5x (Auto)", "dense, 2 steps"]
    assert auto["calls"] == fewer["calls"] == 2 and auto["macs_ratio"] == fewer["macs_ratio"] == 2.5
    assert {"token merging", "mask (DeepCache)"} <= {way["name"] for way in others}
    assert set(dense) == {"name", "calls", "macs_ratio", "time_ratio", "psnr_db", "ssim"}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_the_shipped_profiles_are_of_the_shipped_models(kind: str) -> None:
    profile = Profile.load(profile_of(kind, 20))
    profile.fits(identity(load_demo(kind).network))
    assert {len(plan.keys) for plan in profile.plans} >= {8, 10} and all(len(p.errors) >= 32 for p in profile.plans)


def test_a_recipe_file_is_run_as_it_says(narrow: dict[str, Path], tmp_path: Path) -> None:
    Recipe(merge=TokenMerge(threshold=1.0), name="off").save(tmp_path / "off.json")
    result = narrow_demo(narrow, DemoOptions(recipe=tmp_path / "off.json", steps=2, rounds=1, out=tmp_path))
    assert result["tokens_merged_share"] == 0 and result["macs_ratio"] == 1
    assert result["psnr_db"] is None, "equal pictures have no PSNR, and JSON no infinity"
    assert result["recipe"]["name"] == "off"


def test_wrong_options_are_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--steps"):
        demo(DemoOptions(steps=1, out=tmp_path))
    with pytest.raises(RecipeError, match=r"absent\.json"):
        demo(DemoOptions(recipe=tmp_path / "absent.json", out=tmp_path))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--mask", "--recipe", "a.json"], "--recipe cannot be had with --mask: leave"),
        (["--target", "0.4", "--passes", "3"], "--target and --passes cannot be had without --mask: add"),
        (["--mask", "--target", "1.5"], "target=1.5 is outside"),
        (["--mask", "--seed", str(1 << 31)], "--seed 2147483648 is not in"),
    ],
)
def test_options_of_the_other_demo_are_refused_in_one_line(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["demo", *words, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert reason in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


STEPS, SEED = 4, (1 << 20) - 1
"""The seed is that of a noise that masks are compared on in training."""


@dataclass(frozen=True)
class MaskDemo:
    """A short `skipstone demo --mask`: what it returned, where it wrote, and the noises [12, 32, 32] of its training."""

    result: dict[str, Any]
    weights: Path
    out: Path
    trained_on: list[Tensor]

    def latents(self, recipe: BlockSkip | None = None) -> Tensor:
        """What the DiT draws from the noise that the demo says it shows."""
        pipe, size = load_demo("dit", self.weights), (len(FEW), 12, 32, 32)
        noise = torch.randn(size, generator=torch.Generator().manual_seed(self.result["noise_seed"]))
        call = partial(pipe, range(len(FEW)), STEPS, latents=noise, output_type="latent")
        if recipe is None:
            return call().images
        with accelerate(pipe, recipe):
            return call().images


@pytest.fixture(scope="module")
def masked(narrow: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> MaskDemo:
    """One pass of two moves on two noises."""
    out, seen, begin = tmp_path_factory.mktemp("mask"), [], PipelineDenoiser.begin

    def recorded(self: PipelineDenoiser, seeds: list[int]) -> Any:
        at = begin(self, seeds)
        seen.extend(at.x)
        return at

    quick = TrainSettings(target=0.51, passes=20, tries=2, refine_batch=2, profile_batch=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_demo, "TRAINING", quick)
        patch.setattr(PipelineDenoiser, "begin", recorded)
        result = narrow_demo(narrow, DemoOptions(mask=True, passes=1, steps=STEPS, rounds=1, seed=SEED, out=out))
    return MaskDemo(result, narrow["dit"], out, seen)


def test_a_mask_is_trained_and_set_beside_dense_fora_and_fewer_steps(masked: MaskDemo) -> None:
    assert json.loads((masked.out / "demo_mask.json").read_text()) == json.loads(json.dumps(masked.result))
    dense, *middle, fewer = masked.result["rows"].items()
    assert dense[0] == "dense" and [name for name, _ in middle] == ["trained mask", "FORA"]
    assert fewer[0] == f"dense, {fewer[1]['steps']} steps" and 2 <= fewer[1]["steps"] <= STEPS
    assert fewer[1]["macs"] / dense[1]["macs"] == fewer[1]["steps"] / STEPS
    assert masked.result["training"]["settings"]["passes"] == 1 and masked.result["training"]["seconds"] > 0
    written = {path.name for path in (masked.out / "demo_mask").iterdir()}
    assert written >= {"mask.safetensors", "mask_heatmap.png", "mask_curve.png"}


def test_the_trained_mask_and_fora_need_the_share_that_was_asked_for(masked: MaskDemo) -> None:
    for name in ("trained mask", "FORA"):
        assert 1 / masked.result["rows"][name]["macs_ratio"] == pytest.approx(0.51, abs=0.0101)
    assert 1 / masked.result["rows"]["trained mask"]["macs_ratio"] == pytest.approx(masked.result["share"], abs=1e-3)


def test_its_rows_and_pictures_are_what_the_mask_file_and_the_even_interval_draw(masked: MaskDemo) -> None:
    sheet, dense = Image.open(masked.out / "demo_mask.png"), masked.latents()
    by_file = masked.latents(BlockSkip(mask=str(masked.out / "demo_mask" / "mask.safetensors")))
    by_fora = masked.latents(BlockSkip(rule="fora", every=2))
    assert _strip(sheet, 0) == _pixels(to_pictures(dense))
    for place, (name, drawn) in enumerate({"trained mask": by_file, "FORA": by_fora}.items()):
        assert masked.result["rows"][name]["error"] == pytest.approx(relative_error(drawn, dense), rel=1e-6)
        pictures = to_pictures(drawn)
        assert _strip(sheet, 1 + 2 * place) == _pixels(pictures)
        assert _strip(sheet, 2 + 2 * place) == _pixels(difference(pictures, to_pictures(dense)))


def _strip(sheet: Image.Image, number: int) -> bytes:
    """The last picture of a row of the sheet, at its own size."""
    side = 64 * SCALE
    left, top = GAP + (len(FEW) - 1) * (side + GAP), CAPTION + number * (side + CAPTION + GAP)
    return sheet.crop((left, top, left + side, top + side)).resize((64, 64), Image.Resampling.NEAREST).tobytes()


def _pixels(pictures: Tensor) -> bytes:
    return to_pil(pictures)[-1].tobytes()


def test_no_noise_of_the_training_is_shown(masked: MaskDemo) -> None:
    """With a seed of the training's; the test before shows that the noise told of is the one drawn from."""
    shape = (12, 32, 32)
    assert any(
        torch.equal(x, torch.randn(shape, generator=torch.Generator().manual_seed(SEED))) for x in masked.trained_on
    )
    shown = torch.randn(len(FEW), *shape, generator=torch.Generator().manual_seed(masked.result["noise_seed"]))
    assert not any(torch.equal(x, y) for x in masked.trained_on for y in shown)


class _Clockwork(Drawing):
    """Draws nothing, in known seconds a step."""

    SECONDS = MappingProxyType({"ours": 0.52, "theirs": 0.9})

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def by(self, way: Way) -> Drawn:
        self.drawn.append(way.name)
        report = Report(block_macs_run=30, block_macs_all=50) if way.recipe else Report()
        return Drawn(torch.zeros(1), report, way.steps * self.SECONDS.get(way.name, 1.0))

    def macs_per_call(self) -> int:
        return 10


def test_all_ways_take_turns_and_the_last_is_dense_in_the_time_of_the_second() -> None:
    drawing, recipe = _Clockwork(), Recipe(skip=BlockSkip(every=2))
    rows = measure(drawing, [Way("dense", 20), Way("ours", 20, recipe), Way("theirs", 20, recipe)], rounds=3)
    assert [(row.way.name, row.way.steps, row.macs) for row in rows] == [
        ("dense", 20, 200),
        ("ours", 20, 180),
        ("theirs", 20, 180),
        ("dense, 10 steps", 10, 100),
    ]
    turns = [set(drawing.drawn[-4 * k - 4 : len(drawing.drawn) - 4 * k]) for k in range(3)]
    assert turns == [{row.way.name for row in rows}] * 3
    assert all(drawing.drawn.count(row.way.name) == 1 + 3 for row in rows), "once to see, and the rounds"


def test_the_shipped_model_is_small_and_has_a_thousand_tokens_at_its_finest_attention() -> None:
    assert all(path.stat().st_size < 6_000_000 for path in WEIGHTS.values())
    unet = load_demo().unet
    assert unet.config.sample_size**2 >= 1024 and unet.config.down_block_types[0] == "CrossAttnDownBlock2D"


def test_the_shipped_classifier_names_drawn_pictures() -> None:
    pictures, labels = draw_pictures(200, seed=99)
    assert accuracy(load_classifier(), pictures / 255, labels) > 0.98


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_what_the_shipped_models_draw_is_readable(kind: str) -> None:
    """Every fourth class; what the flow model draws is in test_flow_model."""
    pipe = load_demo(kind)
    pipe.set_progress_bar_config(disable=True)
    labels = torch.arange(0, len(CLASSES), 4)
    generator = torch.Generator().manual_seed(11)
    pictures = pipe(labels, 5, generator=generator, output_type="pt").images
    assert accuracy(load_classifier(), pictures, labels) >= 0.85


def test_drawing_depends_on_the_seed_alone() -> None:
    state = torch.random.get_rng_state()
    first, labels = draw_pictures(6, 5)
    again, _ = draw_pictures(6, 5)
    other, _ = draw_pictures(6, 6)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert labels.shape == (6,) and torch.equal(torch.random.get_rng_state(), state)
