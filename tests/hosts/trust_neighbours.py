"""Other nodes of ComfyUI beside ours: what each does to a prompt, and on which model."""

from __future__ import annotations

from typing import Any

from hosts.comfy_prompts import node, patched
from hosts.comfyui import Prompt
from hosts.test_comfyui_masks import with_control
from hosts.test_comfyui_windows import WINDOW
from hosts.trust_methods import UNET, Case, Change


def put(class_type: str, kind: str = UNET, **inputs: Any) -> Case:
    """A node from MODEL to MODEL."""
    return Case(kind, class_type, lambda prompt: patched(prompt, class_type, "neighbour", **inputs))


def conds(class_type: str, **inputs: Any) -> Change:
    """A node that changes the positive conditioning."""

    def change(prompt: Prompt) -> Prompt:
        changed = {"neighbour": node(class_type, **inputs, conditioning=["positive", 0])}
        sampler = prompt["sampler"]
        return {
            **prompt,
            **changed,
            "sampler": {**sampler, "inputs": {**sampler["inputs"], "positive": ["neighbour", 0]}},
        }

    return change


def controlled(net: Any) -> Change:
    """A ControlNet of some kind."""

    def change(prompt: Prompt) -> Prompt:
        copied = {**prompt, "sampler": {**prompt["sampler"], "inputs": dict(prompt["sampler"]["inputs"])}}
        return {**with_control(copied), "net": net}

    return change


def lora_hook(**hooked: Any) -> Change:
    """A LoRA on the positive cond alone, whose strength changes in the middle of the run."""

    def change(prompt: Prompt) -> Prompt:
        late = node("CreateHookKeyframe", strength_mult=0.0, start_percent=0.5)
        lora = node("CreateHookLoraModelOnly", lora_name="trust.safetensors", strength_model=1.0)
        made = {"lora": lora, "late": late, "hook": node("SetHookKeyframes", hooks=["lora", 0], hook_kf=["late", 0])}
        found = node("ConditioningSetProperties", cond_NEW=["positive", 0], strength=1.0, set_cond_area="default",
                     hooks=["hook" if hooked else "lora", 0])  # fmt: skip
        sampler = prompt["sampler"]
        inputs = {**sampler["inputs"], "positive": ["neighbour", 0]}
        return {**prompt, **made, "neighbour": found, "sampler": {**sampler, "inputs": inputs}}

    return change


CACHED = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
ALL_RUN = {"start_percent": 0.0, "end_percent": 1.0}
LAYERS = {"double_layers": "1", "single_layers": "2"}
NAG = {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}
MULTIPLY = {"q": 1.1, "k": 1.0, "v": 0.9, "out": 1.0}
NEIGHBOURS: dict[str, Case] = {
    "LoRA": put("LoraLoaderModelOnly", lora_name="trust.safetensors", strength_model=1.0),
    "LoRA beside": put("LoraLoaderBypassModelOnly", lora_name="trust.safetensors", strength_model=1.0),
    "LoRA hook": Case(UNET, "CreateHookLoraModelOnly", lora_hook()),
    "LoRA hook with keyframe": Case(UNET, "CreateHookLoraModelOnly", lora_hook(late=True)),
    "ControlNet": Case(UNET, "ProbeControlNet", controlled(node("ProbeControlNet", kind=UNET))),
    "T2I adapter": Case(UNET, "ProbeT2I", controlled(node("ProbeT2I", channels=32))),
    "attn2 patch": put("ProbePatch", how="attn2 patch"),
    "attn2 replace": put("ProbePatch", how="attn2 replace"),
    "attn1 output patch": put("ProbePatch", how="attn1 output patch"),
    "unet wrapper": put("ProbePatch", how="unet wrapper"),
    "Tome": put("TomePatchModel", ratio=0.5),
    "HyperTile": put("HyperTile", tile_size=64, swap_size=2, max_depth=0, scale_depth=False),
    "FreeU": put("FreeU", b1=1.1, b2=1.2, s1=0.9, s2=0.2),
    "FreeU V2": put("FreeU_V2", b1=1.3, b2=1.4, s1=0.9, s2=0.2),
    "deep shrink": put("PatchModelAddDownscale", block_number=2, downscale_factor=2.0, start_percent=0.0, end_percent=0.35,
                       downscale_after_skip=True, downscale_method="bicubic", upscale_method="bicubic"),
    "PAG": put("PerturbedAttentionGuidance", scale=3.0),
    "SAG": put("SelfAttentionGuidance", scale=0.5, blur_sigma=2.0),
    "self-attention multiply": put("UNetSelfAttentionMultiply", **MULTIPLY),
    "cross-attention multiply": put("UNetCrossAttentionMultiply", **MULTIPLY),
    "NAG": put("NAGuidance", **NAG),
    "NAG on Flux": put("NAGuidance", "Flux 2", **NAG),
    "SLG of SD3": put("SkipLayerGuidanceSD3", "SD3", layers="1", scale=3.0, **ALL_RUN),
    "SLG": put("SkipLayerGuidanceDiT", "Flux 2", **LAYERS, scale=3.0, rescaling_scale=0.3, **ALL_RUN),
    "SLG of uncond": put("SkipLayerGuidanceDiTSimple", "Flux 2", **LAYERS, **ALL_RUN),
    "APG": put("APG", eta=0.5, norm_threshold=5.0, momentum=-0.5),
    "TCFG": put("TCFG"),
    "Mahiro": put("Mahiro"),
    "FreSca": put("FreSca", scale_low=1.0, scale_high=1.25, freq_cutoff=2),
    "CFG zero star": put("CFGZeroStar"),
    "CFG norm": put("CFGNorm", "Flux 2", strength=0.9),
    "CFG override": put("CFGOverride", cfg=1.0, start_percent=0.5, end_percent=1.0),
    "RescaleCFG": put("RescaleCFG", multiplier=0.7),
    "RenormCFG": put("RenormCFG", "Lumina 2", cfg_trunc=100.0, renorm_cfg=1.0),
    "Epsilon scaling": put("Epsilon Scaling", scaling_factor=1.01),
    "temporal score rescaling": put("TemporalScoreRescaling", tsr_k=0.9, tsr_sigma=1.0),
    "EasyCache": put("EasyCache", "Flux 2", **CACHED),
    "LazyCache": put("LazyCache", **CACHED),
    "context windows": put("ContextWindowsManual", **WINDOW),
    "differential diffusion": put("DifferentialDiffusion", strength=1.0),
    "ModelSamplingDiscrete": put("ModelSamplingDiscrete", sampling="v_prediction", zsnr=True),
    "ModelSamplingDiscrete lcm": put("ModelSamplingDiscrete", sampling="lcm", zsnr=False),
    "ModelSamplingDiscrete x0": put("ModelSamplingDiscrete", sampling="x0", zsnr=False),
    "ModelSamplingContinuousEDM": put("ModelSamplingContinuousEDM", sampling="edm", sigma_max=120.0, sigma_min=0.002),
    "ModelSamplingContinuousV": put("ModelSamplingContinuousV", sampling="v_prediction", sigma_max=500.0, sigma_min=0.03),
    "ModelSamplingSD3": put("ModelSamplingSD3", "SD3", shift=6.0),
    "ModelSamplingAuraFlow": put("ModelSamplingAuraFlow", "Z-Image", shift=6.0),
    "ModelSamplingFlux": put("ModelSamplingFlux", "Flux 2", max_shift=1.15, base_shift=0.5, width=128, height=128),
    "ModelSamplingStableCascade": put("ModelSamplingStableCascade", "Stable Cascade C", shift=2.0),
    "ModelNoiseScale": put("ModelNoiseScale", "Z-Image", noise_scale=1.1),
    "scaled RoPE": put("ScaleROPE", "Wan 2.1 t2v", scale_x=1.2, shift_x=0.0, scale_y=1.0, shift_y=0.0, scale_t=1.0, shift_t=0.0),
    "compute type": put("ModelComputeDtype", "Flux 2", dtype="bf16"),
    "attention backend": put("ModelAttentionBackend", "Flux 2", attention="pytorch attention"),
    "area": Case(UNET, "ConditioningSetArea", conds("ConditioningSetArea", width=64, height=128, x=64, y=0, strength=1.0)),
}  # fmt: skip
"""Name -> case."""
