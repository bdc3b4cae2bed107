"""What `train-mask` is given as a model: single files in the original layout, variants, lacking parts, and mistakes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers
import model_folders as folders
import pytest
import tiny
import torch
from safetensors.torch import save_file

from skipstone.cli import main as cli
from skipstone.core.recipe.mask import Mask
from skipstone.pipelines.denoiser import denoiser_of
from skipstone.pipelines.loading import load_pipeline

QUICK = ["--steps", "4", "--passes", "1", "--batch", "2", "--tries", "2", "--refine-batch", "1", "--profile-batch", "1"]


def original_sd(folder: Path) -> tuple[Path, torch.nn.Module]:
    """Stable Diffusion 1 as it was published, tiny: the file beside `config`, and its U-Net in the original code."""
    from ldm.modules.diffusionmodules.model import Decoder, Encoder

    pipe = folders.sd(folder / "config")
    pipe.unet = tiny.diffusers_unet(
        block_out_channels=(32, 32), cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), norm_num_groups=32,
    ).model  # fmt: skip
    pipe.vae = diffusers.AutoencoderKL(block_out_channels=(32,), latent_channels=4)
    pipe.save_pretrained(folder / "config")
    width: dict[str, Any] = {"ch": 32, "out_ch": 3, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": []}
    width |= {"in_channels": 3, "z_channels": 4, "resolution": 8}
    vae = torch.nn.ModuleDict({"encoder": Encoder(**width), "decoder": Decoder(**width)})
    vae["quant_conv"], vae["post_quant_conv"] = torch.nn.Conv2d(8, 8, 1), torch.nn.Conv2d(4, 4, 1)
    unet, text = tiny.ldm_unet((1,)).model, getattr(pipe.text_encoder, "text_model", pipe.text_encoder)
    parts = {"model.diffusion_model": unet, "first_stage_model": vae, "cond_stage_model.transformer.text_model": text}
    tensors = {f"{p}.{k}": v.contiguous().clone() for p, m in parts.items() for k, v in m.state_dict().items()}
    save_file(tensors, folder / "sd.safetensors")
    return folder / "sd.safetensors", unet


def test_a_single_file_in_the_original_layout_is_loaded_and_trained_on(tmp_path: Path) -> None:
    file, original = original_sd(tmp_path)
    for weights in (tmp_path / "config").rglob("*.safetensors"):
        weights.unlink()  # configs and tokenizer are all that --config has to have
    denoiser = denoiser_of(load_pipeline(str(file), config=tmp_path / "config"), 4, prompts=("a cat",))
    at = denoiser.begin([3])
    with torch.no_grad():
        expected = original(at.x.repeat(2, 1, 1, 1), denoiser._t[0].expand(2), context=at.cond["encoder_hidden_states"])
        torch.testing.assert_close(denoiser.predict(at, 0), expected, rtol=1e-4, atol=1e-4)
    words = ["train-mask", str(file), "--config", str(tmp_path / "config"), *QUICK, "--out", str(tmp_path)]
    assert cli.main(words) == 0
    assert Mask.load(tmp_path / "mask.safetensors").run.shape[0] == 5


def test_a_folder_that_has_the_fp16_variant_alone_loads(tmp_path: Path) -> None:
    folder = folders.save("sd", tmp_path / "sd", variant="fp16")
    assert not (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert torch.equal(load_pipeline(str(folder)).unet.conv_in.weight, tiny.diffusers_unet().model.conv_in.weight)


def test_without_text_encoders_embeddings_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folders.save("sd3_without_t5", tmp_path / "sd3")
    for name in ("text_encoder", "text_encoder_2"):
        shutil.rmtree(folder / name)
    file = tmp_path / "embeddings.safetensors"
    tensors = {"embeddings": tiny.noise(2, 5, 20), "empty": tiny.noise(1, 5, 20)}
    words = ["train-mask", str(folder), *QUICK, "--out", str(tmp_path)]
    assert cli.main(words) == 2
    assert "this model has no text_encoder or text_encoder_2: give --embeddings" in capsys.readouterr().err
    save_file(tensors, file)
    assert cli.main([*words, "--embeddings", str(file)]) == 2
    assert "give a safetensors file with `pooled`" in capsys.readouterr().err
    save_file({**tensors, "pooled": tiny.noise(2, 16), "empty_pooled": tiny.noise(1, 16)}, file)
    assert cli.main([*words, "--embeddings", str(file)]) == 0
    save_file({"embeddings": tiny.noise(2, 5, 6)}, file)
    assert cli.main([*words, "--embeddings", str(file)]) == 2
    assert "`embeddings` is [2, 5, 6]: this model takes [n, tokens, 20]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that cannot be used as they are, and some that can."""
    root = tmp_path_factory.mktemp("models")
    for kind in ("ddim", "dit", "sd3_without_t5"):
        folders.save(kind, root / kind)
    (root / "sd.ckpt").write_bytes(b"\x80\x04")
    (root / "one.safetensors").write_bytes(b"nothing")
    (root / "empty").mkdir()
    shutil.copytree(root / "ddim", root / "pickled")
    weights = root / "pickled" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    return root


@pytest.mark.parametrize(
    ("model", "words", "line"),
    [
        ("nowhere", [], "no model at"),
        ("sd.ckpt", [], "pickles are never opened"),
        ("pickled", [], "cannot load"),
        ("empty", [], "has no model_index.json"),
        ("one.safetensors", [], "needs --config"),
        ("one.safetensors", ["--config", "nowhere"], "no diffusers folder at --config 'nowhere'"),
        ("one.safetensors", ["--config", "ddim"], "diffusers reads no single files of DDIMPipeline"),
        ("ddim", ["--prompts", "a cat"], "DDIMPipeline draws without prompts"),
        ("ddim", ["--size", "64"], "draws at one size only"),
        ("ddim", ["--steps", "0"], "steps=0 must be a whole number from 1 on"),
        ("ddim", ["--steps", "5000"], "steps=5000 do not work with DDIMScheduler"),
        ("dit", ["--prompts", "unicorn"], "no class 'unicorn': give names or numbers from 0 to 999"),
        ("dit", ["--prompts", "1000"], "no class '1000'"),
        ("sd3_without_t5", ["--size", "30"], "give a multiple of 16 up to 128"),
        ("sd3_without_t5", ["--size", "1024"], "give a multiple of 16 up to 128"),
    ],
)
def test_mistakes_are_told_in_one_line(
    model: str, words: list[str], line: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(models / w) if (models / w).is_dir() else w for w in words]
    assert cli.main(["train-mask", str(models / model), *QUICK, *given, "--out", str(tmp_path)]) == 2
    told = [t for t in capsys.readouterr().err.splitlines() if t.startswith("skipstone: ")]
    assert len(told) == 1 and line in told[0]
    assert not list(tmp_path.iterdir())
