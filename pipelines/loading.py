"""Loads a user's model with diffusers' own code, from local files only, and draws with it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ModelError
from .conditions import classes_of

SUFFIX = ".safetensors"
INDEX = "model_index.json"
_NETWORKS = ("unet", "transformer")
_NEEDED = (*_NETWORKS, "scheduler")


def load_pipeline(model: str, device: str = "cpu", half: bool = False, config: Path | None = None) -> Any:
    """Load a diffusers pipeline from a diffusers folder or a .safetensors checkpoint.

    Args:
        model: path of the folder or file.
        device: torch device.
        half: load in float16.
        config: for a single file, a local diffusers folder of the same kind of model, for its configs and tokenizer.

    Raises :class:`ModelError` if there is no such model, or if diffusers cannot load it.

    Example:
        >>> load_pipeline("missing.safetensors")
        Traceback (most recent call last):
        ...
        skipstone.core.errors.ModelError: no model at 'missing.safetensors': give a diffusers folder or a .safetensors checkpoint
    """
    dtype = torch.float16 if half else torch.float32
    path = Path(model)
    if path.is_dir():
        return loaded(lambda: _from_folder(path, dtype).to(device), model)
    folder = _config_for(path, config)
    return loaded(lambda: _from_file(path, dtype, folder).to(device), model)


def _config_for(path: Path, config: Path | None) -> Path:
    """Return the config folder. Raises :class:`ModelError` for a file that would run code or need the network."""
    if not path.is_file():
        raise ModelError(f"no model at {str(path)!r}: give a diffusers folder or a {SUFFIX} checkpoint")
    if path.suffix != SUFFIX:
        raise ModelError(f"{str(path)!r} is no {SUFFIX} file, and pickles are never opened: convert it")
    if config is None:
        raise ModelError(
            f"the single file {str(path)!r} needs --config: a local diffusers folder of the same kind of model (configs "
            "and tokenizer are read, no weights)"
        )
    if not (config / INDEX).is_file():
        raise ModelError(f"no diffusers folder at --config {str(config)!r}: it has no {INDEX}")
    return config


def draw(pipe: Any, prompt: str, steps: int, seed: int, guidance: float | None, size: int | None) -> Any:
    """Draw one picture, and return the pipeline's output with its latent.

    Args:
        pipe: a diffusers pipeline.
        prompt: a text, or a class name or number for class-conditional pipelines.
        steps: number of sampler steps.
        seed: of the noise.
        guidance: scale of classifier-free guidance; the pipeline's own by default.
        size: picture side in pixels; the model's own by default.

    Raises :class:`ModelError` for a pipeline that takes neither a prompt nor class labels, :class:`RecipeError` for a class that it
    does not know.

    Example:
        >>> class Pipe:
        ...     def __call__(self, prompt, num_inference_steps, generator, output_type):
        ...         return f"{output_type} of {prompt[0]}"
        >>> draw(Pipe(), "a cat", steps=20, seed=0, guidance=None, size=None)
        'latent of a cat'
    """
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
    """Draw several pictures in one batch, and return the pipeline's output.

    Args:
        pipe: a diffusers pipeline.
        prompts: one per picture, as in :func:`draw`.
        seeds: one per picture.
        steps: number of sampler steps.
        guidance: scale of classifier-free guidance; the pipeline's own by default.
        size: picture side in pixels; the model's own by default.
        output_type: "latent", or another type that the pipeline offers.

    Raises :class:`ModelError` for a pipeline that takes neither a prompt nor class labels, :class:`RecipeError` for a class that it
    does not know.

    Example:
        >>> class Pipe:
        ...     def __call__(self, prompt, num_inference_steps, generator, output_type):
        ...         return [f"{text}, seed {g.initial_seed()}" for text, g in zip(prompt, generator)]
        >>> draw_batch(Pipe(), ["a cat", "a dog"], seeds=[7, 8], steps=20)
        ['a cat, seed 7', 'a dog, seed 8']
    """
    known = inspect.signature(pipe.__call__).parameters
    wanted: dict[str, Any] = {"guidance_scale": guidance, "height": size, "width": size}
    # Pipelines differ in their arguments: pass only those that this one takes.
    call = {name: value for name, value in wanted.items() if value is not None and name in known}
    if "prompt" in known:
        call["prompt"] = list(prompts)
    elif "class_labels" in known:
        call["class_labels"] = classes_of(pipe, list(prompts))
    else:
        raise ModelError(f"{type(pipe).__name__} takes neither a prompt nor class labels: use a pipeline that does")
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(num_inference_steps=steps, generator=generators, output_type=output_type, **call)


def _from_folder(path: Path, dtype: torch.dtype) -> Any:
    from diffusers import DiffusionPipeline

    if not (path / INDEX).is_file():
        raise ModelError(f"the folder has no {INDEX}")
    how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "variant": _variant(path)}
    return DiffusionPipeline.from_pretrained(path, torch_dtype=dtype, **how, **_left_out(path))


def _index(folder: Path) -> dict[str, Any]:
    """Return the index of a diffusers folder."""
    return dict(json.loads((folder / INDEX).read_text(encoding="utf-8")))


def _variant(path: Path) -> str | None:
    """Return "fp16" if the network's weights are in the folder in that variant only."""
    files = [file for name in _NETWORKS for file in (path / name).glob(f"*{SUFFIX}")]
    return "fp16" if files and all(".fp16" in file.name for file in files) else None


def _left_out(path: Path) -> dict[str, None]:
    """Return the encoders, tokenizers and other components that the folder lacks, as None."""
    parts = [name for name, kind in _index(path).items() if isinstance(kind, list) and len(kind) == 2]
    return {name: None for name in parts if name not in _NEEDED and not (path / name).is_dir()}


def _from_file(path: Path, dtype: torch.dtype, config: Path) -> Any:
    import diffusers

    name = str(_index(config)["_class_name"])
    kind: Any = getattr(diffusers, name, None)
    if not hasattr(kind, "from_single_file"):
        raise ModelError(f"diffusers reads no single files of {name}")
    return kind.from_single_file(str(path), torch_dtype=dtype, local_files_only=True, config=str(config))


def loaded(load: Callable[[], Any], model: str) -> Any:
    """Return what `load` returns.

    Args:
        load: loads the model.
        model: its name for the error.

    Raises :class:`ModelError`, in one line, for any error of `load`.

    Example:
        >>> loaded(lambda: "model", "name")
        'model'
    """
    try:
        return load()
    except Exception as error:  # diffusers and safetensors raise many kinds; all mean that this model cannot be used
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"cannot load {model!r} ({reason[0]}): check the files") from None
