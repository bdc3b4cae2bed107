"""Whether a profile's promise holds: the share of pictures of fresh noises whose error is under the promised one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...core.calibrate.profiling import closed_loop, dense
from ...core.calibrate.proposals import Proposal
from ...core.engine.call_guard import SLACK
from ...core.forecast.names import described
from ...core.forecast.profile import TURNED, HeldOut, Profile
from ...core.measure.fidelity import relative_errors
from ...core.recipe.recipe import Recipe
from ...pipelines.denoiser import PipelineDenoiser
from .figures import Table

SEEDS = 50_000
"""First seed: profiles and the other figures use others."""
SHARES = (0.5, 0.9, 0.95)
"""Shares of pictures for which an error is promised."""
_BATCH = 4


def coverage(known: Profile, denoiser: PipelineDenoiser, noises: int, file: str = "") -> list[dict[str, Any]]:
    """Return one row per plan of a profile: what is promised, and what share of fresh noises stays under it.

    Args:
        known: the profile.
        denoiser: its model, with its sampler, steps and guidance.
        noises: samples.
        file: path of the profile, for plans with fitted forecasts.

    Example:
        >>> coverage(known, denoiser, noises=128)[0]["covered"]  # doctest: +SKIP
        [0.5, 0.91, 0.95]
    """
    parts = [range(first, min(first + _BATCH, SEEDS + noises)) for first in range(SEEDS, SEEDS + noises, _BATCH)]
    references = [dense(denoiser, part)[0] for part in parts]
    rows = []
    for plan in known.plans:
        settings = Proposal(
            plan.keys, plan.space, plan.predictor, profile=file if plan.predictor == "fitted" else ""
        ).settings()
        beside = Recipe.of_plain(plan.beside).methods
        runs = [closed_loop(denoiser, part, settings, beside) for part in parts]
        errors = [relative_errors(run[0], true).cpu().numpy() for run, true in zip(runs, references, strict=True)]
        rows.append(_row(plan, np.concatenate(errors), [run[1] for run in runs]))
    return rows


def _row(plan: HeldOut, errors: np.ndarray, surprises: Sequence[dict[int, float]]) -> dict[str, Any]:
    promised = [plan.quantile(share) for share in SHARES]
    bounds = dict(zip(plan.keys[1:], plan.one_call, strict=False))
    stepped = [any(error > SLACK * bounds[key] for key, error in run.items() if key in bounds) for run in surprises]
    return {
        "calls": len(plan.keys), "name": plan.name,
        "how": described(plan.predictor, plan.space),
        "judged": len(plan.errors), "promised": promised,
        "covered": [float(np.mean(errors <= error)) for error in promised],
        "turned": [plan.turned, float(np.mean(errors >= TURNED))], "guard": float(np.mean(stepped)),
    }  # fmt: skip


def interval(share: float, of: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share (Wilson's).

    Args:
        share: observed.
        of: number of observations.

    Example:
        >>> [round(end, 3) for end in interval(0.9, 128)]
        [0.836, 0.941]
    """
    z2 = 1.96**2 / of
    middle, half = share + z2 / 2, (share * (1 - share) * z2 + z2**2 / 4) ** 0.5
    return (middle - half) / (1 + z2), (middle + half) / (1 + z2)


def promise_tables(rows: Sequence[dict[str, Any]], model: str, noises: int) -> list[Table]:
    """Return the table of :func:`coverage`'s rows; none without rows.

    Args:
        rows: of :func:`coverage`.
        model: its name.
        noises: samples.

    Example:
        >>> promise_tables([], "demo", 128)
        []
    """
    header = (
        "calls",
        "chosen",
        "promised to 50 / 90 / 95%",
        "covered",
        "90%, its interval",
        "another picture",
        "guard",
    )
    cells = [
        (
            str(row["calls"]), f"{row['name']}, {row['how']}",
            " / ".join(f"{error:.4f}" for error in row["promised"]), " / ".join(f"{share:.0%}" for share in row["covered"]),
            "{:.0%} to {:.0%}".format(*interval(row["covered"][1], noises)), "{:.0%}, here {:.0%}".format(*row["turned"]),
            f"{row['guard']:.0%}",
        )
        for row in rows
    ]  # fmt: skip
    title = f"{model}: the promise of its profile on {noises} fresh noises"
    return [Table(title, header, tuple(cells))] if rows else []
