"""Transformers whose attention runs on text and picture together: SD3 (MMDiT), Flux and Chroma. Whole blocks are skipped,
and tokens are reduced inside the attention kernel's call (:mod:`skipstone.core.engine.kernel_layer`)."""

from __future__ import annotations

from torch import nn

from .family import BLOCKS, KERNEL_TOKENS, Family, Site, class_name
from .stack import DIFFERENCE_OR_OUTPUT, graph_of_lists


def _none(root: nn.Module) -> list[Site]:
    """No hidden states are reduced: with rotary or joint positions, a merged token has no one position."""
    return []


def _family(
    name: str,
    roots: tuple[str, ...],
    models: tuple[str, ...],
    names: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]],
    *lists: str,
    time_scale: float = 1.0,
) -> Family:
    """A family whose networks have one of these class names, and run these lists of blocks one after the other."""
    return Family(
        name=name,
        matches=lambda root: class_name(root) in roots and all(hasattr(root, path) for path in lists),
        sites=_none,
        names=names,
        graph=graph_of_lists(*lists),
        serves=dict.fromkeys(models, (*BLOCKS, KERNEL_TOKENS)),
        cachings=DIFFERENCE_OR_OUTPUT,
        time_scale=time_scale,
    )


_HOST_NAMES = (("x",), ("timestep", "timesteps", "t"), ("context", "y"))
_DIFFUSERS_NAMES = (("hidden_states",), ("timestep",), ("encoder_hidden_states",))
_SD3_ROOTS = ("OpenAISignatureMMDITWrapper", "MMDiT", "MMDiTX")
_FLUX_ROOTS = ("Flux", "Chroma", "IntegratedFluxTransformer2DModel", "IntegratedChromaTransformer2DModel")
_FLUX_MODELS = ("Flux", "Chroma")

SD3 = _family("SD3", _SD3_ROOTS, ("SD3",), _HOST_NAMES, "joint_blocks")
DIFFUSERS_SD3 = _family("diffusers SD3", ("SD3Transformer2DModel",), ("SD3",), _DIFFUSERS_NAMES, "transformer_blocks")
FLUX = _family(
    "Flux", _FLUX_ROOTS, _FLUX_MODELS, _HOST_NAMES, "double_blocks", "single_blocks", time_scale=1000.0,
)  # fmt: skip
DIFFUSERS_FLUX = _family(
    "diffusers Flux", ("FluxTransformer2DModel", "ChromaTransformer2DModel"), _FLUX_MODELS, _DIFFUSERS_NAMES,
    "transformer_blocks", "single_transformer_blocks", time_scale=1000.0,
)  # fmt: skip
