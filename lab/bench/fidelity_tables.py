"""The figures of `skipstone bench fidelity` as tables and as a plot."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ...core.files import make_folder, write_figure
from .fidelity_ways import FEWER
from .figures import Bench, Figures, Table

MODELS = {"unet": "the demo's U-Net", "dit": "the demo's DiT", "flow": "the demo's flow model"}
_SAMPLERS = {"flow": "Euler"}
"""Model -> its sampler; DDIM for the others."""
_MARKS = "o^sDvP*Xp<>hd"


def tables(result: Figures) -> list[Table]:
    """One table per model, each group from most to fewest multiply-adds.

    Example:
        >>> tables({"models": []})
        []
    """
    return [_table(model, result) for model in result["models"]]


def _table(model: Figures, result: Figures) -> Table:
    title = (
        f"{MODELS[model['model']]}, {result['steps']} {_SAMPLERS.get(model['model'], 'DDIM')} steps with guidance, "
        f"{result['noises']} noises x "
        f"{len(result['seeds'])} seeds; dense: {model['dense_macs'] / result['noises'] / 1e9:.0f} GMAC a picture, "
        f"{statistics.mean(model['readable']):.0%} readable"
    )
    header = ("drawn with", "multiply-adds", "error", "fewer steps", "PSNR, dB", "SSIM", "Frechet", "readable")
    return Table(title, (*header, "times faster"), tuple(map(_cells, model["rows"])))


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    control, faster = row["fewer_steps_error"], row["times_faster"]
    return (
        row["name"],
        f"{row['share']:.1%}",
        _spread(row["error"], ".4f"),
        "" if control is None or row["group"] == FEWER else f"{control:.4f}",
        _spread(row["psnr_db"], ".1f"),
        _spread(row["ssim"], ".3f"),
        _spread(row["frechet"], ".3f"),
        f"{statistics.mean(row['readable']):.0%}",
        "" if faster is None else f"{faster:.2f}",
    )


def _spread(values: list[float] | list[float | None], form: str) -> str:
    """Mean and standard deviation over the seeds; None stands for equal pictures."""
    values = [value for value in values if value is not None]
    if not values:
        return "equal"
    mean = f"{statistics.mean(values):{form}}"
    return f"{mean}±{statistics.stdev(values):{form}}" if len(set(values)) > 1 else mean


def plot(path: Path, result: Figures) -> None:
    """Plot error against multiply-adds, one panel per model, with fewer steps as the line to beat.

    Args:
        path: of the PNG.
        result: the figures.

    Raises :class:`FileError`.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     plot(Path(file.name, "a.png"), {"models": [{"model": "dit", "rows": []}]})
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write ...
    """
    from matplotlib.figure import Figure

    models = result["models"]
    figure = Figure(figsize=(7.5 * len(models), 5.5), layout="constrained")
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        _panel(axes, model)
    make_folder(path.parent)
    write_figure(path, figure, 150)


def _panel(axes: Any, model: Figures) -> None:
    groups = dict.fromkeys(row["group"] for row in model["rows"])
    for number, group in enumerate(groups):
        rows = sorted((row for row in model["rows"] if row["group"] == group), key=lambda r: r["share"])
        rows = [row for row in rows if statistics.mean(row["error"]) > 0]
        points = [row["share"] for row in rows], [statistics.mean(row["error"]) for row in rows]
        style = {"color": "black", "lw": 2} if group == FEWER else {"lw": 0.8, "marker": _MARKS[number % len(_MARKS)]}
        axes.plot(*points, label=group, ms=5, **style)
    axes.set(
        xlabel="multiply-adds, share of the dense run", ylabel="relative L2 error to the dense latents", xlim=(0, 1)
    )
    axes.set_yscale("log")
    axes.set_title(MODELS[model["model"]], loc="left")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False, fontsize=8)


FIDELITY = Bench("fidelity", ("steps", "noises", "seeds", "models", "timed"), tables)
