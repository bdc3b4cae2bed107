"""Measures a cell of the field, row by row: each is stored when it is done, and a stopped run goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ....core.errors import RecipeError, SkipstoneError
from ....core.files import make_folder, write_json
from ....core.measure.timing import clock_of, interleave, machine, wait
from .judge import judge
from .options import Cell, FieldBench
from .ours import autos, fewer_steps, methods, other_samplers, profile_for
from .peers import peers
from .published import published
from .subject import Subject, picture_strip
from .way import DENSE, FEWER, Way, draw

SHOWN = 6
"""Pictures that are kept of each way."""
_MOST_SHOWN = 160
NOTHING = "it changes nothing in this run"
Row = dict[str, Any]
"""One way: `name`, `group`, and `reason` or its figures."""


class Measuring:
    """Measures the ways of one cell.

    Args:
        cell: model, sampler, steps and guidance.
        options: of the command.

    Attributes:
        machine: on which the first row was measured.

    Example:
        >>> Measuring(Cell("demo-dit", "ddim", 20, 1.0), FieldBench()).file.name
        'demo-dit-ddim-20-1.json'
    """

    def __init__(self, cell: Cell, options: FieldBench) -> None:
        """Nothing is loaded yet."""
        self.cell, self.options = cell, options
        self.subject = Subject(cell, options)
        self.machine = machine(options.device)
        self.file = options.work / f"{cell.file}.json"

    def ways(self) -> list[Way]:
        """Return the ways that are wanted, the dense run and fewer steps first.

        Raises :class:`SkipstoneError` for a sampler that the model does not have.
        """
        steps, model, only = self.cell.steps, self.cell.model, self.options.only
        held = profile_for(model, self.subject.denoiser)
        others = other_samplers(steps, self.cell.sampler) if self.options.ode_steps else []
        ours = [*fewer_steps(steps), *autos(held), *methods(model, self.options.files)]
        every = [*ours, *published(steps), *peers(steps), *others]
        return [Way("dense", DENSE), *(way for way in every if _wanted(way, only))]

    def rows(self, done: Callable[[str], Any]) -> list[Row]:
        """Return all rows, from the file where they stand there.

        Args:
            done: called with the name of each way.
        """
        rows, ways = self._stored(), self.ways()
        for way in ways:
            if all(row["name"] != way.name for row in rows):
                rows.append(self._row(way))
                self._store(rows)
            done(way.name)
        if self.options.rounds and any("seconds" not in row for row in rows if "reason" not in row):
            self._take_times(rows, ways)
            self._store(rows)
        wanted = {way.name for way in ways}
        return [row for row in rows if row["name"] in wanted]

    def picture(self, name: str) -> Path:
        """Return the file with the pictures of a way.

        Args:
            name: of the way.
        """
        return self.options.work / self.cell.file / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.png"

    def _stored(self) -> list[Row]:
        if not self.file.exists():
            return []
        try:
            kept = json.loads(self.file.read_text(encoding="utf-8"))
            settings, self.machine, rows = kept["settings"], kept["machine"], list(kept["rows"])
        except (ValueError, KeyError, TypeError):
            raise RecipeError(f"{str(self.file)!r} holds no rows of this bench: remove it") from None
        if settings != self._settings():
            folder = str(self.options.work)
            raise RecipeError(f"{folder!r} holds a run with other options: remove it, or give another --work")
        return rows

    def _store(self, rows: Sequence[Row]) -> None:
        make_folder(self.file.parent)
        write_json(self.file, {"settings": self._settings(), "machine": self.machine, "rows": rows})

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self.options, name) for name in ("noises", "batch", "device", "half", "ode_steps")}

    def _row(self, way: Way) -> Row:
        head: Row = {"name": way.name, "group": way.group}
        try:
            drawn, latents = self.subject.dense if way.group == DENSE else self.subject.draw(way)
        except Exception as error:  # of any package
            return {**head, "reason": _line(error)}
        whole, reference = self.subject.dense
        if way.group not in (DENSE, FEWER) and torch.equal(latents, reference):
            return {**head, "reason": NOTHING}
        self._keep_pictures(way, latents)
        least = min(drawn.calls, key=lambda call: call.macs)
        return {
            **head,
            "calls": sum(call.macs > 0 for call in drawn.calls),
            "share": drawn.macs / whole.macs,
            "ops": sum(call.ops for call in drawn.calls),
            "skipped_ops": least.ops if least.macs < whole.calls[0].macs / 2 else None,
            "held": max(0, drawn.held - whole.held),
            "ode": self.subject.from_ode(latents),
            **asdict(judge(latents, reference, self.subject.labels)),
        }

    def _keep_pictures(self, way: Way, latents: torch.Tensor) -> None:
        strip = picture_strip(latents, SHOWN)
        if strip is not None:
            make_folder(self.picture(way.name).parent)
            strip.save(self.picture(way.name))

    def _take_times(self, rows: Sequence[Row], ways: Sequence[Way]) -> None:
        """Set the median seconds of one picture, in rounds in which all ways take turns."""
        there = {row["name"]: row for row in rows if "reason" not in row}
        cases = {way.name: partial(self._one, way) for way in ways if way.name in there}
        took = interleave(cases, self.options.rounds, clock=clock_of(torch.device(self.options.device)))
        for name, timing in took.items():
            there[name]["seconds"] = timing.median

    def _one(self, way: Way) -> None:
        draw(way, self.subject.denoiser_for(way), self.subject.seeds[:1], counted=False)
        wait(torch.device(self.options.device))


def _line(error: Exception) -> str:
    """Return an error as one short line."""
    if isinstance(error, SkipstoneError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first[:_MOST_SHOWN]}"


def _wanted(way: Way, only: Sequence[str]) -> bool:
    """Whether a way is measured: its name or group contains one of the words, or there are none. Fewer steps always are."""
    return not only or way.group == FEWER or any(word in f"{way.group} {way.name}" for word in only)
