"""Which modules are touched: targets, levels, and proportional attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

ENDS = {"attn1": (".attn1", ".attn"), "attn2": (".attn2", ".cross_attn"), "ff": (".ff", ".mlp")}
ALL = ("attn1", "attn2", "ff")


def modules(model: nn.Module, role: str) -> dict[str, nn.Module]:
    """Modules of a role by name, in definition order."""
    return {n: m for n, m in model.named_modules() if n.endswith(ENDS[role])}


@contextmanager
def lengths(model: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Tokens that the first linear layer of each module really sees, by module name."""
    seen: dict[str, list[int]] = {}
    hooks = []
    for role in ALL:
        for name, module in modules(model, role).items():
            linear = next(m for m in module.modules() if isinstance(m, nn.Linear))
            hook = lambda m, args, n=name: seen.setdefault(n, []).append(args[0].shape[1])  # noqa: E731
            hooks.append(linear.register_forward_pre_hook(hook))
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("targets", [("attn1",), ("attn2",), ("ff",), ("attn1", "ff"), ALL], ids="+".join)
@pytest.mark.parametrize("name", ["ldm", "diffusers", "pixart", "paper_dit"])
def test_targets_touch_only_the_named_modules(name: str, targets: Any) -> None:
    case = tiny.BUILDERS[name]()
    x, cond = case.latent(1), case.cond(1)
    with lengths(case.model) as dense:
        case(x, 900.0, cond)
    merge = TokenMerge(threshold=-1, bucket=1, targets=targets, max_downsample=8)
    with lengths(case.model) as merged, accelerate(case.model, merge) as handle:
        case(x, 900.0, cond)
        report = handle.report()
    for role in ALL:
        for module in modules(case.model, role):
            expected = [n // 4 for n in dense[module]] if role in targets else dense[module]
            assert merged[module] == expected, module
            block = module.rpartition(".")[0]
            entry = block if role == "attn1" else f"{block}.{role}"
            assert (entry in report.layers) == (role in targets)


def test_no_target_a_block_lacks_is_invented() -> None:
    """DiT blocks have no cross-attention."""
    case = tiny.dit()
    with accelerate(case.model, TokenMerge(threshold=-1, bucket=1, targets=ALL)) as handle:
        case(case.latent(), 900.0, case.cond())
        assert {n.rpartition(".")[2] for n in handle.report().layers} == {"0", "1", "ff"}


@pytest.mark.parametrize("targets", [("attn1", "attn2"), ("attn1", "attn2", "ff"), ("ff", "attn1")], ids="+".join)
def test_further_targets_share_the_blocks_pairs(unet: tiny.Case, targets: Any) -> None:
    found: list[Any] = []
    with accelerate(unet.model, TokenMerge(threshold=0.5, bucket=1, targets=targets), observer=found.append) as handle:
        unet(unet.latent(), 900.0, unet.cond())
        report = handle.report()
    blocks = {f.layer for f in found}
    assert len(found) == len(blocks) == 3
    for block in blocks:
        entries = [layer for name, layer in report.layers.items() if name.startswith(block)]
        assert len(entries) == len(targets)
        assert len({layer.kept for layer in entries}) == 1


# Levels

LEVELS = {
    "ldm": {1: 3, 2: 7, 4: 7, "auto": 3},
    "diffusers": {1: 3, 2: 7, 4: 7, "auto": 3},
    "sdxl": {1: 0, 2: 3, 4: 11, 8: 11, "auto": 11},
    "dit": {1: 0, 2: 2, "auto": 2},
}


@pytest.mark.parametrize(
    ("name", "level", "served"), [(n, lv, s) for n, levels in LEVELS.items() for lv, s in levels.items()]
)
def test_levels_served(name: str, level: Any, served: int) -> None:
    case = tiny.BUILDERS[name]()
    with accelerate(case.model, TokenMerge(threshold=-1, bucket=1, max_downsample=level)) as handle:
        case(case.latent(), 900.0, case.cond())
        report = handle.end()
    assert report.served == served
    blocks = sum(1 for n in modules(case.model, "attn1"))
    declined = [name for reason, names in report.declined.items() for name in names if "max_downsample" in reason]
    assert len(declined) == blocks - served


def test_auto_serves_only_the_two_finest_levels() -> None:
    case = tiny.diffusers_unet(
        block_out_channels=(16, 16, 16, 16),
        down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
        up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
    )
    with accelerate(case.model, TokenMerge(threshold=-1, bucket=1)) as handle:
        case(case.latent(1, size=(32, 32)), 900.0, case.cond(1))
        assert {layer.tokens for layer in handle.report().layers.values()} == {16 * 16, 8 * 8}


# Proportional attention


@pytest.fixture(params=["diffusers", "diffusers, fused kernel off"])
def block(request: pytest.FixtureRequest) -> tuple[nn.Module, Any]:
    """A diffusers U-Net and its first transformer block."""
    case = tiny.diffusers_unet()
    if "off" in request.param:
        from diffusers.models.attention_processor import AttnProcessor

        case.model.set_attn_processor(AttnProcessor())
    return case.model, next(m for n, m in case.model.named_modules() if n.endswith("transformer_blocks.0"))


def attend(attention: Any, x: Tensor, counts: Tensor | None = None) -> Tensor:
    """Self-attention by hand; counts [N]: how often each token stands among the keys."""
    heads = attention.heads
    q, k, v = (
        f(x).unflatten(-1, (heads, -1)).transpose(1, 2) for f in (attention.to_q, attention.to_k, attention.to_v)
    )
    weights = (q @ k.transpose(-1, -2) * attention.scale).exp()
    if counts is not None:
        weights = weights * counts
    out = (weights / weights.sum(-1, keepdim=True)) @ v
    return attention.to_out[0](out.transpose(1, 2).flatten(2))


class Root(nn.Module):
    """One transformer block as a whole network."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C, H, W]."""
        tokens = sample.flatten(2).transpose(1, 2)
        out = self.block(tokens, encoder_hidden_states=encoder_hidden_states)
        return out.transpose(1, 2).unflatten(2, sample.shape[2:])


Root.__name__ = "UNet2DConditionModel"


@pytest.mark.parametrize("targets", [("attn1",), ALL], ids="+".join)
def test_merging_equal_tokens_with_proportional_attention_is_dense_attention(block: Any, targets: Any) -> None:
    root = Root(block[1])
    coarse = tiny.noise(2, 16, 6, 6, seed=8)
    x = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    arguments = (x, torch.tensor([5.0]), tiny.noise(2, *tiny.CONTEXT))
    fields: dict[str, Any] = {"threshold": 0.9999, "bucket": 1, "targets": targets}
    with torch.no_grad():
        dense = root(*arguments)
        with accelerate(root, TokenMerge(**fields, proportional=True)) as handle:
            merged = root(*arguments)
            assert handle.report().merged_share == 0.75
            assert handle.report().notes == []
    torch.testing.assert_close(merged, dense, atol=1e-5, rtol=1e-5)


def test_unequal_groups_need_the_bias_and_get_it(block: Any) -> None:
    """Some tokens alone, some in groups: only log(group size) on the keys gives dense attention back."""
    root = Root(block[1])
    x = tiny.noise(1, 16, 6, 6, seed=8).repeat_interleave(2, 2).repeat_interleave(2, 3)
    x[..., :6, :] = tiny.noise(1, 16, 6, 12, seed=9)
    arguments = (x, torch.tensor([5.0]), tiny.noise(1, *tiny.CONTEXT))
    results = {}
    with torch.no_grad():
        dense = root(*arguments)
        for proportional in (True, False):
            with accelerate(root, TokenMerge(threshold=0.9999, bucket=1, proportional=proportional)) as handle:
                results[proportional] = root(*arguments)
                assert handle.report().merged_share == 0.375
    torch.testing.assert_close(results[True], dense, atol=1e-5, rtol=1e-5)
    assert (results[False] - dense).abs().max() > 1e-3


def test_the_key_bias_is_the_log_of_the_group_size_for_every_sample(block: Any) -> None:
    """Against attention by hand on merged tokens, in a batch whose samples merge different counts."""
    root, attention = Root(block[1]), block[1].attn1
    x = tiny.smooth(3, 16, 8, 8)
    found: list[Any] = []
    outputs: list[Tensor] = []
    hook = attention.register_forward_hook(lambda m, args, out: outputs.append((args[0], out)))
    merge = TokenMerge(threshold=0.9, bucket=1, proportional=True)
    with torch.no_grad(), accelerate(root, merge, observer=found.append):
        root(x, torch.tensor([5.0]), tiny.noise(3, *tiny.CONTEXT))
        hook.remove()
        ((tokens, out),) = outputs
        pairs = found[0].pairs
        assert len(set(pairs.merged)) == 3
        for b in range(3):
            partner = pairs.partner[b]
            kept = partner.unique()
            means = torch.stack([tokens[b, partner == k].mean(0) for k in kept])
            counts = torch.stack([(partner == k).sum() for k in kept])
            expected = attend(attention, means[None], counts)[0]
            slot = torch.searchsorted(kept, partner)
            torch.testing.assert_close(out[b], expected[slot], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["ldm", "paper_dit"])
def test_where_attention_takes_no_bias_merging_goes_on_without_and_says_so(name: str) -> None:
    case = tiny.BUILDERS[name]()
    x, cond = case.latent(), case.cond()
    with accelerate(case.model, TokenMerge(threshold=0.5, bucket=1)):
        plain = case(x, 900.0, cond)
    with accelerate(case.model, TokenMerge(threshold=0.5, bucket=1, proportional=True)) as handle:
        assert torch.equal(case(x, 900.0, cond), plain)
        (note,) = handle.report().notes
    assert "proportional attention is off" in note
    assert "\n" not in note


def test_a_processor_of_another_pack_gets_no_mask_it_does_not_know() -> None:
    case = tiny.diffusers_unet()

    class PackProcessor:
        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **kwargs: Any
        ) -> Tensor:
            assert kwargs.get("attention_mask") is None
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
            return attn.to_out[0](torch.nn.functional.scaled_dot_product_attention(q, k, v))

    case.model.set_attn_processor(PackProcessor())
    with accelerate(case.model, TokenMerge(threshold=0.5, bucket=1, proportional=True)) as handle:
        case(case.latent(), 900.0, case.cond())
        assert handle.report().merged_share > 0.1
        rows, bias = handle.report().notes
    assert "PackProcessor may read other rows" in rows
    assert bias == "proportional attention is off: attention processor PackProcessor takes no key bias"
