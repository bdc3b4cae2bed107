"""What ComfyUI says of a run and of a forward, in the engine's terms; and how its attention takes a key bias."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from doubles import comfy
from torch import Tensor, nn

from skipstone.core.errors import Decline


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[comfy.PromptServer]:
    """ComfyUI is importable, and its server remembers what was shown on nodes."""
    with comfy.installed(monkeypatch) as server:
        yield server


def test_each_cond_is_a_stream_of_its_own(server: comfy.PromptServer) -> None:
    from skipstone.nodes.calls import streams_of

    plain = streams_of({"cond_or_uncond": [1, 0], "uuids": ["n", "p"]}, 4)
    assert [s.rows for s in plain] == [2, 2] and len({s.key for s in plain}) == 2
    area = streams_of({"cond_or_uncond": [1, 0], "uuids": ["a", "a"]}, 2)
    assert len({s.key for s in area}) == 2
    reordered = streams_of({"cond_or_uncond": [0, 1], "uuids": ["a", "a"]}, 2)
    assert [s.key for s in reordered] == [area[1].key, area[0].key]
    twice = streams_of({"cond_or_uncond": [0, 0], "uuids": ["a", "a"]}, 2)
    assert len({s.key for s in twice}) == 2
    assert streams_of({"cond_or_uncond": [0], "uuids": ["p"]}, 2)[0].key == plain[1].key
    assert streams_of({}, 3)[0].rows == 3


def test_an_extra_pass_with_replaced_attention_is_another_stream(server: comfy.PromptServer) -> None:
    from skipstone.nodes.calls import streams_of

    options = {"cond_or_uncond": [0], "uuids": ["p"]}
    perturbed = {**options, "patches_replace": {"attn1": {("middle", 0): print}}}
    assert streams_of(options, 1) != streams_of(perturbed, 1)
    assert streams_of(perturbed, 1) == streams_of(copy.deepcopy(perturbed), 1)


@pytest.mark.parametrize(("options", "rows"), [({"cond_or_uncond": [1, 0]}, 3), ({"uuids": ["a", "b"]}, 2)])
def test_rows_that_cannot_be_shared_out_are_declined(
    server: comfy.PromptServer, options: dict[str, Any], rows: int
) -> None:
    from skipstone.nodes.calls import streams_of

    with pytest.raises(Decline, match="conds"):
        streams_of(options, rows)


def test_a_plan_is_the_timesteps_of_all_sigmas_but_the_last(server: comfy.PromptServer) -> None:
    from skipstone.nodes.calls import planned_timesteps

    sampling = comfy.ModelSampling()
    steps = planned_timesteps(comfy.Sampler("sample_dpmpp_2m"), comfy.linear_sigmas(5), sampling)
    assert steps == [999.0, 749.0, 500.0, 250.0, 0.0]


@pytest.mark.parametrize("name", ["heun", "dpm_2", "dpmpp_sde", "dpmpp_2s_ancestral", "seeds_2", "sa_solver_pece"])
def test_no_plan_for_samplers_that_evaluate_elsewhere(server: comfy.PromptServer, name: str) -> None:
    from skipstone.nodes.calls import planned_timesteps

    assert planned_timesteps(comfy.Sampler(f"sample_{name}"), comfy.linear_sigmas(5), comfy.ModelSampling()) is None


def test_no_plan_for_churn_or_for_an_unknown_sampler(server: comfy.PromptServer) -> None:
    from skipstone.nodes.calls import planned_timesteps

    churning = comfy.Sampler("sample_euler", extra_options={"s_churn": 2.0})
    for sampler in (churning, SimpleNamespace(), SimpleNamespace(sampler_function=object())):
        assert planned_timesteps(sampler, comfy.linear_sigmas(5), comfy.ModelSampling()) is None


def test_timesteps_come_from_the_models_own_table(server: comfy.PromptServer) -> None:
    from skipstone.nodes.calls import training_timestep

    sampling = comfy.ModelSampling()
    for t in (0, 1, 500, 999):
        assert training_timestep(sampling, sampling.sigmas[t]) == t
    assert training_timestep(sampling, torch.tensor(1e9)) == 999
    distilled = SimpleNamespace(sigmas=sampling.sigmas[19::20])
    assert training_timestep(distilled, sampling.sigmas[999]) == 999
    assert training_timestep(distilled, sampling.sigmas[19]) == 0
    continuous = SimpleNamespace(sigmas=torch.linspace(-6.2, 4.8, 1000).exp())
    assert training_timestep(continuous, torch.tensor(-0.7).exp()) == pytest.approx(499.5, abs=1)


def test_the_step_of_an_evaluation_is_the_last_that_began_at_or_above_its_noise(server: comfy.PromptServer) -> None:
    from skipstone.nodes.calls import timestep_and_step

    table = torch.linspace(0.1, 10, 1000)
    sampling, schedule = SimpleNamespace(sigmas=table), torch.tensor([8.0, 4.0, 2.0, 0.0])
    evaluated = [8.0, 5.6, 4.01, 3.9999, 2.8, 2.0, 1.0]
    steps = [timestep_and_step(sampling, torch.tensor(sigma), schedule)[1] for sigma in evaluated]
    assert steps == [0, 0, 0, 1, 1, 2, 2]
    assert timestep_and_step(sampling, torch.tensor(8.0), None) == (pytest.approx(797, abs=1), None)


# proportional attention


def attention_pytorch(q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Tensor | None = None) -> Tensor:
    """Stands for ComfyUI's function of that name."""
    return nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def attention_sage(*args: Any, **kwargs: Any) -> Tensor:
    """Another kernel."""
    raise NotImplementedError


optimized_attention = attention_pytorch


class CrossAttention(nn.Module):
    """ComfyUI's, as far as its arguments go."""

    def forward(
        self, x: Tensor, context: Any = None, value: Any = None, mask: Any = None, transformer_options: Any = None
    ) -> Tensor:
        """[B, N, C] -> [B, N, C], one head."""
        return optimized_attention(x[:, None], x[:, None], x[:, None], 1, mask)[:, 0]


class AttentionKVCompress(nn.Module):
    """PixArt's."""

    def forward(self, x: Tensor, mask: Any = None, HW: Any = None, block_id: Any = None) -> Tensor:
        """Raises for a mask."""
        raise NotImplementedError


def test_the_key_bias_is_a_mask_that_broadcasts_over_heads_and_queries(server: comfy.PromptServer) -> None:
    from skipstone.nodes.attention import key_bias

    attention, x, bias = CrossAttention(), tiny.noise(2, 5, 4), tiny.noise(2, 5, seed=3)
    kwargs = {"context": None, "transformer_options": {"patches": {}}}
    new = key_bias(attention, kwargs, bias)
    logits = x @ x.transpose(1, 2) / 2 + bias[:, None]
    torch.testing.assert_close(attention(x, **new), logits.softmax(-1) @ x)
    assert "mask" not in kwargs and new["transformer_options"] is kwargs["transformer_options"]


@pytest.mark.parametrize(
    ("attention", "kwargs", "kernel", "reason"),
    [
        (AttentionKVCompress(), {}, attention_pytorch, "AttentionKVCompress takes no key bias"),
        (CrossAttention(), {"mask": torch.zeros(1)}, attention_pytorch, "already has a mask"),
        (CrossAttention(), {}, attention_sage, "attention_sage has no fast path"),
        (CrossAttention(), {"transformer_options": {"optimized_attention_override": 1}}, attention_pytorch, "kernel"),
    ],
)
def test_the_key_bias_is_declined_with_a_reason(
    server: comfy.PromptServer,
    monkeypatch: pytest.MonkeyPatch,
    attention: nn.Module,
    kwargs: Any,
    kernel: Any,
    reason: str,
) -> None:
    from skipstone.nodes.attention import key_bias

    monkeypatch.setitem(globals(), "optimized_attention", kernel)
    with pytest.raises(Decline, match=reason):
        key_bias(attention, kwargs, torch.zeros(1, 4))
