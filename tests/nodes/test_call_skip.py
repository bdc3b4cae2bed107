"""The node "Call Skip": which calls reach the network, what is forecast instead, and where it is declined."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
from comfy_models import HEUN, MERGE, SKIP, Cancelled, guider, network, patcher, said, sample, server
from doubles import comfy
from torch import Tensor, nn

from skipstone.core.engine.engine import Engine
from skipstone.core.forecast.space import Noise
from skipstone.core.plan.call_plan import even_keys
from skipstone.core.plan.run import Horizon
from skipstone.core.plan.step_lengths import slopes
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe

__all__ = ["network", "patcher", "server"]

STEPS = 20
HALF = Recipe.of([CallSkip(calls=10)])
KEYS = even_keys(STEPS, 10, tail=2)
"""The last step of these sigmas sees no noise."""
UNANNOUNCED = even_keys(STEPS, 10)
"""Where the calls are not known ahead."""
SIGMAS = comfy.linear_sigmas(STEPS)


class Counted(nn.Module):
    """A network of no family whose output changes smoothly. Attribute: the timestep of each forward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """[B, C, ...], of its shape."""
        self.seen.append(float(t[0]))
        shape = (-1, *[1] * (x.ndim - 1))
        return torch.tanh(x + context.mean((1, 2)).view(shape) + (t / 500).sin().view(shape))

    @property
    def steps(self) -> list[int]:
        """The step of each forward in a run of 20 steps."""
        return [round(19 - t * 19 / 999) for t in self.seen]


@pytest.fixture
def counted(server: comfy.PromptServer) -> comfy.ModelPatcher:
    """A model of no known family that counts its forwards."""
    return comfy.ModelPatcher(comfy.BaseModel(Counted()))


def patch(model: comfy.ModelPatcher, recipe: Recipe = HALF, node_id: Any = 7) -> comfy.ModelPatcher:
    from skipstone.nodes.patch import patch_model

    return patch_model(model, recipe, node_id)


def ran(model: comfy.ModelPatcher, steps: int = STEPS, recipe: Recipe = HALF, **options: Any) -> list[int]:
    """The steps of the forwards in one run."""
    model.model.diffusion_model.seen.clear()
    sample(patch(model, recipe), steps=steps, **options)
    return model.model.diffusion_model.steps


def error(result: Tensor, dense: Tensor) -> float:
    return float((result - dense).norm() / dense.norm())


# what runs


def test_exactly_the_announced_calls_reach_the_network_and_the_node_says_so(
    counted: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    assert tuple(ran(counted)) == KEYS
    assert said(server, "7") == "ran 10 of 20 calls, forecast 10 (corrected line on eps);"


def test_the_picture_is_near_the_dense_one_and_nearer_than_with_repeated_values(counted: comfy.ModelPatcher) -> None:
    dense = sample(counted, steps=STEPS)
    held = sample(patch(counted, Recipe.of([CallSkip(calls=10, predictor="hold", space="raw")])), steps=STEPS)
    assert 0 < 1.5 * error(sample(patch(counted), steps=STEPS), dense) < error(held, dense) < 0.005


@pytest.mark.parametrize("split", [False, True])
def test_what_a_line_missed_is_put_right(counted: comfy.ModelPatcher, split: bool) -> None:
    dense = sample(counted, steps=STEPS)
    line, own = (Recipe.of([CallSkip(speedup=1.5, predictor=name)]) for name in ("line", "auto"))
    errors = [error(sample(patch(counted, recipe), steps=STEPS, split=split), dense) for recipe in (line, own)]
    assert 0 < errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("neutral", [CallSkip(speedup=1.0), CallSkip(every=1), CallSkip(keys=tuple(range(STEPS)))])
def test_where_all_calls_run_the_picture_is_bit_identical(counted: comfy.ModelPatcher, neutral: CallSkip) -> None:
    assert torch.equal(sample(patch(counted, Recipe.of([neutral])), steps=STEPS), sample(counted, steps=STEPS))


@pytest.mark.parametrize("shape", [(2, 4, 3, 8, 8), (1, 1, 96)], ids=["video", "packed"])
def test_latents_of_any_shape_are_served(counted: comfy.ModelPatcher, shape: tuple[int, ...]) -> None:
    dense = guider(counted).sample(tiny.noise(*shape), comfy.Sampler(), SIGMAS)
    counted.model.diffusion_model.seen.clear()
    result = guider(patch(counted)).sample(tiny.noise(*shape), comfy.Sampler(), SIGMAS)
    assert tuple(counted.model.diffusion_model.steps) == KEYS and 0 < error(result, dense) < 0.05


def test_conds_in_forwards_of_their_own_are_skipped_alike(counted: comfy.ModelPatcher) -> None:
    assert ran(counted, split=True) == [step for step in KEYS for _ in range(2)]


def test_an_image_does_not_depend_on_its_batch(counted: comfy.ModelPatcher) -> None:
    together = guider(patch(counted)).sample(tiny.smooth(3, 4, 8, 8), comfy.Sampler(), SIGMAS)
    alone = guider(patch(counted)).sample(tiny.smooth(3, 4, 8, 8)[1:2], comfy.Sampler(), SIGMAS)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_two_samplers_of_a_graph_have_runs_of_their_own(counted: comfy.ModelPatcher) -> None:
    model, alone = patch(counted), sample(patch(counted), steps=STEPS)
    sample(model, steps=12)
    assert torch.equal(sample(model, steps=STEPS), alone)


def test_image_to_image_counts_the_steps_that_are_left(counted: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    guider(patch(counted, Recipe.of([CallSkip(speedup=2)]))).sample(
        tiny.smooth(1, 4, 8, 8), comfy.Sampler(), SIGMAS[10:]
    )
    assert said(server, "7").startswith("ran 5 of 10 calls, forecast 5")


# what is skipped with it, and what makes a call run


def test_a_controlnet_is_skipped_together_with_the_network(counted: comfy.ModelPatcher) -> None:
    control = comfy.ControlNet()
    steering = guider(patch(counted))
    steering.positive[0].more["control"] = control
    steering.sample(tiny.smooth(1, 4, 8, 8), comfy.Sampler(), SIGMAS)
    assert control.forwards == 10


def changing(more: dict[str, Any], extra: bool) -> Callable[[comfy.Guider], None]:
    """Options for the positive cond, or for a second one beside it."""

    def change(steering: comfy.Guider) -> None:
        if extra:
            steering.positive.append(comfy.Cond(tiny.noise(1, *tiny.CONTEXT, seed=5), more=more))
        else:
            steering.positive[0].more |= more

    return change


def keyframed(sigma: Tensor) -> SimpleNamespace:
    """A hook whose strength changes at a noise level."""
    frames = SimpleNamespace(keyframes=[SimpleNamespace(start_t=1e9), SimpleNamespace(start_t=float(sigma))])
    return SimpleNamespace(hooks=[SimpleNamespace(hook_keyframe=frames)])


AT = 6
"""A step that the plan would skip, as the one after it."""


@pytest.mark.parametrize(
    "change",
    [
        changing({"timestep_start": float(SIGMAS[AT])}, extra=True),
        changing({"timestep_end": float(SIGMAS[AT - 1])}, extra=True),
        changing({"control": comfy.ControlNet((1e9, float(SIGMAS[AT - 1])))}, extra=False),
        changing({"control": comfy.ControlNet((float(SIGMAS[AT]), 0.0))}, extra=False),
        changing({"control": comfy.ControlNet(None, comfy.ControlNet((float(SIGMAS[AT]), 0.0)))}, extra=False),
        changing({"hooks": keyframed(SIGMAS[AT])}, extra=False),
    ],
    ids=["cond begins", "cond ends", "control ends", "control begins", "second control begins", "hook changes"],
)
def test_where_what_acts_on_a_cond_changes_the_model_runs_until_it_is_known(
    counted: comfy.ModelPatcher, change: Callable[[comfy.Guider], None]
) -> None:
    few = Recipe.of([CallSkip(keys=(0, 1, 2, 12, 19))])
    steering = guider(patch(counted, few))
    change(steering)
    steering.sample(tiny.smooth(1, 4, 8, 8), comfy.Sampler(), SIGMAS)
    assert counted.model.diffusion_model.steps == [0, 1, 2, AT, AT + 1, 12, 19]


def perturbed(patcher: comfy.ModelPatcher) -> list[list[Tensor]]:
    """A run with a second pass on another context, as PAG has it. Returns the outputs of both passes."""
    from doubles.comfy import calc_cond_batch

    passes: list[list[Tensor]] = [[], []]

    class Perturbed(comfy.Guider):
        def predict(self, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
            """Both passes."""
            cond, uncond = super().predict(x, sigma, options)
            replaced = {**options["transformer_options"], "patches_replace": {"attn1": {("middle", 0): print}}}
            side = [{**self.positive[0].entry(), "context": self.positive[0].context + 3}]
            (extra,) = calc_cond_batch(self.model_patcher.model, [side], x, sigma, {"transformer_options": replaced})
            passes[0].append(cond)
            passes[1].append(extra)
            return cond, uncond

    plain = guider(patcher)
    steering = Perturbed(plain.model_patcher, plain.positive, plain.negative)
    steering.sample(tiny.smooth(1, 4, 8, 8), comfy.Sampler(), SIGMAS)
    return passes


def test_a_pass_with_replaced_attention_has_values_of_its_own(counted: comfy.ModelPatcher) -> None:
    passes = perturbed(patch(counted))
    assert counted.model.diffusion_model.steps == [step for step in KEYS for _ in range(2)]
    assert all(not torch.equal(one, other) for one, other in zip(*passes, strict=True))


def test_a_rule_that_decides_by_the_input_decides_by_that_of_the_first_pass(counted: comfy.ModelPatcher) -> None:
    gated = Recipe.of([CallSkip(rule="easycache", threshold=0.02)])
    guider(patch(counted, gated)).sample(tiny.smooth(1, 4, 8, 8), comfy.Sampler(), SIGMAS)
    alone = list(counted.model.diffusion_model.steps)
    counted.model.diffusion_model.seen.clear()
    perturbed(patch(counted, gated))
    assert 3 < len(alone) < STEPS
    assert counted.model.diffusion_model.steps == sorted([*alone, *alone])


def test_sides_without_a_cond_are_zero_as_in_comfyui(counted: comfy.ModelPatcher) -> None:
    from doubles.comfy import calc_cond_batch

    outputs: list[list[Tensor]] = []

    class Half(comfy.Guider):
        def predict(self, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> tuple[Tensor, Tensor]:
            """A scale of 1, and a third side whose cond has ended."""
            late = [{**self.negative[0].entry(), "timestep_start": -1.0}]
            outputs.append(
                calc_cond_batch(self.model_patcher.model, [[self.positive[0].entry()], None, late], x, sigma, options)
            )
            return outputs[-1][0], outputs[-1][0]

    plain = guider(patch(counted))
    Half(plain.model_patcher, plain.positive, plain.negative).sample(tiny.smooth(1, 4, 8, 8), comfy.Sampler(), SIGMAS)
    assert tuple(counted.model.diffusion_model.steps) == KEYS
    assert all(not sides[1].any() and not sides[2].any() and sides[0].any() for sides in outputs)


# samplers


@pytest.mark.parametrize(
    ("name", "options", "space"),
    [
        ("sample_lms", {}, "eps"),
        ("sample_euler_ancestral", {}, "x0"),
        ("sample_dpmpp_2m_sde_gpu", {}, "x0"),
        ("sample_dpmpp_2m_sde", {"eta": 0.0}, "eps"),
        ("sample_euler", {"s_churn": 5.0}, "x0"),
        ("sample_from_another_pack", {}, "x0"),
    ],
)
def test_samplers_that_add_noise_have_the_picture_forecast(
    counted: comfy.ModelPatcher, server: comfy.PromptServer, name: str, options: dict[str, Any], space: str
) -> None:
    known = "s_churn" not in options and name != "sample_from_another_pack"
    keys = KEYS if known else UNANNOUNCED
    assert tuple(ran(counted, sampler=comfy.Sampler(name, extra_options=options))) == keys
    assert f"(line on {space});" in said(server, "7") and ("this sampler adds noise" in said(server, "7")) == (
        space == "x0"
    )


@pytest.mark.parametrize("name", ["sample_euler", "sample_dpmpp_2m"])
def test_samplers_whose_steps_are_known_have_the_line_corrected(
    counted: comfy.ModelPatcher, server: comfy.PromptServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    horizons: list[Horizon] = []
    start = Engine.start
    monkeypatch.setattr(Engine, "start", lambda self, horizon: [horizons.append(horizon), start(self, horizon)][1])
    ran(counted, sampler=comfy.Sampler(name))
    assert "(corrected line on eps);" in said(server, "7")
    assert horizons[0].slopes == (slopes(SIGMAS.tolist()) if name == "sample_dpmpp_2m" else ())


@pytest.mark.parametrize("name", ["sample_dpmpp_sde_gpu", "sample_seeds_2", "sample_seeds_3"])
def test_where_noise_is_added_inside_a_step_the_last_value_is_held(
    counted: comfy.ModelPatcher, server: comfy.PromptServer, name: str
) -> None:
    sample(patch(counted), steps=STEPS, sampler=comfy.Sampler(name))
    assert "(hold on x0);" in said(server, "7")
    sample(patch(counted, Recipe.of([CallSkip(calls=10, predictor="foca")])), steps=STEPS, sampler=comfy.Sampler(name))
    assert "(foca on x0);" in said(server, "7"), "what was chosen by name stays"


def test_all_calls_of_a_step_are_decided_together(counted: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    dense = sample(counted, steps=STEPS, sampler=HEUN)
    heun = ran(counted, sampler=HEUN)
    assert set(heun) == {*UNANNOUNCED, 1}, "the second evaluation of a step is known from step 2 on"
    assert len(heun) == 2 * len(UNANNOUNCED)
    assert 0 < error(sample(patch(counted), steps=STEPS, sampler=HEUN), dense) < 0.05


@pytest.mark.parametrize("name", ["dpm_adaptive_function", "dpm_fast_function", "sample_ar_video", "sample_lcm"])
def test_samplers_that_cannot_be_forecast_for_are_declined_in_one_line(
    counted: comfy.ModelPatcher, server: comfy.PromptServer, name: str
) -> None:
    assert len(ran(counted, sampler=comfy.Sampler(name))) == STEPS
    assert re.fullmatch(
        r"\w+ (chooses its own steps|draws [\w ]+|replaces [\w ]+); sampling runs unaccelerated", said(server, "7")
    )


def test_few_steps_are_declined_in_one_line(counted: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    few = patch(counted, Recipe.of([CallSkip()]))
    assert torch.equal(sample(few, steps=8), sample(counted, steps=8))
    assert "call skipping unaccelerated: 8 steps are too few to forecast any" in said(server, "7")


# other nodes


def test_of_easycache_and_call_skip_one_is_used(counted: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    both = patch(counted)
    both.model_options["transformer_options"]["easycache"] = SimpleNamespace(name="LazyCache")
    sample(both, steps=STEPS)
    assert len(counted.model.diffusion_model.seen) == STEPS
    line = "LazyCache also skips calls of this model: keep one of the two nodes; sampling runs unaccelerated"
    assert said(server, "7") == line


def test_video_with_sound_is_declined(counted: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    from skipstone.nodes.whole_calls import unfit

    assert unfit(guider(counted), comfy.Sampler(), [(1, 4, 8, 8), (1, 8, 16)]) == "video with sound is not forecast"
    assert (
        unfit(guider(counted), comfy.Sampler(), [(1, 4, 8, 8)]) == unfit(guider(counted), comfy.Sampler(), None) == ""
    )


@pytest.mark.parametrize("first", [HALF, MERGE], ids=["calls first", "merging first"])
def test_merging_acts_at_the_calls_that_run_and_both_nodes_show_one_report(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, first: Recipe
) -> None:
    second = MERGE if first is HALF else HALF
    sample(patch(patch(patcher, first, 1), second, 2), steps=STEPS)
    assert said(server, "1") == said(server, "2")
    assert said(server, "1").startswith("ran 10 of 20 calls, forecast 10 (corrected line on eps); merged ")
    assert re.search(r"; 10 calls: 6 searches, 24 reuses;", said(server, "1")), said(server, "1")
    assert said(server, "1").count("ran ") == 1


def test_a_mask_is_made_for_the_calls_that_run(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    sample(patch(patcher, Recipe(skip=SKIP, calls=CallSkip(calls=9))), steps=STEPS)
    alone, both = comfy.ModelPatcher(patcher.model), said(server, "7")
    sample(patch(alone, Recipe(skip=SKIP), 8), steps=9)
    blocks = re.search(r"ran \d+ of \d+ blocks in 9 calls", both)
    assert blocks and blocks[0] in said(server, "8") and both.startswith("ran 9 of 20 calls, forecast 11")


def test_a_method_that_the_model_does_not_take_leaves_call_skipping_on(
    counted: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    assert tuple(ran(counted, recipe=Recipe(merge=MERGE.merge, calls=HALF.calls))) == KEYS
    assert said(server, "7").startswith("ran 10 of 20 calls") and said(server, "7").endswith("no tokens are merged")


def test_a_later_call_skip_replaces_an_earlier_one(counted: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    model = patch(patch(counted, Recipe.of([CallSkip(calls=5)]), 1), HALF, 2)
    assert said(server, "1") == "replaced: a later node skips calls in its place"
    sample(model, steps=STEPS)
    assert len(counted.model.diffusion_model.seen) == 10


# nothing is left, nothing breaks


def test_cancel_passes_through_and_leaves_nothing(counted: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    def between(call: int) -> None:
        if call == 11:
            raise Cancelled

    expected = sample(patch(counted), steps=STEPS)
    steering = guider(patch(counted), between=between)
    options = steering.model_options
    with pytest.raises(Cancelled):
        steering.sample(tiny.smooth(1, 4, 16, 16), comfy.Sampler(), SIGMAS)
    assert steering.model_options is options and "wrappers" not in options["transformer_options"]
    assert re.match(r"ran \d of 11 calls", said(server, "7"))
    assert torch.equal(sample(patch(counted), steps=STEPS), expected)


def fails(*args: Any, **kwargs: Any) -> Any:
    """Something that nobody expected."""
    raise ZeroDivisionError("of ours")


@pytest.mark.parametrize("where", ["noise_of", "timestep_and_step", "_active"])
def test_an_error_of_ours_never_fails_the_picture(
    counted: comfy.ModelPatcher, server: comfy.PromptServer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from skipstone.nodes import cond_batch

    monkeypatch.setattr(cond_batch, where, fails)
    assert torch.equal(sample(patch(counted), steps=STEPS), sample(counted, steps=STEPS))
    assert "ZeroDivisionError" in said(server, "7")


def test_outputs_of_another_form_pass_untouched(counted: comfy.ModelPatcher) -> None:
    from skipstone.nodes.cond_batch import CondBatch

    batch = CondBatch.of([[{}], None], torch.zeros(1, 4, 8, 8), torch.ones(1), {})
    assert batch.joined([torch.zeros(1, 4, 8, 8)]) is None and batch.joined([torch.zeros(1), torch.zeros(1)]) is None
    assert batch.joined([torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)]).shape == (1, 4, 8, 8)


# noise levels


def kind(*names: str) -> Any:
    """A model sampling, as ComfyUI makes it of a schedule and a kind of prediction."""
    bases: tuple[type, ...] = (object,)
    for name in reversed(names):
        bases = (type(name, bases, {}),)
    return bases[0]()


@pytest.mark.parametrize(
    ("names", "noise"),
    [
        (("ModelSampling", "EPS"), Noise(1.0, 0.4, "x0")),
        (("ModelSampling", "V_PREDICTION", "EPS"), Noise(1.0, 0.4, "x0")),
        (("ModelSampling", "COSMOS_RFLOW"), Noise(1.0, 0.4, "x0")),
        (("ModelSampling", "CONST"), Noise(0.6, 0.4, "x0", flow=True)),
        (("ModelSampling", "IMG_TO_IMG", "X0", "EPS"), None),
        (("ModelSampling", "IMG_TO_IMG_FLOW", "CONST"), None),
        (("ModelSampling", "Other"), None),
    ],
)
def test_the_noise_level_follows_the_models_sampling(
    server: comfy.PromptServer, names: tuple[str, ...], noise: Noise | None
) -> None:
    from skipstone.nodes.cond_batch import noise_of

    assert noise_of(kind(*names), 0.4) == noise


# the node


def test_the_node_patches_its_model(counted: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    from skipstone.nodes.call_skip import SkipstoneCallSkip, build_calls

    sample(SkipstoneCallSkip.run("4", model=counted, speedup=2.5, calls=0), steps=STEPS)
    assert said(server, "4").startswith("ran 8 of 20 calls")
    assert SkipstoneCallSkip.run("5", model=counted, calls=3, every=2) is counted
    assert said(server, "5").endswith("give one of them; sampling runs unaccelerated")
    assert SkipstoneCallSkip.run("6", model=counted, speedup=1.0).wrappers == {}
    assert said(server, "6") == "off: these settings skip nothing"
    defaults = {i.id: i.default for i in SkipstoneCallSkip.define_schema().inputs[1:]}
    assert build_calls(**defaults).calls == build_calls().calls == CallSkip()


def test_each_widget_reaches_its_setting(server: comfy.PromptServer) -> None:
    from skipstone.nodes.call_skip import build_calls

    given = {"speedup": 3.0, "rule": "growing", "space": "v", "predictor": "foca", "warmup": 3, "tail": 2, "max_gap": 4}
    assert build_calls(**given, threshold=0.1).calls == CallSkip(**given, threshold=0.1)
    assert build_calls(keys="0, 2 5").calls == CallSkip(keys=(0, 2, 5))


def test_a_recipe_with_call_skipping_is_saved_and_loaded(
    counted: comfy.ModelPatcher, server: comfy.PromptServer
) -> None:
    from skipstone.nodes.patch import recipe_on
    from skipstone.nodes.recipe_loader import SkipstoneRecipeLoader
    from skipstone.nodes.recipe_saver import SkipstoneRecipeSaver, write_recipe

    SkipstoneRecipeSaver.run("8", model=patch(counted), filename_prefix="half")
    name, content = said(server, "8").split(": ")
    assert content == "call skip" and write_recipe(recipe_on(patch(counted)), "half")
    loaded = SkipstoneRecipeLoader.run("9", model=counted, file=name)
    assert recipe_on(loaded).calls == HALF.calls and said(server, "9") == "call skip"


@pytest.mark.parametrize(
    ("name", "multistep"),
    [("dpmpp_2m", True), ("dpmpp_3m_sde_gpu", True), ("res_multistep_ancestral_cfg_pp", True), ("unipc", True)]
    + [
        (name, False)
        for name in ("euler", "euler_ancestral_cfg_pp", "heun", "dpmpp_sde", "ddpm", "lcm", "of_another_pack")
    ],
)
def test_a_sampler_continues_its_outputs_by_its_name(server: comfy.PromptServer, name: str, multistep: bool) -> None:
    from skipstone.nodes.samplers import is_multistep

    assert is_multistep(comfy.Sampler(f"sample_{name}")) == multistep
