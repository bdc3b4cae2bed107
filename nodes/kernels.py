"""ComfyUI's attention kernels, reached through `optimized_attention_override`; one that stood there before stays in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

from ..core.engine.kernel import Attend, Attention, KernelHost
from .attention import KERNELS_WITH_MASK

OVERRIDE = "optimized_attention_override"
_NAMES = ("q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape")
_attend: ContextVar[Attend | None] = ContextVar("skipstone_attend", default=None)


@contextmanager
def _scope(attend: Attend) -> Iterator[None]:
    token = _attend.set(attend)
    try:
        yield
    finally:
        _attend.reset(token)


COMFYUI = KernelHost(_scope, "its attention is not called with ComfyUI's transformer_options")
"""For networks in ComfyUI's code."""


def with_kernels(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the transformer_options of one forward with an override through which tokens are merged and pruned.

    Args:
        options: as they were; an override in them is called in the place of the kernel.
    """
    return {**options, OVERRIDE: _override(options.get(OVERRIDE))}


def _override(earlier: Callable[..., Any] | None) -> Callable[..., Any]:
    def skipstone_attention(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        def plain(**given: Any) -> Any:
            ordered = [given.pop(name) for name in _NAMES[:4]]
            return earlier(kernel, *ordered, **given) if earlier else kernel(*ordered, **given)

        given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        attend = _attend.get()
        output = _served(attend, plain, given, _limits(kernel, earlier)) if attend else None
        return plain(**given) if output is None else output

    return skipstone_attention


def _limits(kernel: Callable[..., Any], earlier: Callable[..., Any] | None) -> dict[str, str]:
    """What other nodes' overrides and other kernels than PyTorch's cannot do, as arguments of :class:`Attention`."""
    if earlier is not None:
        name = getattr(earlier, "__name__", type(earlier).__name__)
        return {"mixes": f"attention override {name}", "unbiased": "another node chose the attention kernel"}
    name = getattr(kernel, "__name__", "this attention")
    fast = name in KERNELS_WITH_MASK
    return {} if fast else {"unbiased": f"{name} has no fast path with a mask (ComfyUI's pytorch attention has)"}


def _served(attend: Attend, plain: Callable[..., Any], given: dict[str, Any], limits: dict[str, str]) -> Any:
    """Run an attention on fewer tokens, in the forms of queries and output that it was called with; None if it runs plain."""
    heads, q = given["heads"], given["q"]
    apart = bool(given.get("skip_reshape"))  # [B, heads, N, C] in place of [B, N, heads * C]
    whole = bool(given.get("skip_output_reshape"))
    if q.ndim != 3 + apart:
        return None
    size = q.shape[-1] if apart else q.shape[-1] // heads
    grouped = bool(given.get("enable_gqa"))

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        tensors = (q, k, v) if apart else map(_joined, (q, k, v))
        output = plain(**{**given, **dict(zip(_NAMES, tensors, strict=False)), "mask": mask})
        return output if whole else output.unflatten(2, (heads, -1)).transpose(1, 2)

    qkv = [x if apart else _heads(x, x.shape[2] // size if grouped else heads) for x in (q, given["k"], given["v"])]
    output = attend(Attention(*qkv, given.get("mask"), run, **limits))
    return output if output is None or whole else _joined(output)


def _heads(x: Tensor, heads: int) -> Tensor:
    """[B, N, heads * C] -> [B, heads, N, C]."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    """[B, heads, N, C] -> [B, N, heads * C]."""
    return x.transpose(1, 2).flatten(2)
