"""Weights outside inference mode. ComfyUI loads models in it, and no gradient goes through such tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
from torch import Tensor, nn


@contextmanager
def differentiable(network: nn.Module) -> Iterator[None]:
    """Inside, the weights are copies through which gradients pass; after it, the very same tensors stand there again.

    Takes as much memory again as the weights that were made in inference mode.
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
    finally:
        for store, name, tensor in held:
            store[name] = tensor
        if before is not None:
            comfy.model_management.in_training = before


def _tensors(network: nn.Module) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """Where each parameter and buffer stands."""
    for module in network.modules():
        stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for store in stores:
            yield from ((store, name, tensor) for name, tensor in store.items() if tensor is not None)


def outside_inference(value: Any) -> Any:
    """Copies of the tensors in nested lists and dicts; everything else is shared."""
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value
    if isinstance(value, dict):
        return {key: outside_inference(item) for key, item in value.items()}
    return [outside_inference(item) for item in value] if isinstance(value, list) else value
