"""A training under way: its strategy, its history, and its checkpoint."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...errors import FileError, MaskError, shown_path
from .checkpoint import LARGEST, Content, check_numbers, check_tensors, is_number, read_checkpoint, write_checkpoint
from .masked_model import MaskedModel
from .settings import TrainSettings
from .strategy import Strategy

log = logging.getLogger("skipstone")

_NUMBERS = {"lambda1": (0.0, LARGEST), "begun_at": (0.0, LARGEST), "excess": (-LARGEST, LARGEST)}
_TENSORS = {"probabilities": (0.0, 1.0), "adam_square": (0.0, LARGEST), "adam_steps": (0.0, LARGEST), "start": (0, 1)}
"""Limits of what a strategy may keep."""


class StopTraining(Exception):
    """Raise it in a progress callback, or in a denoiser's `predict`, to end training; what was learned is kept.

    Example:
        >>> from skipstone.core.calibrate.masks.settings import TrainSettings
        >>> from skipstone.core.calibrate.masks.trainer import train_masked
        >>> def stop(progress):
        ...     raise StopTraining
        >>> train_masked(model, TrainSettings(target=0.5, refine_batch=2, tries=1), stop).stopped
        True
    """


@dataclass(frozen=True)
class Progress:
    """The state of a training after a pass.

    Args:
        stage: "train", or "refine" for the search that follows.
        done: passes or moves so far, of `total`.
        total: passes or moves in all.
        loss: of search, exchange and refine, the mask's mean relative L2 error on the held-out noises; otherwise the feature loss.
        share: of the multiply-adds, that the probabilities stand for.
        settled: share of the probabilities that are near 0 or 1.

    Example:
        >>> Progress("train", done=1, total=20, loss=0.1, share=0.5, settled=1.0).speedup
        2.0
    """

    stage: Literal["train", "refine"]
    done: int
    total: int
    loss: float
    share: float
    settled: float

    @property
    def speedup(self) -> float:
        """Expected ratio of multiply-adds, dense to masked."""
        return 1 / self.share


@dataclass
class Training:
    """A training under way.

    Args:
        strategy: the form of training, with its state.
        history: one entry per pass.
        start: the mask bool [T, L] that training began at.
        kept_start: whether the learned mask was worse than that one, which is then the result.
        found: the best mask so far, once all passes are done.
        errors: of the search after the passes, one per move.
        stopped: whether training was ended early.
        unsaved: whether the checkpoint could not be written, which was logged.

    Example:
        >>> from skipstone.core.calibrate.masks.trainer import begin
        >>> training = begin(model, TrainSettings(target=0.5, tries=1, refine_batch=2))
        >>> training.run_pass().done, training.best_mask().shape
        (1, (4, 4))
    """

    strategy: Strategy
    history: list[Progress] = field(default_factory=list)
    start: np.ndarray | None = None
    kept_start: bool = False
    found: np.ndarray | None = None
    errors: list[float] = field(default_factory=list)
    stopped: bool = False
    unsaved: bool = False

    @property
    def model(self) -> MaskedModel:
        """The model that is trained on."""
        return self.strategy.model

    @property
    def settings(self) -> TrainSettings:
        """The settings of the training."""
        return self.strategy.settings

    def run_pass(self) -> Progress:
        """Run one pass and append it to the history."""
        loss, strategy = self.strategy.run_pass(), self.strategy
        total = self.settings.passes
        self.history.append(Progress("train", strategy.done, total, loss, strategy.share(), strategy.settled()))
        return self.history[-1]

    def best_mask(self) -> np.ndarray:
        """The mask that was learned, or the one that training began at where its error on the held-out noises is lower."""
        run, start = self.strategy.mask(), self.start
        if start is None or np.array_equal(run, start):
            return run
        error = self.strategy.comparison.held_out
        self.kept_start = not error(run) <= error(start)
        return start if self.kept_start else run

    def save(self, path: Path) -> None:
        """Write the checkpoint. A full disk does not end the training: it is logged once."""
        try:
            write_checkpoint(path, self._content())
        except FileError as error:
            if not self.unsaved:
                log.warning("%s; training goes on without a checkpoint", error)
            self.unsaved = True

    def load(self, path: Path) -> None:
        """Continue from a checkpoint. Nothing is changed unless the whole file fits.

        Raises :class:`SkipstoneError` for a file that is broken, or was written for another model or with other settings.
        """
        own = self._content()
        try:
            content = read_checkpoint(path)
            head, tensors = content.head, content.tensors
            _check_history(head)
            check_numbers(head, {name: _NUMBERS[name] for name in self.strategy.numbers()})
            self.settings.check_same(head["settings"])
            _check_shape(tensors, own.tensors)
            check_tensors(tensors, own.tensors, _TENSORS)
            if not tensors["start"][0].all():
                raise MaskError("has broken values of start")
            self.strategy.restore(head["done"], head, tensors)
        except MaskError as error:
            raise MaskError(f"the checkpoint {shown_path(path)} {error}: train without --resume") from None
        self.start = tensors["start"].bool().numpy()
        self.history[:] = [Progress(**entry) for entry in head["history"]]

    def _content(self) -> Content:
        start = self.strategy.mask() if self.start is None else self.start
        head = {"settings": self.settings.to_dict(), "done": self.strategy.done, **self.strategy.numbers()}
        head["history"] = [asdict(progress) for progress in self.history]
        return Content(head, {**self.strategy.tensors(), "start": torch.from_numpy(start).to(torch.uint8)})


def _check_history(head: dict[str, Any]) -> None:
    done, history = head.get("done"), head.get("history")
    if type(done) is not int or not isinstance(history, list) or not 0 <= done == len(history):
        raise MaskError("does not say how many passes were done")
    if not all(map(_is_progress, history)):
        raise MaskError("has a broken history")
    if not isinstance(head.get("settings"), dict):
        raise MaskError("has no settings")


def _is_progress(entry: Any) -> bool:
    if not isinstance(entry, dict) or set(entry) != {f.name for f in fields(Progress)} or entry["stage"] != "train":
        return False
    whole = type(entry["done"]) is type(entry["total"]) is int
    return whole and all(is_number(entry[n]) and not math.isinf(entry[n]) for n in ("loss", "share", "settled"))


def _check_shape(tensors: dict[str, Tensor], like: dict[str, Tensor]) -> None:
    name = "probabilities"
    if name in tensors and tensors[name].shape != like[name].shape:
        raise MaskError("was written for another model or number of calls")
