"""One sampling run: its clock, its plan, its caches and its meter. It dies with the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..blocks import KeyBias, Site
from ..errors import Decline
from ..plan.tokens import TokenPlan
from ..recipe import TokenMerge
from ..tokens.grid import Grid
from ..tokens.maps import Pairs
from .attach import Overrides
from .clock import Clock, Stream
from .layer import TokenLayer
from .meter import Meter, Report


@dataclass(frozen=True)
class Call:
    """What a host says of one forward: its training timestep, its latent's (H, W), and who its rows belong to."""

    timestep: float
    latent: tuple[int, int]
    streams: tuple[Stream, ...]


@dataclass(frozen=True)
class PairsFound:
    """Told to an observer whenever a layer searched its pairs: where, at which call, for whose rows, and what."""

    layer: str
    call: int
    streams: tuple[Stream, ...]
    pairs: Pairs


Observer = Callable[[PairsFound], None]


class Session:
    """State of one run. `timesteps`: of the calls to come, where the host knows that they will be just these."""

    def __init__(
        self,
        settings: TokenMerge,
        sites: Sequence[Site],
        timesteps: Sequence[float] | None = None,
        train_steps: float = 1000.0,
        key_bias: KeyBias | None = None,
        observer: Observer | None = None,
    ) -> None:
        """Begin a run; the model is not touched before :meth:`begin_call`."""
        self.settings = settings
        self._observer = observer
        self.meter = Meter()
        self.epoch = 0
        self.index = -1
        self.latent = (0, 0)
        self.streams: tuple[Stream, ...] = ()
        self._clock = Clock(timesteps, train_steps)
        self._plan = TokenPlan(settings, timesteps, train_steps)
        self._finest: int | None = None
        self._layers = [TokenLayer(s, i, self, key_bias) for i, s in enumerate(sites) if self._accepts(s)]
        self._overrides = Overrides([o for layer in self._layers for o in layer.overrides()])
        if dropped := self._plan.checkpoints.dropped():
            self.meter.note(f"checkpoints {', '.join(map(str, dropped))} lie past the last call and were dropped")

    def begin_call(self, call: Call) -> None:
        """Before a forward: tick the clock, decide, install the overrides. Ctrl-C may have left those of the last one."""
        self._overrides.remove()
        tick = self._clock.tick(call.timestep, call.streams)
        if tick.surprise:
            self._plan.abandon()
        if tick.new:
            checkpoint = self._plan.is_checkpoint(tick.index, call.timestep)
            self.epoch += checkpoint or tick.surprise
        self.index, self.latent, self.streams = tick.index, call.latent, call.streams
        self.meter.report.calls = tick.index + 1
        self.meter.report.planned = self._clock.planned
        if not self._plan.serves(call.timestep):
            return
        for layer in self._layers:
            layer.start_forward()
        self._overrides.install()

    def decline_call(self, reason: str) -> None:
        """A forward that cannot be served at all: it is counted and runs dense."""
        self.meter.report.calls += 1
        self.meter.decline("a whole call", reason)

    def end_call(self) -> None:
        """After a forward, also a failed one: take the overrides off and let go of its tensors. May be called twice."""
        self._overrides.remove()
        for layer in self._layers:
            layer.start_forward()
        self.meter.keep_cache(sum(layer.nbytes for layer in self._layers))

    def close(self) -> Report:
        """End the run: nothing is kept but the report."""
        self._overrides.remove()
        if self.index >= 0:
            self._note_absent()
        self._layers = []
        self._overrides = Overrides([])
        return self.meter.finish()

    def check_level(self, grid: Grid) -> None:
        """Raise :class:`Decline` for a grid coarser than `max_downsample`; "auto" learns the finest level on the way."""
        self._finest = min(self._finest or grid.downsample, grid.downsample)
        limit = self.settings.max_downsample
        if limit == "auto":
            limit = 1 if self._finest == 1 else 2 * self._finest
        if grid.downsample > limit:
            raise Decline(f"coarser than 1/{limit} of the latent (max_downsample)")

    def on_pairs(self, layer: str, pairs: Pairs) -> None:
        """A layer searched its pairs: tell the observer, if there is one (calibration)."""
        if self._observer:
            self._observer(PairsFound(layer, self.index, self.streams, pairs))

    def _accepts(self, site: Site) -> bool:
        if site.refusal:
            self.meter.decline(site.name, site.refusal)
        return not site.refusal

    def _note_absent(self) -> None:
        report = self.meter.finish()
        known = {name for names in report.declined.values() for name in names} | set(report.layers)
        for layer in self._layers:
            if layer.site.name not in known and not any(name.startswith(layer.site.name + ".") for name in known):
                self.meter.decline(layer.site.name, "never entered: bypassed by the host, another patch, or the window")
