"""What the tests of the search share: a tiny pipeline, and recipes tried on it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from skipstone.core.calibrate.search.evaluator import Evaluator
from skipstone.core.calibrate.search.metrics import metric
from skipstone.pipelines.pictures import PipelinePictures, Samples

diffusers = pytest.importorskip("diffusers")

CLASSES = ("0", "3")


def small_pipeline() -> Any:
    """The demo's pipeline around a tiny U-Net with random weights and attention at its middle level."""
    from skipstone.lab.demo_models.model import SCHEDULER_CONFIG, UNET_CONFIG, ClassTable, DemoPipeline

    config = {**UNET_CONFIG, "block_out_channels": (16, 16, 16), "attention_head_dim": (1, 1, 1), "norm_num_groups": 8}
    config["sample_size"] = 16
    config["down_block_types"] = ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    config["up_block_types"] = ("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DConditionModel(**config).eval().requires_grad_(False)
        pipe = DemoPipeline(unet, ClassTable().requires_grad_(False), diffusers.DDIMScheduler(**SCHEDULER_CONFIG))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def pipe() -> Any:
    """One for all tests: a search leaves no trace on it."""
    return small_pipeline()


@pytest.fixture(scope="session")
def evaluator(pipe: Any) -> Evaluator:
    """Five calls, two pictures."""
    return Evaluator(PipelinePictures(pipe, Samples(CLASSES, 2, 7, 5)), metric("rel_l2"))
