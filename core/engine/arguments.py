"""The arguments of one module call, cut to the groups of a token map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import Decline
from ..tokens.maps import TokenMap


@dataclass
class Arguments:
    """Positional and keyword arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def context_tokens(self) -> int | None:
        """Tokens of the first 3-D tensor after the hidden state: a cross-attention's context."""
        others = (*self.args[1:], *self.kwargs.values())
        return next((v.shape[1] for v in others if isinstance(v, Tensor) and v.ndim == 3), None)


def split(token_map: TokenMap, call: Arguments, self_attention: bool) -> list[Arguments]:
    """One set of arguments per group. The hidden state (first argument) is reduced.

    self_attention: other tensors must be contexts of the same tokens and are reduced too; raises :class:`Decline`
    otherwise. For other modules they are conditionings, of which each group takes its samples' rows.
    """
    if call.kwargs.get("ip_adapter_masks") is not None:
        raise Decline("its IP-Adapter masks are pictures of all tokens")
    count = len(token_map.groups)
    columns = [_split_value(token_map, call.args[0], reduce=True)]
    columns += [_split_value(token_map, v, self_attention) for v in call.args[1:]]
    named = {k: _split_value(token_map, v, self_attention) for k, v in call.kwargs.items()}
    return [Arguments(tuple(c[g] for c in columns), {k: c[g] for k, c in named.items()}) for g in range(count)]


def _split_value(token_map: TokenMap, value: Any, reduce: bool) -> list[Any]:
    count = len(token_map.groups)
    if not isinstance(value, Tensor):
        return [value] * count
    if reduce:
        if value.ndim != 3 or value.shape[:2] != token_map.shape:
            raise Decline(f"its attention takes a tensor of shape {list(value.shape)} beside the tokens")
        return token_map.reduce(value)
    if value.ndim and value.shape[0] == token_map.shape[0]:
        return token_map.rows(value)
    return [value] * count
