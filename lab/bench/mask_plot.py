"""Plot of masks of many kinds: distance from dense over the share of the multiply-adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.files import make_folder, write_figure
from .figures import Figures


def plot_masks(result: Figures, path: Path) -> None:
    """Plot errors and Frechet distances over the multiply-adds, one line per way; bars are spreads over seeds.

    Args:
        result: the figures of the bench.
        path: of the PNG.

    Raises :class:`FileError`.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     plot_masks({"rows": [], "model": "demo", "steps": 20, "noises": 4}, Path(file.name, "a.png"))
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write ...
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, (name, label) in zip(
        panels, (("typical", "relative L2 error, typical"), ("frechet", "Frechet distance")), strict=True
    ):
        for way, rows in _ways(result["rows"]).items():
            _line(axes, way, rows, name)
        axes.set(xlabel="share of the multiply-adds", ylabel=f"{label} to dense", yscale="log")
        axes.grid(alpha=0.25, which="both")
    panels[1].legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.suptitle(f"{result['model']}, {result['steps']} steps, {result['noises']} noises")
    make_folder(path.parent)
    write_figure(path, figure, 120)


def _ways(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of one way together, by rising share; all numbers of dense steps are one way."""
    ways: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda r: r["share"]):
        way = "fewer steps" if row["name"].startswith("dense") else row["name"]
        ways.setdefault(way, []).append(row)
    return dict(sorted(ways.items(), key=lambda item: (not item[0].startswith("trained"), item[0])))


def _line(axes: Any, way: str, rows: list[dict[str, Any]], name: str) -> None:
    bars = [row["spread"][name] if row["spread"] else 0.0 for row in rows]
    style = "-" if way.startswith("trained") else "--" if way == "fewer steps" else ":"
    axes.errorbar(
        [r["share"] for r in rows], [r[name] for r in rows], bars, fmt="o" + style, ms=4, capsize=2, label=way
    )
