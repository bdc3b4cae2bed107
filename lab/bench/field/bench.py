"""`skipstone bench field`: Skipstone beside the whole field, on the same noises. One command, one table, one page."""

from __future__ import annotations

from functools import partial

import torch

from ....core.errors import SkipstoneError
from ....core.measure.timing import machine, threads
from ..figures import Bench, Figures, Progress, publish
from . import judge
from .measuring import Measuring
from .options import Cell, FieldBench
from .page import write_page
from .tables import tables

KEYS = ("noises", "cells")


def run_field_bench(options: FieldBench, say: Progress = print, command: str = "") -> Figures:
    """Measure or load, then show, save and document.

    Args:
        options: of the command.
        say: prints progress.
        command: the command line, for the figures.

    Returns what the JSON file holds. Raises :class:`SkipstoneError` for options that cannot be used.

    Example:
        >>> run_field_bench(FieldBench(samplers=("eulr",)))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: no sampler 'eulr': choose ddim, euler, ...
    """
    options.check()
    options = options.reduced()
    with threads(options.threads or torch.get_num_threads()), torch.no_grad():
        bench = Bench(f"field {options.section}".strip(), KEYS, partial(tables, brief=options.brief))
        result = publish(bench, options, lambda: measure(options, say, command), say)
    write_page(options.html, result, options)
    say(f"wrote {options.html}")
    return result


def measure(options: FieldBench, say: Progress, command: str = "") -> Figures:
    """Measure all cells, with a progress bar.

    Args:
        options: of the command.
        say: prints what a cell cannot do.
        command: the command line, for the figures.

    Returns plain values.

    Example:
        >>> measure(FieldBench(models=()), print)["cells"]
        []
    """
    cells = list(dict.fromkeys(options.cells()))
    found = [_cell(cell, options, say, f"{number} of {len(cells)}") for number, cell in enumerate(cells, 1)]
    where = next((cell["machine"] for cell in found if cell["rows"]), machine(options.device))
    return {
        "command": command, "machine": where, "absent": judge.missing(), "noises": options.noises, "cells": found,
    }  # fmt: skip


def _cell(cell: Cell, options: FieldBench, say: Progress, which: str) -> Figures:
    """Return the rows of a cell, or why it has none."""
    from tqdm.auto import tqdm

    found: Figures = {"title": cell.title, **cell._asdict(), "rows": []}
    measuring = Measuring(cell, options)
    try:
        total = len(measuring.ways())
    except SkipstoneError as reason:
        say(f"{cell.title}: {reason}")
        return {**found, "reason": str(reason)}
    with tqdm(total=total, desc=f"{cell.title} ({which})", dynamic_ncols=True) as bar:

        def done(name: str) -> None:
            bar.set_postfix_str(name)
            bar.update()

        rows = measuring.rows(done)
    return {**found, "rows": rows, "machine": measuring.machine}
