"""`skipstone calibrate pairs`: drift is the Jaccard distance, checkpoints are placed where it is worth most."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from skipstone.cli.calibrate import CalibratePairs, calibrate_pairs, default_prompts
from skipstone.core.calibrate.drift import DriftMeter, as_paper_calls, choose_checkpoints, jaccard_distance, staleness
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.merge import PairsFound
from skipstone.core.errors import ModelError, RecipeError
from skipstone.core.plan.checkpoints import Checkpoints
from skipstone.core.plan.run import Positions
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.tokens.maps import Pairs
from skipstone.lab.demo_models.loading import load_model
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.loading import draw_batch

TOKENS = 8
STREAM = (Stream("cond", 1),)


def pairs(*partners: dict[int, int]) -> Pairs:
    """One sample per dict source -> destination."""
    rows = [[p.get(i, i) for i in range(TOKENS)] for p in partners]
    return Pairs(torch.tensor(rows), tuple(map(len, partners)))


def quiet(line: str) -> None:
    """Say nothing."""


some_pairs = st.dictionaries(st.integers(4, 7), st.integers(0, 3))


@given(one=some_pairs, other=some_pairs)
def test_distance_is_that_of_python_sets(one: dict[int, int], other: dict[int, int]) -> None:
    a, b = set(one.items()), set(other.items())
    expected = 1 - len(a & b) / len(a | b) if a | b else 0.0
    assert jaccard_distance(pairs(one), pairs(other)).tolist() == pytest.approx([expected])


def test_distance_is_per_sample() -> None:
    one = pairs({4: 0, 5: 1}, {4: 0}, {})
    other = pairs({4: 0, 5: 2}, {4: 0}, {7: 3})
    assert jaccard_distance(one, other).tolist() == pytest.approx([2 / 3, 0.0, 1.0])


def test_the_meter_compares_neighbouring_calls_of_one_layer_and_cond() -> None:
    meter = DriftMeter()
    other = (Stream("uncond", 1),)
    for layer, call, streams, found in [
        ("a", 0, STREAM, {4: 0, 5: 1}),
        ("b", 0, STREAM, {4: 0}),
        ("a", 0, other, {6: 3}),
        ("a", 1, STREAM, {4: 0}),
        ("b", 1, STREAM, {4: 1}),
        ("a", 1, other, {6: 3}),
        ("a", 3, STREAM, {7: 0}),
    ]:
        meter(PairsFound(layer, call, streams, pairs(found)))
    drift = meter.drift()
    assert drift.calls == 2
    assert drift.layers == {"a": (pytest.approx(0.25),), "b": (pytest.approx(1.0),)}
    assert drift.mean == pytest.approx((0.625,))
    assert meter.pairs_seen == 8


def test_runs_do_not_run_into_each_other() -> None:
    meter = DriftMeter()
    for found in ({4: 0}, {5: 0}):
        meter(PairsFound("a", 0, STREAM, pairs(found)))
        meter(PairsFound("a", 1, STREAM, pairs({4: 0})))
    assert meter.drift().layers == {"a": (0.5,)}


def test_staleness_is_the_drift_since_the_last_checkpoint() -> None:
    drift = (1.0, 0.0, 0.5, 0.25)
    assert staleness(drift, (0,)) == (0 + 1 + 1 + 1.5 + 1.75) / 5
    assert staleness(drift, (0, 1)) == (0 + 0 + 0 + 0.5 + 0.75) / 5
    assert staleness(drift, range(5)) == 0


def test_checkpoints_go_where_pairs_change() -> None:
    calm = [0.0] * 9
    for jump in (3, 6):
        calm[jump - 1] = 0.9
    assert choose_checkpoints(calm, 3) == (0, 3, 6)
    assert choose_checkpoints([0.1] * 11, 3) == (0, 4, 8)
    assert choose_checkpoints([0.5] * 4, 5) == (0, 1, 2, 3, 4)
    assert choose_checkpoints([0.5] * 4, 1) == (0,)


@given(drift=st.lists(st.integers(0, 4), min_size=1, max_size=8), data=st.data())
def test_no_other_list_of_that_length_is_better(drift: list[int], data: Any) -> None:
    count = data.draw(st.integers(1, len(drift) + 1))
    chosen = choose_checkpoints(drift, count)
    every = [(0, *rest) for rest in combinations(range(1, len(drift) + 1), count - 1)]
    assert len(chosen) == count and chosen[0] == 0
    assert staleness(drift, chosen) == min(staleness(drift, calls) for calls in every)


@pytest.mark.parametrize("count", [0, 6])
def test_a_count_that_does_not_fit_is_refused(count: int) -> None:
    with pytest.raises(RecipeError, match="do not fit a run of 5 calls: ask for 1 to 5"):
        choose_checkpoints([0.1] * 4, count)


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_a_list_written_for_51_calls_comes_back_to_the_same_calls(steps: int) -> None:
    timesteps = tuple(torch.linspace(999, 0, steps).tolist())
    chosen = (0, 2, 3, steps // 2, steps - 1)
    written = as_paper_calls(chosen, timesteps)
    bound = Checkpoints(written, timesteps=timesteps, positions=Positions.of_run(timesteps))
    assert bound.planned() == set(chosen)


def test_a_run_of_51_calls_takes_its_own_numbers_also_where_timesteps_repeat() -> None:
    timesteps = [999.0, 980.0, 980.0, *torch.linspace(960, 0, 48).tolist()]
    assert as_paper_calls((0, 1, 2, 7), timesteps) == (0, 1, 2, 7)


def test_a_run_that_starts_in_the_middle_keeps_its_place() -> None:
    assert as_paper_calls((0, 5), torch.linspace(500, 0, 6).tolist()) == (0, 50)


def test_the_observer_sees_every_search_and_only_those() -> None:
    case, seen = tiny.ldm_unet(), []
    recipe = TokenMerge(threshold=0.3, checkpoints=(0, 2), absolute=True, bucket=1, max_downsample=1)
    with accelerate(case.model, recipe, observer=seen.append) as handle:
        handle.begin([900.0, 600.0, 300.0, 100.0])
        case.sample([900.0, 600.0, 300.0, 100.0])
        layers = set(handle.end().layers)
    assert {f.call for f in seen} == {0, 2} and {f.layer for f in seen} == layers
    assert len(seen) == 2 * len(layers)
    assert all(f.pairs.partner.shape == (2, 256) for f in seen)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DiT pipeline as diffusers saves it."""
    path = tmp_path_factory.mktemp("model")
    tiny.dit_pipeline().save_pretrained(path)
    return path


def run(folder: Path, out: Path, **options: Any) -> dict[str, Any]:
    settings = {"prompts": ("1", "2"), "steps": 6, "threshold": 0.3, "count": 3, **options}
    return calibrate_pairs(CalibratePairs(model=str(folder), out=out, **settings), quiet)


def test_calibration_writes_recipe_figures_and_plot(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "out")
    recipe = Recipe.load(tmp_path / "out" / "pairs_recipe.json")
    assert recipe.merge and recipe.merge.checkpoints == tuple(result["checkpoints_written"])
    assert (recipe.merge.threshold, recipe.merge.absolute, recipe.merge.bucket) == (0.3, False, "auto")
    assert json.loads((tmp_path / "out" / "pairs_drift.json").read_text()) == result
    assert result["calls"] == 6 and len(result["checkpoints"]) == 3
    assert len(result["drift_mean"]) == 5 and all(0 <= j <= 1 for j in result["drift_mean"])
    assert any(0 < j < 1 for j in result["drift_mean"])
    assert (tmp_path / "out" / "pairs_drift.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    calibrated = next(v for k, v in result["accumulated_drift"].items() if k.startswith("calibrated (3)"))
    assert calibrated == pytest.approx(staleness(result["drift_mean"], result["checkpoints"]))


def test_the_written_list_searches_at_the_chosen_calls(folder: Path, tmp_path: Path) -> None:
    for absolute in (False, True):
        result = run(folder, tmp_path, absolute=absolute)
        pipe, calls = load_model(str(folder)), []
        pipe.set_progress_bar_config(disable=True)
        recipe = Recipe.load(tmp_path / "pairs_recipe.json")
        with accelerate(pipe, recipe, observer=lambda found, calls=calls: calls.append(found.call)):
            pipe([1], num_inference_steps=6, output_type="latent")
        assert sorted(set(calls)) == result["checkpoints"]


def test_the_drift_is_that_of_the_users_model_and_repeats(folder: Path, tmp_path: Path) -> None:
    first = run(folder, tmp_path)["drift_layers"]
    assert first == run(folder, tmp_path)["drift_layers"]
    assert first != run(folder, tmp_path, seed=7)["drift_layers"]
    assert set(first) == {f"transformer_blocks.{i}" for i in range(len(first))}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"threshold": 0.99999}, "no two tokens reached the threshold"),
        ({"threshold": 1.0}, "merges nothing"),
        ({"steps": 1}, "no neighbouring calls"),
        ({"count": 9}, "do not fit a run of 6 calls"),
        ({"recipe": "reference", "threshold": 0.5}, "use 'top_left'"),
    ],
)
def test_settings_that_measure_nothing_are_refused(folder: Path, tmp_path: Path, options: Any, line: str) -> None:
    with pytest.raises(RecipeError, match=line):
        run(folder, tmp_path, **options)


def test_models_that_cannot_be_loaded_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    single, broken = tmp_path / "x.safetensors", tmp_path / "empty"
    single.write_bytes(b"nothing")
    broken.mkdir()
    for model, config, line in [
        ("no/such/model", None, "no model at 'no/such/model'"),
        (tmp_path / "x.ckpt", None, "no model at"),
        (single, None, "needs --config"),
        (single, folder, "cannot load"),
        (broken, None, "cannot load"),
    ]:
        with pytest.raises(ModelError, match=line) as caught:
            load_model(str(model), config=config)
        assert "\n" not in str(caught.value)


def test_a_single_checkpoint_in_the_original_layout_loads(tmp_path: Path) -> None:
    checkpoint, config = original_checkpoint(tmp_path)
    pipe = load_model(str(checkpoint), config=config)
    assert torch.equal(pipe.unet.conv_in.weight, tiny_unet().input_blocks[0][0].weight)
    result = calibrate_pairs(
        CalibratePairs(
            model=str(checkpoint),
            config=config,
            prompts=("ab",),
            steps=3,
            size=32,
            count=2,
            threshold=0.2,
            out=tmp_path,
        ),
        quiet,
    )
    assert result["calls"] == 4 and len(result["drift_layers"]) == 3


def tiny_unet() -> torch.nn.Module:
    """ldm's U-Net with one attention level."""
    return tiny.ldm_unet((1,), channel_mult=(1, 1), num_heads=2).model


def original_checkpoint(folder: Path) -> tuple[Path, Path]:
    """A checkpoint as Stable Diffusion 1 was published, tiny, and a diffusers folder with its configs."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from ldm.modules.diffusionmodules.model import Decoder, Encoder
    from safetensors.torch import save_file
    from transformers import CLIPTextConfig, CLIPTextModel

    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=6,
            bos_token_id=0,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            eos_token_id=1,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(32, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(block_out_channels=(32,), latent_channels=4)
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    pipe = StableDiffusionPipeline(
        vae, text, tokenizer(folder), unet, scheduler, None, None, requires_safety_checker=False
    )
    pipe.save_pretrained(folder / "config")
    width = {"ch": 32, "out_ch": 3, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": [], "resolution": 8}
    width |= {"in_channels": 3, "z_channels": 4}
    autoencoder = torch.nn.ModuleDict({"encoder": Encoder(**width), "decoder": Decoder(**width)})
    autoencoder["quant_conv"], autoencoder["post_quant_conv"] = torch.nn.Conv2d(8, 8, 1), torch.nn.Conv2d(4, 4, 1)
    parts = {"model.diffusion_model": tiny_unet(), "first_stage_model": autoencoder}
    parts["cond_stage_model.transformer.text_model"] = getattr(text, "text_model", text)
    tensors = {f"{p}.{k}": v.contiguous().clone() for p, m in parts.items() for k, v in m.state_dict().items()}
    save_file(tensors, folder / "sd.safetensors")
    return folder / "sd.safetensors", folder / "config"


def tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with a vocabulary of six."""
    from transformers import CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", "a", "b", "a</w>", "b</w>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


def test_a_model_of_classes_draws_classes_by_default_and_refuses_words_in_one_line() -> None:
    pipe = tiny.dit_pipeline()
    prompts = default_prompts(pipe)
    assert draw_batch(pipe, prompts, [0, 1], steps=2).images is not None
    with pytest.raises(RecipeError, match=r"no class 'a cat': give .*numbers from 0 to 9"):
        draw_batch(pipe, ["a cat"], [0], steps=2)
