"""The figures of `skipstone bench tokens` as tables."""

from __future__ import annotations

from typing import Any

from .figures import Bench, Figures, Table

OURS = "Skipstone"


def tables(result: Figures) -> list[Table]:
    """All tables of the bench.

    Example:
        >>> wrapper = {"sites": 16, "bracket_us": 20.0, "nothing_to_merge_us": 90.0, "neutral_overrides": 0}
        >>> tables({"blocks": [], "end_to_end": [], "wrapper": wrapper})[0].rows[0]
        ('bracket and overrides of one call', '20 µs')
    """
    dtype = result.get("dtype", "float32")
    found = [_block_table(block, dtype) for block in result["blocks"]]
    found += [_unet_table(unet, dtype) for unet in result["end_to_end"]]
    return [*found, _wrapper_table(result["wrapper"])]


def _block_table(block: dict[str, Any], dtype: str) -> Table:
    """One size and merged share. Times are minimum / median; `vs peer` compares with the best peer in calls of that kind."""
    title = (
        f"{block['size']} px ({block['tokens']} tokens), {block['fraction']:.0%} merged, {dtype}, rounds: {block['runs']}"
        + (f"; outputs agree within {block['largest_difference']:.1g}" if dtype == "float32" else "")
    )
    header = ("way", "block ms", "overhead ms", "vs peer", "merging ms", "vs peer", "more ops")
    return Table(title, header, tuple(_block_row(row, block["rows"]) for row in block["rows"]))


def _block_row(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[str, ...]:
    cells = (row["name"], f"{row['min_ms']:.4g} / {row['median_ms']:.4g}")
    if "merging_ms" not in row:
        return (*cells, "", "", "", "", "")
    overhead = f"{row['overhead_min_ms']:.3g} / {row['overhead_median_ms']:.3g}"
    savings = [_saving(row, rows, key) for key in ("overhead_min_ms", "merging_ms")]
    return (*cells, overhead, savings[0], f"{row['merging_ms']:.2f}", savings[1], str(row.get("more_ops", "")))


def _saving(row: dict[str, Any], rows: list[dict[str, Any]], key: str) -> str:
    best = best_peer(row, rows, key)
    if not row["name"].startswith(OURS) or best is None or best[key] <= 0:
        return ""
    return f"{row[key] / best[key] - 1:+.0%}" if row[key] > 0 else "noise"


def best_peer(row: dict[str, Any], rows: list[dict[str, Any]], key: str) -> dict[str, Any] | None:
    """The row of the peer with the least overhead in calls of the row's kind; tomesd searches its pairs in every call.

    Args:
        row: of Skipstone.
        rows: all rows.
        key: the figure that is compared.

    Example:
        >>> peer = {"name": "tomesd", "calls": "recompute", "merging_ms": 3.0}
        >>> best_peer({"name": "Skipstone dense", "calls": "recompute"}, [peer], "merging_ms")["name"]
        'tomesd'
    """
    peers = [r for r in rows if key in r and not r["name"].startswith(OURS)]
    fit = [r for r in peers if row["calls"] == "reuse" or r["calls"] == "recompute"]
    return min(fit, key=lambda r: r[key], default=None)


def _unet_table(unet: dict[str, Any], dtype: str) -> Table:
    """One U-Net call of one size."""
    rows = [
        (
            r["name"],
            f"{r['min_ms'] / 1e3:.3g}",
            f"{r['median_ms'] / 1e3:.3g}",
            f"{r['speedup']:.2f}x",
            str(r.get("more_ops", "")),
        )
        for r in unet["rows"]
    ]
    title = f"whole SD1.5 U-Net, {unet['size']} px, batch 2, {dtype}, rounds: {unet['runs']}"
    return Table(title, ("way", "min s", "median s", "speed-up", "more ops"), tuple(rows))


def _wrapper_table(wrapper: dict[str, Any]) -> Table:
    """What the wrapper costs where there is nothing to do."""
    rows = (
        ("bracket and overrides of one call", f"{wrapper['bracket_us']:.0f} µs"),
        ("one call with nothing to merge, all blocks entered", f"{wrapper['nothing_to_merge_us']:.0f} µs"),
        ("overrides that neutral settings install", str(wrapper["neutral_overrides"])),
    )
    return Table(f"the wrapper's own cost on {wrapper['sites']} transformer blocks", ("what", "cost"), rows)


TOKENS = Bench("tokens", ("blocks", "wrapper", "end_to_end"), tables)
