"""The common part of all benches: figures as JSON, as tables on the console, and in a marked section of a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import RecipeError
from ...core.files import make_folder, write_json, write_text

Figures = dict[str, Any]
"""Plain values, as in the JSON file."""
Progress = Callable[[str], Any]
COMMON = ("command", "machine", "absent")
"""What every bench's figures hold: the command line, :func:`timing.machine`, and what could not be measured."""
MIN_WIDTH = 140


@dataclass(frozen=True)
class Table:
    """A table of formatted text.

    Args:
        title: above the table.
        header: one text per column.
        rows: cells of each row.

    Example:
        >>> Table("times", ("way", "s"), (("dense", "1.0"),)).header
        ('way', 's')
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Bench:
    """One bench.

    Args:
        name: on the command line.
        keys: of its figures, beside :data:`COMMON`.
        tables: makes its tables from figures.

    Example:
        >>> Bench("tokens", ("blocks",), tables=lambda figures: []).markers
        ('<!-- bench tokens -->', '<!-- end of bench tokens -->')
    """

    name: str
    keys: tuple[str, ...]
    tables: Callable[[Figures], list[Table]]

    @property
    def markers(self) -> tuple[str, str]:
        """The lines of a Markdown page between which the tables are written."""
        return f"<!-- bench {self.name} -->", f"<!-- end of bench {self.name} -->"


@dataclass(frozen=True)
class Files:
    """The files among a bench's options.

    Example:
        >>> Files(load=Path("out/bench_tokens.json")).markdown is None
        True
    """

    out: Path = Path("out/bench.json")
    """Where the figures go."""
    markdown: Path | None = None
    """A Markdown file whose section between this bench's markers is replaced by the tables."""
    load: Path | None = None
    """Show the figures of an earlier run's JSON file; measure nothing."""


def publish(bench: Bench, files: Files, measure: Callable[[], Figures], say: Progress) -> Figures:
    """Measure or load, then show, save and document.

    Args:
        bench: its tables.
        files: its files.
        measure: returns the figures.
        say: prints progress.

    Returns what the JSON file holds. Raises :class:`RecipeError` for files that are missing or broken, the Markdown page before
    anything is measured.

    Example:
        >>> publish(Bench("tokens", (), tables=lambda figures: []), Files(load=Path("no such file")), dict, print)
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench tokens' (...): give a file that it wrote
    """
    if files.markdown:
        _around_section(bench, files.markdown)
    result = load_figures(bench, files.load) if files.load else measure()
    if not files.load:
        make_folder(files.out.parent)
        write_json(files.out, result)
        say(f"wrote {files.out}")
    show(bench, result)
    if files.markdown:
        _replace_section(bench, files.markdown, result)
    return result


def conditions(result: Figures) -> list[str]:
    """The conditions of a measurement, in lines.

    Example:
        >>> machine = {"cpu": "x86", "threads": 1, "cores": 2, "torch": "2", "python": "3", "date": "2026", "load": [0.5]}
        >>> conditions({"machine": machine, "command": "", "absent": ["tomesd"]})
        ['x86, 1 of 2 threads, torch 2, Python 3, 2026, load before 0.5', 'not measured: tomesd']
    """
    lines = [_machine(result["machine"])]
    if result.get("timed"):
        lines.append(f"times: {_machine(result['timed'])}")
    if result["command"]:
        lines.append(f"command: {result['command']}")
    return lines + [f"not measured: {what}" for what in result["absent"]]


def _machine(m: dict[str, Any]) -> str:
    on = "" if m.get("device", "cpu") == "cpu" else f"{m['device']}, "
    return (
        f"{on}{m['cpu']}, {m['threads']} of {m['cores']} threads, torch {m['torch']}, Python {m['python']}, {m['date']}, "
        f"load before {', '.join(map(str, m['load']))}"
    )


def show(bench: Bench, result: Figures, write: Callable[..., Any] | None = None) -> None:
    """Print all tables with rich.

    Args:
        bench: its tables.
        result: the figures.
        write: prints; a console if None.

    Example:
        >>> machine = {"cpu": "x86", "threads": 1, "cores": 2, "torch": "2", "python": "3", "date": "2026", "load": [0.5]}
        >>> figures = {"machine": machine, "command": "", "absent": []}
        >>> show(Bench("tokens", (), tables=lambda figures: []), figures, print)
        x86, 1 of 2 threads, torch 2, Python 3, 2026, load before 0.5
    """
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console()
    write = write or Console(width=max(console.width, MIN_WIDTH)).print
    for table in bench.tables(result):
        drawn = RichTable(title=table.title, title_justify="left")
        for i, name in enumerate(table.header):
            drawn.add_column(name, justify="left" if i == 0 else "right")
        for row in table.rows:
            drawn.add_row(*row)
        write(drawn)
    for line in conditions(result):
        write(line)


def markdown(bench: Bench, result: Figures) -> str:
    """All tables as Markdown.

    Args:
        bench: its tables.
        result: the figures.

    Example:
        >>> machine = {"cpu": "x86", "threads": 1, "cores": 2, "torch": "2", "python": "3", "date": "2026", "load": [0.5]}
        >>> bench = Bench("tokens", (), tables=lambda figures: [Table("times", ("way",), (("dense",),))])
        >>> print(markdown(bench, {"machine": machine, "command": "", "absent": []}).splitlines()[2])
        **times**
    """
    parts = ["\n".join(f"{line}  " for line in conditions(result))]
    for table in bench.tables(result):
        lines = [f"**{table.title}**", "", _line(table.header), _line("---" for _ in table.header)]
        parts.append("\n".join([*lines, *map(_line, table.rows)]))
    return "\n\n".join(parts)


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _replace_section(bench: Bench, path: Path, result: Figures) -> None:
    """Put the tables between the markers of a Markdown file. Raises :class:`RecipeError` when it has none."""
    begin, end = bench.markers
    head, tail = _around_section(bench, path)
    write_text(path, f"{head}{begin}\n\n{markdown(bench, result)}\n\n{end}{tail}")


def _around_section(bench: Bench, path: Path) -> tuple[str, str]:
    """What stands before and after the markers of a Markdown file. Raises :class:`RecipeError` when it has none."""
    begin, end = bench.markers
    head, found, rest = (path.read_text(encoding="utf-8") if path.exists() else "").partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise RecipeError(f"{str(path)!r} has no lines {begin!r} and {end!r}: add them where the tables go")
    return head, tail


def load_figures(bench: Bench, path: Path) -> Figures:
    """Read a bench's JSON file.

    Args:
        bench: that wrote it.
        path: of the file.

    Raises :class:`RecipeError` for other files.

    Example:
        >>> load_figures(Bench("tokens", (), tables=lambda figures: []), Path("no such file"))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench tokens' (...): give a file that it wrote
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return {key: result[key] for key in (*COMMON, *bench.keys)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{str(path)!r} holds no figures of 'bench {bench.name}' ({error}): give a file that it wrote"
        ) from None
