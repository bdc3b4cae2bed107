"""The flow model: its captions, its pipeline with flow samplers, and acceleration of a network that takes packed latents."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.calibrate.profiling import closed_loop, dense
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.lab.demo_models.captions import caption, draw_captioned, random_caption
from skipstone.lab.demo_models.model import load_demo
from skipstone.lab.demo_models.pictures import BACKGROUNDS, CLASSES, COLOURS, Motif, as_tensor, draw_motif
from skipstone.lab.demo_models.text import CaptionEncoder
from skipstone.lab.demo_models.words import LENGTH, tokenize
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.denoiser import denoiser_of
from skipstone.pipelines.samplers import set_sampler
from skipstone.tools.judge_demo_models import MOTIFS, as_asked, motifs
from skipstone.tools.noising import draw_sigmas, noised
from skipstone.tools.train_demo_models import train_step, training_data
from skipstone.tools.training_run import Settings, new_run, resume_run, save_run

HEART = "a red heart on a teal background"
FLOW_SAMPLERS = ("euler", "heun", "dpmpp_2m", "unipc")


@pytest.fixture
def pipe(narrow: dict[str, Path]) -> Any:
    """The flow pipeline, narrow and with random weights."""
    found = load_demo("flow", narrow["flow"])
    found.set_progress_bar_config(disable=True)
    return found


def drawn(pipe: Any, prompt: Any = (HEART, "sun"), steps: int = 12, **more: Any) -> Tensor:
    """Latents [B, 12, 32, 32] from the noise of one seed."""
    return pipe(prompt, steps, generator=torch.Generator().manual_seed(1), output_type="latent", **more).images


def test_every_caption_is_in_the_vocabulary_and_short_enough() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokens = tokenize([caption(motif) for motif in MOTIFS])
    assert tokens.shape == (len(CLASSES) * len(COLOURS) * len(BACKGROUNDS), LENGTH)
    assert len({tuple(row) for row in tokens.tolist()}) == len(MOTIFS), "each motif has a caption of its own"


def test_unknown_words_are_left_out_with_one_warning_that_names_them() -> None:
    with pytest.warns(UserWarning, match="does not know shiny, wooden: it knows") as said:
        tokens = tokenize(["a shiny heart", "a wooden heart"])
    assert len(said) == 1
    assert tokens.tolist() == tokenize(["a heart", "a heart"]).tolist()
    with pytest.warns(UserWarning, match="the first 9 words"):
        assert tokenize(["a " * 20]).shape == (1, LENGTH)


def test_padding_changes_neither_words_nor_their_mean() -> None:
    encoder, tokens = CaptionEncoder().eval(), tokenize(["a heart", HEART])
    with torch.no_grad():
        (hidden, pooled), (alone, own) = encoder(tokens), encoder(tokens[:1])
    torch.testing.assert_close(hidden[0, :3], alone[0, :3])
    torch.testing.assert_close(own[0], alone[0, :3].mean(0))
    torch.testing.assert_close(pooled[0], own[0])


def test_a_caption_leaves_out_usual_colours_only() -> None:
    rng = np.random.default_rng(0)
    said = {motif: [random_caption(motif, rng) for _ in range(50)] for motif in MOTIFS[:40]}
    assert all(motif.colour in text for motif, texts in said.items() if not motif.usual for text in texts)
    assert any(motif.colour not in text for motif, texts in said.items() if motif.usual for text in texts)
    assert all(motif.name in text for motif, texts in said.items() for text in texts)


def test_captioned_pictures_depend_on_the_seed_alone_and_come_in_all_colours() -> None:
    pictures, captions = draw_captioned(40, seed=3)
    again, same = draw_captioned(40, seed=3)
    assert torch.equal(pictures, again) and captions == same and pictures.shape == (40, 3, 64, 64)
    found = Counter(motif.usual for motif in motifs(200, seed=0))
    assert 40 < found[False] < 120


def test_the_nearest_drawing_is_what_a_picture_shows() -> None:
    asked = [Motif("boat", "green", "navy"), Motif("moon", "cream", "blue")]
    pictures = as_tensor([draw_motif(motif) for motif in asked]) / 255
    assert as_asked(asked, pictures)["all"] == 1
    wrong = [Motif("boat", "green", "teal"), Motif("moon", "white", "blue")]
    assert as_asked(wrong, pictures) == {"name": 1.0, "colour": 0.5, "background": 0.5, "all": 0.0}


def test_prompts_are_captions_class_names_or_numbers(pipe: Any) -> None:
    named = drawn(pipe, ["heart", "moon"], 2)
    assert torch.equal(named, drawn(pipe, torch.tensor([3, 1]), 2)) and torch.equal(named, drawn(pipe, ["3", 1], 2))
    assert torch.equal(named, drawn(pipe, ["heart", "moon"], 2)), "the same seed draws the same"
    assert not torch.allclose(named, drawn(pipe, [HEART, "moon"], 2), atol=1e-4)
    assert drawn(pipe, "a red heart", 2).shape == (1, 12, 32, 32)


@pytest.fixture(scope="module")
def fine(narrow: dict[str, Path]) -> Tensor:
    """What many steps draw."""
    return drawn(load_demo("flow", narrow["flow"]), steps=24)


@pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "unipc"])
def test_every_flow_sampler_draws_nearly_the_same_and_is_accelerated(pipe: Any, fine: Tensor, sampler: str) -> None:
    shift = pipe.scheduler.config.shift
    set_sampler(pipe, sampler)
    config = pipe.scheduler.config
    assert config.get("flow_shift", config.get("shift")) == shift > 1
    plain = drawn(pipe)
    assert (plain - fine).norm() / fine.norm() < 0.2
    with accelerate(pipe, CallSkip(every=2)) as handle:
        quick = drawn(pipe)
    calls = handle.report().calls
    assert calls == len(pipe.scheduler.timesteps) and 0 < handle.report().calls_forecast < calls
    assert torch.isfinite(quick).all() and not torch.equal(quick, plain)
    assert not tiny.hooked(pipe.transformer) and not tiny.overridden(pipe.transformer)


def test_a_speed_up_halves_its_calls_and_blocks_are_skipped(pipe: Any) -> None:
    plain = drawn(pipe, steps=20)
    with accelerate(pipe, "2x") as handle:
        quick = drawn(pipe, steps=20)
    assert (handle.report().calls, handle.report().calls_forecast) == (20, 10)
    assert 0 < (quick - plain).norm() / plain.norm() < 0.5
    with accelerate(pipe, BlockSkip(rule="interval", every=2)) as handle:
        drawn(pipe, steps=4)
    assert handle.report().blocks_reused == 8, "half of 4 blocks in 4 calls"


def test_calls_run_one_by_one_draw_what_the_pipeline_draws_and_can_be_skipped(pipe: Any) -> None:
    denoiser = denoiser_of(pipe, 12, prompts=[HEART])
    noise = torch.stack([torch.randn(12, 32, 32, generator=torch.Generator().manual_seed(s)) for s in (5, 6)])
    latents, gram = dense(denoiser, [5, 6])
    torch.testing.assert_close(latents, pipe([HEART] * 2, 12, latents=noise, output_type="latent").images)
    assert gram.shape == (24, 24)
    skipped, surprises = closed_loop(denoiser, [5, 6], CallSkip(keys=(0, 1, 5, 11)))
    assert skipped.shape == latents.shape and sorted(surprises) == [5, 11]


def test_the_last_of_its_steps_sees_noise(pipe: Any) -> None:
    drawn(pipe, steps=4)
    torch.testing.assert_close(pipe.scheduler.sigmas, torch.tensor([1.0, 6 / 7, 2 / 3, 0.4, 0.0]))


def test_training_noise_follows_the_straight_path_and_the_samplers_shift() -> None:
    torch.manual_seed(0)
    latents, scheduler = torch.rand(8, 12, 4, 4), diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    x, t, velocity = noised(scheduler, latents)
    torch.testing.assert_close(x - (t / 1000).view(-1, 1, 1, 1) * velocity, latents)
    assert draw_sigmas(1000, shift=2.0).median() == pytest.approx(2 / 3, abs=0.02)


def test_a_training_learns_and_goes_on_from_its_file(narrow: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    settings = Settings(tmp_path, kind="flow", steps=8, batch=4, pictures=10, warmup=1, threads=1, bf16=False)
    run, data = new_run(settings), training_data(settings)
    for _ in range(3):
        train_step(settings, run, *data)
    save_run(run, tmp_path / "state.safetensors")
    resumed = new_run(settings)
    resume_run(resumed, tmp_path / "state.safetensors")
    for one in (run, resumed):
        torch.manual_seed(1)
        train_step(settings, one, *data)
    assert run.step == resumed.step == 4 and run.losses[-1] == pytest.approx(resumed.losses[-1], rel=1e-4)


@pytest.fixture(scope="module")
def shipped() -> Any:
    """The shipped flow model."""
    found = load_demo("flow")
    found.set_progress_bar_config(disable=True)
    return found


def test_the_shipped_model_draws_the_class_colour_and_background_that_are_asked_for(shipped: Any) -> None:
    asked = [Motif("heart", "green", "navy"), Motif("star", "red", "blue"), Motif("boat", "red", "purple")]
    asked += [Motif("heart", "green", "blue")]
    prompts = [caption(motif) for motif in asked]
    pictures = shipped(prompts, 8, generator=torch.Generator().manual_seed(2), output_type="pt").images
    found = as_asked(asked, pictures)
    assert found["name"] >= 0.75 and found["colour"] >= 0.75 and found["background"] == 1
    top = pictures[:, :, 0].mean(dim=2)
    assert top[3].argmax() == 2 and top[3].sum() > top[0].sum() + 0.5, "light blue in place of navy"
