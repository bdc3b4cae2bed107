"""The prompts of the shipped small models in ComfyUI, and the node that loads them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from doubles import comfy

from skipstone.lab.demo_models.model import WEIGHTS, load_demo
from skipstone.lab.demo_models.weights import read_weights

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable."""
    with comfy.installed(monkeypatch) as server:
        yield server


@pytest.mark.parametrize(("kind", "text", "prompt"), [
    ("unet", "a red HEART on blue", "heart"), ("unet", "", ""), ("flow", "a red heart", "a red heart"), ("flow", "", ""),
])  # fmt: skip
def test_prompts_are_encoded_as_in_the_pipelines(server: comfy.PromptServer, kind: str, text: str, prompt: str) -> None:
    from skipstone.nodes.demo_text import prompts_of

    prompts = prompts_of(kind, read_weights(WEIGHTS[kind])[1])
    (tokens,) = prompts.tokenize_with_weights(text)["icons"]
    found = prompts.network(torch.tensor([[token for token, _ in tokens]]))
    expected = load_demo(kind).encode([prompt])
    hidden, pooled = found if isinstance(found, tuple) else (found, None)
    assert torch.allclose(hidden, expected["encoder_hidden_states"], atol=1e-6)
    assert pooled is None or torch.allclose(pooled, expected["pooled_projections"], atol=1e-6)


def test_a_prompt_without_a_class_is_warned_of_and_read_as_the_empty_one(server: comfy.PromptServer) -> None:
    from skipstone.nodes.demo_text import prompts_of

    prompts = prompts_of("unet", read_weights(WEIGHTS["unet"])[1])
    with pytest.warns(UserWarning, match=r"draws sun, moon.*'a zebra' names none"):
        unknown = prompts.tokenize_with_weights("a zebra")
    assert unknown == prompts.tokenize_with_weights("")


def test_what_the_node_reads_needs_no_diffusers() -> None:
    code = (
        "import sys; sys.modules['diffusers'] = None\n"
        "from skipstone.lab.demo_models import encoders, weights, words\n"
        "print(weights.read_weights(weights.WEIGHTS['flow'])[0]['words'] == list(words.WORDS))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "True"


def test_the_nodes_empty_latent_is_that_of_the_models(server: comfy.PromptServer) -> None:
    from skipstone.lab.demo_models.pipeline import LATENT_SHAPE
    from skipstone.nodes.demo_model import CHANNELS, KINDS, SIDE

    assert (CHANNELS, SIDE, SIDE) == LATENT_SHAPE and set(KINDS.values()) <= set(WEIGHTS)
