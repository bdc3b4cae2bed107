"""Weights where there is least memory."""

import comfy.model_patcher


class _LowVram(comfy.model_patcher.ModelPatcher):
    """Keeps its weights where there is least memory, unless all of them are asked for."""

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        memory = lowvram_model_memory if full_load else 1
        return super().load(device_to, memory, force_patch_weights, full_load)


def layer_by_layer(model, estimating):
    """A clone that brings its weights to the device layer by layer.

    estimating: function that makes of a patcher of the newer kind, which loads by itself, one of the older kind.
    """
    dynamic = hasattr(model, "is_dynamic") and model.is_dynamic()
    clone = estimating(model) if dynamic else model.clone()
    clone.__class__ = _LowVram
    return clone
