"""Configs of the smallest networks of further families, with four blocks in a stack, and the conds and latents they take."""

from dataclasses import dataclass, field

from .configs import CONFIGS


@dataclass(frozen=True)
class Kind:
    """config: of the network. text, pooled: channels of a cond. latent: shape. extras: name -> shape of a cond's other tensors.
    of: class in supported_models, where the config of so small a network does not tell it."""

    config: dict
    text: int
    pooled: int
    latent: tuple
    extras: dict = field(default_factory=dict)
    of: str = ""


_WAN = {
    "image_model": "wan2.1", "dim": 128, "in_dim": 16, "out_dim": 16, "num_heads": 1, "ffn_dim": 256, "num_layers": 4,
}  # fmt: skip
_HUNYUAN = {
    "image_model": "hunyuan_video", "in_channels": 16, "out_channels": 16, "hidden_size": 128, "mlp_ratio": 4.0,
    "num_heads": 1, "depth": 4, "depth_single_blocks": 4, "axes_dim": [16, 56, 56], "theta": 256, "patch_size": [1, 2, 2],
    "qkv_bias": True, "guidance_embed": False, "byt5": False, "meanflow": False, "meanflow_sum": False,
    "use_cond_type_embedding": False, "vision_in_dim": None, "vec_in_dim": 768, "context_in_dim": 256,
}  # fmt: skip
_COSMOS2 = {
    "max_img_h": 240, "max_img_w": 240, "max_frames": 128, "in_channels": 16, "out_channels": 16, "patch_spatial": 2,
    "patch_temporal": 1, "model_channels": 128, "num_blocks": 4, "num_heads": 1, "pos_emb_cls": "rope3d",
    "use_adaln_lora": True, "adaln_lora_dim": 32,
}  # fmt: skip
_LUMINA = {
    "patch_size": 2, "in_channels": 16, "dim": 96, "cap_feat_dim": 64, "n_layers": 4, "qk_norm": True, "n_heads": 1,
    "n_kv_heads": 1, "axes_dims": [32, 32, 32], "axes_lens": [300, 512, 512], "rope_theta": 10000.0, "n_refiner_layers": 1,
    "multiple_of": 32,
}  # fmt: skip
_UNET = {
    **CONFIGS["SD1.5"], "model_channels": 32, "context_dim": 64, "num_heads": 2, "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 4], "transformer_depth": [1, 1, 1], "transformer_depth_output": [1] * 6,
}  # fmt: skip
IMAGE, VIDEO = (1, 16, 16, 16), (1, 16, 2, 16, 16)
FAMILIES = {
    "U-Net": Kind(_UNET, 64, 0, (1, 4, 16, 16), of="SD15"),
    "U-Net inpaint": Kind({**_UNET, "in_channels": 9}, 64, 0, (1, 4, 16, 16), of="SD15"),
    "AuraFlow": Kind({"cond_seq_dim": 2048, "max_seq": 256, "dim": 128, "n_layers": 8, "n_double_layers": 4,
        "n_heads": 2, "global_conddim": 128}, 2048, 0, (1, 4, 16, 16)),
    "HunyuanDiT": Kind({"image_model": "hydit1", "hidden_size": 128, "depth": 8, "num_heads": 2, "size_cond": True,
        "use_style_cond": True, "text_states_dim": 64, "text_states_dim_t5": 96}, 64, 0, (1, 4, 16, 16),
        extras={"attention_mask": (1, 77), "conditioning_mt5xl": (1, 256, 96), "attention_mask_mt5xl": (1, 256)}),
    "Flux 2": Kind({"image_model": "flux2", "axes_dim": [32, 32, 32, 32], "num_heads": 1, "mlp_ratio": 3.0, "theta":
        2000, "out_channels": 128, "global_modulation": True, "mlp_silu_act": True, "qkv_bias": False, "ops_bias":
        False, "default_ref_method": "index", "ref_index_scale": 10.0, "txt_ids_dims": [3], "in_channels": 128,
        "hidden_size": 128, "context_in_dim": 64, "patch_size": 1, "vec_in_dim": None, "depth": 4,
        "depth_single_blocks": 4, "guidance_embed": False, "yak_mlp": False, "txt_norm": False}, 64, 0, (1, 128, 8,
        8)),
    "Lumina 2": Kind({**_LUMINA, "image_model": "lumina2"}, 64, 0, IMAGE),
    "Z-Image": Kind({**_LUMINA, "image_model": "lumina2", "dim": 256, "n_heads": 2, "n_kv_heads": 2, "axes_dims": [32, 48, 48],
        "z_image_modulation": True, "time_scale": 1000.0,
        "pad_tokens_multiple": 32}, 64, 0, IMAGE, of="ZImage"),
    "Qwen-Image": Kind({"image_model": "qwen_image", "in_channels": 64, "num_layers": 4, "num_attention_heads": 1,
        "joint_attention_dim": 64}, 64, 0, (1, 16, 1, 16, 16)),
    "HiDream": Kind({"image_model": "hidream", "attention_head_dim": 128, "axes_dims_rope": [64, 32, 32],
        "caption_channels": [64, 64], "max_resolution": [128, 128], "in_channels": 16, "llama_layers": [0, 1, 1, 1,
        1, 1, 1, 1], "num_attention_heads": 1, "num_routed_experts": 4, "num_activated_experts": 2, "num_layers": 4,
        "num_single_layers": 4, "out_channels": 16, "patch_size": 2, "text_emb_dim": 64}, 64, 64, IMAGE,
        extras={"conditioning_llama3": (1, 2, 12, 64)}),
    "OmniGen 2": Kind({"image_model": "omnigen2", "axes_dim_rope": [40, 40, 40], "axes_lens": [1024, 1664, 1664],
        "hidden_size": 120, "num_attention_heads": 1, "num_kv_heads": 1, "num_layers": 4, "num_refiner_layers": 1,
        "patch_size": 2, "text_feat_dim": 64, "timestep_scale": 1000.0, "in_channels": 16}, 64, 0, IMAGE,
        extras={"attention_mask": (1, 77)}),
    "Boogu": Kind({"image_model": "boogu", "hidden_size": 120, "num_layers": 4, "num_double_stream_layers": 4,
        "num_refiner_layers": 1, "instruction_feat_dim": 64, "num_attention_heads": 1, "num_kv_heads": 1}, 64, 0,
        IMAGE, extras={"attention_mask": (1, 77)}),
    "Ideogram 4": Kind({"image_model": "ideogram4", "in_channels": 128, "num_layers": 4, "num_attention_heads": 1,
        "attention_head_dim": 256, "intermediate_size": 256, "adaln_dim": 64, "llm_features_dim": 64}, 64, 0, (1,
        128, 8, 8)),
    "Krea 2": Kind({"image_model": "krea2", "features": 128, "channels": 16, "patch": 2, "layers": 4, "heads": 1,
        "kvheads": 1, "txtlayers": 2, "txtdim": 128, "txtheads": 1, "txtkvheads": 1}, 256, 0, (1, 16, 1, 16, 16)),
    "Mage Flow": Kind({"image_model": "mage_flow", "in_channels": 128, "num_layers": 4, "num_attention_heads": 1,
        "joint_attention_dim": 64}, 64, 0, (1, 128, 8, 8)),
    "JoyImage": Kind({"image_model": "joyimage", "hidden_size": 128, "num_attention_heads": 1, "text_dim": 64,
        "num_layers": 4, "in_channels": 16}, 64, 0, VIDEO),
    "Kandinsky 5": Kind({"image_model": "kandinsky5", "model_dim": 64, "axes_dims": (16, 24, 24), "time_dim": 64,
        "ff_dim": 128, "visual_embed_dim": 132, "num_text_blocks": 1, "num_visual_blocks": 4, "in_text_dim": 64,
        "in_text_dim2": 64}, 64, 64, VIDEO),
    "LongCat": Kind({"image_model": "flux", "axes_dim": [16, 56, 56], "num_heads": 1, "mlp_ratio": 4.0, "theta":
        10000, "out_channels": 16, "qkv_bias": True, "txt_ids_dims": [1, 2], "in_channels": 16, "hidden_size": 128,
        "context_in_dim": 3584, "patch_size": 2, "vec_in_dim": None, "depth": 4, "depth_single_blocks": 4,
        "guidance_embed": False, "yak_mlp": False, "txt_norm": False}, 3584, 0, IMAGE),
    "Ernie": Kind({"image_model": "ernie", "hidden_size": 128, "num_attention_heads": 1, "num_layers": 4,
        "ffn_hidden_size": 256, "text_in_dim": 64}, 64, 0, (1, 128, 8, 8)),
    "CogVideoX": Kind({"image_model": "cogvideox", "num_attention_heads": 1, "attention_head_dim": 64,
        "time_embed_dim": 64, "num_layers": 4, "in_channels": 16, "patch_size": 2, "text_embed_dim": 64,
        "use_learned_positional_embeddings": False, "use_rotary_positional_embeddings": True}, 64, 0, VIDEO),
    "Anima": Kind({**_COSMOS2, "image_model": "anima"}, 1024, 0, VIDEO),
    "HunyuanImage 2.1": Kind({**_HUNYUAN, "in_channels": 64, "out_channels": 64, "axes_dim": [64, 64], "patch_size":
        [1, 1], "vec_in_dim": None}, 256, 0, (1, 64, 8, 8)),
    "HunyuanVideo 1.5": Kind({"image_model": "hunyuan_video", "in_channels": 65, "out_channels": 32, "hidden_size":
        128, "mlp_ratio": 4.0, "num_heads": 1, "depth": 4, "depth_single_blocks": 4, "axes_dim": [16, 56, 56],
        "theta": 256, "patch_size": [1, 1, 1], "qkv_bias": True, "guidance_embed": False, "byt5": False, "meanflow":
        False, "meanflow_sum": True, "use_cond_type_embedding": True, "vision_in_dim": 1152, "vec_in_dim": None,
        "context_in_dim": 256}, 256, 768, (1, 32, 2, 8, 8)),
    "Wan 2.1 i2v": Kind({**_WAN, "in_dim": 36, "model_type": "i2v"}, 4096, 0, VIDEO),
    "Wan 2.2 t2v 5B": Kind({**_WAN, "in_dim": 48, "out_dim": 48, "model_type": "t2v"}, 4096, 0, (1, 48, 2, 16, 16)),
    "Wan VACE": Kind({**_WAN, "model_type": "vace", "vace_in_dim": 96, "vace_layers": 2}, 4096, 0, VIDEO),
    "Wan camera": Kind({**_WAN, "in_dim": 32, "model_type": "camera"}, 4096, 0, VIDEO),
    "PixelDiT": Kind({"image_model": "pixeldit_t2i", "num_groups": 2, "hidden_size": 128, "pixel_hidden_size": 16,
        "pixel_attn_hidden_size": 64, "pixel_num_groups": 2, "patch_depth": 4, "pixel_depth": 1, "txt_embed_dim":
        64}, 64, 0, (1, 3, 64, 64)),
    "Lens": Kind({"image_model": "lens", "in_channels": 128, "out_channels": 32, "num_layers": 4,
        "num_attention_heads": 2, "enc_hidden_dim": 64, "multi_layer_encoder_feature": False,
        "selected_layer_index": (0,)}, 64, 0, (1, 128, 8, 8)),
    "Stable Cascade C": Kind({"stable_cascade_stage": "c", "c_cond": 64, "c_hidden": [64, 64], "nhead": [2, 2],
        "blocks": [[2, 4], [4, 2]], "c_clip_text": 64, "c_clip_text_pooled": 64}, 64, 64, (1, 16, 8, 8)),
}  # fmt: skip
FAMILIES |= {
    "Wan 2.1 t2v": Kind({**CONFIGS["Wan"], "num_layers": 4}, 4096, 0, VIDEO),
    "LTX Video": Kind({**CONFIGS["LTXV"], "num_layers": 4}, 4096, 0, (1, 128, 2, 4, 4), {"attention_mask": (1, 77)}),
    "HunyuanVideo t2v": Kind({**_HUNYUAN}, 256, 768, VIDEO),
    "Cosmos 1": Kind({**CONFIGS["Cosmos"], "num_blocks": 4}, 1024, 0, VIDEO),
    "Cosmos Predict 2": Kind({**CONFIGS["Cosmos 2"], "num_blocks": 4}, 1024, 0, VIDEO),
    "Mochi 1": Kind({**CONFIGS["Mochi"], "depth": 4}, 4096, 0, (1, 12, 2, 16, 16), {"attention_mask": (1, 256)}),
}
