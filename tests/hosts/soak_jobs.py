"""Random prompts for the soak: model, size, batch, sampler, method, and whether it is cancelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from hosts.comfy_prompts import node, patched
from hosts.comfyui import Prompt

DEMO = {"demo U-Net": "icons (U-Net)", "demo flow": "icons (flow)"}
SIZES = {
    "U-Net": (12, 24), "Z-Image": (12, 24), "Flux 2": (6, 12), "Qwen-Image": (12, 24), "HunyuanDiT": (12, 24),
    "Wan 2.1 t2v": (12, 20), "LTX Video": (3, 6), "HunyuanVideo t2v": (12, 20),
}  # fmt: skip
"""Kind of the probe -> least and most rows and columns of its latents; odd ones are among them."""
EVEN = ("HunyuanVideo t2v",)
"""Kinds that ComfyUI itself runs at even sizes only."""
MASKED = ("HunyuanDiT", "LTX Video")
"""Kinds whose conds of the probe have masks of 77 tokens."""
MODELS = (*DEMO, *SIZES)
SAMPLERS = (
    "euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_sde", "heun", "dpm_2", "uni_pc", "ddim", "lcm", "er_sde",
    "res_multistep", "lms", "deis", "sa_solver",
)  # fmt: skip
SCHEDULERS = ("normal", "simple", "karras", "sgm_uniform")

Nodes = tuple[tuple[str, dict[str, Any]], ...]
"""Our nodes in the order in which they stand, with their widgets."""


PREDICTORS = ("line", "hold", "taylor2", "hermite", "spectrum")
RULES = ("even", "even", "growing", "easycache", "seacache")


def calls(random: Random) -> Nodes:
    chosen = {"speedup": random.choice((1.5, 2.0, 3.0)), "calls": 0}
    return (("SkipstoneCallSkip", {**chosen, "predictor": random.choice(PREDICTORS), "rule": random.choice(RULES)}),)


def auto(random: Random) -> Nodes:
    return (("SkipstoneAuto", {"level": random.choice(("gentle", "balanced", "fast")), "speedup": 2.0}),)


def merge(random: Random) -> Nodes:
    widgets = {"threshold": random.choice((-1.0, 0.3, 0.7)), "checkpoints": random.choice(("config_3", "every"))}
    return (("SkipstoneTokenMerge", {**widgets, "max_downsample": random.choice(("auto", "8"))}),)


def dato(random: Random) -> Nodes:
    preset = random.choice(("dato_coco", "dato_gentle", "custom"))
    return (("SkipstoneDaTo", {"preset": preset, "ratio": random.choice((0.3, 0.5)), "custom_depths": "12, 1, 2, 0"}),)


def mask(random: Random) -> Nodes:
    rule = {"rule": random.choice(("deepcache", "interval", "depths")), "every": random.choice((2, 3))}
    more = {"forecast": random.random() < 0.3, "last_full": random.random() < 0.3, "offload": random.random() < 0.3}
    return (("SkipstoneBlockMask", {**rule, **more}),)


def off(random: Random) -> Nodes:
    neutral = {
        "SkipstoneCallSkip": {"speedup": 1.0, "calls": 0},
        "SkipstoneBlockMask": {"rule": "interval", "every": 1},
    }
    return tuple(neutral.items())


METHODS: dict[str, tuple[Callable[[Random], Nodes], ...]] = {
    "none": (), "off": (off,), "calls": (calls,), "auto": (auto,), "merge": (merge,), "dato": (dato,), "mask": (mask,),
    "merge + mask": (merge, mask), "calls + merge": (calls, merge), "auto + mask": (auto, mask), "dato + calls": (dato, calls),
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """model, method: names. prompt: what is queued. cancel: when Cancel is pressed, as a part of what such a run takes."""

    model: str
    method: str
    prompt: Prompt
    cancel: float | None

    @property
    def plain(self) -> bool:
        """Whether the picture must be that of a run without us."""
        return self.method in ("none", "off")


def job(random: Random, models: Sequence[str] = MODELS) -> Job:
    """One prompt of any kind, of one of these models."""
    model = random.choice(models)
    method = random.choice([*METHODS, "none"])
    prompt = _dense(random, model)
    for made in METHODS[method]:
        for number, (class_type, widgets) in enumerate(made(random)):
            prompt = patched(prompt, class_type, f"{made.__name__}{number}", **widgets)
    return Job(model, method, prompt, random.random() if random.random() < 0.15 else None)


def plain(model: str) -> Job:
    """A picture without us, the same for each model every time."""
    return Job(model, "none", _dense(Random(0), model), None)


def _dense(random: Random, model: str) -> Prompt:
    return _sampled(random, _demo(random, model) if model in DEMO else _tiny(random, model))


def _demo(random: Random, model: str) -> Prompt:
    """A demo model, whose latents have one size."""
    words = random.choice(("a red heart on a blue background", "a boat", "a green tree", "a zebra"))
    texts = {"positive": words, "negative": ""}
    return {
        "model": node("SkipstoneDemoModel", model=DEMO[model], batch_size=random.choice((1, 1, 2))),
        **{name: node("CLIPTextEncode", clip=["model", 1], text=text) for name, text in texts.items()},
        "sampler": node("KSampler", latent_image=["model", 3]),
    }


def _tiny(random: Random, model: str) -> Prompt:
    """A random network of the probe."""
    least, most = SIZES[model]
    sides = range(least, most + 1, 2 if model in EVEN else 1)
    size = {"height": random.choice(sides), "width": random.choice(sides), "batch": random.choice((1, 1, 2))}
    conds = {"positive": 77 if model in MASKED else random.choice((77, 77, 100)), "negative": 77}
    return {
        "model": node("ProbeModel", kind=model),
        **{name: node("ProbeConditioning", kind=model, tokens=tokens, rng=random.randrange(99))
           for name, tokens in conds.items()},
        "empty": node("ProbeLatent", kind=model, **size),
        "sampler": node("KSampler", latent_image=["empty", 0]),
    }  # fmt: skip


def _sampled(random: Random, prompt: Prompt) -> Prompt:
    """With a sampler's settings, and a look at what came out."""
    settings = {
        "seed": random.randrange(2**31), "steps": random.randint(5, 12), "cfg": random.choice((1.0, 3.0, 5.0)),
        "sampler_name": random.choice(SAMPLERS), "scheduler": random.choice(SCHEDULERS),
        "denoise": random.choice((1.0, 1.0, 0.6)),
    }  # fmt: skip
    wired = {"model": ["model", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    inputs = {**prompt["sampler"]["inputs"], **settings, **wired}
    digest = node("ProbeDigest", samples=["sampler", 0])
    return {**prompt, "sampler": node("KSampler", **inputs), "digest": digest}
