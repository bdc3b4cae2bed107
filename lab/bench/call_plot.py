"""A profile in one picture: the errors of its plans, and the steps that run by the chosen one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...core.files import make_folder, write_figure
from ...core.forecast.profile import Profile
from ...core.plan.call_choice import Choice


def draw_plan(path: Path, profile: Profile, chosen: Choice) -> None:
    """Write the picture as PNG.

    Args:
        path: of the file.
        profile: its plans give the errors.
        chosen: the plan whose steps are drawn.

    Raises :class:`FileError` if the file cannot be written.

    Example:
        >>> import numpy as np
        >>> from tempfile import TemporaryDirectory
        >>> from ...core.forecast.space import Noise
        >>> from ...core.recipe.call_skip import CallSkip
        >>> known = Profile(np.eye(4), (900.0, 500.0), (Noise(0.6, 0.8, "eps"),) * 2, "toy")
        >>> with TemporaryDirectory() as folder:
        ...     draw_plan(Path(folder, "plan.png"), known, Choice(CallSkip(keys=(0, 1))))
        ...     Path(folder, "plan.png").exists()
        True
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    errors, steps = figure.subplots(2, 1, height_ratios=(4, 1))
    _errors(errors, profile)
    _steps(steps, profile, chosen)
    figure.suptitle(f"{profile.sampler}, {profile.steps} steps, guidance {profile.guidance:g}")
    make_folder(path.parent)
    write_figure(path, figure, 120)


def _errors(axes: Any, profile: Profile) -> None:
    plans = sorted(profile.plans, key=lambda plan: len(plan.keys))
    calls = [len(plan.keys) for plan in plans]
    for share in (0.5, 0.9):
        axes.plot(calls, [plan.quantile(share) for plan in plans], "o-", ms=4, label=f"{share:.0%} of pictures under")
    axes.set(xlabel="steps that run", ylabel="relative error of the final latent", yscale="log")
    axes.grid(alpha=0.25, which="both")
    if plans:
        axes.legend(frameon=False)


def _steps(axes: Any, profile: Profile, chosen: Choice) -> None:
    keys = set(chosen.settings.keys)
    colours = ["#2b6cb0" if step in keys else "#e2e8f0" for step in range(profile.steps)]
    axes.bar(range(profile.steps), 1, width=0.9, color=colours)
    axes.set(xlabel="step; dark ones run", yticks=[], xlim=(-0.6, profile.steps - 0.4))
    axes.spines[["top", "right", "left"]].set_visible(False)
