"""One transformer block in one run: it searches pairs at checkpoints, reuses them in between, and runs on the token map.

The order in a block is that of CA-ToMe and DaTo: `x + expand(attn1(reduce(norm1(x))))`, with pairs found on the raw `x`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import Decline
from ..measure.macs import module_macs
from ..models import KeyBias, Site
from ..models.readers import kept_map
from ..models.rows import crossing, crossing_kernel
from ..plan.token_plan import TokenSettings
from ..tokens.grid import Grid, grid_of
from ..tokens.maps import Pairs, TokenMap
from .arguments import Arguments, split
from .call import Call
from .layer_report import Entry
from .meter import Meter
from .override import Around, Override, beneath
from .pair_store import PairStore


@dataclass(frozen=True)
class PairSearch:
    """The result of a pair search.

    Args:
        pairs: for the whole batch.
        macs: multiply-adds of the search.

    Example:
        >>> PairSearch(Pairs(torch.tensor([[0, 1, 0]]), (1,), "mean"), macs=0).pairs.merged  # token 2 joined token 0
        (1,)
    """

    pairs: Pairs
    macs: int


class TokenRun(Protocol):
    """What a layer reads of its run (:class:`skipstone.core.engine.token_part.TokenPart`).

    Args:
        verb: what happens to the tokens that are not kept: "merged" or "pruned".
        meter: where counts and notes go.
        epoch: number of checkpoints so far; pairs of an older epoch are not used.
        index: number of the call, from 0.
        call: the forward under way.
    """

    verb: str
    meter: Meter
    epoch: int
    index: int
    call: Call

    @property
    def settings(self) -> TokenSettings:
        """The settings of the method."""

    def check_level(self, grid: Grid) -> None:
        """Raise :class:`Decline` for a grid coarser than the settings allow."""

    @property
    def shared(self) -> bool:
        """Whether all samples of a batch need one count, whatever their attention."""

    def find(self, number: int, raw: Tensor, grid: Grid, crossing: str) -> PairSearch:
        """Search the pairs of one layer.

        Args:
            number: the layer's place in the network.
            raw: hidden state [B, N, C].
            grid: the tokens as a picture.
            crossing: what may read other rows of the batch, so that all need one count; "" for nothing.
        """

    def on_pairs(self, layer: str, pairs: Pairs) -> None:
        """Called after each pair search.

        Args:
            layer: name of the layer.
            pairs: the result.
        """


NEVER_ENTERED = "never entered: bypassed by the host, another patch, or the window"


class TokenLayer:
    """The state of one site over one run.

    Args:
        site: the transformer block.
        number: its place in the network, part of the random seed.
        run: the part that it belongs to.
        key_bias: how the host's attention takes a bias on the key logits; None if it takes none.

    Example:
        >>> from skipstone.core.engine.merge import MergePart, TokenMerge
        >>> from skipstone.core.plan.run import Horizon
        >>> block = torch.nn.ModuleDict({"norm": torch.nn.LayerNorm(8), "attn1": torch.nn.Linear(8, 8)})
        >>> site = Site("down.0", block["norm"], {"attn1": block["attn1"]})
        >>> layer = TokenLayer(site, 0, MergePart(TokenMerge(), [site], Horizon(), Meter()), None)
        >>> len(layer.overrides())  # the norm, whose input is read, and the attention
        2
    """

    def __init__(self, site: Site, number: int, run: TokenRun, key_bias: KeyBias | None) -> None:
        """Prepare; nothing is changed on the model."""
        self.site = site
        self._number = number
        self._run = run
        self._key_bias = key_bias
        self._targets = [(role, m) for role, m in site.modules.items() if role in run.settings.targets]
        self._running: list[tuple[Any, ...]] = []
        self._crossing = self._kept_map = self._kernel = ""
        self._store = PairStore()
        self._coarse_at: tuple[int, ...] | None = None  # size of the latent at which this layer was found too coarse
        targets = [Override(m, self._around(role)) for role, m in self._targets]
        self._overrides = [Override(site.norm, self._around_norm), *targets]
        self.start_forward()

    def start_forward(self) -> None:
        """Reset the state of one forward."""
        self._raw: Tensor | None = None
        self._map: TokenMap | None = None
        self._search_macs = 0
        self._counted = False

    def look(self) -> None:
        """Check who runs the attentions, if that changed. Call it before a forward, while no override is installed.

        A layer that was too coarse for latents of this size is not entered again.
        """
        for override in self._overrides:
            override.idle = self._run.call.latent == self._coarse_at
        running = [(m, beneath(m), getattr(m, "processor", None)) for role, m in self._targets if role != "ff"]
        if running != self._running:
            self._running = running
            self._kept_map = next(filter(None, (kept_map(processor) for *_, processor in running)), "")
            self._crossing = next(filter(None, (crossing(m, forward) for m, forward, _ in running)), "")

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the pairs of these streams, and the maps that contain them."""
        self._store.forget(keys)

    def clear(self) -> None:
        """Free everything."""
        self._store.clear()
        self._running = []
        self.start_forward()

    def overrides(self) -> list[Override]:
        """Return the overrides that serve this layer."""
        return self._overrides

    @property
    def unseen(self) -> str:
        """What to report of a layer that was neither counted nor declined."""
        return NEVER_ENTERED

    @property
    def nbytes(self) -> int:
        """Bytes held by pairs and maps."""
        return self._store.nbytes

    def _around_norm(self, inner: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._raw = x
        return inner(x, *args, **kwargs)

    def _around(self, role: str) -> Around:
        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            call = Arguments(args, kwargs)
            try:
                # Everything that can decline comes before the first inner call, so that the module can still run plain.
                if self._kept_map:
                    raise Decline(self._kept_map)
                self._kernel = crossing_kernel(kwargs)
                token_map = self._token_map(args[0] if args else None)
                parts = [] if token_map.identity else split(token_map, call, self_attention=role == "attn1")
            except Decline as reason:
                self._run.meter.decline(self.site.name, str(reason))
                return inner(*args, **kwargs)
            self._count(role, token_map, call)
            if token_map.identity:
                return inner(*args, **kwargs)
            self._add_bias(role, token_map, parts)
            return token_map.expand([inner(*p.args, **p.kwargs) for p in parts])

        return around

    def _add_bias(self, role: str, token_map: TokenMap, parts: list[Arguments]) -> None:
        """Add log(group size) to the key logits (proportional attention, ToMe), if the host's attention takes a key bias."""
        if role != "attn1" or not self._run.settings.proportional:
            return
        try:
            if self._key_bias is None:
                raise Decline("this model's attention takes no key bias here")
            for part, bias in zip(parts, token_map.log_sizes(), strict=True):
                part.kwargs = self._key_bias(self.site.modules[role], part.kwargs, bias.to(part.args[0].dtype))
        except Decline as reason:
            self._run.meter.note(f"proportional attention is off: {reason}")

    def _token_map(self, x: Any) -> TokenMap:
        """Return the map of this forward: built from stored pairs if all streams have them, otherwise from a new search."""
        raw = self._raw
        if not isinstance(x, Tensor) or x.ndim != 3 or raw is None or raw.shape[:2] != x.shape[:2]:
            raise Decline("its tokens are not [batch, tokens, channels] with the block's norm in front")
        if self._map is None:
            self._map = self._assemble(raw)
        return self._map

    def _assemble(self, raw: Tensor) -> TokenMap:
        call = self._run.call
        layout = call.keys(raw.shape[1], raw.dtype, raw.device)
        return self._store.token_map(
            self._run.epoch, layout, call.streams, self._one_group, search=lambda: self._search(raw)
        )

    @property
    def _one_group(self) -> bool:
        """Whether the rows of the batch must run together."""
        return bool(self._crossing or self._kernel) or self._run.shared

    def _search(self, raw: Tensor) -> Pairs:
        """Search pairs by the run's rule."""
        call = self._run.call
        if call.rows != raw.shape[0]:
            raise Decline(f"a batch of {raw.shape[0]} where {call.rows} rows were announced")
        grid = grid_of(call.latent, raw.shape[1])
        try:
            self._run.check_level(grid)
        except Decline:
            self._coarse_at = call.latent
            raise
        with torch.no_grad():
            crosses = self._crossing or self._kernel if len(raw) > 1 else ""
            found = self._run.find(self._number, raw.detach(), grid, crosses)
        self._search_macs = found.macs
        self._run.on_pairs(self.site.name, found.pairs)
        return found.pairs

    def _count(self, role: str, token_map: TokenMap, call: Arguments) -> None:
        module, x = self.site.modules[role], call.args[0]
        batch, tokens, channels = x.shape
        context = call.context_tokens if role == "attn2" else None
        # Samples that keep equally many tokens run as one group of rows.
        groups = [(len(g), k) for g, k in zip(token_map.groups, token_map.kept, strict=True)]
        dense = batch * module_macs(module, role, tokens, channels, context)
        done = sum(n * module_macs(module, role, kept, channels, context) for n, kept in groups)
        # The modules of a block share one map: its search is counted with the first of them.
        search = 0 if self._counted else self._search_macs
        pairs = "" if self._counted else "searched" if search else "reused"
        self._counted = True
        name = self.site.name if role == "attn1" else f"{self.site.name}.{role}"
        kept = sum(n * k for n, k in groups)
        verb = self._run.verb
        self._run.meter.add(
            Entry(name, self._run.index, batch * tokens, kept, dense, done + search, pairs, verb, search)
        )
