"""Attention kernels as ComfyUI calls them: any form of arguments, an earlier override, other kernels than PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import pytest
import tiny
import torch
from doubles import comfy
from joint import HEADS, Joint
from torch import Tensor
from torch.nn import functional as F

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.kernel import SDPA, KernelHost
from skipstone.core.engine.kernel_layer import KernelLayer
from skipstone.core.engine.report import Report
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

LATENT, TEXT = tiny.smooth(2, 4, 8, 12, seed=1), tiny.noise(2, 5, 16, seed=2)
MERGE = TokenMerge(threshold=-1.0, bucket=1)


def wrapped(kernel: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`wrap_attn` of ComfyUI: an override in transformer_options is called first, with the kernel itself."""

    @wraps(kernel)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        options = kwargs.get("transformer_options") or {}
        if "_inside_attn_wrapper" not in kwargs and "optimized_attention_override" in options:
            kwargs["_inside_attn_wrapper"] = True
            return options["optimized_attention_override"](kernel, *args, **kwargs)
        return kernel(*args, **kwargs)

    return wrapper


def attention_pytorch(
    q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, attn_precision: Any = None, skip_reshape: bool = False,
    skip_output_reshape: bool = False, **kwargs: Any,
) -> Tensor:  # fmt: skip
    """ComfyUI's kernel."""
    if not skip_reshape:
        q, k, v = (x.unflatten(2, (-1, q.shape[2] // heads)).transpose(1, 2) for x in (q, k, v))
    output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=kwargs.get("enable_gqa", False))
    return output if skip_output_reshape else output.transpose(1, 2).flatten(2)


@wraps(attention_pytorch)
def attention_sage(*args: Any, **kwargs: Any) -> Tensor:
    """Another kernel."""
    return attention_pytorch(*args, **kwargs)


attention_sage.__name__ = "attention_sage"


class Host:
    """A network whose attention is called as in ComfyUI.

    apart: give heads in a dimension of their own. whole: take them so. kernel: of ComfyUI.
    """

    def __init__(self, apart: bool, whole: bool, kernel: Callable[..., Tensor] = attention_pytorch, kv_heads: int = 2):
        self.options: dict[str, Any] = {}
        self._form = {"skip_reshape": apart, "skip_output_reshape": whole, "enable_gqa": kv_heads < HEADS}
        self._kernel = wrapped(kernel)
        self.network = tiny.randomise(Joint(kernel=self._attention, kv_heads=kv_heads))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None) -> Tensor:
        tensors = (q, k, v) if self._form["skip_reshape"] else [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
        output = self._kernel(*tensors, HEADS, mask=attn_mask, transformer_options=self.options, **self._form)
        return output if self._form["skip_output_reshape"] else output.unflatten(2, (HEADS, -1)).transpose(1, 2)


def drawn(host: Host, kernels: KernelHost, merge: TokenMerge = MERGE, compiled: bool = False) -> tuple[Tensor, Report]:
    """The output of the last of three calls, and the report."""
    engine = Engine(host.network, Recipe(merge=merge), kernels=kernels)
    assert engine.reaches_kernels
    with torch.no_grad(), engine.run():
        for t in (900.0, 500.0, 100.0):
            call = Call(t, (8, 12), (Stream("all", 2),), input=LATENT, compiled=compiled)
            with engine.call(call):
                output = host.network(LATENT, torch.tensor([t]), TEXT)
    return output, engine.report


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    with comfy.installed(monkeypatch) as server:
        yield server


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_whatever_the_form_the_output_is_that_of_pytorchs_own_kernel(apart: bool, whole: bool, kv_heads: int) -> None:
    from skipstone.nodes.kernels import COMFYUI, with_kernels

    host = Host(apart, whole, kv_heads=kv_heads)
    wanted, _ = drawn(host, SDPA)
    mask = torch.zeros(2, 1, 1, 29)
    mask[..., 2] = -1.0
    host.network.options = {"attn_mask": mask}
    masked, _ = drawn(host, SDPA)
    host.options = with_kernels({})
    assert torch.equal(drawn(host, COMFYUI)[0], masked)
    host.network.options = {}
    got, report = drawn(host, COMFYUI)
    assert torch.equal(got, wanted) and not torch.equal(got, masked) and report.merged_share == 0.75


def test_an_earlier_override_runs_on_the_keys_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is, it may read other rows: the samples of a batch merge equally many tokens."""
    from skipstone.nodes.kernels import COMFYUI, with_kernels

    lengths = []

    def sage(kernel: Any, q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        assert kwargs["_inside_attn_wrapper"]
        lengths.append((q.shape[1], k.shape[1]))
        return kernel(q, k, *args, **kwargs)

    host = Host(apart=False, whole=False)
    with monkeypatch.context() as patch:
        patch.setattr(KernelLayer, "_bias", lambda layer, attention, token_map: [None] * len(token_map.groups))
        wanted, _ = drawn(host, SDPA)
    host.options = with_kernels({"optimized_attention_override": sage, "other": 1})
    assert host.options["other"] == 1
    got, report = drawn(host, COMFYUI, TokenMerge(threshold=-1.0, bucket=1))
    assert torch.equal(got, wanted) and lengths == [(29, 29)] * 4 + [(29, 11)] * 8
    assert "attention override sage may read other rows" in " ".join(report.notes)
    assert "proportional attention is off: another node chose the attention kernel" in report.notes


def test_keys_are_weighed_by_kernels_with_a_fast_mask() -> None:
    from skipstone.nodes.kernels import COMFYUI, with_kernels

    merge = TokenMerge(threshold=-1.0, bucket=1)
    pytorch, sage = Host(True, False), Host(True, False, attention_sage)
    for host in (pytorch, sage):
        host.options = with_kernels({})
    weighed, _ = drawn(pytorch, COMFYUI, merge)
    assert torch.equal(weighed, drawn(pytorch, SDPA, merge)[0])
    plain, report = drawn(sage, COMFYUI, merge)
    assert not torch.equal(plain, weighed) and report.merged_share == 0.75
    assert any("attention_sage has no fast path with a mask" in note for note in report.notes)


def test_outside_our_calls_and_without_options_attention_is_plain() -> None:
    from skipstone.nodes.kernels import COMFYUI, with_kernels

    host = Host(apart=False, whole=True)
    plain = host.network(LATENT, torch.tensor([1.0]), TEXT)
    output, report = drawn(host, COMFYUI)
    assert torch.equal(output, plain) and list(report.declined) == [COMFYUI.missing]
    host.options = with_kernels({})
    assert torch.equal(host.network(LATENT, torch.tensor([1.0]), TEXT), plain)


def test_a_compiled_forward_is_declined() -> None:
    from skipstone.nodes.calls import call_of
    from skipstone.nodes.kernels import COMFYUI, with_kernels

    host = Host(apart=False, whole=False)
    plain = host.network(LATENT, torch.tensor([1.0]), TEXT)
    host.options = with_kernels({})
    output, report = drawn(host, COMFYUI, compiled=True)
    assert torch.equal(output, plain) and "torch.compile" in next(iter(report.declined))
    sampling = comfy.BaseModel(host.network).model_sampling
    options = {"wrappers": {"apply_model": {"torch.compile": [print]}}, "cond_or_uncond": [0]}
    assert call_of(sampling, LATENT, torch.tensor([1.0, 1.0]), options).compiled
    assert not call_of(sampling, LATENT, torch.tensor([1.0, 1.0]), {"cond_or_uncond": [0]}).compiled
