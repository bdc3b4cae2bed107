"""The figures of the ways of drawing, each compared with the dense one; their table and their files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...core.files import make_folder, whole_file, write_json
from ...core.measure.fidelity import fidelity, relative_error
from ..demo_models.classifier import IconClassifier, accuracy, load_classifier
from ..demo_models.pictures import CLASSES
from .ways import Measured


@dataclass(frozen=True)
class Figures:
    """The figures of one way.

    Args:
        steps: of the sampler.
        calls: calls of the network that ran.
        seconds: median time of a run.
        time_ratio: the dense run's seconds over these.
        macs: multiply-adds of a run.
        macs_ratio: the dense run's multiply-adds over these.
        psnr_db: to the dense pictures, in decibel; None for equal ones.
        ssim: to the dense pictures.
        error: relative L2 distance of the final latents to the dense ones.
        readable: share of the pictures that the classifier names correctly.

    Example:
        >>> Figures(50, 50, 2.0, 1.5, 10**9, 1.4, psnr_db=None, ssim=1.0, error=0.0, readable=1.0).decibels
        'equal'
    """

    steps: int
    calls: int
    seconds: float
    time_ratio: float
    macs: int
    macs_ratio: float
    psnr_db: float | None
    ssim: float
    error: float
    readable: float

    @property
    def decibels(self) -> str:
        """The PSNR as text."""
        return "equal" if self.psnr_db is None else f"{self.psnr_db:.1f}"


def figures_of(rows: Sequence[Measured]) -> dict[str, Figures]:
    """Figures by name of the way. The first row is the dense one.

    Example:
        >>> from skipstone.core.engine.report import Report
        >>> from .ways import Way
        >>> latents = torch.rand(10, 12, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> figures_of([Measured(Way("dense", 50), latents, Report(), seconds=2.0, macs=10**9)])["dense"].decibels
        'equal'
    """
    classifier = load_classifier()
    return {row.way.name: _figures(row, rows[0], classifier) for row in rows}


def _figures(row: Measured, dense: Measured, classifier: IconClassifier) -> Figures:
    close = fidelity(row.pictures, dense.pictures)
    return Figures(
        steps=row.way.steps,
        calls=row.way.steps - row.report.calls_forecast,
        seconds=row.seconds,
        time_ratio=dense.seconds / row.seconds,
        macs=row.macs,
        macs_ratio=dense.macs / row.macs,
        psnr_db=close.psnr_db if isfinite(close.psnr_db) else None,
        ssim=close.ssim,
        error=relative_error(row.latents, dense.latents),
        readable=accuracy(classifier, row.pictures, torch.arange(len(CLASSES))),
    )


_CELLS: dict[str, Callable[[Figures], str]] = {
    "seconds": lambda f: f"{f.seconds:.2f}",
    "times\nfaster": lambda f: f"{f.time_ratio:.2f}",
    "GMAC": lambda f: f"{f.macs / 1e9:.0f}",
    "PSNR to\ndense, dB": lambda f: f.decibels,
    "SSIM to\ndense": lambda f: f"{f.ssim:.4f}",
    "error": lambda f: f"{f.error:.4f}",
    "readable": lambda f: f"{f.readable:.0%}",
}
_TO_DENSE = ("PSNR to\ndense, dB", "SSIM to\ndense", "error")
"""Columns that say nothing of the dense row."""


def show(title: str, figures: dict[str, Figures], *lines: str, leave_out: Sequence[str] = ()) -> None:
    """Print a table with rich, dense first, and some lines below it.

    Args:
        title: of the table.
        figures: by name of the way.
        lines: below the table.
        leave_out: columns to leave out.

    Example:
        >>> show("ten icons", {}, "wrote demo.png", leave_out=["error"])
        ten icons
        ...
        wrote demo.png
    """
    from rich.console import Console
    from rich.table import Table

    columns = [heading for heading in _CELLS if heading not in leave_out]
    table = Table("", title=title)
    for heading in columns:
        table.add_column(heading, justify="right")
    for place, (name, one) in enumerate(figures.items()):
        table.add_row(name, *("-" if not place and h in _TO_DENSE else _CELLS[h](one) for h in columns))
    console = Console()
    console.print(table)
    for line in lines:
        console.print(line)


def keep(out: Path, name: str, sheet: Image.Image, result: dict[str, Any]) -> str:
    """Write NAME.png and NAME.json into a folder.

    Args:
        out: the folder; made if it does not exist.
        name: of the files.
        sheet: the picture.
        result: plain values.

    Returns a line that names the files. Raises :class:`FileError`.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     line = keep(Path(folder), "demo", Image.new("RGB", (8, 8)), {})
        >>> line
        'wrote ...demo.png and ...demo.json'
    """
    make_folder(out)
    picture, values = out / f"{name}.png", out / f"{name}.json"
    with whole_file(picture) as part:
        sheet.save(part)
    write_json(values, result)
    return f"wrote {picture} and {values}"
