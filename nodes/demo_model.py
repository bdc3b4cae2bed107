"""The node "Load Demo Model"."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

from ..lab.demo_models.icons import CLASSES
from ..lab.demo_models.weights import WEIGHTS, read_weights
from .demo_text import part_of, prompts_of

KINDS = {"icons (U-Net)": "unet", "icons (flow)": "flow"}
"""Choices, and the kinds of model that they are."""
CHANNELS, SIDE = 12, 32
"""Of the latent of a 64 x 64 picture."""


class SkipstoneDemoModel(io.ComfyNode):
    """Nothing in; MODEL, CLIP, VAE and an empty latent out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A choice and a batch size."""
        return io.Schema(
            node_id="SkipstoneDemoModel",
            display_name="Load Demo Model",
            category="Skipstone",
            description="Loads a small model that ships with Skipstone, to try it without a download. It draws icons of "
            "64 x 64 pixels. For your own model, put Load Checkpoint and Empty Latent Image in its place.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(KINDS),
                    tooltip=f"The U-Net draws one of {', '.join(CLASSES)}. The flow model, a small Flux, also reads "
                    "colours and backgrounds: a pink star on a purple background.",
                ),
                io.Int.Input("batch_size", default=4, min=1, max=64, tooltip="Number of pictures in the empty latent."),
            ],
            outputs=[
                io.Model.Output(tooltip="The small model. Good settings: 20 steps, cfg 3, euler, sgm_uniform."),
                io.Clip.Output(tooltip="Encodes prompts, with CLIP Text Encode."),
                io.Vae.Output(tooltip="Turns this model's latents into pictures, without loss and at once."),
                io.Latent.Output(
                    tooltip="An empty latent of this model's size; Empty Latent Image makes another size."
                ),
            ],
        )

    @classmethod
    def execute(cls, model: str, batch_size: int) -> io.NodeOutput:
        """Load the model.

        Args:
            model: one of :data:`KINDS`.
            batch_size: of the latent.
        """
        from .demo_networks import NETWORKS, clip, patcher, vae

        kind = KINDS[model]
        config, tensors = read_weights(WEIGHTS[kind])
        network = NETWORKS[kind](config, part_of(tensors, f"{kind}."))
        device = comfy.model_management.intermediate_device()
        latent = {"samples": torch.zeros(batch_size, CHANNELS, SIDE, SIDE, device=device)}
        return io.NodeOutput(patcher(network), clip(prompts_of(kind, tensors)), vae(), latent)
