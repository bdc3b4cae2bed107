"""Samples spread over processes give what one process gives (methods page, block masking: several machines)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_together
from toys import Residual, toy

from skipstone.cli.processes import joined
from skipstone.core.calibrate.masks.settings import TrainSettings
from skipstone.core.calibrate.masks.shards import Shards
from skipstone.core.calibrate.masks.trainer import train_masked
from skipstone.core.errors import RecipeError
from skipstone.core.recipe.mask import Mask

FORMS = ("interleaved", "sequential", "windowed", "exchange", "search")


def settings(form: str) -> TrainSettings:
    """The same global batch for one and for two processes."""
    given: dict[str, Any] = {"form": form, "passes": 2, "batch": 4, "updates": 2, "lr": 0.1, "refine_batch": 4}
    return TrainSettings(target=0.5, refine=4, tries=4, profile_batch=2, loss_at="output", **given)


def work(rank: int, folder: str) -> None:
    """What a launched process does."""
    with joined("cpu") as (shards, device):
        assert (shards.rank, shards.count, device) == (rank, 2, "cpu")
        for form in FORMS:
            model = toy(Residual(6), calls=8)
            trained = train_masked(model, settings(form))
            seen = [len(batch) for batch in model.denoiser.begun]
            assert set(seen) <= {2}, seen
            trained.mask.save(Path(folder) / f"{form}{rank}.safetensors")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no distributed package")
def test_two_processes_learn_what_one_learns_at_the_same_global_batch(tmp_path: Path) -> None:
    run_together(work, str(tmp_path))
    for form in FORMS:
        alone = train_masked(toy(Residual(6), calls=8), settings(form))
        for rank in (0, 1):
            one = Mask.load(tmp_path / f"{form}{rank}.safetensors")
            assert one.probabilities is not None and alone.mask.probabilities is not None
            np.testing.assert_allclose(one.probabilities, alone.mask.probabilities, atol=1e-4)
            clear = np.abs(alone.mask.probabilities - np.sort(alone.mask.probabilities[alone.mask.run])[0]) > 1e-4
            assert np.array_equal(one.run[clear], alone.mask.run[clear]), form


def test_samples_are_dealt_out_and_must_come_out_even() -> None:
    shards = Shards()
    assert shards.part([5, 6, 7]) == [5, 6, 7] and shards.first
    shards.rank, shards.count = 1, 2
    assert shards.part([5, 6, 7, 8]) == [6, 8] and not shards.first
    with pytest.raises(RecipeError, match="3 samples cannot be shared by 2 processes"):
        shards.part([1, 2, 3])


def test_one_process_alone_needs_no_launcher() -> None:
    with joined("cpu") as (shards, device):
        assert (shards.rank, shards.count, device) == (0, 1, "cpu")
    assert not torch.distributed.is_initialized()
