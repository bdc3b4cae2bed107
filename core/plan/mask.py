"""A mask: which block runs at which call. Written by rules, by training or by hand; kept as safetensors with a JSON header."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..blocks.family import architecture
from ..blocks.graph import BlockGraph, Caching
from ..errors import MaskError
from ..files import write_safetensors
from .mapping import mapped_rows

FORMAT_VERSION = 1
_MOST_ENTRIES = 1 << 24


@dataclass(frozen=True)
class Mask:
    """run bool [T, L]: True where a block runs, False where its cached output is reused.

    family: of the model it was made for. blocks: names of its L blocks, in forward order. timesteps: training timestep
    of each call, falling. caching: what is cached, whole outputs or branches. probabilities [T, L]: as learned, or None.
    provenance: how it came to be, for people. signature: kind and depth of each block, by which the mask is recognised
    in other code bases, where blocks have other names. forecast: it was made for cached values that are continued in a
    straight line from the last two, and runs so.
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
        """Refuse contradictions. Raises :class:`MaskError`."""
        calls, blocks = self.run.shape if self.run.ndim == 2 else (-1, -1)
        if (calls, blocks) != (len(self.timesteps), len(self.blocks)):
            raise MaskError(
                f"mask of shape {list(self.run.shape)} does not fit {len(self.timesteps)} timesteps x {len(self.blocks)} blocks"
            )
        if not calls or not self.run[0].all():
            raise MaskError("the first call of a mask must run every block: nothing is cached before it")
        if self.caching not in get_args(Caching):
            raise MaskError(f"caching {self.caching!r} is not one of {', '.join(get_args(Caching))}")
        if self.probabilities is not None and self.probabilities.shape != self.run.shape:
            raise MaskError("the mask's probabilities have another shape than the mask")

    @property
    def share(self) -> float:
        """Share of entries that run, in [0, 1]."""
        return float(self.run.mean())

    def fitted(self, family: str, graph: BlockGraph) -> Mask:
        """This mask with the block names of a model. Raises :class:`MaskError` unless it was made for such a model.

        A mask made in one code base fits the same architecture in another (ldm and diffusers U-Nets).
        """
        names = tuple(graph.blocks[i].name for i in graph.masked)
        if (family, names) == (self.family, self.blocks):
            return self
        if architecture(family) != architecture(self.family):
            raise MaskError(f"the mask is for a {self.family}, this model is a {family}: choose a mask made for it")
        if not self.signature or self.signature != graph.signature:
            raise MaskError(
                f"the mask has {len(self.blocks)} blocks, this model {len(names)} others: make a mask for this model"
            )
        return replace(self, family=family, blocks=names)

    def mapped(self, timesteps: tuple[float, ...]) -> Mask:
        """This mask for a run with other timesteps (:func:`mapped_rows`); the first call runs all."""
        if len(timesteps) == len(self.timesteps) and np.allclose(timesteps, self.timesteps, atol=1.0):
            return self
        run = mapped_rows(self.run, self.timesteps, timesteps)
        return replace(self, run=run, timesteps=tuple(timesteps), probabilities=None)

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
        """Read a mask file. Raises :class:`MaskError` for anything that is none."""
        try:
            with safe_open(str(path), framework="pt") as file:
                head = json.loads((file.metadata() or {})["mask"])
                tensors = {name: file.get_tensor(name) for name in ("run", "probabilities") if name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise MaskError(f"cannot read mask {str(path)!r} ({error}): give a mask file of Skipstone") from None
        except (KeyError, json.JSONDecodeError, RecursionError):
            raise MaskError(f"{str(path)!r} is a safetensors file but no Skipstone mask") from None
        return cls._from_parts(head, tensors, str(path))

    @classmethod
    def _from_parts(cls, head: Any, tensors: dict[str, torch.Tensor], path: str) -> Mask:
        if not isinstance(head, dict) or head.get("skipstone_mask") != FORMAT_VERSION or "run" not in tensors:
            raise MaskError(f"{path!r} is no mask of format {FORMAT_VERSION}: update Skipstone or make the mask anew")
        if tensors["run"].numel() > _MOST_ENTRIES:
            raise MaskError(f"{path!r} has {tensors['run'].numel()} entries, which no model needs")
        probabilities = tensors.get("probabilities")
        try:
            return cls(
                run=tensors["run"].numpy().astype(bool),
                family=str(head["family"]),
                blocks=tuple(map(str, head["blocks"])),
                timesteps=tuple(map(float, head["timesteps"])),
                caching=head["caching"],
                probabilities=None if probabilities is None else probabilities.numpy(),
                provenance=dict(head.get("provenance") or {}),
                signature=tuple(map(str, head.get("signature") or ())),
                forecast=head.get("forecast") is True,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise (
                error if isinstance(error, MaskError) else MaskError(f"{path!r} has a broken header: {error}")
            ) from None
