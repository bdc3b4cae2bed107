"""The figures of `skipstone bench speed` as tables."""

from __future__ import annotations

from typing import Any

from .figures import Bench, Figures, Table
from .speed_ways import DENSE


def tables(result: Figures) -> list[Table]:
    """Return a table for each model, and one of what a call takes.

    Args:
        result: of :func:`measure`.

    Example:
        >>> tables({"models": [], "rounds": 1, "dtype": "float16", "compiled": False})
        []
    """
    header = (
        "way",
        "full steps",
        "s, median (least)",
        "times faster",
        "steps over full steps",
        "more memory, MiB",
        "of it held, MiB",
    )
    ending = f"{result['dtype']}{', compiled blocks' if result['compiled'] else ''}, rounds: {result['rounds']}"
    found = [
        Table(
            f"{_title(model)}, {model['steps']} steps, {ending}",
            header,
            tuple(_line(row, model) for row in model["rows"]),
        )
        for model in result["models"]
    ]
    calls = tuple(_call_line(model) for model in result["models"] if "skipped" in model["calls"])
    names = ("model", "forward, ms", "its operations", "skipped, ms", "its operations")
    return [*found, Table("One forward of the network, and one that is skipped", names, calls)] if calls else found


def _title(model: dict[str, Any]) -> str:
    return f"{model['model']}, {model['parameters'] / 1e9:.2f} billion parameters, {model['what']}"


def _line(row: dict[str, Any], model: dict[str, Any]) -> tuple[str, ...]:
    dense = row["group"] == DENSE
    times = (
        ("1", "1", "")
        if dense
        else (f"{row['faster']:.2f}", f"{model['steps'] / row['full']:.2f}", f"{row['more_bytes'] / 2**20:.0f}")
    )
    held = "" if row["cache_bytes"] is None else f"{row['cache_bytes'] / 2**20:.1f}"
    return (row["way"], str(row["full"]), f"{row['median_ms'] / 1e3:.3f} ({row['min_ms'] / 1e3:.3f})", *times, held)


def _call_line(model: dict[str, Any]) -> tuple[str, ...]:
    run, skipped = model["calls"]["the network"], model["calls"]["skipped"]
    return (
        model["model"], f"{run['median_ms']:.1f}", f"{run['ops']:.0f}", f"{skipped['median_ms']:.2f}", f"{skipped['ops']:.0f}"
    )  # fmt: skip


SPEED = Bench("speed", ("dtype", "compiled", "rounds", "models"), tables)
"""What `skipstone bench speed` shows."""
