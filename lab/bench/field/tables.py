"""The field as tables: the aims, a table for each cell, and what does not apply."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from ..figures import Figures, Table
from .summary import Aim, aims, beside_fewer, front, measured
from .way import DENSE

HEADER = (
    "way", "calls", "multiply-adds", "error, mean", "median", "to fewer steps", "PSNR, dB", "SSIM", "perceptual",
    "Fréchet, ImageNet", "Fréchet, icons", "class named", "to the ODE", "cache, KiB", "ops of a skipped call", "time",
)  # fmt: skip
_FRONT = " *"
Row = dict[str, Any]


def tables(result: Figures, brief: bool = False) -> list[Table]:
    """Return all tables of the figures.

    Args:
        result: of the bench.
        brief: whether to return the first one alone, and cells without any figure.

    Example:
        >>> tables({"cells": []})
        []
    """
    found = [aim_table(result["cells"])] if result["cells"] else []
    cells = [cell for cell in result["cells"] if not (brief and cell["rows"])]
    if not brief:
        found += map(cell_table, cells)
    absent = absent_table(cells)
    return [*found, *([absent] if absent.rows else [])]


def aim_table(cells: Sequence[Figures]) -> Table:
    """Return Auto at each speed-up beside fewer steps and the best rival.

    Args:
        cells: of the figures.

    Example:
        >>> aim_table([]).header[0]
        'cell'
    """
    header = ("cell", "speed-up", "Auto", "to fewer steps", "", "best rival", "to it", "")
    rows = tuple(_aim(cell["title"], aim) for cell in cells for aim in aims(cell["rows"]))
    return Table("Auto beside fewer steps and the best of all packages and published rules", header, rows)


def _aim(title: str, aim: Aim) -> tuple[str, ...]:
    rival = f"{aim.rival['name']} ({aim.rival['share']:.0%})" if aim.rival else "none as cheap"
    return (
        title, f"{aim.target:g}x", aim.ours["name"], _or_dash(aim.fewer), aim.fewer.verdict if aim.fewer else "",
        rival, _or_dash(aim.against), aim.against.verdict if aim.against else "",
    )  # fmt: skip


def cell_table(cell: Figures) -> Table:
    """Return the rows of a cell; those on the Pareto front have a star. Columns without any figure are left out.

    Args:
        cell: of the figures.

    Example:
        >>> cell_table({"title": "demo-dit", "rows": []}).rows
        ()
    """
    rows, best = measured(cell["rows"]), front(cell["rows"])
    lines = [_line(cell["rows"], row, best) for row in rows]
    kept = [0, *(i for i in range(1, len(HEADER)) if any(line[i] != "-" for line in lines))]
    header = tuple(HEADER[i] for i in kept)
    return Table(cell["title"], header, tuple(tuple(line[i] for i in kept) for line in lines))


def _line(rows: Sequence[Row], row: Row, best: set[str]) -> tuple[str, ...]:
    dense = next((one for one in rows if one["group"] == DENSE), None)
    itself = row["group"] == DENSE
    seconds = row.get("seconds") and dense and dense.get("seconds")
    return (
        row["name"] + _FRONT * (row["name"] in best),
        f"{row['calls']}",
        f"{row['share']:.0%}",
        "-" if itself else f"{mean(row['errors']):.4f}",
        "-" if itself else f"{median(row['errors']):.4f}",
        "-" if itself else _or_dash(beside_fewer(rows, row)),
        "-" if itself or not row["psnr_db"] else f"{mean(row['psnr_db']):.1f}",
        "-" if itself or not row["ssim"] else f"{mean(row['ssim']):.4f}",
        "-" if itself or not row["perceptual"] else f"{mean(row['perceptual']):.4f}",
        "-" if itself else _number(row["frechet_imagenet"]),
        "-" if itself else _number(row["frechet"]),
        "-" if row["accuracy"] is None else f"{row['accuracy']:.0%}",
        "-" if row["ode"] is None else f"{mean(row['ode']):.4f}",
        f"{row['held'] / 1024:.0f}",
        "-" if row["skipped_ops"] is None else f"{row['skipped_ops']}",
        f"{seconds / row['seconds']:.2f}x" if seconds else "-",
    )


def absent_table(cells: Sequence[Figures]) -> Table:
    """Return what does not apply and why, the models with the same reason in one row.

    Args:
        cells: of the figures.

    Example:
        >>> cell = {"title": "demo, ddim", "rows": [{"name": "PAB", "reason": "it serves transformers alone"}]}
        >>> absent_table([cell]).rows
        (('PAB', 'it serves transformers alone', 'demo, ddim'),)
    """
    found: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for row in cell["rows"]:
            if "reason" in row:
                found.setdefault((row["name"], row["reason"]), []).append(cell["title"])
        if "reason" in cell:
            found.setdefault(("all", cell["reason"]), []).append(cell["title"])
    rows = tuple((name, reason, "; ".join(where)) for (name, reason), where in found.items())
    return Table("Not measured", ("way", "why", "where"), rows)


def _or_dash(value: object | None) -> str:
    return "-" if value is None else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
