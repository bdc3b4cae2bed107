"""Tokens of joint and rotary attention: what is served, what is declined, and that nothing is left behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import joint
import pytest
import tiny
import torch
from interrupts import interrupted
from joint import Joint, by_hand
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from skipstone.core.engine import kernel_layer, picture_tracer, sight
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.kernel_layer import KernelLayer
from skipstone.core.engine.picture_tracer import PictureTracer
from skipstone.core.engine.report import Report
from skipstone.core.errors import Decline, ModelError
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.core.tokens.grid import Grid
from skipstone.pipelines.accelerate import accelerate

STEPS = (900.0, 700.0, 500.0, 300.0, 100.0)
MERGE = TokenMerge(threshold=-1.0, bucket=1, checkpoints="every")
PRUNE = TokenPrune(ratio=0.5)
LATENT = tiny.smooth(2, 4, 8, 12, seed=1)
TEXT = tiny.noise(2, 5, 16, seed=2)
TOKENS = 4 * 6


BIAS = KernelLayer._bias


def unweighed(layer: KernelLayer, attention: Any, token_map: Any) -> list[None]:
    """No key counts for more than itself."""
    return [None] * len(token_map.groups)


def made(**options: Any) -> Joint:
    """With random weights of a fixed seed."""
    return tiny.randomise(Joint(**options))


def sampled(model: Joint, text: Tensor = TEXT, steps: tuple[float, ...] = STEPS, latent: Tensor = LATENT) -> Tensor:
    """A few steps of a sampler."""
    with torch.no_grad():
        for t in steps:
            latent = tiny.step(latent, model(latent, timestep=torch.tensor([t]), encoder_hidden_states=text))
    return latent


def drawn(model: Joint, recipe: Any, **given: Any) -> tuple[Tensor, Report]:
    """What an accelerated model draws, and its report. Afterwards it draws as before."""
    before, plain = tiny.snapshot(model), sampled(model, **given)
    with accelerate(model, recipe) as handle:
        picture = sampled(model, **given)
        report = handle.end()
    assert tiny.snapshot(model) == before and not _get_current_function_mode_stack()
    assert torch.equal(sampled(model, **given), plain)
    return picture, report


def refusal(report: Report) -> str:
    """The one line of a report in which nothing was merged."""
    assert report.served == 0
    (line,) = report.declined
    assert "\n" not in line and len(line) < 300
    return line


@pytest.mark.parametrize("order", ["text picture", "picture text", "picture", "by hand"])
@pytest.mark.parametrize("recipe", [MERGE, PRUNE], ids=["merge", "prune"])
def test_picture_tokens_are_found_wherever_they_stand(order: str, recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = []
    plain = KernelLayer._token_map
    monkeypatch.setattr(KernelLayer, "_token_map", lambda *args: spans.append(args[3]) or plain(*args))
    model = made(order=order)
    picture, report = drawn(model, recipe)
    start, total = {"text picture": (5, 29), "by hand": (5, 29), "picture text": (0, 29), "picture": (0, 24)}[order]
    assert {(s.start, s.tokens, s.total, s.grid.h, s.grid.w) for s in spans} == {(start, TOKENS, total, 4, 6)}
    share = 0.75 if recipe is MERGE else 0.5
    assert report.served == 4 and report.merged_share == share and report.searched == 4 * (len(STEPS) - 1)
    assert not report.declined and not torch.equal(picture, sampled(model))


def test_the_first_call_of_each_prompt_runs_in_full() -> None:
    model = made()
    _, report = drawn(model, MERGE)
    assert {call for layer in report.layers.values() for call in layer.kept_by_call} == {1, 2, 3, 4}
    with accelerate(model, MERGE) as handle:
        for t in STEPS[:3]:
            for text in (TEXT, TEXT[:, :4].clone()) if t == 700.0 else (TEXT,):
                with torch.no_grad():
                    model(LATENT, timestep=torch.tensor([t]), encoder_hidden_states=text)
        counts = [layer.searched + layer.reused for layer in handle.end().layers.values()]
    assert counts == [2, 2, 2, 2]


def test_the_report_counts_the_products_alone() -> None:
    """Of 29 keys, 6 of the picture's and 5 of the text stay; queries are all tokens."""
    _, report = drawn(made(), TokenMerge(threshold=-1.0, bucket=1, checkpoints=(0,), absolute=True))
    products = 2 * 2 * 8 * 2  # samples, heads, channels of a head, two products
    calls, search = len(STEPS) - 1, 2 * 8 * 6 * 18
    assert report.macs_dense == 4 * calls * products * 29**2
    assert report.macs_done == 4 * (calls * products * 29 * 11 + search)
    assert (report.searched, report.reused) == (4, 4 * (calls - 1))
    assert any("without projections, which run on all tokens" in note for note in report.notes)


def test_targets_that_are_not_served_are_named() -> None:
    everything, report = drawn(made(), replace(MERGE, targets=("attn1", "attn2", "ff")))
    assert "tokens are merged in this model's self-attention only (attn1), not in attn2, ff" in report.notes
    assert torch.equal(everything, drawn(made(), MERGE)[0])
    feed_forward, report = drawn(made(), replace(PRUNE, targets=("ff",)))
    assert torch.equal(feed_forward, sampled(made())) and report.macs_dense == 0
    assert report.notes == ["tokens are pruned in this model's self-attention only (attn1), not in ff"]


def test_without_similar_tokens_no_bit_changes() -> None:
    model = made()
    for recipe in (TokenMerge(threshold=1.0), TokenMerge(threshold=0.9999, bucket=1), TokenPrune(ratio=0.0)):
        assert torch.equal(drawn(model, recipe)[0], sampled(model))


def test_equal_tokens_merge_without_a_change_as_each_key_counts_for_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proportional attention (ToMe, equation 1). Positions are left out, so that tokens of one colour are equal."""
    monkeypatch.setattr("joint.turned", lambda x: x)
    flat = torch.zeros_like(LATENT) + torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    flat[..., 6:] *= -1
    model = made()
    dense = sampled(model, latent=flat)
    errors = []
    for recipe in (TokenMerge(threshold=0.9999, bucket=1), PRUNE):
        for weighed in (True, False):
            if not weighed:
                monkeypatch.setattr(KernelLayer, "_bias", unweighed)
            picture, report = drawn(model, recipe, latent=flat)
            monkeypatch.setattr(KernelLayer, "_bias", BIAS)
            assert report.merged_share >= 0.5
            errors.append(float((picture - dense).norm() / dense.norm()))
    assert max(errors[::2]) < 1e-5 < min(errors[1::2])


def test_a_kernel_without_a_mask_runs_without_the_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)

    class Flash(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is F.scaled_dot_product_attention and (kwargs or {}).get("attn_mask") is not None:
                raise RuntimeError("No available kernel. Aborting execution.")
            return func(*args, **(kwargs or {}))

    model, recipe = made(kernel=strict), TokenMerge(threshold=-1.0, bucket=1)
    with Flash(), accelerate(model, recipe) as handle:
        picture = sampled(model)
        report = handle.end()
    assert "proportional attention is off: the attention kernel takes no mask" in report.notes
    assert report.served == 4
    weighed = drawn(model, recipe)[0]
    monkeypatch.setattr(KernelLayer, "_bias", unweighed)
    assert torch.equal(picture, drawn(model, recipe)[0]) and not torch.equal(picture, weighed)


def test_grouped_queries_and_masks_are_kept() -> None:
    model = made(kv_heads=1)
    mask = torch.ones(2, 1, 1, 29, dtype=torch.bool)
    mask[0, ..., 3:5] = False
    model.options = {"enable_gqa": True, "attn_mask": mask, "scale": 0.3}
    picture, report = drawn(model, MERGE)
    assert report.merged_share == 0.75 and not report.declined
    without = TEXT.clone()
    without[0, 3:5] = 7.0
    other, _ = drawn(model, MERGE, text=without)
    assert torch.equal(other[0], picture[0]) and torch.equal(other[1], picture[1])


@pytest.mark.parametrize(
    ("options", "given", "wanted"),
    [
        ({"kernel": by_hand}, {}, "does not call PyTorch's scaled_dot_product_attention"),
        ({"extra": 3}, {}, ""),
        ({"extra": TOKENS}, {}, ""),
        ({"order": "text picture text"}, {"text": TEXT}, ""),
        ({"order": "picture text picture"}, {"text": TEXT}, "not certain which tokens"),
        ({"extra": "own"}, {"text": TEXT}, "not certain which tokens"),
        ({"extra": "own"}, {"text": tiny.noise(2, 48, 16)}, "not certain which tokens"),
    ],
)  # fmt: skip
def test_what_is_not_certain_runs_on_all_tokens(options: Any, given: Any, wanted: str) -> None:
    model = made(**options)
    picture, report = drawn(model, MERGE, **given)
    if wanted:
        assert wanted in refusal(report) and torch.equal(picture, sampled(model, **given))
    else:
        assert report.merged_share == 0.75 and not report.declined


def test_samples_with_texts_of_several_lengths_in_front_are_declined() -> None:
    """The picture's tokens stand elsewhere in each row (Lumina 2)."""
    latent = torch.ones(2, 4, 8)
    for starts in ((2, 2), (2, 3)):
        tracer = PictureTracer({4: (1, Grid(2, 2, 2))})
        tracer.open([latent])
        x = latent.new_zeros(2, 10, 8)
        for row, start in enumerate(starts):
            x[row, start : start + 4] = latent[row]
        keys = x + 1
        tracer.close()
        if starts == (2, 2):
            span = tracer.span(keys, 10)
            assert span and (span.start, span.tokens) == (2, 4)
        else:
            with pytest.raises(Decline, match="not certain"):
                tracer.span(keys, 10)


def test_as_much_text_as_picture_is_told_apart_by_what_the_latent_made() -> None:
    text = tiny.noise(2, TOKENS, 16, seed=4)
    for order in ("text picture", "picture text"):
        _, report = drawn(made(order=order), MERGE, text=text)
        assert report.merged_share == 0.75 and report.served == 4


@pytest.mark.parametrize("kind", ["causal", "regional"])
def test_masks_that_treat_picture_tokens_differently_are_declined(kind: str) -> None:
    model = made()
    regional = torch.zeros(1, 1, 29, 29)
    regional[..., 10, 4] = -5.0
    model.options = {"is_causal": True} if kind == "causal" else {"attn_mask": regional}
    picture, report = drawn(model, MERGE)
    wanted = "its attention is causal" if kind == "causal" else "its mask treats picture tokens differently"
    assert refusal(report) == wanted and torch.equal(picture, sampled(model))


def test_samples_of_a_batch_merge_their_own_counts() -> None:
    """Each as if it ran alone."""
    model, recipe = made(), TokenMerge(threshold=0.6, bucket=1)
    latent = torch.cat([LATENT[:1] * 0.2, tiny.noise(1, 4, 8, 12)])
    together, report = drawn(model, recipe, latent=latent)
    assert 0 < report.merged_share < 0.75
    alone = [drawn(model, recipe, latent=latent[n : n + 1], text=TEXT[n : n + 1])[0] for n in range(2)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


class Video(Joint):
    """Latent [B, 4, F, H, W]; tokens are its positions, frame by frame."""

    def forward(self, hidden_states: Tensor, timestep: Any, encoder_hidden_states: Tensor) -> Tensor:
        """One call."""
        x = self.embed(hidden_states.flatten(2).transpose(1, 2).repeat(1, 1, 4))
        for layer in self.layers:
            x = layer(x, self.options)
        return self.head(x)[..., :4].transpose(1, 2).unflatten(2, hidden_states.shape[2:])


def test_frames_that_are_alike_merge_where_they_are_compared_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first frame stands alone."""
    monkeypatch.setattr(joint, "turned", lambda x: x)  # positions would make keys differ
    model = tiny.randomise(Video())
    still = tiny.noise(1, 4, 1, 4, 4).repeat(1, 1, 5, 1, 1)
    threshold = TokenMerge(threshold=0.999, bucket=1, checkpoints="every")
    assert drawn(model, threshold, latent=still)[1].merged_share == 0
    _, report = drawn(model, replace(threshold, frames=2, stride=(2, 1)), latent=still)
    assert report.merged_share == 2 / 5  # of five frames, the third and the fifth are like those before them


def test_it_goes_with_calls_and_blocks() -> None:
    """Tokens are reduced in the blocks that run, at the calls that run."""
    model = made()
    both = Recipe.of([MERGE, BlockSkip(rule="interval", every=2)])
    _, report = drawn(model, both)
    assert report.served == 4 and report.blocks_reused == 4 * 2
    assert {tuple(layer.kept_by_call) for layer in report.layers.values()} == {(2, 4)}
    _, report = drawn(model, Recipe.of([MERGE, CallSkip(every=2)]))
    assert report.calls_forecast == 2 and report.served == 4 and report.merged_share == 0.75


@pytest.mark.parametrize("what", ["network", "in place", "blocks"])
def test_a_compiled_network_is_declined(what: str) -> None:
    model = made()
    plain = sampled(model)
    compiled = torch.compile(model, backend="eager") if what == "network" else model
    for module in {"in place": [model], "blocks": [*model.layers]}.get(what, []):
        module.compile(backend="eager")
    with accelerate(compiled, MERGE) as handle:
        with torch.compiler.set_stance("force_eager"):
            picture = sampled(compiled)
        assert "torch.compile" in refusal(handle.end())
    assert torch.equal(picture, plain)


def test_a_host_that_reaches_no_kernel_refuses_as_before() -> None:
    with pytest.raises(ModelError, match="has no self-attention to merge tokens in"):
        Engine(made(), Recipe(merge=MERGE))


def test_an_error_of_ours_never_fails_the_picture(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def failing(*args: Any) -> Any:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(kernel_layer, "reduced_masks", failing)
    model = made()
    picture, report = drawn(model, MERGE)
    assert torch.equal(picture, sampled(model)) and "on purpose" in caplog.text
    (note,) = [note for note in report.notes if "ZeroDivisionError" in note]
    assert "rest of the run was not accelerated" in note


def test_an_error_of_the_network_reaches_the_user() -> None:
    calls = []

    def failing(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        if len(calls) > 6:
            raise RuntimeError("of the network")
        return F.scaled_dot_product_attention(*args, **kwargs)

    model = made(kernel=failing)
    with accelerate(model, MERGE), pytest.raises(RuntimeError, match="of the network"):
        sampled(model)
    assert not _get_current_function_mode_stack() and not tiny.overridden(model)


@pytest.mark.parametrize("after", ["end", "next call"])
def test_ctrl_c_leaves_no_mode_and_no_override(after: str) -> None:
    """Wherever it stops the forward that is followed, and one that merges."""
    files = {str(module.__file__) for module in (kernel_layer, picture_tracer, sight)}
    model, at, stopped = made(), 0, True
    plain = sampled(model)
    while stopped:
        with accelerate(model, MERGE) as handle:
            stopped = interrupted(lambda: sampled(model, steps=STEPS[:2]), at, files)
            if after == "end":
                handle.end()
            else:
                sampled(model, steps=(50.0,))
            assert not _get_current_function_mode_stack() and not tiny.overridden(model), at
        at += 1 if at < 20 else 211
    assert at > 20 and torch.equal(sampled(model), plain)
