"""diffusers' cache context: what a pipeline states about a forward for caches (`with transformer.cache_context("cond"):`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from threading import Thread, current_thread
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from ..core.engine.copies import copied_without, without_attribute
from ..core.errors import ModelError
from ..core.forecast.space import Noise
from .schedule import wrapped


@dataclass(frozen=True)
class Context:
    """What is stated about one forward; the fields of diffusers' `CacheContext`, of which older versions have fewer.

    Args:
        name: the cond, such as "cond" or "uncond".
        step_index: number of the sampler step.
        num_inference_steps: number of sampler steps.
        timestep: training timestep, a number or a tensor.
        sigma: noise level of a flow model.

    Example:
        >>> Context("cond", sigma=0.25).noise
        Noise(alpha=0.75, sigma=0.25, predicts='flow', flow=True)
    """

    name: str | None = None
    step_index: int | None = None
    num_inference_steps: int | None = None
    timestep: Any = None
    sigma: float | None = None

    @property
    def noise(self) -> Noise | None:
        """The noise level, if it is stated and can be that of a flow model."""
        return Noise.of_flow(self.sigma) if self.sigma is not None and 0 <= self.sigma <= 1 else None


def context_of(stated: Any) -> Context:
    """Return the context that diffusers' object states, or None.

    Example:
        >>> context_of(None)
        Context(name=None, step_index=None, num_inference_steps=None, timestep=None, sigma=None)
    """
    return Context(**{f.name: getattr(stated, f.name, None) for f in fields(Context)})


class ContextWatch:
    """Reads the cache contexts in which a network's forwards run, in each thread, until it is removed.

    Args:
        root: the network; without a method `cache_context`, its contexts are empty.

    Example:
        >>> from diffusers import FluxTransformer2DModel
        >>> sizes = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 1}
        >>> network = FluxTransformer2DModel(**sizes, axes_dims_rope=(4, 4, 8), joint_attention_dim=8, pooled_projection_dim=8)
        >>> watch = ContextWatch(network)
        >>> with network.cache_context("cond"):
        ...     watch().name
        'cond'
        >>> watch.remove()
    """

    def __init__(self, root: nn.Module) -> None:
        """Watch until :meth:`remove`."""
        self._stated: WeakKeyDictionary[Thread, Context] = WeakKeyDictionary()
        before = dict(root.__dict__)
        self._undo = [wrapped(root, _METHOD, self._around)]
        if _METHOD in root.__dict__:
            self._undo.append(copied_without(root, without_attribute(root, _METHOD, before)))

    def __call__(self) -> Context:
        """Return the context of this thread's forward."""
        return self._stated.get(current_thread(), Context())

    def remove(self) -> None:
        """Restore the network. It may be called twice."""
        for undo in reversed(self._undo):
            undo()
        self._undo = []

    def _around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def cache_context(name: str, **stated: Any) -> Iterator[None]:
            thread = current_thread()
            with inner(name, **stated):
                self._stated[thread] = Context(name, **{k: v for k, v in stated.items() if k in _FIELDS})
                try:
                    yield
                finally:
                    self._stated.pop(thread, None)

        return cache_context


_METHOD = "cache_context"
_FIELDS = {f.name for f in fields(Context)}


def refuse_beside_cache(root: nn.Module) -> None:
    """Raise :class:`ModelError` if a cache of diffusers is enabled on a network.

    Example:
        >>> refuse_beside_cache(nn.Identity())
    """
    if getattr(root, "is_cache_enabled", False):
        kind = type(getattr(root, "_cache_config", None)).__name__
        raise ModelError(
            f"{type(root).__name__} has a cache of diffusers enabled ({kind}): call its disable_cache() first, "
            "or use it without Skipstone"
        )
