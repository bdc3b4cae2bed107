"""The consumer graph of every family is the one that the model really has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.override import Override, Overrides
from skipstone.core.models import recognise
from skipstone.core.models.graph import BlockGraph

FAMILIES = ["ldm", "diffusers", "sdxl", "dit", "pixart", "paper_dit", "ddpm"]


def traced(case: tiny.Case, graph: BlockGraph) -> tuple[list[set[int]], set[int]]:
    """Who reads whom, found by autograd: every block's output is cut off and made a leaf."""
    cuts: list[Tensor | None] = [None] * len(graph)
    reads: list[set[int]] = [set() for _ in graph.blocks]

    def around(i: int) -> Any:
        def run(inner: Any, *args: Any, **kwargs: Any) -> Any:
            reads[i] = {j for j, c in enumerate(cuts) if c is not None and any(leaf is c for leaf in leaves(args[0]))}
            out = inner(*args, **kwargs)
            value = (out[0] if isinstance(out, tuple) else out).detach().requires_grad_()
            cuts[i] = value
            return (value,) if isinstance(out, tuple) else value

        return run

    overrides = Overrides([Override(b.module, around(i)) for i, b in enumerate(graph.blocks)])
    overrides.install()
    x = case.latent(1)
    try:
        with torch.enable_grad():
            out = case.call(case.model, x, torch.tensor([500.0]), case.cond(1))
    finally:
        overrides.remove()
    head = {j for j, c in enumerate(cuts) if any(leaf is c for leaf in leaves(out))}
    return reads, head


def leaves(value: Tensor) -> list[Tensor]:
    """Leaf tensors that a tensor was computed from."""
    if value.grad_fn is None:
        return [value]
    found, seen, stack = [], set(), [value.grad_fn]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        stack += [n for n, _ in node.next_functions if n is not None]
    return found


def build(name: str) -> tiny.Case:
    return ddpm() if name == "ddpm" else tiny.BUILDERS[name]()


def ddpm() -> tiny.Case:
    """diffusers' unconditional U-Net, as DDPM uses it."""
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=8,
    )
    return tiny.Case("ddpm", tiny.randomise(model), lambda m, x, t, c: m(x, t).sample)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", ["output", "branch", "split"])
def test_reads_are_those_that_autograd_finds(name: str, kind: str) -> None:
    case = build(name)
    family = recognise(case.model)
    if kind not in (*family.cachings, *(("split",) if family.splits else ())):
        pytest.skip(f"{family.name} has no {kind} graph")
    graph = family.graph(case.model, split=True) if kind == "split" else family.graph(case.model, kind)
    reads, head = traced(case, graph)
    assert [set(r) for r in graph.reads] == reads
    assert set(graph.head) == head


@pytest.mark.parametrize("name", FAMILIES)
def test_blocks_are_listed_in_the_order_they_run_and_named_by_their_path(name: str) -> None:
    case = build(name)
    graph = recognise(case.model).graph(case.model)
    modules = dict(case.model.named_modules())
    ran: list[nn.Module] = []
    hooks = [b.module.register_forward_hook(lambda m, *_: ran.append(m)) for b in graph.blocks]
    case(case.latent(1), 500.0, case.cond(1))
    for hook in hooks:
        hook.remove()
    assert ran == [b.module for b in graph.blocks]
    assert all(modules[b.name] is b.module for b in graph.blocks)


def test_a_stable_diffusion_unet_has_the_blocks_that_the_paper_counts() -> None:
    case = tiny.diffusers_unet(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    )
    graph = recognise(case.model).graph(case.model)
    kinds = [graph.blocks[i].kind for i in graph.masked]
    assert (kinds.count("resnet"), kinds.count("transformer"), len(kinds)) == (22, 16, 38)
    assert sorted({b.depth for b in graph.blocks if b.name.startswith("up")}) == list(range(12))


def test_random_numbers_differ(seed: int = 0) -> None:
    """The tracer would find nothing in a model whose blocks did nothing."""
    case = build("ldm")
    graph = recognise(case.model).graph(case.model)
    _, head = traced(case, graph)
    assert head and np.isfinite(case(case.latent(1), 1.0, case.cond(1)).numpy()).all()
