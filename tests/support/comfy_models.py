"""A tiny SD1 checkpoint in the double of ComfyUI, and what tests of the nodes do with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from doubles import comfy
from torch import Tensor, nn

from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune

STEPS = 10
LAYERS = 3
"""Transformer blocks of the tiny network at the latent's own resolution."""
MERGE = Recipe(merge=TokenMerge(threshold=0.0, checkpoints=(0, 25)))
"""Merges much in a random network; in a run of 10 calls pairs are searched at calls 0 and 4."""
SKIP = BlockSkip(rule="deepcache", every=3)
BOTH = Recipe(prune=TokenPrune(ratio=0.5), skip=BlockSkip(rule="depths", depths=(1, 0, 12, 1, 0, 1)))
"""As DaTo: pruning, and depths beside it."""
HEUN = comfy.Sampler("sample_heun", lambda steps: [i for k in range(steps - 1) for i in (k, k + 1)] + [steps - 1])


@pytest.fixture(scope="module")
def network() -> nn.Module:
    """The real `ldm` U-Net, tiny."""
    return tiny.ldm_unet().model


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable and has folders; its server remembers what was shown on nodes."""
    with comfy.installed(monkeypatch, tmp_path) as server:
        from skipstone.nodes.files import register_folders

        register_folders()
        yield server


@pytest.fixture
def patcher(server: comfy.PromptServer, network: nn.Module) -> comfy.ModelPatcher:
    """A loaded SD1 checkpoint."""
    return comfy.ModelPatcher(comfy.BaseModel(network))


class Cancelled(Exception):
    """`InterruptProcessingException`: an Exception, so that a broad except would swallow it."""


class Lumina2(comfy.BaseModel):
    """A model of no family that is served."""


class Unknown(nn.Module):
    """A network of no family."""

    def forward(self, x: Tensor, t: Tensor, context: Any) -> Tensor:
        """[B, C, ...], unchanged."""
        return x


def nodes() -> Any:
    from skipstone import nodes

    return nodes


def patch(model: comfy.ModelPatcher, method: Any, node_id: Any = 7) -> comfy.ModelPatcher:
    from skipstone.nodes.patch import patch_model

    return patch_model(model, method if isinstance(method, Recipe) else Recipe(skip=method), node_id)


def guider(patcher: comfy.ModelPatcher, **options: Any) -> comfy.Guider:
    conds = [comfy.Cond(tiny.noise(1, *tiny.CONTEXT, seed=seed)) for seed in (1, 2)]
    return comfy.Guider(patcher, [conds[0]], [conds[1]], **options)


def sample(patcher: comfy.ModelPatcher, batch: int = 1, steps: int = STEPS, **options: Any) -> Tensor:
    """One KSampler: latent [batch, 4, 16, 16]."""
    sampler = options.pop("sampler", comfy.Sampler())
    return guider(patcher, **options).sample(tiny.smooth(batch, 4, 16, 16), sampler, comfy.linear_sigmas(steps))


def said(server: comfy.PromptServer, node: str) -> str:
    """What was shown last on a node, in one line."""
    texts = [text for n, text in server.texts if n == node]
    return texts[-1].replace("\n", " ") if texts else ""


def made(patcher: comfy.ModelPatcher, calls: int = STEPS, settings: BlockSkip = SKIP) -> Mask:
    from skipstone.nodes.masks import mask_of

    return mask_of(patcher, settings, calls)[0]


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every safetensors file fails in the middle, as on a full disk."""
    from safetensors import SafetensorError

    def fails(tensors: Any, path: str, metadata: Any = None) -> None:
        Path(path).write_bytes(b"half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
