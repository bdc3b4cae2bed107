"""Multiply-adds of one module's forward, read off the shapes that pass through its leaves."""

from __future__ import annotations

from math import prod
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from .hooks import Hooks

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
