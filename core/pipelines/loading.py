"""Loading a user's model through diffusers' own code, from local files only, and drawing with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..errors import ModelError

DEMO = "demo"
DEMOS = {DEMO: "unet", "demo-dit": "dit"}
"""Names of the shipped models, and their kinds."""
SUFFIX = ".safetensors"


def load_pipeline(model: str, device: str = "cpu", half: bool = False, config: Path | None = None) -> Any:
    """A diffusers pipeline: `"demo"` or `"demo-dit"` (the shipped ones), a diffusers folder, or a .safetensors checkpoint.

    config: for a single file, a local diffusers folder of the same kind of model, for its configs and tokenizer; without
    one diffusers would go to the network for them.
    Raises :class:`ModelError` when there is no such model or diffusers cannot load it.
    """
    dtype = torch.float16 if half else torch.float32
    if model in DEMOS:
        from ..demo.model import load_demo

        return _checked(lambda: load_demo(DEMOS[model], device=device, dtype=dtype), model)
    path = Path(model)
    if path.is_dir():
        return _checked(lambda: _from_folder(path, dtype).to(device), model)
    if path.is_file() and path.suffix == SUFFIX:
        if config is None:
            raise ModelError(
                f"the single file {model!r} needs --config: a local diffusers folder of the same kind of model (configs "
                "and tokenizer are read, no weights)"
            )
        return _checked(lambda: _from_file(path, dtype, config).to(device), model)
    raise ModelError(f"no model at {model!r}: give 'demo', 'demo-dit', a diffusers folder or a {SUFFIX} checkpoint")


def draw(pipe: Any, prompt: str, steps: int, seed: int, guidance: float | None, size: int | None) -> Any:
    """One picture's latent. Class-conditional pipelines take a class name or number as prompt."""
    return draw_batch(pipe, [prompt], [seed], steps, guidance, size)


def draw_batch(
    pipe: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    steps: int,
    guidance: float | None = None,
    size: int | None = None,
    output_type: str = "latent",
) -> Any:
    """What the pipeline gives for several prompts, each with noise of its own seed (see :func:`draw`)."""
    known = inspect.signature(pipe.__call__).parameters
    wanted: dict[str, Any] = {"guidance_scale": guidance, "height": size, "width": size}
    call = {name: value for name, value in wanted.items() if value is not None and name in known}
    if "prompt" in known:
        call["prompt"] = list(prompts)
    elif "class_labels" in known:
        call["class_labels"] = [int(p) if p.isdigit() else _label(pipe, p) for p in prompts]
    else:
        raise ModelError(f"{type(pipe).__name__} takes neither a prompt nor class labels: use a pipeline that does")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(num_inference_steps=steps, generator=generators, output_type=output_type, **call)


def _label(pipe: Any, name: str) -> Any:
    """A class by name: DiT's pipeline knows ImageNet's, the demo's takes them as they are."""
    return pipe.get_label_ids([name])[0] if hasattr(pipe, "get_label_ids") else name


def _from_folder(path: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    return DiffusionPipeline.from_pretrained(path, torch_dtype=dtype, local_files_only=True, use_safetensors=True)


def _from_file(path: Path, dtype: torch.dtype, config: Path) -> Any:
    import diffusers

    with safe_open(path, framework="pt") as file:
        is_sdxl = any(key.startswith("conditioner.") for key in file.keys())
    kind = diffusers.StableDiffusionXLPipeline if is_sdxl else diffusers.StableDiffusionPipeline
    return kind.from_single_file(str(path), torch_dtype=dtype, local_files_only=True, config=str(config))


def _checked(load: Callable[[], Any], model: str) -> Any:
    try:
        return load()
    except Exception as error:  # diffusers and safetensors raise many kinds; all mean that this model cannot be used
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"cannot load {model!r} ({reason[0]}): check the files") from None
