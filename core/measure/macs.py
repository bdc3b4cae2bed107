"""The cost of a forward in multiply-adds, counted in three ways that agree.

:func:`count_macs` runs code under torch's own counter. It is exact, but misses quantised and fused kernels, so hosts cannot
use it. :class:`CostProbe` counts a module's forward from the shapes of its leaves' inputs and outputs, for any kernel. The
formulas at the end compute what a layer costs on another number of tokens, without running it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

from .hooks import Hooks

if TYPE_CHECKING:
    from ..tokens.grid import Partition

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Counted:
    """What was counted.

    Args:
        macs: multiply-adds of matrix products, convolutions and attention.
        ops: operations of torch that compute something: about the kernels that a GPU would launch.

    Example:
        >>> Counted(macs=24, ops=1) + Counted(macs=24, ops=2)
        Counted(macs=48, ops=3)
    """

    macs: int = 0
    ops: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(self.macs + other.macs, self.ops + other.ops)


def count(work: Callable[[], Any]) -> Counted:
    """Run a function once without gradients and count its multiply-adds and operations. Views and empty tensors are free.

    Args:
        work: the function.

    Example:
        >>> x = torch.ones(2, 3)
        >>> count(lambda: (x.T.T @ x.view(3, 2)).relu_())
        Counted(macs=12, ops=2)
    """
    with torch.no_grad(), _Counter() as counter:
        work()
    return Counted(counter.flops // 2, counter.ops)


def count_macs(work: Callable[[], Any]) -> int:
    """Run a function once without gradients and count its multiply-adds (matrix products, convolutions, attention).

    Example:
        >>> count_macs(lambda: torch.ones(2, 3) @ torch.ones(3, 4))
        24
    """
    return count(work).macs


class _Counter(TorchDispatchMode):
    """Adds up the operations that torch has a count for. FlopCounterMode also counts by module, and takes twice the time."""

    flops = ops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation; in inference mode some come whole that torch counts by their parts."""
        kwargs = kwargs or {}
        flops = _COUNTS.get(func._overloadpacket)
        if flops is None and func._can_decompose():
            with self:
                return func.decompose(*args, **kwargs)
        output = func(*args, **kwargs)
        self.flops += flops(*args, **kwargs, out_val=output) if flops else 0
        self.ops += _computes(func)
        return output


@cache
def _computes(func: Any) -> bool:
    """Whether an operation does more than make a view or an empty tensor."""
    return not (func.is_view or func._overloadpacket in _FREE)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


_FREE = {torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided, torch.ops.aten.detach}
"""Operations that compute nothing, beside views."""
_COUNTS = {**flop_registry, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention}


def count_modules(modules: Sequence[nn.Module], work: Callable[[], Any]) -> list[int]:
    """Run a function once without gradients and count the multiply-adds of some modules, with a :class:`CostProbe` each.

    Args:
        modules: the modules that are counted.
        work: runs them.

    Example:
        >>> layers = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        >>> count_modules(list(layers), lambda: layers(torch.ones(2, 3)))
        [24, 8]
    """
    with torch.no_grad(), ExitStack() as stack:
        probes = [stack.enter_context(CostProbe(module)) for module in modules]
        work()
    return [probe.macs for probe in probes]


class CostProbe:
    """Context manager that counts the multiply-adds of linear layers, convolutions and attentions inside a module.

    It does not use the shapes of weights, which differ for quantised ones. Attentions are recognised by `to_q` and `to_k`, or
    a fused `qkv`; of others, only the projections count.

    Example:
        >>> layer = nn.Linear(3, 4)
        >>> with CostProbe(layer) as probe:
        ...     output = layer(torch.ones(2, 3))
        >>> probe.macs
        24
    """

    def __init__(self, module: nn.Module) -> None:
        """Hooks are added on entry."""
        self._layers = self._attention = 0
        self._module = module
        self._hooks = Hooks()
        self._before: list[int] = []
        self._queries: dict[nn.Module, Tensor] = {}

    @property
    def macs(self) -> int:
        """Multiply-adds so far."""
        return self._layers + self._attention

    def __enter__(self) -> CostProbe:
        """Add all hooks, or none if an error occurs."""
        try:
            self._attach()
        except (Exception, KeyboardInterrupt):
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove all hooks. May be called again at any time, also after an interrupt."""
        self._hooks.remove()
        self._queries = {}

    def _attach(self) -> None:
        for m in self._module.modules():
            if isinstance(m, _CONVOLUTIONS):
                self._hooks.add(m._forward_hooks, self._convolution)
            elif multiplies(m):
                self._hooks.add(m._forward_pre_hooks, self._enter)
                self._hooks.add(m._forward_hooks, self._linear)
            query, key, fused = (getattr(m, name, None) for name in ("to_q", "to_k", "qkv"))
            if isinstance(query, nn.Module) and isinstance(key, nn.Module):
                self._hooks.add(query._forward_hooks, self._query)
                self._hooks.add(key._forward_hooks, self._key_of(query))
            elif isinstance(fused, nn.Module) and multiplies(fused):
                self._hooks.add(fused._forward_hooks, self._fused)

    def _convolution(self, module: Any, args: Any, output: Tensor) -> None:
        self._layers += output.numel() * (args[0].shape[1] // module.groups) * prod(module.kernel_size)

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._before.append(self._layers)

    def _linear(self, module: nn.Module, args: Any, output: Tensor) -> None:
        """Count a linear layer, unless it is a wrapper whose inner layer was counted already."""
        if self._layers == self._before.pop() and isinstance(output, Tensor) and args:
            self._layers += output.numel() * args[0].shape[-1]

    def _query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._queries[module] = output

    def _key_of(self, query: nn.Module) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            q = self._queries.pop(query, None)
            if q is not None:
                self._attention += 2 * q.numel() * output.shape[-2]

        return hook

    def _fused(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._attention += 2 * (output.numel() // 3) * output.shape[-2]


def multiplies(module: nn.Module) -> bool:
    """Whether a module is a linear layer.

    Quantised layers and wrappers have other classes. They are recognised by `in_features` and `out_features`, or by a matrix
    among their parameters and buffers.

    Example:
        >>> multiplies(nn.Sequential(nn.Linear(3, 4))), multiplies(nn.LayerNorm(3))
        (True, False)
    """
    if isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features")):
        return True
    inner = list(module.children())
    if inner:
        return len(inner) == 1 and multiplies(inner[0])
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(tensor.ndim == 2 for tensor in own) and not isinstance(module, nn.Embedding)


def module_macs(module: nn.Module, role: str, tokens: int, channels: int, context: int | None) -> int:
    """Multiply-adds of an attention or feed-forward.

    Args:
        module: the layer.
        role: "attn1", "attn2" or "ff".
        tokens: number of tokens that it runs on.
        channels: channels of a token.
        context: number of tokens of a cross-attention's keys; None for self-attention.

    Example:
        >>> module_macs(nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8)), "ff", tokens=10, channels=8, context=None)
        5120
    """
    if role == "ff":
        return tokens * sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))
    inner = getattr(getattr(module, "to_q", None), "out_features", channels)
    if context is None:
        return 4 * tokens * channels * inner + 2 * tokens * tokens * inner
    width = getattr(getattr(module, "to_k", None), "in_features", channels)
    return 2 * tokens * channels * inner + 2 * context * width * inner + 2 * tokens * context * inner


def matching_macs(partition: Partition, metric: Tensor, matching: Literal["dense", "local"]) -> int:
    """Multiply-adds of comparing sources with destinations.

    Args:
        partition: sources and destinations.
        metric: what is compared [B, N, C].
        matching: "dense" or "local".

    Example:
        >>> from types import SimpleNamespace
        >>> partition = SimpleNamespace(src=torch.zeros(3), dst=torch.zeros(1))
        >>> matching_macs(partition, torch.zeros(2, 4, 8), "dense")
        48
    """
    batch, _, channels = metric.shape
    if matching == "dense":
        return batch * channels * partition.src.shape[-1] * partition.dst.shape[-1]
    count, depth = partition.tiles.src.shape
    return batch * channels * count * depth * partition.tiles.dst.shape[1]


def recovery_macs(metric: Tensor, pruned: int) -> int:
    """Multiply-adds of comparing each sample's pruned tokens with its kept ones.

    Args:
        metric: what is compared [B, N, C].
        pruned: number of pruned tokens per sample.

    Example:
        >>> recovery_macs(torch.zeros(2, 4, 8), pruned=1)
        48
    """
    batch, tokens, channels = metric.shape
    return batch * channels * pruned * (tokens - pruned)
