"""One call of the real network in which each block's value is chosen between fresh and cached (Eq. 3 and 4).

A gate b in [0, 1] gives `b f + (1 - b) cache`. For gates of 0 and 1 the backward pass is straight-through: the gate's
gradient is <dL/dF, f - cache>, and only the chosen value passes gradients on. Overrides are installed during the call only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...engine.block_value import Values, added, as_output, as_values, cloned, subtracted
from ...engine.cached_value import LINE, CachedValue
from ...engine.nest import leaves
from ...engine.observation import Observation
from ...engine.override import Around, Override, Overrides
from ...models.graph import BlockGraph

Caches = tuple[CachedValue, ...]
"""What is cached of each masked block, in the graph's order; of a call in several forwards, one forward after the other."""


@dataclass(frozen=True)
class CallGates:
    """The gates of one call.

    Args:
        runs: bool [L], the blocks whose fresh value is used; None for gates between 0 and 1, which mix.
        gates: [L] on the network's device, for gradients; without it a block that does not run is not evaluated.

    Example:
        >>> CallGates(np.array([True, False])).gates is None
        True
    """

    runs: np.ndarray | None
    gates: Tensor | None = None


@dataclass(frozen=True)
class Outcome:
    """The result of one call.

    Args:
        output: of the network, [rows, ...].
        end: output of the block at which the loss is taken; `output` without one.
        caches: of each masked block.

    Example:
        >>> outcome = model.dense(model.denoiser.begin([0]), 0)
        >>> outcome.output.shape, len(outcome.caches)
        (torch.Size([1, 6]), 4)
    """

    output: Tensor
    end: Tensor
    caches: Caches


class GatedNetwork:
    """A network's blocks under gates.

    Args:
        graph: of the network.
        end: module at whose output the loss is taken; the network's output without one.
        checkpointing: evaluate each block again in the backward pass instead of keeping its activations.
        forecast: extrapolate a cached value linearly from the last two.
        seen: what blocks whose differences are cached pass on.

    Example:
        >>> import torch
        >>> gated, x, t = GatedNetwork(model.graph), torch.ones(1, 6, dtype=torch.float64), torch.tensor(0.0)
        >>> first = gated.dense(lambda: model.denoiser.network(x, t))
        >>> again = gated(lambda: model.denoiser.network(-x, t), CallGates(np.zeros(4, dtype=bool)), first.caches)
        >>> torch.allclose(again.output + x, first.output - x)  # the branches are those of x
        True
    """

    def __init__(
        self,
        graph: BlockGraph,
        end: nn.Module | None = None,
        checkpointing: bool = False,
        forecast: bool = False,
        seen: Observation | None = None,
    ) -> None:
        """Prepare; the network is not changed before a call."""
        self.graph, self._seen = graph, seen
        self._blocks = [graph.blocks[i] for i in graph.masked]
        self._checkpointing, self.forecast = checkpointing, forecast
        self._row, self._caches = CallGates(None), None  # type: tuple[CallGates, Caches | None]
        self._timestep = 0.0
        self._made: dict[int, CachedValue] = {}
        self._entered = [0] * len(self._blocks)
        self._ends: list[Tensor] = []
        gates = [Override(b.module, self._around(i), repeats=True) for i, b in enumerate(self._blocks)]
        self._overrides = Overrides([*gates, Override(end, self._tap, repeats=True)] if end is not None else gates)

    def dense(self, predict: Callable[[], Tensor], timestep: float = 0.0) -> Outcome:
        """Run a call with every block.

        Args:
            predict: runs the network once.
            timestep: of the call.
        """
        return self(predict, CallGates(None), None, timestep)

    def __call__(
        self, predict: Callable[[], Tensor], row: CallGates, caches: Caches | None, timestep: float = 0.0
    ) -> Outcome:
        """Run one call.

        Args:
            predict: runs the network once.
            row: gates of the call.
            caches: of the call before, which took as many forwards; without them every block runs.
            timestep: of the call.
        """
        self._row, self._caches, self._timestep = row, caches, timestep
        self._entered = [0] * len(self._blocks)
        try:
            self._overrides.install()
            output = predict()
            return Outcome(output, _joined(self._ends or [output]), self._kept())
        finally:
            self._overrides.remove()
            self._caches, self._ends, self._made = None, [], {}

    def recomputed(
        self, predict: Callable[[], Tensor], row: CallGates, caches: Caches | None, timestep: float = 0.0
    ) -> Outcome:
        """As a call, but keep no activations: the backward pass evaluates the call again.

        Args:
            predict: runs the network once.
            row: gates of the call.
            caches: of the call before.
            timestep: of the call.
        """
        return checkpoint(self, predict, row, caches, timestep, use_reentrant=False, preserve_rng_state=False)

    def _tap(self, inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        output = inner(*args, **kwargs)
        self._ends += [end for end in as_values(output)[-1:] if end is not None]
        return output

    def _around(self, number: int) -> Around:
        seen, which = self._seen, self.graph.masked[number]

        def around(inner: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            inputs = cloned(seen.inputs(which, args, kwargs)) if seen else None
            place = self._entered[number] * len(self._blocks) + number
            self._entered[number] += 1
            values = self._value(number, place, lambda: self._fresh(inner, args, kwargs), inputs)
            return seen.output(which, values) if seen else as_output(values, kwargs)

        return around

    def _kept(self) -> Caches:
        places = len(self._blocks) * max(1, *self._entered)
        return tuple(self._made.get(place, CachedValue((), self._timestep)) for place in range(places))

    def _fresh(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Values:
        if self._checkpointing and torch.is_grad_enabled():
            output = checkpoint(inner, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
        else:
            output = inner(*args, **kwargs)
        return tuple(value for _, value in leaves(output)) if self._seen else as_values(output)

    def _value(self, number: int, place: int, fresh: Callable[[], Values], inputs: Values | None) -> Values:
        """The block's output. Values kept for later calls are copies, because hosts edit in place."""
        held = None if self._caches is None or place >= len(self._caches) else self._caches[place]
        gates, runs = self._row.gates, self._row.runs
        if held is None or (gates is None and (runs is None or runs[number])):
            outputs = fresh()
            self._keep(place, held, _less(outputs, inputs))
            return outputs
        if gates is not None:
            return self._gated(place, None if runs is None else runs[number], fresh, inputs, held, gates[number])
        self._made[place] = held
        return _plus(inputs, cloned(held.at(self._timestep)))

    def _gated(
        self,
        place: int,
        runs: bool | None,
        fresh: Callable[[], Values],
        inputs: Values | None,
        held: CachedValue,
        gate: Tensor,
    ) -> Values:
        cached = held.at(self._timestep)
        if runs is not None and not runs:
            with torch.no_grad():
                gain = _paired(torch.sub, _less(fresh(), inputs), cached)
            self._made[place] = replace(held, values=_paired(_Through.apply, held.values, gain, gate))
            return _plus(inputs, _paired(_Through.apply, cached, gain, gate))
        outputs = fresh()
        new = _less(outputs, inputs)
        if runs is None:
            values = _paired(torch.lerp, cached, new, gate)
            self._keep(place, held, values)
            return _plus(inputs, values)
        with torch.no_grad():
            gain = _paired(torch.sub, new, cached)
        self._keep(place, held, _paired(_Through.apply, new, gain, gate))
        return _paired(_Through.apply, outputs, gain, gate)

    def _keep(self, place: int, held: CachedValue | None, values: Values) -> None:
        last = held or CachedValue((), self._timestep)
        self._made[place] = last.followed_by(cloned(values), self._timestep, LINE if self.forecast else None)


def _joined(ends: list[Tensor]) -> Tensor:
    """The end feature [rows, ...]; of several forwards, which may differ in rows and tokens, one row of them all."""
    return ends[0] if len(ends) == 1 else torch.cat([end.flatten() for end in ends])[None]


def _less(outputs: Values, inputs: Values | None) -> Values:
    return outputs if inputs is None else subtracted(outputs, inputs)  # type: ignore[arg-type]


def _plus(inputs: Values | None, values: Values) -> Values:
    return values if inputs is None else added(inputs, values)  # type: ignore[arg-type]


def _paired(choose: Callable[..., Tensor], first: Values, second: Values, *gate: Tensor) -> Values:
    pairs = zip(first, second, strict=True)
    return tuple(None if a is None or b is None else choose(a, b, *(g.to(a.dtype) for g in gate)) for a, b in pairs)


class _Through(torch.autograd.Function):
    """(value, gain, gate) -> value; straight-through: the gate's gradient is <dL/dvalue, gain>, gain = fresh - cached."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gain: Tensor, gate: Tensor) -> Tensor:
        """See the class."""
        ctx.save_for_backward(gain)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        """See the class."""
        (gain,) = ctx.saved_tensors
        return grad, None, (grad * gain).sum(dtype=torch.float32).to(grad.dtype)


def detached(caches: Caches) -> Caches:
    """The same cached values without gradients.

    Example:
        >>> outcome = model.dense(model.denoiser.begin([0]), 0)
        >>> any(v.requires_grad for held in detached(outcome.caches) for v in held.values)
        False
    """
    return tuple(
        held.mapped(lambda values: tuple(None if v is None else v.detach() for v in values)) for held in caches
    )


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Context manager: weights take no gradients and dropout is off; all flags are restored afterwards.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with frozen(layer):
        ...     layer.weight.requires_grad, layer.training
        (False, False)
        >>> layer.weight.requires_grad, layer.training
        (True, True)
    """
    flags = [(p, p.requires_grad) for p in network.parameters()]
    modes = [(m, m.training) for m in network.modules()]
    try:
        network.requires_grad_(False).eval()
        yield
    finally:
        for p, flag in flags:
            p.requires_grad_(flag)
        for m, mode in modes:
            m.training = mode
