"""Tiny models with random weights: real `ldm` and diffusers networks and pipelines, and a double of the DiT paper's code.

A :class:`Case` hides the argument names of a family, so that a test reads the same for all of them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from doubles.paper_dit import PaperDiT
from torch import Tensor, nn

CONTEXT = (7, 8)
"""Tokens and channels of a text conditioning."""


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill all weights from a generator of our own; zero-initialised outputs would hide everything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim > 1:
                p.copy_(noise * p[0].numel() ** -0.5)
            else:
                p.copy_(0.1 * noise + name.endswith("weight"))
    return model.eval().requires_grad_(False)


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that depend on the seed only."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """A latent [..., h, w] whose neighbours are alike, with a sample-dependent amount of noise."""
    coarse = noise(*shape[:-2], max(1, shape[-2] // 4), max(1, shape[-1] // 4), seed=seed)
    image = nn.functional.interpolate(coarse, shape[-2:], mode="bilinear")
    rough = torch.linspace(0.05, 0.6, shape[0]).view(-1, *[1] * (len(shape) - 1))
    return image + rough * noise(*shape, seed=seed + 1)


Of = TypeVar("Of", bound=nn.Module)


def clone(model: Of) -> Of:
    """A module that shares no weight, hook or submodule with the first, in a quarter of the time of building it."""
    return _cloned(model, {})


def _cloned(value: Any, made: dict[int, Any]) -> Any:
    """A module's attribute: modules and tensors once each, containers with what is in them, other things themselves."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        return kind(_clones(value, made)) if value else kind()
    if isinstance(value, nn.Module | Tensor):
        if id(value) not in made:
            (_clone_module if isinstance(value, nn.Module) else _clone_tensor)(value, made)
        return made[id(value)]
    return value.copy() if kind in (list, set) else value


def _clones(values: dict[str, Any], made: dict[int, Any]) -> dict[str, Any]:
    """Most values of a module are numbers, names or nothing, and most of its containers are empty."""
    return {
        name: v if type(v) in PLAIN else type(v)() if type(v) in EMPTY and not v else _cloned(v, made)
        for name, v in values.items()
    }


PLAIN = {bool, int, float, str, type(None)}
EMPTY = {dict, OrderedDict}


def _clone_module(value: nn.Module, made: dict[int, Any]) -> None:
    new = made[id(value)] = object.__new__(type(value))
    new.__dict__.update(_clones(value.__dict__, made))


def _clone_tensor(value: Tensor, made: dict[int, Any]) -> None:
    data = value.detach().clone()
    made[id(value)] = nn.Parameter(data, value.requires_grad) if isinstance(value, nn.Parameter) else data


def kept(build: Callable[..., Case]) -> Callable[..., Case]:
    """Build a model once for each choice of arguments, and give each caller a clone."""
    once = functools.cache(build)

    @functools.wraps(build)
    def fresh(*args: Any, **options: Any) -> Case:
        case = once(*args, **options)
        return replace(case, model=clone(case.model))

    return fresh


@dataclass
class Case:
    """A model, how to call it, and its latent's channels and size.

    call: (model, latent [B, C, H, W], timestep, cond) -> prediction [B, C', H, W].
    """

    name: str
    model: nn.Module
    call: Callable[[nn.Module, Tensor, Any, Any], Tensor]
    channels: int = 4
    size: tuple[int, int] = (16, 16)
    by_class: bool = False

    def __call__(self, x: Tensor, t: float, cond: Any) -> Tensor:
        """One prediction, without gradients."""
        with torch.no_grad():
            return self.call(self.model, x, torch.full((x.shape[0],), float(t)), cond)

    def latent(self, batch: int = 2, seed: int = 0, size: tuple[int, int] | None = None) -> Tensor:
        """[B, C, H, W], smooth, each sample another."""
        return smooth(batch, self.channels, *(size or self.size), seed=seed)

    def cond(self, batch: int = 2, seed: int = 5) -> Tensor:
        """Text tokens [B, 7, 8], or class labels [B]."""
        if self.by_class:
            return torch.randint(0, 10, (batch,), generator=torch.Generator().manual_seed(seed))
        return noise(batch, *CONTEXT, seed=seed)

    def sample(self, timesteps: Iterable[float], x: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """A deterministic denoising loop, one call per timestep."""
        x = self.latent() if x is None else x
        cond = self.cond(x.shape[0]) if cond is None else cond
        for t in timesteps:
            x = step(x, self(x, t, cond))
        return x


def step(x: Tensor, prediction: Tensor) -> Tensor:
    """A small step of an imaginary sampler; keeps the latent's scale."""
    return 0.95 * x + 0.1 * torch.tanh(prediction[:, : x.shape[1]])


@kept
def ldm_unet(attention: tuple[int, ...] = (1, 2), seed: int = 0, **options: Any) -> Case:
    """The real `ldm` U-Net (SD1.x code), transformer blocks at the given downsample factors."""
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    arguments: dict[str, Any] = {
        "image_size": 16,
        "in_channels": 4,
        "out_channels": 4,
        "model_channels": 32,
        "num_res_blocks": 1,
        "attention_resolutions": attention,
        "channel_mult": (1, 1),
        "num_heads": 2,
        "use_spatial_transformer": True,
        "context_dim": CONTEXT[1],
        "use_checkpoint": False,
        "legacy": False,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        model = UNetModel(**{**arguments, **options})
    return Case("ldm", randomise(model, seed), lambda m, x, t, c: m(x, t, context=c))


@kept
def diffusers_unet(seed: int = 0, **options: Any) -> Case:
    """diffusers' U-Net shaped like Stable Diffusion 1: attention from the latent's own resolution on."""
    from diffusers import UNet2DConditionModel

    arguments: dict[str, Any] = {
        "sample_size": 16,
        "block_out_channels": (16, 16),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": CONTEXT[1],
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    model = UNet2DConditionModel(**{**arguments, **options})
    return Case("diffusers", randomise(model, seed), lambda m, x, t, c: m(x, t, encoder_hidden_states=c).sample)


@kept
def sdxl_unet(seed: int = 0) -> Case:
    """diffusers' U-Net shaped like SDXL: no attention at the latent's own resolution, several blocks per transformer."""
    case = diffusers_unet(
        seed,
        block_out_channels=(16, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
    )
    case.name, case.size = "sdxl", (32, 32)
    return case


@kept
def dit(seed: int = 0) -> Case:
    """diffusers' DiT, class-conditional."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=4,
        sample_size=16,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )

    def call(m: nn.Module, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return m(x, timestep=t.long(), class_labels=c).sample

    return Case("dit", randomise(model, seed), call, by_class=True)


@kept
def pixart(seed: int = 0) -> Case:
    """diffusers' PixArt transformer."""
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        norm_num_groups=4,
        cross_attention_dim=16,
        caption_channels=CONTEXT[1],
        sample_size=16,
        patch_size=2,
        use_additional_conditions=False,
    )
    extra = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}

    def call(m: nn.Module, x: Tensor, t: Tensor, c: Tensor) -> Tensor:
        return m(x, encoder_hidden_states=c, timestep=t, **extra).sample

    return Case("pixart", randomise(model, seed), call)


@kept
def paper_dit(seed: int = 0) -> Case:
    """A double of the DiT paper's own module tree."""
    return Case("paper_dit", randomise(PaperDiT(), seed), lambda m, x, t, c: m(x, t, c), by_class=True)


BUILDERS: dict[str, Callable[[], Case]] = {
    "ldm": ldm_unet,
    "diffusers": diffusers_unet,
    "sdxl": sdxl_unet,
    "dit": dit,
    "pixart": pixart,
    "paper_dit": paper_dit,
}


def sd_pipeline(scheduler: str = "DDIMScheduler", image_to_image: bool = False, **config: Any) -> Any:
    """A real Stable Diffusion pipeline round a tiny U-Net; prompts are given as embeddings, pictures stay latents."""
    import diffusers

    kind = diffusers.StableDiffusionImg2ImgPipeline if image_to_image else diffusers.StableDiffusionPipeline
    pipe = kind(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=diffusers_unet().model,
        scheduler=make_scheduler(scheduler, **config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_scheduler(name: str, **config: Any) -> Any:
    """A diffusers scheduler set up as Stable Diffusion 1 ships it, as far as its class knows the settings."""
    import diffusers

    kind = getattr(diffusers, name)
    usual = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    usual |= {"clip_sample": False, "skip_prk_steps": True, "lower_order_final": True}
    known = inspect.signature(kind).parameters
    return kind(**{k: v for k, v in usual.items() if k in known}, **config)


def run_sd(pipe: Any, steps: int = 6, seed: int = 0, batch: int = 1, **options: Any) -> Tensor:
    """One picture's latent [B, 4, 16, 16] from a pipeline of :func:`sd_pipeline`."""
    arguments: dict[str, Any] = {
        "prompt_embeds": noise(batch, *CONTEXT, seed=1),
        "negative_prompt_embeds": noise(batch, *CONTEXT, seed=2),
        "num_inference_steps": steps,
        "guidance_scale": 4.0,
        "output_type": "latent",
        "generator": torch.Generator().manual_seed(seed),
    }
    return pipe(**{**arguments, **options}).images


def dit_pipeline(scheduler: str = "DDIMScheduler") -> Any:
    """A real DiT pipeline with a tiny transformer and VAE."""
    import diffusers

    vae = diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=4, latent_channels=4)
    pipe = diffusers.DiTPipeline(dit().model, randomise(vae), getattr(diffusers, scheduler)())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that could be left on a module: attributes, hooks, class, and the forward that stands there."""
    return {name: _traces(module) for name, module in model.named_modules()}


def _traces(module: nn.Module) -> tuple[Any, ...]:
    hooks = {k: dict(v) for k, v in module.__dict__.items() if "hook" in k and isinstance(v, dict)}
    return type(module), sorted(module.__dict__), hooks, module.__dict__.get("forward")


def overridden(model: nn.Module) -> list[str]:
    """Names of modules whose instance has a `forward` of its own."""
    return [name for name, module in model.named_modules() if "forward" in module.__dict__]


def hooked(model: nn.Module) -> list[str]:
    """Names of modules that have any hook."""
    return [name for name, traces in snapshot(model).items() if any(traces[2].values())]
