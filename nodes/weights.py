"""Gradients through ComfyUI's models: weights outside inference mode, and norms whose inputs are kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ..core.errors import ModelError, RecipeError


@contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """Inside, gradients pass through copies of the weights; afterwards the module holds the same tensors as before.

    The copies need as much memory as the weights that were created in inference mode. Raises :class:`RecipeError` if something
    outside the network, such as a ControlNet, was created in inference mode.
    """
    held: list[tuple[dict[str, Any], str, Tensor]] = []
    before = getattr(comfy.model_management, "in_training", None)
    try:
        for store, name, tensor in list(_tensors(network)):
            if tensor.is_inference():
                held.append((store, name, tensor))
                copy = tensor.clone()
                store[name] = nn.Parameter(copy, requires_grad=False) if isinstance(tensor, nn.Parameter) else copy
        if before is not None:
            comfy.model_management.in_training = True
        yield
    except RuntimeError as error:
        if "Inference tensors" not in str(error):
            raise
        raise RecipeError(
            "gradients do not pass through a ControlNet or another node's patch: train with the form search"
        ) from None
    finally:
        for store, name, tensor in held:
            store[name] = tensor
        if before is not None:
            comfy.model_management.in_training = before


def _tensors(network: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """(dict that holds it, name, tensor) of each parameter and buffer."""
    for module in network.modules():
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for store in stores:
            yield from ((store, name, tensor) for name, tensor in store.items() if tensor is not None)


class KeptNorms(TorchFunctionMode):
    """Inside, a norm keeps a copy of its input for the backward pass: blocks of Flux and Chroma overwrite the input."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Called for every torch function."""
        if func in _NORMS and isinstance(args[0], Tensor):
            args = (args[0].clone(), *args[1:])
        return func(*args, **(kwargs or {}))


_NORMS = (functional.layer_norm, functional.rms_norm)


def wholly_loaded(model: Any) -> Any:
    """A ModelPatcher with the same patches, and all of its weights on the device.

    Newer ComfyUI moves weights to the device call by call, and reuses their memory before the backward pass; such a model is
    read from its file again. Raises :class:`ModelError` if its loader cannot do that.
    """
    if getattr(model, "is_dynamic", lambda: False)():
        try:
            model = model.clone(disable_dynamic=True)
        except RuntimeError:
            raise ModelError(
                "this model's loader cannot load weights for gradients: train with the form search"
            ) from None
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    return model


def outside_inference(value: Any) -> Any:
    """Copies of the tensors in nested lists and dicts; everything else is shared."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, dict):
        return {key: outside_inference(item) for key, item in value.items()}
    return [outside_inference(item) for item in value] if isinstance(value, list) else value
