"""An attention kernel's call, after positions are applied: what hosts hand over, and how PyTorch's own kernel is reached."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Attention:
    """One call of an attention kernel.

    Args:
        q: queries [B, heads, N, C].
        k: keys [B, heads, M, C]; they may have fewer heads (grouped queries).
        v: values [B, heads, M, C'].
        mask: [..., N or 1, M], boolean or additive; None for none.
        run: calls the kernel on other (q, k, v, mask), and returns [B, heads, N', C'].
        refusal: why it must run on all tokens, whatever they are; empty if it need not.
        mixes: what may read other rows of the batch, so that they must run together; empty for nothing.
        unbiased: why the kernel takes no bias on the keys; empty if it does.

    Example:
        >>> import torch
        >>> x = torch.zeros(1, 2, 4, 8)
        >>> Attention(x, x, x, None, lambda q, k, v, mask: v).joint
        True
    """

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    run: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
    refusal: str = ""
    mixes: str = ""
    unbiased: str = ""

    @property
    def joint(self) -> bool:
        """Whether queries and keys are of the same tokens, by their number: self-attention, or joint attention with text."""
        return self.q.shape[2] == self.k.shape[2]

    @property
    def macs(self) -> int:
        """Multiply-adds of its two products."""
        batch, heads, queries, channels = self.q.shape
        return batch * heads * queries * self.k.shape[2] * (channels + self.v.shape[3])


Attend = Callable[[Attention], Tensor | None]
"""Runs an attention on fewer tokens and returns its output for all of them; None if it must run as it is."""


@dataclass(frozen=True)
class KernelHost:
    """How a host's attention kernels are reached.

    Args:
        scope: (attend) -> context manager in which the attention kernels of this thread go through `attend`.
        missing: why none was reached in a module, for the report.

    Example:
        >>> SDPA.missing
        "its attention does not call PyTorch's scaled_dot_product_attention"
    """

    scope: Callable[[Attend], AbstractContextManager[Any]]
    missing: str


_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")


class SdpaScope(TorchFunctionMode):
    """A scope (:class:`KernelHost`) for PyTorch's `scaled_dot_product_attention`. Nothing is patched; other threads are untouched.

    Args:
        attend: runs each attention.

    Example:
        >>> import torch
        >>> x, seen = torch.zeros(1, 2, 4, 8), []
        >>> with SdpaScope(lambda attention: seen.append(attention.joint)):
        ...     output = F.scaled_dot_product_attention(x, x, x)
        >>> seen
        [True]
    """

    def __init__(self, attend: Attend) -> None:
        """Prepare; it acts between entry and exit."""
        super().__init__()
        self._attend = attend

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one function of torch; attentions go through `attend`."""
        kwargs = kwargs or {}
        output = self._served(args, kwargs) if func is F.scaled_dot_product_attention else None
        return func(*args, **kwargs) if output is None else output

    def _served(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        q, k, v, mask = (given.pop(name, None) for name in _NAMES[:4])
        if q.ndim != 4:
            return None

        def run(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **given)

        return self._attend(Attention(q, k, v, mask, run, "its attention is causal" if given.get("is_causal") else ""))


SDPA = KernelHost(SdpaScope, "its attention does not call PyTorch's scaled_dot_product_attention")
"""For networks that call PyTorch's kernel."""
