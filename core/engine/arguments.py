"""Splits the arguments of one module call into the groups of a token map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import Decline
from ..tokens.maps import TokenMap


@dataclass
class Arguments:
    """The arguments of one module call.

    Args:
        args: positional arguments; the first is the hidden state [B, N, C].
        kwargs: keyword arguments.

    Example:
        >>> import torch
        >>> Arguments((torch.zeros(1, 16, 8),), {"encoder_hidden_states": torch.zeros(1, 77, 8)}).context_tokens
        77
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def context_tokens(self) -> int | None:
        """Number of tokens of a cross-attention's context: the first 3-D tensor after the hidden state; None without one."""
        others = (*self.args[1:], *self.kwargs.values())
        return next((v.shape[1] for v in others if isinstance(v, Tensor) and v.ndim == 3), None)


def split(token_map: TokenMap, call: Arguments, self_attention: bool) -> list[Arguments]:
    """Return one set of arguments per group of a token map, with the hidden state reduced.

    Args:
        token_map: the map of the hidden state's tokens.
        call: arguments for the whole batch.
        self_attention: True if further tensors are contexts of the same tokens, which are reduced too. Otherwise they are
            conditionings, and each group takes the rows of its samples.

    Raises :class:`Decline` if the module takes a tensor that cannot be reduced.

    Example:
        >>> import torch
        >>> from skipstone.core.tokens.maps import Pairs
        >>> pairs = Pairs(torch.tensor([[0, 1, 2, 0]]), (1,), "mean")  # token 3 joins token 0
        >>> [part.args[0].shape for part in split(TokenMap(pairs), Arguments((torch.rand(1, 4, 8),), {}), True)]
        [torch.Size([1, 3, 8])]
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
