"""Configs of the smallest networks that ComfyUI recognises as its models, and what conds and latents they take."""

import comfy.ldm.chroma.model
import comfy.ldm.flux.model
import comfy.ldm.hunyuan_video.model

_UNET = {
    "use_checkpoint": False, "image_size": 32, "out_channels": 4, "in_channels": 4, "use_spatial_transformer": True,
    "legacy": False, "model_channels": 320, "use_temporal_attention": False, "use_temporal_resblock": False,
}  # fmt: skip
_ROTARY = {
    "in_channels": 16, "out_channels": 16, "context_in_dim": 4096, "hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2,
    "depth": 2, "depth_single_blocks": 2, "axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True,
    "txt_ids_dims": [],
}  # fmt: skip
_COSMOS = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 128, "num_blocks": 2, "num_heads": 1, "pos_emb_cls": "rope3d",
    "use_adaln_lora": True, "adaln_lora_dim": 32,
}  # fmt: skip
CONFIGS = {
    "SD1.5": {
        **_UNET, "adm_in_channels": None, "use_linear_in_transformer": False, "context_dim": 768, "num_heads": 8,
        "num_res_blocks": [1, 1], "channel_mult": [1, 1], "transformer_depth": [1, 1], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1],
    },
    "SDXL": {
        **_UNET, "num_classes": "sequential", "adm_in_channels": 2816, "use_linear_in_transformer": True,
        "context_dim": 2048, "num_head_channels": 64, "num_res_blocks": [2, 2, 2], "channel_mult": [1, 1, 1],
        "transformer_depth": [0, 0, 1, 1, 2, 2], "transformer_depth_middle": -1,
        "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
    },
    "SVD": {
        **_UNET, "num_classes": "sequential", "in_channels": 8, "adm_in_channels": 768, "use_linear_in_transformer": True,
        "context_dim": 1024, "num_head_channels": 64, "num_res_blocks": [1, 1], "channel_mult": [1, 1],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1], "use_temporal_attention": True, "use_temporal_resblock": True,
        "extra_ff_mix_layer": True, "use_spatial_context": True, "merge_strategy": "learned_with_images",
        "merge_factor": 0.0, "video_kernel_size": [3, 1, 1],
    },
    "PixArt": {
        "image_model": "pixart_sigma", "micro_condition": False, "num_heads": 16, "patch_size": 2, "hidden_size": 1152,
        "in_channels": 4, "depth": 2, "model_max_length": 300,
    },
    "SD3": {
        "in_channels": 16, "patch_size": 2, "out_channels": 16, "depth": 2, "input_size": None, "adm_in_channels": 2048,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 128}},
        "num_patches": 36864, "pos_embed_max_size": 192, "pos_embed_scaling_factor": None,
        "x_block_self_attn_layers": [],
    },
    "Flux": {**_ROTARY, "image_model": "flux", "vec_in_dim": 768, "guidance_embed": False},
    "Chroma": {
        **_ROTARY, "image_model": "chroma", "in_channels": 64, "out_channels": 64, "in_dim": 64, "out_dim": 256,
        "hidden_dim": 64, "n_layers": 1, "vec_in_dim": None,
    },
    "HunyuanVideo": {
        **_ROTARY, "image_model": "hunyuan_video", "vec_in_dim": 768, "context_in_dim": 256, "hidden_size": 128,
        "num_heads": 1, "theta": 256, "patch_size": [1, 2, 2], "guidance_embed": False, "byt5": False, "meanflow": False,
        "meanflow_sum": False, "use_cond_type_embedding": False, "vision_in_dim": None,
    },
    "Wan": {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 128, "in_dim": 16, "out_dim": 16, "num_heads": 1,
        "ffn_dim": 256, "num_layers": 2,
    },
    "LTXV": {"image_model": "ltxv", "num_layers": 2, "attention_head_dim": 8, "cross_attention_dim": 256},
    "Cosmos": {
        **_COSMOS, "image_model": "cosmos", "block_x_format": "THWBD", "affline_emb_norm": True,
        "extra_per_block_abs_pos_emb": True, "extra_per_block_abs_pos_emb_type": "learnable",
    },
    "Cosmos 2": {**_COSMOS, "image_model": "cosmos_predict2"},
    "Mochi": {
        "image_model": "mochi_preview", "depth": 2, "patch_size": 2, "num_heads": 2, "hidden_size_x": 256,
        "hidden_size_y": 128, "mlp_ratio_x": 48.0, "mlp_ratio_y": 4.0, "learn_sigma": False, "in_channels": 12,
        "qk_norm": True, "qkv_bias": False, "out_bias": True, "attn_drop": 0.0, "posenc_preserve_area": True,
        "timestep_scale": 1000.0, "use_t5": True,
    },
}  # fmt: skip
CONTEXT = {
    "SD1.5": (768, 0), "SDXL": (2048, 1280), "SVD": (1024, 0), "PixArt": (4096, 0), "SD3": (4096, 2048), "Flux": (4096, 768),
    "Chroma": (4096, 768), "HunyuanVideo": (256, 768), "Wan": (4096, 0), "LTXV": (4096, 0), "Cosmos": (1024, 0),
    "Cosmos 2": (1024, 0), "Mochi": (4096, 0),
}  # fmt: skip
"""Channels of a cond, and of its pooled output."""

MASKED = ("LTXV", "Mochi")
"""Models whose conds bring an attention mask."""

LATENTS = {
    "SVD": (2, 4, 8, 8), "Chroma": (1, 16, 8, 8), "HunyuanVideo": (1, 16, 2, 16, 16), "Wan": (1, 16, 2, 16, 16),
    "LTXV": (1, 128, 2, 4, 4), "Cosmos": (1, 16, 2, 16, 16), "Cosmos 2": (1, 16, 2, 16, 16), "Mochi": (1, 12, 2, 16, 16),
}  # fmt: skip
"""Empty latents of models for which ComfyUI has a node of their own."""

_FIELDS = {
    "Flux": comfy.ldm.flux.model.FluxParams,
    "Chroma": comfy.ldm.chroma.model.ChromaParams,
    "HunyuanVideo": comfy.ldm.hunyuan_video.model.HunyuanVideoParams,
}


def config(kind):
    """A copy, with only what this version of ComfyUI knows."""
    known = _FIELDS[kind].__dataclass_fields__ if kind in _FIELDS else CONFIGS[kind]
    return {k: v for k, v in CONFIGS[kind].items() if k == "image_model" or k in known}
