"""Ways to sample with ComfyUI: guiders, samplers, latents, masks."""

from __future__ import annotations

from typing import Any

from hosts.comfy_prompts import node
from hosts.comfyui import Prompt
from hosts.trust_methods import STEPS, UNET, Case, Change


def guided(guider: str, **inputs: Any) -> Change:
    """SamplerCustomAdvanced with a guider."""

    def change(prompt: Prompt) -> Prompt:
        model = prompt["sampler"]["inputs"]["model"]
        return {
            **prompt,
            "noise": node("RandomNoise", noise_seed=1),
            "euler": node("KSamplerSelect", sampler_name="euler"),
            "sigmas": node("BasicScheduler", model=model, scheduler="normal", steps=STEPS, denoise=1.0),
            "guider": node(guider, model=model, **inputs),
            "sampler": node("SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["euler", 0],
                            sigmas=["sigmas", 0], latent_image=["empty", 0]),
        }  # fmt: skip

    return change


def custom(prompt: Prompt) -> Prompt:
    """SamplerCustom."""
    made, inputs = guided("BasicGuider", conditioning=["positive", 0])(prompt), prompt["sampler"]["inputs"]
    given = {name: inputs[name] for name in ("model", "positive", "negative")}
    sampler = node("SamplerCustom", add_noise=True, noise_seed=1, cfg=4.0, sampler=["euler", 0], sigmas=["sigmas", 0],
                   latent_image=["empty", 0], **given)  # fmt: skip
    return {**{name: one for name, one in made.items() if name not in ("guider", "noise")}, "sampler": sampler}


def latents(*chain: tuple[str, dict[str, Any]], **sampling: Any) -> Change:
    """Nodes between a latent that is not empty and the sampler; each takes the latent of the one before."""

    def change(prompt: Prompt) -> Prompt:
        inputs = prompt["sampler"]["inputs"]
        made = {**prompt, "drawn": DRAWN}
        last = "drawn"
        for number, (class_type, given) in enumerate(chain):
            made[f"latent{number}"] = node(class_type, samples=[last, 0], **given)
            last = f"latent{number}"
        made["sampler"] = node("KSampler", **{**inputs, "latent_image": [last, 0], **sampling})
        return {**made, **HALF}

    return change


DRAWN = node("ProbeLatent", kind=UNET, rng=9)
HALF = {
    "none": node("SolidMask", value=0.0, width=128, height=128),
    "all": node("SolidMask", value=1.0, width=64, height=128),
    "half": node("MaskComposite", destination=["none", 0], source=["all", 0], x=0, y=0, operation="add"),
}
"""A mask of the left half."""


def listed(prompt: Prompt) -> Prompt:
    """Several latents, one after the other."""
    sampler = prompt["sampler"]
    apart = node("RebatchLatents", latents=["empty", 0], batch_size=1)
    return {
        **prompt,
        "apart": apart,
        "sampler": {**sampler, "inputs": {**sampler["inputs"], "latent_image": ["apart", 0]}},
    }


def different(prompt: Prompt) -> Prompt:
    """A batch of two latents that differ."""
    sampler = prompt["sampler"]
    both = node("LatentBatch", samples1=["empty", 0], samples2=["drawn", 0])
    sampler = {**sampler, "inputs": {**sampler["inputs"], "latent_image": ["both", 0], "denoise": 0.8}}
    return {**prompt, "drawn": DRAWN, "both": both, "sampler": sampler}


def odd(prompt: Prompt) -> Prompt:
    """13 x 19 latent pixels."""
    return {**prompt, "one": node("ProbeLatent", kind=UNET, height=13, width=19)}


def in_two_stages(prompt: Prompt) -> Prompt:
    """KSamplerAdvanced, twice."""
    kept = {k: v for k, v in prompt["sampler"]["inputs"].items() if k not in ("seed", "denoise", "latent_image")}
    kept |= {"noise_seed": 1, "steps": 2 * STEPS}
    first = node("KSamplerAdvanced", **kept, latent_image=["empty", 0], add_noise="enable", start_at_step=0,
                 end_at_step=STEPS, return_with_leftover_noise="enable")  # fmt: skip
    second = node("KSamplerAdvanced", **kept, latent_image=["first", 0], add_noise="disable", start_at_step=STEPS,
                  end_at_step=10000, return_with_leftover_noise="disable")  # fmt: skip
    return {**prompt, "first": first, "sampler": second}


def inpainted(prompt: Prompt) -> Prompt:
    """A model made for inpainting, and its conditioning."""
    conditioned = node("InpaintModelConditioning", positive=["positive", 0], negative=["negative", 0], vae=["vae", 0],
                       pixels=["pixels", 0], mask=["half", 0], noise_mask=True)  # fmt: skip
    sampler = prompt["sampler"]
    wired = {"positive": ["filled", 0], "negative": ["filled", 1], "latent_image": ["filled", 2]}
    return {
        **prompt,
        **HALF,
        "vae": node("ProbeVAE"),
        "pixels": node("EmptyImage", width=128, height=128, batch_size=1, color=0x40A0F0),
        "filled": conditioned,
        "sampler": {**sampler, "inputs": {**sampler["inputs"], **wired}},
    }


VIDEO = ("Wan 2.1 t2v", "LTX Video", "HunyuanVideo t2v", "Cosmos Predict 2")
BOTH = {"positive": ["positive", 0], "negative": ["negative", 0], "cfg": 4.0}
TWO = {
    "cond1": ["positive", 0], "cond2": ["other", 0], "negative": ["negative", 0], "cfg_conds": 3.0, "cfg_cond2_negative": 4.0,
}  # fmt: skip
BIGGER = {"upscale_method": "bilinear", "width": 200, "height": 168, "crop": "disabled"}


def with_guider(guider: str, **inputs: Any) -> Case:
    """A guider of the U-Net."""
    return Case(UNET, guider, guided(guider, **inputs))


def unchanged(prompt: Prompt) -> Prompt:
    """A case that lies in the picture itself."""
    return prompt


WAYS: dict[str, Case] = {
    "BasicGuider": with_guider("BasicGuider", conditioning=["positive", 0]),
    "CFGGuider": with_guider("CFGGuider", **BOTH),
    "DualCFGGuider": with_guider("DualCFGGuider", style="regular", **TWO),
    "DualCFGGuider nested": with_guider("DualCFGGuider", style="nested", **TWO),
    "PerpNegGuider": with_guider("PerpNegGuider", empty_conditioning=["other", 0], neg_scale=1.0, **BOTH),
    "DualModelGuider": with_guider("DualModelGuider", **BOTH),
    "DualModelGuider, two models": with_guider("DualModelGuider", model_negative=["model", 0], **BOTH),
    "SamplerCustom": Case(UNET, "SamplerCustom", custom),
    "KSamplerAdvanced in two stages": Case(UNET, "KSamplerAdvanced", in_two_stages),
    "image to image": Case(UNET, "KSampler", latents(denoise=0.6)),
    "hires": Case(UNET, "LatentUpscale", latents(("LatentUpscale", BIGGER), denoise=0.6)),
    "noise mask": Case(UNET, "SetLatentNoiseMask", latents(("SetLatentNoiseMask", {"mask": ["half", 0]}), denoise=0.8)),
    "inpaint model": Case("U-Net inpaint", "InpaintModelConditioning", inpainted),
    "batch of four": Case(UNET, "KSampler", unchanged),
    "batch of several latents": Case(UNET, "LatentBatch", different),
    "list of latents": Case(UNET, "RebatchLatents", listed),
    "odd latents": Case(UNET, "ProbeLatent", odd),
    **{f"5-D latents of {kind}": Case(kind, "ProbeLatent", unchanged) for kind in VIDEO},
}
"""Name -> case, whose change stands after our nodes."""
