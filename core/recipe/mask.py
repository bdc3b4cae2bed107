"""A mask: which block runs at which call. Rules, training or users make it; its file is safetensors with a JSON header."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..errors import MaskError, reason_of, shown, shown_path
from ..files import write_safetensors
from .block_skip import BlockSkip, Caching
from .validate import MOST_CALLS, as_tuple, text

FORMAT_VERSION = 1
_MOST_ENTRIES = 1 << 24
_MOST_NAME = 300
_MOST_NOTES = 1 << 22
_MOST_TIME = 1e6
_MOST_RISE = 0.02


@dataclass(frozen=True)
class Mask:
    """Which of a model's L blocks run at each of T calls.

    Args:
        run: True where a block runs, False where its cached value is reused, bool [T, L]. The first row is all True.
        family: name of the model family that the mask was made for.
        blocks: names of the L blocks, in forward order.
        timesteps: training timestep of each of the T calls, falling.
        caching: what is cached, whole outputs or branches.
        probabilities: learned probability that a block runs [T, L], or None.
        provenance: how the mask was made, for people. Plain JSON values.
        signature: kind and depth of each block. It identifies the blocks where another code base names them differently.
        forecast: whether the mask was made for extrapolated cached values, and runs with them.

    Raises :class:`MaskError` for contradictions and for sizes that no model has.

    Example:
        >>> mask = Mask(np.array([[True, True], [True, False]]), "SD3", ("a", "b"), (999.0, 500.0))
        >>> mask.share
        0.75
    """

    run: np.ndarray
    family: str
    blocks: tuple[str, ...]
    timesteps: tuple[float, ...]
    caching: Caching = "output"
    probabilities: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    signature: tuple[str, ...] = ()
    forecast: bool = False

    def __post_init__(self) -> None:
        """Normalise lists and refuse contradictions."""
        for name in ("blocks", "timesteps", "signature"):
            object.__setattr__(self, name, as_tuple(name, getattr(self, name), MaskError))
        self._check_run()
        self._check_names()
        self._check_timesteps()
        self._check_probabilities()
        self._check_provenance()

    def _check_run(self) -> None:
        run = self.run
        if not isinstance(run, np.ndarray) or run.dtype != bool or run.ndim != 2:
            raise MaskError("a mask needs a bool array [calls, blocks]: True where a block runs")
        if run.shape != (len(self.timesteps), len(self.blocks)):
            raise MaskError(
                f"mask of shape {list(run.shape)} does not fit {len(self.timesteps)} timesteps x {len(self.blocks)} blocks"
            )
        if not run.size or run.size > _MOST_ENTRIES or max(run.shape) > MOST_CALLS:
            raise MaskError(f"a mask of shape {list(run.shape)}: give 1 to {MOST_CALLS} calls and blocks")
        if not run[0].all():
            raise MaskError("the first call of a mask must run every block: nothing is cached before it")

    def _check_names(self) -> None:
        text("family", self.family, _MOST_NAME, MaskError)
        for name in (*self.blocks, *self.signature):
            text("a block's name or kind", name, _MOST_NAME, MaskError)
        if self.signature and len(self.signature) != len(self.blocks):
            raise MaskError(
                f"a signature of {len(self.signature)} for {len(self.blocks)} blocks: give one entry for each block"
            )
        if self.caching not in get_args(Caching):
            raise MaskError(f"caching {shown(self.caching)} is not one of {', '.join(get_args(Caching))}")
        if not isinstance(self.forecast, bool):
            raise MaskError(f"forecast {shown(self.forecast)} is neither true nor false")

    def _check_timesteps(self) -> None:
        """Refuse timesteps that are not finite or that rise; intermediate evaluations of a step may rise by rounding."""
        wrong = [t for t in self.timesteps if not _is_number(t) or not -_MOST_TIME <= t <= _MOST_TIME]
        if wrong:
            raise MaskError(f"timestep {shown(wrong[0])} of the mask is outside [-{_MOST_TIME:g}, {_MOST_TIME:g}]")
        times = np.asarray(self.timesteps, dtype=float)
        if len(times) > 1 and np.diff(times).max() > _MOST_RISE * np.ptp(times):
            raise MaskError("the mask's timesteps rise: give those of its calls, the noisiest first")

    def _check_probabilities(self) -> None:
        given = self.probabilities
        if given is None:
            return
        if not isinstance(given, np.ndarray) or given.shape != self.run.shape:
            raise MaskError(
                f"the mask's probabilities need its own shape, {list(self.run.shape)}: give one for each entry"
            )
        if not ((given >= 0) & (given <= 1)).all():
            raise MaskError("the mask's probabilities are not all in [0, 1]")

    def _check_provenance(self) -> None:
        try:
            size = len(json.dumps(self.provenance)) if isinstance(self.provenance, dict) else _MOST_NOTES + 1
        except (TypeError, ValueError, RecursionError):
            raise MaskError("the mask's provenance cannot be written as JSON: give plain values") from None
        if size > _MOST_NOTES:
            raise MaskError(f"the mask's provenance must be an object of at most {_MOST_NOTES} characters")

    @property
    def share(self) -> float:
        """Share of entries that run, in [0, 1]."""
        return float(self.run.mean())

    def save(self, path: str | Path) -> None:
        """Write the mask as a safetensors file. Raises :class:`FileError`."""
        tensors = {"run": torch.from_numpy(self.run.astype(np.uint8))}
        if self.probabilities is not None:
            tensors["probabilities"] = torch.from_numpy(self.probabilities.astype(np.float32))
        head = {"skipstone_mask": FORMAT_VERSION, "family": self.family, "blocks": list(self.blocks)}
        head |= {"timesteps": list(self.timesteps), "caching": self.caching, "provenance": self.provenance}
        head |= {"signature": list(self.signature), "forecast": self.forecast}
        write_safetensors(path, tensors, {"mask": json.dumps(head)})

    @classmethod
    def load(cls, path: str | Path) -> Mask:
        """Read a mask file. Raises :class:`MaskError` for a file that is not one."""
        try:
            with safe_open(str(path), framework="pt") as file:
                notes = (file.metadata() or {}).get("mask")
                tensors = {name: _array(file, name) for name in ("run", "probabilities") if name in file.keys()}
        except (OSError, SafetensorError, ValueError, TypeError) as error:
            raise MaskError(
                f"cannot read mask {shown_path(path)} ({reason_of(error)}): give a mask file of Skipstone"
            ) from None
        try:
            return cls._from_parts(_header(notes), tensors)
        except MaskError as error:
            raise MaskError(f"{shown_path(path)} cannot be used: {error}") from None

    @classmethod
    def _from_parts(cls, head: dict[str, Any], tensors: dict[str, np.ndarray]) -> Mask:
        run = tensors.get("run")
        if run is None or not np.isin(run, (0, 1)).all():
            raise MaskError("it has no tensor 'run' of zeros and ones: give a mask file of Skipstone")
        return cls(
            run=run.astype(bool),
            family=head["family"],
            blocks=head["blocks"],
            timesteps=head["timesteps"],
            caching=head["caching"],
            probabilities=tensors.get("probabilities"),
            provenance=head.get("provenance", {}),
            signature=head.get("signature", ()),
            forecast=head.get("forecast", False),
        )


def load_mask(skip: BlockSkip) -> Mask | None:
    """The mask of some settings, read from its file where they have a path; None for rules.

    Raises :class:`MaskError` for a file that is not a mask.

    Example:
        >>> load_mask(BlockSkip(rule="interval")) is None
        True
    """
    if not isinstance(skip.mask, str):
        return skip.mask
    return Mask.load(skip.mask) if skip.mask else None


def _array(file: Any, name: str) -> np.ndarray:
    size = math.prod(file.get_slice(name).get_shape())
    if size > _MOST_ENTRIES:
        raise ValueError(f"{name} has {size} entries, more than any model needs")
    return np.asarray(file.get_tensor(name).numpy())


def _header(notes: str | None) -> dict[str, Any]:
    """The JSON header. Raises :class:`MaskError` for text that is not one."""
    try:
        head = json.loads(notes or "null")
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict) or head.get("skipstone_mask") != FORMAT_VERSION:
        raise MaskError(f"it is not a Skipstone mask of format {FORMAT_VERSION}")
    if missing := {"family", "blocks", "timesteps", "caching"} - set(head):
        raise MaskError(f"its header does not give {min(missing)}")
    return head


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
