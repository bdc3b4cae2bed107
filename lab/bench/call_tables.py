"""The tables of `skipstone bench calls`: all ways, or one line per sampler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .figures import Figures, Table

_HEADER = (
    "sampler", "guidance", "calls", "way", "error, mean", "geometric", "ratio to fewer steps", "another picture", "PSNR, dB",
)  # fmt: skip


def way_table(result: Figures) -> Table:
    """Return all ways, one line each.

    Args:
        result: the figures.

    Example:
        >>> way_table({"model": "demo", "steps": 20, "noises": 32, "rows": []}).title
        'demo, 20 steps, 32 noises'
    """
    rows = [
        (
            row["sampler"], f"{row['guidance']:g}", f"{row['calls']} of {result['steps']}", row["name"],
            f"{row['mean']:.4f}", f"{row['geometric']:.4f}", ratio(row), f"{row['turned']:.0%}", f"{row['psnr_db']:.1f}",
        )
        for row in result["rows"]
    ]  # fmt: skip
    return Table(_title(result), _HEADER, tuple(rows))


def sampler_table(result: Figures, ways: Sequence[str]) -> Table:
    """Return one line per sampler: the ratio of the default's error to that of fewer steps.

    Args:
        result: the figures.
        ways: names of what is the default in some run; the last one that a run has.

    Example:
        >>> sampler_table({"model": "demo", "steps": 20, "noises": 16, "rows": []}, ["line on eps, even"]).header
        ('sampler', 'verdict')
    """
    found = {(r["sampler"], r["guidance"], r["calls"]): r for way in ways for r in result["rows"] if r["name"] == way}
    samplers, runs = _unique(key[0] for key in found), _unique(key[1:] for key in found)
    header = [f"guidance {guidance:g}, {calls} of {result['steps']}" for guidance, calls in runs]
    lines = []
    for sampler in samplers:
        rows = [found.get((sampler, *run)) for run in runs]
        cells = [ratio(row) if row else "-" for row in rows]
        lines.append((sampler, *cells, verdict([row for row in rows if row])))
    return Table(
        f"{_title(result)}: error of even steps by default, over that of fewer steps",
        ("sampler", *header, "verdict"),
        tuple(lines),
    )


def verdict(rows: list[dict[str, Any]]) -> str:
    """Return in how many of a sampler's rows a way is better, level and worse than fewer steps, by the intervals.

    Args:
        rows: of the figures.

    Example:
        >>> verdict([{"low": 0.4, "high": 0.6}, {"low": 0.9, "high": 1.1}])
        '1 better, 1 level'
    """
    counts = {
        "better": sum(row["high"] < 1 for row in rows),
        "level": sum(row["low"] <= 1 <= row["high"] for row in rows),
        "worse": sum(row["low"] > 1 for row in rows),
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def ratio(row: dict[str, Any]) -> str:
    """Return the ratio to fewer steps, with its interval.

    Example:
        >>> ratio({"ratio": 0.5, "low": 0.4, "high": 0.625})
        '0.50 (0.40 to 0.62)'
    """
    return f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _title(result: Figures) -> str:
    return f"{result['model']}, {result['steps']} steps, {result['noises']} noises"
