"""Multiply-adds of one module's forward, read off the shapes that pass through its leaves."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import Tensor, nn

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class CostProbe:
    """While entered, counts what the linear layers, convolutions and attentions below a module multiply and add.

    Attentions are recognised by `to_q` and `to_k`, or a fused `qkv`; others count by their projections alone.
    """

    def __init__(self, module: nn.Module) -> None:
        """Nothing is attached yet."""
        self.macs = 0
        self._module = module
        self._handles: list[Any] = []
        self._queries: dict[nn.Module, Tensor] = {}

    def __enter__(self) -> CostProbe:
        for m in self._module.modules():
            if isinstance(m, (nn.Linear, *_CONVOLUTIONS)):
                self._handles.append(m.register_forward_hook(self._leaf))
            query, key, fused = (getattr(m, name, None) for name in ("to_q", "to_k", "qkv"))
            if isinstance(query, nn.Module) and isinstance(key, nn.Module):
                self._handles.append(query.register_forward_hook(self._query))
                self._handles.append(key.register_forward_hook(self._key_of(query)))
            elif isinstance(fused, nn.Linear):
                self._handles.append(fused.register_forward_hook(self._fused))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._queries = [], {}

    def _leaf(self, module: nn.Module, args: Any, output: Tensor) -> None:
        channels = output.shape[1] if isinstance(module, _CONVOLUTIONS) else output.shape[-1]
        self.macs += output.numel() // channels * module.weight.numel()  # type: ignore[operator]

    def _query(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self._queries[module] = output

    def _key_of(self, query: nn.Module) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            q = self._queries.pop(query, None)
            if q is not None:
                self.macs += 2 * q.numel() * output.shape[-2]

        return hook

    def _fused(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.macs += 2 * (output.numel() // 3) * output.shape[-2]
