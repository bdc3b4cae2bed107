"""Real model folders of every kind: loaded, taken apart into calls, trained on from the command line, drawn with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import model_folders as folders
import pytest
import served
import torch
from torch import Tensor

from skipstone.cli import main as cli
from skipstone.core.calibrate.masks import report
from skipstone.core.calibrate.masks.masked_model import prepare
from skipstone.core.plan.liveness import State, liveness
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.pipelines.accelerate import accelerate
from skipstone.pipelines.denoiser import PipelineDenoiser, denoiser_of
from skipstone.pipelines.loading import load_pipeline

UNCONDITIONAL = ("ddpm", "ddim", "ldm")
PROMPTS = {**dict.fromkeys(folders.MAKERS, "A cat"), **dict.fromkeys(UNCONDITIONAL, ""), "dit": "gold"}
QUICK = ["--steps", "4", "--passes", "1", "--batch", "2", "--tries", "2", "--refine-batch", "1", "--profile-batch", "1"]

Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Each kind's folder, written once."""
    root = tmp_path_factory.mktemp("models")

    def find(kind: str) -> Path:
        return root / kind if (root / kind).exists() else folders.save(kind, root / kind)

    return find


def loaded(path: Path) -> Any:
    """The pipeline as the command loads it."""
    pipe = load_pipeline(str(path))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def asked(kind: str) -> tuple[str, ...]:
    """What a sample is asked to be of."""
    return (PROMPTS[kind],) if PROMPTS[kind] else ()


def last_latent(pipe: Any, kind: str, seed: int, steps: int, **options: Any) -> Tensor:
    """What the pipeline's own loop ends with, whatever it makes of it afterwards."""
    latents, step = [], pipe.scheduler.step
    pipe.scheduler.step = lambda *args, **more: (latents.append(step(*args, **more)), latents[-1])[1]
    what = (
        [] if kind in UNCONDITIONAL else [pipe.get_label_ids([PROMPTS[kind]])] if kind == "dit" else [[PROMPTS[kind]]]
    )
    if hasattr(pipe, "encode_prompt"):
        options["output_type"] = "latent"
    pipe(*what, num_inference_steps=steps, generator=torch.Generator().manual_seed(seed), **options)
    del pipe.scheduler.step
    return latents[-1][0][:1]


@torch.no_grad()
def drawn(denoiser: PipelineDenoiser, seed: int) -> Tensor:
    """The whole run, call by call."""
    at = denoiser.begin([seed])
    for call in range(len(denoiser.timesteps)):
        at = denoiser.advance(at, denoiser.predict(at, call), call)
    return at.x


def close(one: Tensor, other: Tensor) -> None:
    """Alike within rounding of another batch order."""
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("kind", folders.MAKERS)
def test_call_by_call_is_what_the_loaded_pipeline_draws(kind: str, folder: Folder) -> None:
    pipe = loaded(folder(kind))
    steps = 2 if kind == "pixart_alpha_1024" else 4
    close(drawn(denoiser_of(pipe, steps, prompts=asked(kind)), 5), last_latent(pipe, kind, 5, steps))
    served.check(served.DIFFUSERS, type(pipe).__name__, "train", served.SERVED)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ldm_text", {"guidance": 3.0}),
        ("sd", {"guidance": 1.0}),
        ("sd", {"size": 96}),
        ("sdxl", {"size": 96}),
        ("sd3", {"size": 32}),
        ("sd3_shifted", {"size": 32}),
    ],
)
def test_guidance_and_size_are_the_pipelines(kind: str, options: dict[str, Any], folder: Folder) -> None:
    pipe = loaded(folder(kind))
    how = {"guidance_scale": options["guidance"]} if "guidance" in options else {}
    how |= {"height": options["size"], "width": options["size"]} if "size" in options else {}
    picture = last_latent(pipe, kind, 5, 4, **how)
    close(drawn(denoiser_of(pipe, 4, prompts=asked(kind), **options), 5), picture)


def test_another_prompt_is_another_picture(folder: Folder) -> None:
    for kind in ("ldm_text", "sdxl", "sd3"):
        pipe = loaded(folder(kind))
        one, other = (drawn(denoiser_of(pipe, 2, prompts=(words,)), 5) for words in ("a cat", "stones"))
        assert not torch.allclose(one, other, rtol=1e-3, atol=1e-3), kind


@pytest.mark.parametrize("kind", ["ddpm", "sdxl", "dit", "sd3"])
def test_a_mask_trained_from_the_command_line_draws_what_training_saw(
    kind: str, folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "write_report", lambda *_: [])
    words = ["--prompts", *asked(kind)] if asked(kind) else []
    assert cli.main(["train-mask", str(folder(kind)), *QUICK, *words, "--out", str(tmp_path)]) == 0
    mask = Mask.load(tmp_path / "mask.safetensors")
    assert abs(mask.provenance["share"] - 0.6) < 0.15 and not mask.run.all()
    pipe = loaded(folder(kind))
    dense = last_latent(pipe, kind, 5, 4)
    with accelerate(pipe, BlockSkip(mask=str(tmp_path / "mask.safetensors"))) as handle:
        masked = last_latent(pipe, kind, 5, 4)
        ran = handle.report().blocks_run
    model = prepare(denoiser_of(pipe, 4, prompts=asked(kind)), forecast=mask.forecast)
    assert ran == (liveness(mask.run, model.graph) == State.RUN).sum()
    close(model.rollout([5], mask.run), masked)
    assert not torch.allclose(masked, dense, rtol=1e-3, atol=1e-3)
    assert torch.equal(last_latent(pipe, kind, 5, 4), dense)
