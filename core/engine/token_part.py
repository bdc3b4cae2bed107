"""What token merging and pruning share in one run: the forwards and levels that they serve, and when pairs are searched."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..errors import Decline
from ..models import KeyBias, Site, sites_of
from ..plan.run import Horizon
from ..plan.token_plan import TokenPlan, TokenSettings
from ..tokens.grid import Grid
from ..tokens.maps import Pairs
from .call import NO_CALL, Call
from .clock import Stream, Tick
from .kernel_layer import KernelLayer
from .kernel_sites import Kernels, kernels_of
from .meter import Meter
from .network import Network
from .override import Override
from .part import Maker
from .sight import Sight
from .token_layer import NEVER_ENTERED, PairSearch, TokenLayer

_SEED_STEP = 1_000_003
_LOOKS = "the first call of each prompt runs in full: it shows which tokens are the picture's"


@dataclass(frozen=True)
class PairsFound:
    """A pair search, as an observer receives it.

    Args:
        layer: name of the layer.
        call: number of the call, from 0.
        streams: whose rows.
        pairs: the result.

    Example:
        >>> pairs = Pairs(torch.tensor([[0, 1, 0]]), (1,), "mean")  # token 2 joined token 0
        >>> PairsFound("down.0", call=0, streams=(Stream("cond", 1),), pairs=pairs).pairs.merged
        (1,)
    """

    layer: str
    call: int
    streams: tuple[Stream, ...]
    pairs: Pairs


Observer = Callable[[PairsFound], None]
"""Called after each pair search."""
Settings = TypeVar("Settings", bound=TokenSettings)


class TokenPart(ABC, Generic[Settings]):
    """Token merging or pruning in one run. Each checkpoint raises the epoch; pairs of an older epoch are not used.

    Args:
        settings: merging or pruning settings.
        sites: the network's transformer blocks.
        horizon: the calls of the run.
        meter: where counts and notes go.
        key_bias: how the host's attention takes a bias on the key logits; None if it takes none.
        observer: called with all pairs that are searched.
        kernels: where attention kernels are called, for networks whose hidden states are not reduced.

    Attributes:
        verb: what happens to the tokens that are not kept: "merged" or "pruned".
    """

    verb: str
    evaluates = True
    plain_serves = True

    def __init__(
        self,
        settings: Settings,
        sites: Sequence[Site],
        horizon: Horizon,
        meter: Meter,
        key_bias: KeyBias | None = None,
        observer: Observer | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        """Prepare; nothing is changed on the model."""
        self.settings = settings
        self.meter = meter
        self.epoch = 0
        self.index = -1
        self.call = NO_CALL
        self._observer = observer
        self._plan = TokenPlan(settings, horizon)
        self._finest: int | None = None
        self._failed = self._blind = False
        self._sight = Sight(kernels.compiled) if kernels else None
        self._layers: list[TokenLayer | KernelLayer] = [
            TokenLayer(s, i, self, key_bias) for i, s in enumerate(sites) if self._accepts(s)
        ]
        if self._sight and kernels:
            self._layers += self._kernel_layers(kernels, self._sight)
        if dropped := self._plan.checkpoints.dropped():
            meter.note(f"checkpoints {', '.join(map(str, dropped))} lie past the last call and were dropped")

    @classmethod
    def on(cls, settings: Settings, network: Network) -> Maker:
        """Return what makes this part in each run on a network.

        Args:
            settings: merging or pruning settings.
            network: the model.

        Raises :class:`ModelError` for a network without self-attention.
        """
        kernels = kernels_of(network)
        sites = [] if kernels else sites_of(network.root, network.family)
        return lambda horizon, meter: cls(settings, sites, horizon, meter, network.key_bias, network.observer, kernels)

    @property
    def frames_together(self) -> int:
        """Neighbouring frames of a video whose tokens are compared with each other."""
        return 1

    @property
    def shared(self) -> bool:
        """Whether all samples of a batch have one count, whatever their attention is."""
        return False

    @abstractmethod
    def find(self, number: int, raw: Tensor, grid: Grid, crossing: str) -> PairSearch:
        """Search the pairs of one layer (:meth:`.token_layer.TokenRun.find`).

        Args:
            number: the layer's place in the network.
            raw: hidden state [B, N, C].
            grid: the tokens as a picture.
            crossing: what may read other rows of the batch, so that all need one count; "" for nothing.
        """

    def overrides(self) -> list[Override]:
        """Return the overrides of all layers."""
        return [o for layer in self._layers for o in layer.overrides()]

    def begin(self, tick: Tick, call: Call) -> bool:
        """Decide this forward; False leaves it unchanged.

        Args:
            tick: the call that the forward belongs to.
            call: the forward.
        """
        if self._failed:
            return False
        if self._sight is None and len(call.latent) != 2:
            self.meter.decline("calls", "its input is no picture latent [batch, channels, height, width]")
            return False
        if tick.surprise:
            self._plan.abandon()
        if tick.new:
            checkpoint = self._plan.is_checkpoint(tick.index, call.timestep)
            self.epoch += checkpoint or tick.surprise
        self.index, self.call = tick.index, call
        for layer in self._layers:
            layer.start_forward()
            layer.look()
        return self._plan.serves(call.timestep) and self._sees(call)

    def _sees(self, call: Call) -> bool:
        """Return whether it is known which tokens are the picture's, or this forward shows it."""
        if self._sight is None:
            return True
        try:
            self._sight.begin(call)
        except Decline as reason:
            self._blind = True
            self.meter.decline("calls", str(reason))
            return False
        return True

    def fail(self, fault: Exception) -> None:
        """Stop acting after an unexpected error inside a kernel's call, and report it.

        Args:
            fault: the error.
        """
        self._failed = True
        self.meter.fail(fault)

    def end(self) -> None:
        """Release the forward's tensors."""
        if self._sight is not None:
            self._sight.end()
        self.call = NO_CALL
        for layer in self._layers:
            layer.start_forward()

    def forget(self, keys: Sequence[Hashable]) -> None:
        """Free the pairs of streams that left the run."""
        if self._sight is not None:
            self._sight.forget(keys)
        for layer in self._layers:
            layer.forget(keys)

    def close(self) -> None:
        """Report the layers that were never entered, and free everything."""
        layers, self._layers = self._layers, []
        if self._sight is not None:
            self._sight.end()
        for layer in layers:
            layer.clear()
        if self.index < 0 or self._blind:
            return
        report = self.meter.finish()
        if self._sight is not None:
            if report.layers:  # stacks of other things, such as text, may be entered elsewhere
                layers = [layer for layer in layers if layer.unseen != NEVER_ENTERED]
            elif layers:
                self.meter.note(_LOOKS)
        known = {name for names in report.declined.values() for name in names} | set(report.layers)
        for layer in layers:
            if layer.unseen and not any(f"{name}.".startswith(f"{layer.site.name}.") for name in known):
                self.meter.decline(layer.site.name, layer.unseen)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(layer.nbytes for layer in self._layers)

    def check_level(self, grid: Grid) -> None:
        """Raise :class:`Decline` for a grid coarser than `max_downsample`; "auto" allows the finest level and the next."""
        self._finest = min(self._finest or grid.downsample, grid.downsample)
        limit = self.settings.max_downsample
        if limit == "auto":
            limit = 1 if self._finest == 1 else 2 * self._finest
        if grid.downsample > limit:
            raise Decline(f"coarser than 1/{limit} of the latent (max_downsample)")

    def on_pairs(self, layer: str, pairs: Pairs) -> None:
        """Pass a layer's pairs to the observer.

        Args:
            layer: name of the layer.
            pairs: the result of its search.
        """
        if self._observer:
            self._observer(PairsFound(layer, self.index, self.call.streams, pairs))

    def _kernel_layers(self, kernels: Kernels, sight: Sight) -> list[KernelLayer]:
        targets = self.settings.targets
        if others := [target for target in targets if target != "attn1"]:
            self.meter.note(
                f"tokens are {self.verb} in this model's self-attention only (attn1), not in {', '.join(others)}"
            )
        sites = kernels.sites if "attn1" in targets else ()
        return [KernelLayer(site, i, self, kernels.host, sight) for i, site in enumerate(sites)]

    def _accepts(self, site: Site) -> bool:
        if site.refusal:
            self.meter.decline(site.name, site.refusal)
        return not site.refusal


def seeded(seed: int, number: int, at: int) -> torch.Generator:
    """Return a new generator for one layer at one call or checkpoint, independent of the global one.

    Args:
        seed: of the settings.
        number: the layer's place in the network.
        at: the call or checkpoint.

    Example:
        >>> seeded(0, 3, 1).initial_seed()
        3000010
    """
    return torch.Generator().manual_seed(((seed * _SEED_STEP + number) * _SEED_STEP + at) % 2**63)
