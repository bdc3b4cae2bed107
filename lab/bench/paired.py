"""Errors of two ways on the same noises, as figures: means, and the ratio noise by noise."""

from __future__ import annotations

import numpy as np

from ...core.forecast.profile import TURNED


def paired(errors: np.ndarray, others: np.ndarray) -> dict[str, float]:
    """Return the means of some errors, and the geometric mean of their ratios to others with its 95 % confidence interval.

    Args:
        errors: of one way, one per noise.
        others: of another way, on the same noises.

    Returns mean, geometric (mean), turned (share of errors of another picture), ratio, low and high.

    Example:
        >>> found = paired(np.array([0.1, 0.4]), np.array([0.2, 0.8]))
        >>> round(found["geometric"], 3), round(found["ratio"], 3)
        (0.2, 0.5)
    """
    own, theirs = (np.log(np.maximum(values, 1e-9)) for values in (errors, others))
    logs = own - theirs
    half = 1.96 * logs.std(ddof=1) / np.sqrt(len(logs))
    return {
        "mean": float(errors.mean()), "geometric": float(np.exp(own.mean())), "turned": float((errors >= TURNED).mean()),
        "ratio": float(np.exp(logs.mean())), "low": float(np.exp(logs.mean() - half)), "high": float(np.exp(logs.mean() + half)),
    }  # fmt: skip
