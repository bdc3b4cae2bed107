"""The field as one HTML page that needs nothing else: conditions, tables, plots and pictures."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ....core.errors import SkipstoneError
from ....core.files import make_folder, write_text
from ..figures import Figures, Table, conditions
from .measuring import Measuring
from .options import Cell, FieldBench
from .summary import front, measured, typical
from .tables import absent_table, aim_table, cell_table
from .way import DENSE

TEMPLATE = Path(__file__).with_name("page.html.jinja")
_COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#f0e442",
    "#999999",
    "#332288",
    "#882255",
    "#44aa99",
)
Row = dict[str, Any]


def write_page(path: Path, result: Figures, options: FieldBench) -> None:
    """Write the page.

    Args:
        path: of the file.
        result: figures of the bench.
        options: of the command, for the pictures.

    Raises :class:`SkipstoneError` without jinja2, or if the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_page(Path(folder, "page.html"), {}, FieldBench())
        Traceback (most recent call last):
        KeyError: ...
    """
    make_folder(path.parent)
    write_text(path, page(result, options))


def page(result: Figures, options: FieldBench) -> str:
    """Return the page as HTML.

    Args:
        result: figures of the bench.
        options: of the command, for the pictures.

    Example:
        >>> machine = {"cpu": "x86", "threads": 1, "cores": 2, "torch": "2", "python": "3", "date": "2026", "load": [0.5]}
        >>> figures = {"machine": machine, "command": "", "absent": [], "cells": [], "noises": 2}
        >>> page(figures, FieldBench()).splitlines()[0]
        '<!doctype html>'
    """
    jinja2 = _jinja2()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    cells = [_cell(cell, options) for cell in result["cells"] if measured(cell["rows"])]
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    html: str = template.render(
        noises=result["noises"], conditions=conditions(result), cells=cells, aims=aim_table(result["cells"]),
        absent=absent_table(result["cells"]),
    )  # fmt: skip
    return html


def _jinja2() -> Any:
    try:
        import jinja2
    except ModuleNotFoundError:
        raise SkipstoneError("the page needs jinja2: pip install 'skipstone[bench]'") from None
    return jinja2


def _cell(cell: Figures, options: FieldBench) -> dict[str, Any]:
    """Return what the template shows of a cell."""
    table: Table = cell_table(cell)
    rows, best = measured(cell["rows"]), front(cell["rows"])
    place = Measuring(Cell(*(cell[name] for name in Cell._fields)), options)
    pictures = [
        {
            "name": row["name"],
            "data": data,
            "front": row["name"] in best,
            "error": _error(row),
            "share": f"{row['share']:.0%}",
        }
        for row in sorted(rows, key=lambda row: (row["group"] != DENSE, -row["share"]))
        if (data := _data(place.picture(row["name"])))
    ]
    return {"title": cell["title"], "table": table, "plot": plot(rows, best), "pictures": pictures}


def _error(row: Row) -> str:
    return "" if row["group"] == DENSE else f"{typical(row['errors']):.3f}"


def _data(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode() if file.is_file() else ""


def plot(rows: Sequence[Row], best: set[str]) -> str:
    """Return the plot of typical error over multiply-adds as SVG; the Pareto front is a line.

    Args:
        rows: of a cell, with figures.
        best: names of those on the front.

    Example:
        >>> plot([{"name": "a", "group": "Auto", "share": 0.5, "errors": [0.1]}], {"a"})[:4]
        '<svg'
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["group"] != DENSE and row["share"] < 1.1:
            groups[row["group"]].append(row)
    for colour, (name, inside) in zip(_COLOURS, groups.items(), strict=False):
        axes.scatter(
            [r["share"] for r in inside], [typical(r["errors"]) for r in inside], s=26, color=colour, label=name
        )
    front_rows = sorted((row for row in rows if row["name"] in best), key=lambda row: row["share"])
    places = [(row["share"], typical(row["errors"])) for row in front_rows]
    axes.plot(*zip(*places, strict=True), color="#444444", linewidth=0.8, zorder=0, label="Pareto front")
    for row, place in zip(front_rows, places, strict=True):
        axes.annotate(row["name"], place, xytext=(6, 4), textcoords="offset points", fontsize=7)
    axes.set(yscale="log", xlabel="share of the multiply-adds", ylabel="relative error, geometric mean")
    axes.grid(alpha=0.25, which="both", linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "skipstone", "svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]
