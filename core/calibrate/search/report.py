"""The results of a search beside dense, fewer steps, DeepCache and the published lists: table, plot, recipe files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...errors import RecipeError
from ...files import make_folder, write_figure, write_json

FIGURES, PLOT = "search.json", "search.png"
ReportRow = dict[str, Any]
"""name, kind ("found", "steps", "DeepCache", "preset"), error, cost; check_error on other noises where it was measured."""
_MARKS = {"steps": ("s", "tab:gray"), "DeepCache": ("^", "tab:orange"), "preset": ("D", "tab:green")}


def save(folder: Path, result: dict[str, Any]) -> None:
    """Write search.json and search.png.

    Args:
        folder: for the files; made if it does not exist.
        result: of the search, as plain values.

    Raises :class:`FileError`.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     save(Path(file.name), {})
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write ...
    """
    make_folder(folder)
    write_json(folder / FIGURES, result)
    plot(folder / PLOT, result)


def load(folder: Path) -> dict[str, Any]:
    """Read search.json. Raises :class:`RecipeError` if it is absent or broken.

    Example:
        >>> load(Path("no such folder"))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such folder' holds no search (...): give the folder that --out named
    """
    try:
        result = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
        return {**result, "rows": list(result["rows"]), "front": list(result["front"]), "tried": list(result["tried"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"{str(folder)!r} holds no search ({error}): give the folder that --out named") from None


def show(result: dict[str, Any], write: Callable[..., Any] | None = None) -> None:
    """Print the rows as a table, cheapest first.

    Args:
        result: of the search.
        write: prints; a rich console if None.

    Example:
        >>> row = {"name": "depths 01", "cost": 0.5, "error": 0.1}
        >>> result = {"rows": [row], "stage": "depths", "calls": 20, "metric_label": "error"}
        >>> show(result, lambda table: print(table.title))
        depths, 20 calls: error; cost as share of dense
    """
    from rich.console import Console
    from rich.table import Table

    checked = any("check_error" in row for row in result["rows"])
    title = f"{result['stage']}, {result['calls']} calls: {result['metric_label']}; cost as share of dense"
    table = Table(title=title, title_justify="left")
    for heading in ("", "cost", "error", *(("on other noises",) if checked else ()), "file"):
        table.add_column(heading, justify="right" if heading in ("cost", "error", "on other noises") else "left")
    for row in sorted(result["rows"], key=lambda r: r["cost"]):
        check = (_figure(row.get("check_error")),) if checked else ()
        table.add_row(row["name"], f"{row['cost']:.1%}", _figure(row["error"]), *check, row.get("file", ""))
    (write or Console(width=110).print)(table)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def plot(path: Path, result: dict[str, Any]) -> None:
    """Plot error against cost: all points tried, the front found, and the others by kind.

    Args:
        path: of the PNG.
        result: of the search.

    Raises :class:`FileError`.

    Example:
        >>> common = {"worst": 1.0, "cost": "macs", "metric_label": "error", "stage": "depths", "calls": 20}
        >>> plot(Path("/no such folder/a.png"), {"tried": [], "front": [], "rows": [], **common})
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write '/no such folder/a.png' (...
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    tried = _inside(result["tried"], result["worst"])
    axes.scatter(*_columns(tried), s=6, color="lightgray", label=f"{len(result['tried'])} tried")
    found = [(row["cost"], row["error"]) for row in result["front"]]
    axes.plot(*_columns(found), marker="o", ms=4, color="tab:blue", label="front found")
    for kind, (mark, colour) in _MARKS.items():
        rows = [row for row in result["rows"] if row["kind"] == kind]
        points = _inside([(row["cost"], row["error"]) for row in rows], result["worst"])
        axes.plot(*_columns(points), mark, color=colour, label={"steps": "dense, fewer steps"}.get(kind, kind))
        for row in rows:
            if row["error"] <= result["worst"]:
                axes.annotate(
                    row["short"], (row["cost"], row["error"]), fontsize=7, xytext=(4, 3), textcoords="offset points"
                )
    axes.set(xlabel=f"{result['cost']}, share of the dense run", ylabel=result["metric_label"])
    positive = all(error > 0 for _, error in [*tried, *found][1:])
    axes.set_yscale("symlog", linthresh=0.01) if positive else None
    axes.set_title(f"{result['stage']} search, {result['calls']} calls", loc="left")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    write_figure(path, figure, 150)


def _inside(points: Sequence[Sequence[float]], worst: float) -> list[tuple[float, float]]:
    return [(p[0], p[1]) for p in points if p[1] <= worst]


def _columns(points: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [p[0] for p in points], [p[1] for p in points]
