"""The workflows that :mod:`skipstone.tools.workflows` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .workflow_nodes import Node, Workflow
from .workflow_parts import (
    LAKE,
    READ,
    TRY,
    checkpoint,
    empty_latent,
    file_of,
    loaded,
    note_of,
    sampled,
    shifted,
    unet_of,
    vae_of,
)

_DEMO = "**1.** Choose a demo model above, or keep it: nothing needs to be downloaded."


def _demo() -> dict[int, Node]:
    loader = Node("SkipstoneDemoModel", (40, 120), (330, 170), ("icons (flow)", 4))
    note = note_of(
        _DEMO,
        READ,
        TRY,
        "For a model of your own, put Load Checkpoint and Empty Latent Image in place of the demo model.",
        top=350,
    )
    prompts = ("a pink star on a purple background", "")
    made = sampled(
        {1: loader}, loader, (1, 20, 3.0, "euler", "sgm_uniform", 1.0), (1, 1), (1, 2), (1, 0), note, prompts
    )
    made[6] = replace(made[6], links={**made[6].links, "latent_image": (1, 3)})
    return {number: node for number, node in made.items() if number != 5}


def _compared() -> dict[int, Node]:
    """Both pictures from one seed in one queue."""
    made = _demo()
    made[9] = note_of(
        _DEMO,
        "**2.** Run: the lower sampler draws the original, the upper one the accelerated picture. Both have the same seed.",
        "**3.** Move the mouse over Compare Pictures to wipe between them. Run Report shows what each call did.",
        "Change the seed of both samplers together.",
        top=350,
    )
    sampler = made[6]
    plain = {**sampler.links, "model": (1, 0)}
    made[6] = replace(sampler, title="Accelerated")
    made[10] = replace(sampler, at=(730, 780), links=plain, title="Original")
    made[11] = Node("VAEDecode", (1110, 230), (290, 60), (), {"samples": (10, 0), "vae": (1, 2)})
    compared = {"original": (11, 0), "accelerated": (7, 0), "seconds_original": (12, 3), "seconds_accelerated": (12, 2)}
    made[8] = Node("SkipstoneCompare", (1430, 120), (420, 480), (5.0, 0.0, 0.0), compared)
    made[12] = Node("SkipstoneReport", (1430, 660), (480, 300), (), {"model": (2, 0), "after": (6, 0)})
    made[13] = Node("PreviewImage", (1110, 340), (290, 300), (), {"images": (8, 1)}, "Difference, amplified")
    return made


def _again(made: dict[int, Node], latent: tuple[int, int], denoise: float, *note: str) -> dict[int, Node]:
    """With a second sampler, which begins from what the first has drawn."""
    first = made[6]
    links = {**first.links, "latent_image": latent}
    made[6] = replace(first, title="First pass")
    made[12] = replace(first, at=(1430, 120), values=(*first.values[:-1], denoise), links=links, title="Second pass")
    made[13] = Node("VAEDecode", (1810, 120), (290, 60), (), {"samples": (12, 0), "vae": (1, 2)})
    made[8] = replace(made[8], at=(1810, 240), links={"images": (13, 0)})
    made[9] = note_of(*note, top=350 if made[1].kind == "SkipstoneDemoModel" else 290)
    return made


def _image_to_image() -> dict[int, Node]:
    """A picture, encoded and drawn further with another prompt."""
    made = _demo()
    made[10] = Node("VAEEncode", (1110, 240), (290, 60), (), {"pixels": (7, 0), "vae": (1, 2)})
    made[11] = Node("PreviewImage", (1110, 360), (290, 300), (), {"images": (7, 0)}, "First picture")
    made[14] = Node(
        "CLIPTextEncode",
        (1430, 460),
        (340, 130),
        ("a yellow sun on a purple background",),
        {"clip": (1, 1)},
        "Second prompt",
    )
    made = _again(
        made, (10, 0), 0.8, _DEMO,
        "**2.** Run: the first sampler draws a picture, the second one turns it into that of the second prompt. Skipstone serves "
        "both.",
        "**3.** For a picture of your own, put Load Image in place of the first sampler and its VAE Decode.",
    )  # fmt: skip
    made[12] = replace(made[12], links={**made[12].links, "positive": (14, 0)})
    return made


def _flux() -> dict[int, Node]:
    texts = "comfyanonymous/flux_text_encoders/resolve/main"
    names = ("clip_l.safetensors", "t5xxl_fp16.safetensors")
    loaders = {
        1: unet_of("flux1-dev.safetensors", "Comfy-Org/flux1-dev/resolve/main"),
        11: Node(
            "DualCLIPLoader", (40, 255), (330, 140), (*names, "flux", "default"),
            files=tuple(one for name in names for one in file_of(name, "text_encoders", texts)),
        ),
        12: vae_of("ae.safetensors", "Comfy-Org/Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae"),
    }  # fmt: skip
    note = note_of("**1.** Choose a Flux model, its two text encoders and its VAE above.", READ, TRY)
    latent = empty_latent("EmptySD3LatentImage", 1024, 1024, 1)
    made = sampled(loaders, latent, (1, 20, 1.0, "euler", "simple", 1.0), (11, 0), (12, 0), (1, 0), note, (LAKE, ""))
    made[4] = Node("ConditioningZeroOut", (730, 755), (340, 50), (), {"conditioning": (3, 0)})
    made[13] = Node("FluxGuidance", (730, 640), (340, 70), (3.5,), {"conditioning": (3, 0)})
    made[6] = replace(made[6], links={**made[6].links, "positive": (13, 0)})
    return made


def _z_image() -> dict[int, Node]:
    files = "Comfy-Org/z_image_turbo/resolve/main/split_files"
    loaders = loaded(
        ("z_image_bf16.safetensors", "Comfy-Org/z_image/resolve/main/split_files/diffusion_models"),
        ("qwen_3_4b.safetensors", f"{files}/text_encoders"), "lumina2",
        ("ae.safetensors", f"{files}/vae"),
    )  # fmt: skip
    what = "a Z-Image model (not Turbo: too few steps), its text encoder and its VAE"
    return _shifted_picture(loaders, what, 1024, (1, 25, 4.0, "euler", "simple", 1.0), 3.0)


def _qwen_image() -> dict[int, Node]:
    files = "Comfy-Org/Qwen-Image_ComfyUI/resolve/main/split_files"
    loaders = loaded(
        ("qwen_image_fp8_e4m3fn.safetensors", f"{files}/diffusion_models"),
        ("qwen_2.5_vl_7b_fp8_scaled.safetensors", f"{files}/text_encoders"), "qwen_image",
        ("qwen_image_vae.safetensors", f"{files}/vae"),
    )  # fmt: skip
    what = "a Qwen-Image model (without a Lightning LoRA: too few steps), its text encoder and its VAE"
    return _shifted_picture(loaders, what, 1328, (1, 20, 4.0, "euler", "simple", 1.0), 3.1)


def _shifted_picture(
    loaders: Workflow, what: str, size: int, sampler: tuple[Any, ...], shift: float
) -> dict[int, Node]:
    """One picture of a flow model whose noise schedule is shifted as AuraFlow's."""
    note = note_of(f"**1.** Choose {what} above.", READ, TRY)
    latent = empty_latent("EmptySD3LatentImage", size, size, 1)
    return shifted(sampled(loaders, latent, sampler, (11, 0), (12, 0), (1, 0), note), "ModelSamplingAuraFlow", shift)


def _wan() -> dict[int, Node]:
    files = "Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
    loaders = loaded(
        ("wan2.1_t2v_1.3B_fp16.safetensors", f"{files}/diffusion_models"),
        ("umt5_xxl_fp8_e4m3fn_scaled.safetensors", f"{files}/text_encoders"), "wan",
        ("wan_2.1_vae.safetensors", f"{files}/vae"),
    )  # fmt: skip
    note = note_of("**1.** Choose a Wan model, its text encoder and its VAE above.", READ, TRY)
    latent = Node("EmptyHunyuanLatentVideo", (40, 560), (330, 140), (832, 480, 33, 1))
    made = sampled(loaders, latent, (1, 30, 6.0, "euler", "simple", 1.0), (11, 0), (12, 0), (1, 0), note)
    made[9] = replace(note, at=(40, 750))
    made[8] = Node(
        "SaveAnimatedWEBP", (1110, 240), (290, 390), ("skipstone", 16.0, False, 90, "default"), {"images": (7, 0)}
    )
    return shifted(made, "ModelSamplingSD3", 8.0)


def _joint() -> dict[int, Node]:
    """Merged tokens at the calls that run, and the recipe of both as a file."""
    made = _demo()
    made[1] = replace(made[1], values=("icons (U-Net)", 4))
    made[10] = Node("SkipstoneTokenMerge", (400, 120), (300, 450), (0.9, "config_3"), {"model": (1, 0)})
    made[2] = replace(made[2], at=(400, 630), links={"model": (10, 0)}, values=("custom", 3.0))
    made[3] = replace(made[3], values=("boat",))
    made[9] = note_of(
        _DEMO,
        "**2.** Run. Skipstone chooses which calls run, and at those Token Merge merges similar tokens. On SD1.5 the two together "
        "pay from 3x on, and the more the larger the picture.",
        "**3.** Save Recipe writes both as one file: Load Recipe applies it in another workflow, and A1111, Forge and diffusers "
        "read it too.",
        top=350,
    )
    made[11] = Node("SkipstoneReport", (1430, 120), (480, 380), (), {"model": (2, 0), "after": (6, 0)})
    made[12] = Node("SkipstoneRecipeSaver", (1430, 550), (300, 150), ("recipe",), {"model": (2, 0), "recipe": (11, 4)})
    return made


def _two_passes() -> dict[int, Node]:
    """A picture, enlarged as a latent and drawn further in the large size."""
    made = checkpoint(*_SD15, 512, 7.0)
    made[10] = Node("LatentUpscaleBy", (1110, 240), (290, 90), ("bislerp", 1.5), {"samples": (6, 0)})
    made[11] = Node("PreviewImage", (1110, 380), (290, 300), (), {"images": (7, 0)}, "First pass")
    return _again(
        made, (10, 0), 0.55,
        "**1.** Choose an SD1.5 checkpoint above (SDXL works as well: set the size to 1024).",
        "**2.** Run: the first sampler draws a small picture, the second one enlarges it. One Skipstone node serves both, and "
        "shows the report of each.",
        TRY,
    )  # fmt: skip


def _control_and_lora() -> dict[int, Node]:
    """The edges of a picture guide another one, in the style of a LoRA."""
    made = checkpoint(
        *_SD15, 512, 7.0,
        "Also a LoRA, a ControlNet for edges, and a picture that guides the new one. A forecast step skips the ControlNet too.",
        READ,
        TRY,
    )  # fmt: skip
    made[10] = Node(
        "LoraLoader", (400, 120), (300, 130), ("my_lora.safetensors", 0.8, 0.8), {"model": (1, 0), "clip": (1, 1)}
    )
    made[2] = replace(made[2], at=(400, 320), size=(300, 270), links={"model": (10, 0)})
    for prompt in (3, 4):
        made[prompt] = replace(made[prompt], links={"clip": (10, 1)})
    made[11] = Node("LoadImage", (400, 640), (300, 330), ("example.png",))
    made[12] = Node("Canny", (730, 790), (340, 90), (0.4, 0.8), {"image": (11, 0)})
    control = "control_v11p_sd15_canny_fp16.safetensors"
    place = "comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main"
    made[13] = Node("ControlNetLoader", (730, 930), (340, 60), (control,), files=file_of(control, "controlnet", place))
    guided = {"positive": (3, 0), "negative": (4, 0), "control_net": (13, 0), "image": (12, 0)}
    made[14] = Node("ControlNetApplyAdvanced", (1110, 690), (290, 190), (0.8, 0.0, 0.8), guided)
    made[6] = replace(made[6], links={**made[6].links, "positive": (14, 0), "negative": (14, 1)})
    return made


def _sd3() -> dict[int, Node]:
    """A rule of Block Mask on SD3."""
    made = checkpoint(
        "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors", "Comfy-Org/stable-diffusion-3.5-fp8/resolve/main",
        "an SD3.5 checkpoint with its text encoders", 1024, 4.5,
        "**2.** Run. Then the node Block Mask shows which blocks ran and what it saved.",
        "**3.** *every* 2 runs all blocks at every second step, 3 at every third; 1 is off. The seed is fixed, so that you see the "
        "difference.",
        "Too far from the original? Set *start_percent* to 0.2, or *last_full*.",
    )  # fmt: skip
    made[2] = Node("SkipstoneBlockMask", (400, 120), (300, 330), (False, False, 0.0, "fora", 2), {"model": (1, 0)})
    made[5] = replace(made[5], kind="EmptySD3LatentImage")
    made[6] = replace(made[6], values=(1, 28, 4.5, "dpmpp_2m", "sgm_uniform", 1.0))
    return made


_SDXL = "stabilityai/stable-diffusion-xl-base-1.0/resolve/main"
_SD15 = (
    "v1-5-pruned-emaonly-fp16.safetensors", "Comfy-Org/stable-diffusion-v1-5-archive/resolve/main", "an SD1.5 checkpoint",
)  # fmt: skip
WORKFLOWS: Mapping[str, Workflow] = {
    "demo_skipstone": _demo(),
    "demo_compare": _compared(),
    "demo_image_to_image": _image_to_image(),
    "demo_joint_recipe": _joint(),
    "sd15_two_pass": _two_passes(),
    "sd15_controlnet_lora": _control_and_lora(),
    "sd3_block_mask": _sd3(),
    "sdxl_skipstone": checkpoint("sd_xl_base_1.0.safetensors", _SDXL, "an SDXL checkpoint", 1024, 7.0),
    "flux_skipstone": _flux(),
    "z_image_skipstone": _z_image(),
    "qwen_image_skipstone": _qwen_image(),
    "wan_skipstone": _wan(),
}
