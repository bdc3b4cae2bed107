"""Pictures of a training: its curve, the mask, and the histogram of the probabilities (the paper's Figs. 6 and 7), as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ...files import make_folder, whole_file, write_figure
from ...models.graph import BlockGraph
from ...plan.heatmap import heatmap
from ...plan.liveness import liveness
from ...recipe.mask import Mask
from .state import Progress
from .trainer import Trained


def write_report(folder: Path, trained: Trained) -> list[Path]:
    """Write mask_curve.png, mask_heatmap.png and mask_histogram.png. Returns their paths.

    Args:
        folder: for the files; made if it does not exist.
        trained: the result of the training.

    Raises :class:`FileError`.

    Example:
        >>> from tempfile import NamedTemporaryFile
        >>> with NamedTemporaryFile() as file:
        ...     write_report(Path(file.name), None)
        Traceback (most recent call last):
        skipstone.core.errors.FileError: cannot write ...
    """
    make_folder(folder)
    curve, picture, histogram = (folder / f"mask_{name}.png" for name in ("curve", "heatmap", "histogram"))
    _draw_curve(curve, trained.history)
    _draw_mask(picture, trained.mask, trained.graph)
    _draw_histogram(histogram, trained.mask)
    return [curve, picture, histogram]


def _draw_curve(path: Path, history: Sequence[Progress]) -> None:
    """Loss and expected share over the passes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    loss, share = figure.subplots(2, 1, sharex=True)
    done = [p.done for p in history]
    loss.plot(done, [p.loss for p in history], color="tab:blue")
    loss.set(ylabel="loss", yscale="log" if any(p.loss > 0 for p in history) else "linear")
    share.plot(done, [p.share for p in history], color="tab:orange", label="share of multiply-adds")
    share.plot(done, [p.settled for p in history], color="tab:green", label="share of settled probabilities")
    share.set(xlabel="pass", ylim=(0, 1.02))
    share.legend(frameon=False)
    write_figure(path, figure, 120)


def _draw_mask(path: Path, mask: Mask, graph: BlockGraph) -> None:
    """Calls by blocks: what runs, is reused, is not needed."""
    states = liveness(mask.run, graph)[:, list(graph.masked)]
    share = mask.provenance.get("share", mask.share)
    picture = heatmap(states, mask.blocks, f"{mask.family}, {len(mask.run)} calls, {share:.0%} of the multiply-adds")
    with whole_file(path) as part:
        picture.save(part)


def _draw_histogram(path: Path, mask: Mask) -> None:
    """How many probabilities ended near 0 and 1; the first call is left out."""
    from matplotlib.figure import Figure

    values = mask.run if mask.probabilities is None else mask.probabilities
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.hist(np.asarray(values[1:], dtype=np.float64).ravel(), bins=20, range=(0, 1), color="tab:blue")
    axes.set(xlabel="probability that a block runs", ylabel="calls x blocks", xlim=(0, 1))
    write_figure(path, figure, 120)
