"""What all benches share: figures kept as JSON, shown as tables on the console and in a marked section of a Markdown page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
    """A table of ready text."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Bench:
    """One bench: its name on the command line, the keys of its figures beside the common ones, and its tables."""

    name: str
    keys: tuple[str, ...]
    tables: Callable[[Figures], list[Table]]

    @property
    def markers(self) -> tuple[str, str]:
        """The lines of a Markdown page between which the tables go."""
        return f"<!-- bench {self.name} -->", f"<!-- end of bench {self.name} -->"


class Files(Protocol):
    """The files among a bench's options."""

    @property
    def out(self) -> Path:
        """Where the figures go."""

    @property
    def markdown(self) -> Path | None:
        """A Markdown page whose marked section is replaced."""

    @property
    def load(self) -> Path | None:
        """Figures of an earlier run, shown in place of a measurement."""


def publish(bench: Bench, files: Files, measure: Callable[[], Figures], say: Progress) -> Figures:
    """Measure or load, then show, save and document. Returns what the JSON file holds.

    Raises :class:`RecipeError` for files that stand in the way, the Markdown page before anything is measured.
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
    """What the figures must be read with, in lines."""
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
    """Print all tables with rich. `write`: what prints, a console's own by default."""
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
    """All tables as Markdown."""
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
    """What a bench's JSON file holds. Raises :class:`RecipeError` for other files."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return {key: result[key] for key in (*COMMON, *bench.keys)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{str(path)!r} holds no figures of 'bench {bench.name}' ({error}): give a file that it wrote"
        ) from None
