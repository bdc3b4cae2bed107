"""Loading a user's model through diffusers' own code, from local files only, and drawing with it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.errors import ModelError

SUFFIX = ".safetensors"
INDEX = "model_index.json"
_NETWORKS = ("unet", "transformer")
_NEEDED = (*_NETWORKS, "scheduler")


def load_pipeline(model: str, device: str = "cpu", half: bool = False, config: Path | None = None) -> Any:
    """A diffusers pipeline from a diffusers folder or a .safetensors checkpoint.

    config: for a single file, a local diffusers folder of the same kind of model, for its configs and tokenizer; without
    one diffusers would go to the network for them.
    Raises :class:`ModelError` when there is no such model or diffusers cannot load it.
    """
    dtype = torch.float16 if half else torch.float32
    path = Path(model)
    if path.is_dir():
        return loaded(lambda: _from_folder(path, dtype).to(device), model)
    folder = _config_for(path, config)
    return loaded(lambda: _from_file(path, dtype, folder).to(device), model)


def _config_for(path: Path, config: Path | None) -> Path:
    """The config folder; refuses a file that cannot be loaded without running code or going to the network."""
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

    if not (path / INDEX).is_file():
        raise ModelError(f"the folder has no {INDEX}")
    how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "variant": _variant(path)}
    return DiffusionPipeline.from_pretrained(path, torch_dtype=dtype, **how, **_left_out(path))


def _index(folder: Path) -> dict[str, Any]:
    """What a diffusers folder says of itself."""
    return dict(json.loads((folder / INDEX).read_text(encoding="utf-8")))


def _variant(path: Path) -> str | None:
    """fp16 where the network's weights lie there in that variant alone."""
    files = [file for name in _NETWORKS for file in (path / name).glob(f"*{SUFFIX}")]
    return "fp16" if files and all(".fp16" in file.name for file in files) else None


def _left_out(path: Path) -> dict[str, None]:
    """Encoders, tokenizers and the like that the folder came without."""
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
    """What `load` gives. Raises :class:`ModelError` in one line where it fails."""
    try:
        return load()
    except Exception as error:  # diffusers and safetensors raise many kinds; all mean that this model cannot be used
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"cannot load {model!r} ({reason[0]}): check the files") from None
