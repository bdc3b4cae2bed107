"""Multiply-adds, counted in three ways that agree: the one place that says what a forward costs.

:func:`count_macs` runs code under torch's own counter and is exact; hosts cannot use it, since it sees no quantised or fused
kernels. :class:`CostProbe` counts a module's forward from the shapes that pass through its leaves, whatever kernels they
call. The formulas at the end give what a layer would cost with other numbers of tokens, which is not run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .hooks import Hooks

if TYPE_CHECKING:
    from ..tokens.grid import Partition

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def count_macs(work: Callable[[], Any]) -> int:
    """Run `work` once without gradients and count its multiply-adds (matrix products, convolutions, attention)."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={flash: _attention}) as counter:
        work()
    return counter.get_total_flops() // 2


def _attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return sdpa_flop_count(query, key, value)


def count_modules(modules: Sequence[nn.Module], work: Callable[[], Any]) -> list[int]:
    """Run `work` once without gradients and count the multiply-adds of each of these modules, by a probe each."""
    with torch.no_grad(), ExitStack() as stack:
        probes = [stack.enter_context(CostProbe(module)) for module in modules]
        work()
    return [probe.macs for probe in probes]


class CostProbe:
    """While entered, counts what the linear layers, convolutions and attentions below a module multiply and add.

    Weights are not looked at: quantised ones are packed into other shapes. Attentions are recognised by `to_q` and `to_k`,
    or a fused `qkv`; others count by their projections alone.
    """

    def __init__(self, module: nn.Module) -> None:
        """Nothing is attached yet."""
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
        """Attach the hooks: all, or after an error none."""
        try:
            self._attach()
        except (Exception, KeyboardInterrupt):
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take all hooks off. May be called at any time, also once more after Ctrl-C fell into it."""
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
        """A wrapper whose inner layer was counted adds nothing."""
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
    """Is it a linear layer? Quantised ones and wrappers are of other classes: known by their features, or the matrix they hold."""
    if isinstance(module, nn.Linear) or (hasattr(module, "in_features") and hasattr(module, "out_features")):
        return True
    inner = list(module.children())
    if inner:
        return len(inner) == 1 and multiplies(inner[0])
    own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
    return any(tensor.ndim == 2 for tensor in own) and not isinstance(module, nn.Embedding)


def module_macs(module: nn.Module, role: str, tokens: int, channels: int, context: int | None) -> int:
    """Multiply-adds of an attention or feed-forward on `tokens` tokens; `context`: tokens of a cross-attention's keys."""
    if role == "ff":
        return tokens * sum(m.in_features * m.out_features for m in module.modules() if isinstance(m, nn.Linear))
    inner = getattr(getattr(module, "to_q", None), "out_features", channels)
    if context is None:
        return 4 * tokens * channels * inner + 2 * tokens * tokens * inner
    width = getattr(getattr(module, "to_k", None), "in_features", channels)
    return 2 * tokens * channels * inner + 2 * context * width * inner + 2 * tokens * context * inner


def matching_macs(partition: Partition, metric: Tensor, matching: Literal["dense", "local"]) -> int:
    """Multiply-adds of the similarity between sources and destinations for metric [B, N, C]."""
    batch, _, channels = metric.shape
    if matching == "dense":
        return batch * channels * partition.src.shape[-1] * partition.dst.shape[-1]
    count, depth = partition.tiles.src.shape
    return batch * channels * count * depth * partition.tiles.dst.shape[1]


def recovery_macs(metric: Tensor, pruned: int) -> int:
    """Multiply-adds of comparing `pruned` tokens per sample with all that are kept, for metric [B, N, C]."""
    batch, tokens, channels = metric.shape
    return batch * channels * pruned * (tokens - pruned)
