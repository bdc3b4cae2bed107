"""Named ways of training masks, for the bench: the default, the paper's and its ablations, windows. Masks are kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core.calibrate.denoiser import Denoiser
from ...core.calibrate.masks import forms
from ...core.calibrate.masks.costs import Costs
from ...core.calibrate.masks.settings import PAPER, TrainSettings
from ...core.calibrate.masks.strategy import GradientStrategy
from ...core.calibrate.masks.trainer import train
from ...core.errors import MaskError, RecipeError
from ...core.files import make_folder
from ...core.recipe.mask import Mask

_PAPER: dict[str, Any] = {"form": "interleaved", **PAPER}
_WINDOW: dict[str, Any] = {"form": "windowed", "window": 4}

FORMS: dict[str, dict[str, Any]] = {
    "search": {},
    "start": {"passes": 0},
    "search-repeat": {"forecast": False},
    "exchange": {"form": "exchange"},
    "paper": {"form": "paper"},
    "paper-forecast": {**_PAPER, "forecast": True},
    "paper-gumbel": {**_PAPER, "sampling": "gumbel"},
    "paper-mean": {**_PAPER, "sampling": "mean"},
    "paper-unscaled": {**_PAPER, "weight_low": 1.0, "weight_high": 1.0},
    "paper-no-bimodal": {**_PAPER, "lambda2_ratio": 0.0},
    "paper-cost": {**_PAPER, "cost_weighted": True},
    "paper-credit": {**_PAPER, "credit": 3},
    "paper-mean-credit": {**_PAPER, "credit": 3, "sampling": "mean"},
    "paper-row-credit": {**_PAPER, "credit": 3, "sampling": "row"},
    "paper-output": {**_PAPER, "loss_at": "output"},
    "sequential": {**_PAPER, "form": "sequential"},
    "windowed": _WINDOW,
    "windowed-uniform": {**_WINDOW, "start": "uniform"},
    "joint": {**_WINDOW, "window": 0},
}
"""Settings that differ from the default's, by name; `start` is where the search begins: the best of the rules' masks."""


@dataclass(frozen=True)
class MaskTrainer:
    """Trains masks for one denoiser and keeps them in a folder, so that a bench that was stopped can continue.

    Args:
        denoiser: network, calls and sampler.
        label: of model, steps and guidance, part of the files' names.
        folder: for the masks.
        passes: of the forms that step on probabilities.
        batch: of these forms.

    Example:
        >>> MaskTrainer(None, "demo-20", Path("out"), passes=60, batch=2).settings("paper", target=0.5, seed=1).passes
        60
    """

    denoiser: Denoiser
    label: str
    folder: Path
    passes: int
    batch: int

    def mask(self, form: str, target: float, seed: int) -> Mask:
        """The mask of a form, read from its file or trained.

        Args:
            form: its name.
            target: share of the multiply-adds.
            seed: of the training.
        """
        settings = self.settings(form, target, seed)
        path = self.folder / f"{self.label}-{form}-{round(100 * target)}-{seed}.safetensors"
        found = _kept(path, settings)
        if found is not None:
            return found
        mask = train(self.denoiser, settings, model=self.label).mask
        make_folder(self.folder)
        mask.save(path)
        return mask

    def settings(self, form: str, target: float, seed: int) -> TrainSettings:
        """The settings of a form.

        Args:
            form: its name.
            target: share of the multiply-adds.
            seed: of the training.

        Raises :class:`RecipeError` for an unknown form.
        """
        check_forms((form,))
        more = FORMS[form]
        if issubclass(forms.FORMS[more.get("form", TrainSettings.form)], GradientStrategy):
            more = {"passes": self._passes(more), "batch": self.batch, **more}
        return TrainSettings(**{"target": target, "seed": seed, **more})

    def _passes(self, more: dict[str, Any]) -> int:
        """A sequential pass steps on each row several times."""
        return max(1, self.passes // TrainSettings.updates) if more["form"] == "sequential" else self.passes


def check_forms(names: tuple[str, ...]) -> None:
    """Raise :class:`RecipeError` for a name that is no form.

    Example:
        >>> check_forms(("serach",))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no form of training is called 'serach': choose from search, ...
    """
    unknown = [name for name in names if name not in FORMS]
    if unknown:
        raise RecipeError(f"no form of training is called {unknown[0]!r}: choose from {', '.join(FORMS)}")


def _kept(path: Path, settings: TrainSettings) -> Mask | None:
    """The mask in a file, if it was trained with these settings."""
    try:
        mask = Mask.load(path)
    except MaskError:
        return None
    return mask if mask.provenance.get("settings") == settings.to_dict() else None


def unrectified_share(mask: Mask, target: float, costs: Costs) -> tuple[float, float]:
    """Shares of the multiply-adds, before and after liveness, of a learned mask that is cut where all its ones cost `target`.

    Args:
        mask: with its probabilities.
        target: share of the multiply-adds.
        costs: of the blocks.

    Example:
        >>> from skipstone.core.models.graph import Block, BlockGraph
        >>> from torch import nn
        >>> graph = BlockGraph((Block("a", "block", nn.Identity(), 0),), (frozenset(),), frozenset({0}))
        >>> mask = Mask(np.array([[True], [True], [False]]), "toy", ("a",), (999.0, 500.0, 0.0), "output")
        >>> before, after = unrectified_share(mask, 0.7, Costs(graph, np.ones(1), rest=0.0))
        >>> f"{before:.2f} {after:.2f}"
        '0.67 0.67'
    """
    p = np.asarray(mask.run if mask.probabilities is None else mask.probabilities, dtype=np.float64)
    order = np.argsort(-p[1:], axis=None, kind="stable")
    room = (target - costs.expected(np.zeros_like(p))) * len(p) - costs.masked.sum()
    fits = np.cumsum(costs.masked[order % p.shape[1]]) <= room
    run = np.zeros(p.shape, dtype=bool)
    run[0] = True
    run[1:].reshape(-1)[order[fits]] = True
    return costs.expected(run), costs.share(run)
