"""Token merging and pruning inside an attention kernel's call, for networks with rotary or joint positions.

Keys and values are reduced after positions are applied, and each that stays counts for as many tokens as it stands for.
Queries keep their positions, so projections and outputs are of all tokens. The first forward of each cond runs in full, and
shows which tokens of a sequence are the picture's (:mod:`.sight`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import Decline
from ..tokens.maps import Pairs, TokenMap
from ..tokens.span import Span, biased, reduced, reduced_masks
from .kernel import Attention, KernelHost
from .kernel_sites import KernelSite
from .layer_report import Entry
from .override import Override
from .pair_store import PairStore
from .sight import Sight
from .token_layer import NEVER_ENTERED, TokenRun

_MOST_KERNELS = 16
"""Kernel calls in a module that have seeds of their own."""
_COUNTED = "attention counts without projections, which run on all tokens, as does the first call of each prompt"


class KernelRun(TokenRun, Protocol):
    """What a layer reads of its run, beside what all layers read (:class:`skipstone.core.engine.token_part.TokenPart`)."""

    @property
    def frames_together(self) -> int:
        """Neighbouring frames of a video whose tokens are compared with each other."""

    def fail(self, fault: Exception) -> None:
        """Stop acting after an unexpected error."""


@dataclass(frozen=True)
class _Ready:
    """An attention on fewer keys.

    Args:
        token_map: of its whole sequence.
        parts: queries, keys, values, mask and bias on the keys of each group of samples.
    """

    token_map: TokenMap
    parts: list[tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]]


class KernelLayer:
    """The attention kernels of one module over one run.

    Args:
        site: the module.
        number: its place in the network, part of the random seed.
        run: the part that it belongs to.
        host: how kernels are reached.
        sight: which tokens are the picture's.

    Example:
        >>> from torch import nn
        >>> from torch.nn import functional as F
        >>> from .call import Call
        >>> from .clock import Stream, Tick
        >>> from .kernel import SDPA
        >>> from .kernel_sites import Kernels
        >>> from .merge import MergePart, TokenMerge
        >>> from .meter import Meter
        >>> from .override import Overrides
        >>> from ..plan.run import Horizon
        >>> class Attends(nn.Module):
        ...     def forward(self, x):
        ...         return F.scaled_dot_product_attention(x, x, x)
        >>> site, meter = KernelSite("attn", Attends()), Meter()
        >>> settings, kernels = TokenMerge(threshold=0.5, bucket=1), Kernels(SDPA, (site,), site.module)
        >>> part, latent = MergePart(settings, [], Horizon(), meter, kernels=kernels), torch.ones(1, 4, 4, 4)
        >>> overrides = Overrides(part.overrides())
        >>> for index in range(2):
        ...     call = Call(999.0 - index, (4, 4), (Stream("cond", 1),), input=latent)
        ...     if part.begin(Tick(index, True, False, 0), call):
        ...         overrides.install()
        ...     output = site.module(latent.flatten(2).transpose(1, 2).unsqueeze(1))
        ...     part.end()
        ...     overrides.remove()
        >>> meter.finish().headline()  # the second call: 12 of 16 equal tokens
        'merged 75% of tokens in 1 layer, saved 66% of their attention'
    """

    def __init__(self, site: KernelSite, number: int, run: KernelRun, host: KernelHost, sight: Sight) -> None:
        """Prepare; nothing is changed on the model."""
        self.site = site
        self._number = number
        self._run = run
        self._host = host
        self._sight = sight
        self._entered = self._seen = False
        self._stores: dict[int, PairStore] = {}
        self._bias_refused = False
        self.start_forward()

    def start_forward(self) -> None:
        """Reset the state of one forward."""
        self._calls = 0

    def look(self) -> None:
        """Nothing is looked up before a forward."""

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the pairs of these streams."""
        for store in self._stores.values():
            store.forget(keys)

    def clear(self) -> None:
        """Free everything."""
        self._stores = {}

    def overrides(self) -> list[Override]:
        """Return the override that serves this module."""
        return [Override(self.site.module, self._around)]

    @property
    def unseen(self) -> str:
        """What to report of a module that was neither counted nor declined; nothing if its attentions are left alone."""
        return "" if self._seen else self._host.missing if self._entered else NEVER_ENTERED

    @property
    def nbytes(self) -> int:
        """Bytes held by pairs and maps."""
        return sum(store.nbytes for store in self._stores.values())

    def _around(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._entered = True
        with self._host.scope(self._attend):
            return inner(*args, **kwargs)

    def _attend(self, attention: Attention) -> Tensor | None:
        """Run one attention on fewer keys; None if it must run as it is."""
        number, self._calls, self._seen = self._calls, self._calls + 1, True
        if self._sight.looking:
            self._sight.see((self.site.name, number), attention)
            return None
        try:
            ready = self._ready(number, attention)
        except Decline as reason:
            self._run.meter.decline(self.site.name, str(reason))
            return None
        except Exception as fault:
            self._run.fail(fault)
            return None
        if ready is None:
            return None
        return ready.token_map.regrouped([self._output(attention, *part) for part in ready.parts])

    def _ready(self, number: int, attention: Attention) -> _Ready | None:
        """Reduce an attention's keys. None for one without picture tokens, and where no token has a partner."""
        span = self._span(number, attention)
        if span is None:
            return None
        with torch.no_grad():
            token_map = self._token_map(number, attention, span)
            if token_map.identity:
                return None
            keys, values = (reduced(x, token_map) for x in (attention.k, attention.v))
            masks, bias = reduced_masks(attention.mask, span, token_map), self._bias(attention, token_map)
            queries = token_map.rows(attention.q)
            return _Ready(token_map, list(zip(queries, keys, values, masks, bias, strict=True)))

    def _span(self, number: int, attention: Attention) -> Span | None:
        """Return the picture's tokens. Raises :class:`Decline` for an attention that is not as in the first call."""
        where = (self.site.name, number)
        span = self._sight.spans.get(where, "its attention was not seen in the first call") if attention.joint else None
        if isinstance(span, str):
            raise Decline(span)
        if span is None:
            return None
        if attention.refusal:
            raise Decline(attention.refusal)
        rows, length = attention.q.shape[0], attention.k.shape[2]
        if rows != self._run.call.rows:
            raise Decline(f"a batch of {rows} where {self._run.call.rows} rows were announced")
        if length != span.total:
            raise Decline(f"{length} tokens where the first call had {span.total}")
        self._run.check_level(span.grid)
        return span

    def _token_map(self, number: int, attention: Attention, span: Span) -> TokenMap:
        call, mixes = self._run.call, attention.mixes if self._run.call.rows > 1 else ""
        layout = call.keys(span, attention.k.dtype, attention.k.device)
        searched: list[int] = []

        def search() -> Pairs:
            raw, seed = attention.k.detach(), self._number * _MOST_KERNELS + number
            found = []
            for spell in span.spells(self._run.frames_together):
                part = self._run.find(seed, span.pictures(raw, spell), span.picture_grid(spell), mixes)
                found.append((spell, part.pairs))
                searched.append(part.macs)
            pairs = span.joined(found)
            self._run.on_pairs(self.site.name, pairs)
            return pairs

        store = self._stores.setdefault(number, PairStore())
        one_group = bool(mixes) or self._run.shared
        token_map = store.token_map(self._run.epoch, layout, call.streams, one_group, search, span.widened)
        self._count(number, attention, span, token_map, searched)
        return token_map

    def _bias(self, attention: Attention, token_map: TokenMap) -> Sequence[Tensor | None]:
        """Return log(group size) of each group's keys (proportional attention, ToMe); None where the kernel takes no mask.

        Without it text weighs too much against fewer picture tokens.
        """
        if attention.unbiased:
            self._refuse_bias(attention.unbiased)
        if self._bias_refused:
            return [None] * len(token_map.groups)
        return [bias.to(attention.q.dtype) for bias in token_map.log_sizes()]

    def _output(
        self, attention: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        if bias is not None:
            try:
                return attention.run(q, k, v, biased(mask, bias))
            except RuntimeError:  # such as a flash kernel, chosen by the user, that takes none
                self._refuse_bias("the attention kernel takes no mask")
        return attention.run(q, k, v, mask)

    def _refuse_bias(self, why: str) -> None:
        self._bias_refused = True
        self._run.meter.note(f"proportional attention is off: {why}")

    def _count(self, number: int, attention: Attention, span: Span, token_map: TokenMap, searched: list[int]) -> None:
        groups = [(len(rows), kept) for rows, kept in zip(token_map.groups, token_map.kept, strict=True)]
        dense, rows = attention.macs, len(attention.q)
        done = sum(dense // rows * n * kept // span.total for n, kept in groups)
        kept = sum(n * (k - span.others) for n, k in groups)
        name = f"{self.site.name}.{number}" if number else self.site.name
        pairs = "searched" if searched else "reused"
        self._run.meter.note(_COUNTED)
        self._run.meter.add(
            Entry(
                name,
                self._run.index,
                rows * span.tokens,
                kept,
                dense,
                done + sum(searched),
                pairs,
                self._run.verb,
                sum(searched),
            )
        )
