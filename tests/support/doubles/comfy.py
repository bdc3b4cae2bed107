"""Doubles of ComfyUI, recorded from v0.3.64 and 0.33: schema classes, wrappers, model patcher, guider and base model.

Arguments are those that both versions take. Sampling follows the host's order: wrappers merged into the options,
OUTER_SAMPLE round the run, conds batched uncond first, APPLY_MODEL round each forward.
"""

from __future__ import annotations

import copy
import html
import math
import os
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from doubles import comfy_training
from doubles.comfy_io import IO, UI
from torch import Tensor, nn

Options = dict[str, Any]


class WrappersMP:
    """`comfy.patcher_extension.WrappersMP`."""

    OUTER_SAMPLE = "outer_sample"
    CALC_COND_BATCH = "calc_cond_batch"
    APPLY_MODEL = "apply_model"


def add_wrapper_with_key(kind: str, key: str, wrapper: Any, options: Options, is_model_options: bool = False) -> None:
    """`comfy.patcher_extension.add_wrapper_with_key`."""
    if is_model_options:
        options = options.setdefault("transformer_options", {})
    options.setdefault("wrappers", {}).setdefault(kind, {}).setdefault(key, []).append(wrapper)


def wrappers_of(kind: str, options: Options) -> list[Any]:
    """`comfy.patcher_extension.get_all_wrappers`."""
    return [w for ws in options.get("wrappers", {}).get(kind, {}).values() for w in ws]


class WrapperExecutor:
    """Calls the wrappers from the first added to the last, then the original."""

    def __init__(self, original: Callable[..., Any], class_obj: Any, wrappers: list[Any]) -> None:
        self.original, self.class_obj, self.wrappers = original, class_obj, wrappers

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """From inside a wrapper: whatever comes next."""
        return WrapperExecutor(self.original, self.class_obj, self.wrappers[1:]).execute(*args, **kwargs)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """From the host."""
        return self.wrappers[0](self, *args, **kwargs) if self.wrappers else self.original(*args, **kwargs)


def copy_nested(value: Any) -> Any:
    """`create_model_options_clone`: dicts and lists are copied, everything else is shared."""
    if isinstance(value, dict):
        return {k: copy_nested(v) for k, v in value.items()}
    return list(value) if isinstance(value, list) else value


class ModelPatcher:
    """`comfy.model_patcher.ModelPatcher`, as far as patches go."""

    def __init__(self, model: BaseModel) -> None:
        self.model, self.load_device = model, "cpu"
        self.model_options: Options = {"transformer_options": {}}
        self.wrappers: dict[str, dict[str, list[Any]]] = {}

    def clone(self) -> ModelPatcher:
        """Deep-copies the options, as v0.3.64 does."""
        other = ModelPatcher(self.model)
        other.model_options = copy.deepcopy(self.model_options)
        other.wrappers = copy_nested(self.wrappers)
        return other

    def add_wrapper_with_key(self, kind: str, key: str, wrapper: Any) -> None:
        """Added last is innermost."""
        self.wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def get_model_object(self, name: str) -> Any:
        """A part of the model by its name."""
        return getattr(self.model, name)

    def remove_wrappers_with_key(self, kind: str, key: str) -> None:
        """Nothing happens when there are none."""
        self.wrappers.get(kind, {}).pop(key, None)


class EPS:
    """`comfy.model_sampling.EPS`."""


class ModelSampling(EPS):
    """`ModelSamplingDiscrete` of SD1.x."""

    def __init__(self) -> None:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        alphas = torch.cumprod(1 - betas, 0)
        self.sigmas = ((1 - alphas) / alphas).sqrt().float()

    def timestep(self, sigma: Tensor) -> Tensor:
        """[B] -> [B], nearest in the logarithm."""
        return (sigma.log()[:, None] - self.sigmas.log()).abs().argmin(1)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        """Where a run begins."""
        return noise * (1 + sigma**2).sqrt() + latent if max_denoise else noise * sigma + latent


class BaseModel:
    """`comfy.model_base.BaseModel`."""

    def __init__(self, network: nn.Module) -> None:
        self.diffusion_model = network
        self.model_sampling = ModelSampling()

    def apply_model(self, x: Tensor, t: Tensor, c_concat: Any = None, c_crossattn: Any = None, control: Any = None,
                    transformer_options: Any = None, **kwargs: Any) -> Tensor:  # fmt: skip
        """Through the APPLY_MODEL wrappers, which get these six by position."""
        wrappers = wrappers_of(WrappersMP.APPLY_MODEL, transformer_options)
        executor = WrapperExecutor(self._apply_model, self, wrappers)
        return executor.execute(x, t, c_concat, c_crossattn, control, transformer_options, **kwargs)

    def _apply_model(self, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any, options: Any) -> Tensor:
        scale = (t.view(-1, *[1] * (x.ndim - 1)) ** 2 + 1).sqrt()
        epsilon = self.diffusion_model(x / scale, self.model_sampling.timestep(t).float(), context=c_crossattn)
        return x - t.view(-1, *[1] * (x.ndim - 1)) * 0.1 * torch.tanh(epsilon)


@dataclass
class Cond:
    """One entry of a conditioning list. more: its options, such as `timestep_start` (a noise level) or `control`."""

    context: Tensor
    uuid: uuid.UUID = field(default_factory=uuid.uuid4)
    more: Options = field(default_factory=dict)

    def entry(self) -> Options:
        """As `convert_cond` makes it."""
        return {"uuid": self.uuid, "context": self.context, **self.more}


@dataclass(eq=False)
class ControlNet:
    """`comfy.controlnet.ControlBase`: counts its forwards. timestep_range: noise levels at which it acts."""

    timestep_range: tuple[float, float] | None = None
    previous_controlnet: Any = None
    forwards: int = 0

    def get_control(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What it adds to the output [rows, ...]."""
        most, least = self.timestep_range or (float("inf"), 0.0)
        if not least <= sigma[0] <= most:
            return torch.zeros_like(x)
        self.forwards += 1
        return 0.01 * x


@dataclass
class Sampler:
    """`KSAMPLER`: a k-diffusion function, known by its name. visits: the sigmas that it evaluates, by default all but the last."""

    name: str = "sample_euler"
    visits: Callable[[int], list[int]] = field(default=lambda steps: list(range(steps)), repr=False)
    extra_options: Options = field(default_factory=dict)

    @property
    def sampler_function(self) -> Any:
        """Its name is what tells samplers apart."""
        return SimpleNamespace(__name__=self.name)


@dataclass
class Guider:
    """`CFGGuider`. split: conds in forwards of their own. between: called before each evaluation."""

    model_patcher: ModelPatcher
    positive: list[Cond]
    negative: list[Cond]
    split: bool = False
    between: Callable[[int], None] = lambda call: None

    def __post_init__(self) -> None:
        self.model_options = self.model_patcher.model_options

    @torch.no_grad()
    def sample(self, noise: Tensor, sampler: Sampler, sigmas: Tensor) -> Tensor:
        """One run."""
        before, self.model_options = self.model_options, copy_nested(self.model_options)
        wrappers = self.model_options["transformer_options"].setdefault("wrappers", {})
        for kind, by_key in self.model_patcher.wrappers.items():
            for key, added in by_key.items():
                wrappers.setdefault(kind, {}).setdefault(key, []).extend(added)
        try:
            outer = wrappers_of(WrappersMP.OUTER_SAMPLE, self.model_options["transformer_options"])
            executor = WrapperExecutor(self._outer_sample, self, outer)
            return executor.execute(
                noise, torch.zeros_like(noise), sampler, sigmas, None, None, True, 0, latent_shapes=[]
            )
        finally:
            self.model_options = before

    def _outer_sample(
        self, noise: Tensor, latent: Tensor, sampler: Sampler, sigmas: Tensor, *args: Any, **kw: Any
    ) -> Tensor:
        x, options = noise * sigmas[0], copy_nested(self.model_options)
        options["transformer_options"]["sample_sigmas"] = sigmas
        for call, index in enumerate(sampler.visits(len(sigmas) - 1)):
            self.between(call)
            cond, uncond = self.predict(x, sigmas[index].expand(x.shape[0]), options)
            denoised = uncond + 4.0 * (cond - uncond)
            x = denoised + (x - denoised) * (sigmas[index + 1] / sigmas[index])
        return x

    def predict(self, x: Tensor, sigma: Tensor, options: Options) -> tuple[Tensor, Tensor]:
        """`sampling_function` without guidance."""
        cond, uncond = calc_cond_batch(
            self.model_patcher.model, [[c.entry() for c in side] for side in (self.positive, self.negative)], x, sigma,
            {**options, "split": self.split},
        )  # fmt: skip
        return cond, uncond


def calc_cond_batch(model: BaseModel, conds: list[Any], x: Tensor, sigma: Tensor, options: Options) -> list[Tensor]:
    """`comfy.samplers.calc_cond_batch`: the mean over the conds of each side; zeros for sides without any."""
    wrappers = wrappers_of(WrappersMP.CALC_COND_BATCH, options["transformer_options"])
    return WrapperExecutor(_calc_cond_batch, None, wrappers).execute(model, conds, x, sigma, options)


def _calc_cond_batch(model: BaseModel, conds: list[Any], x: Tensor, sigma: Tensor, options: Options) -> list[Tensor]:
    entries = [(c, place) for place, side in reversed(list(enumerate(conds))) for c in side or () if _acts(c, sigma)]
    sums, counts = [torch.zeros_like(x) for _ in conds], [0] * len(conds)
    for group in [[e] for e in entries] if options.get("split") else [entries] * bool(entries):
        transformer = {**options["transformer_options"], "cond_or_uncond": [place for _, place in group]}
        transformer |= {"uuids": [c["uuid"] for c, _ in group], "sigmas": sigma}
        context = torch.cat([c["context"].expand(x.shape[0], -1, -1) for c, _ in group])
        batch, levels = torch.cat([x] * len(group)), torch.cat([sigma] * len(group))
        control = next((c["control"] for c, _ in group if "control" in c), None)
        added = control.get_control(batch, sigma) if control else 0.0
        out = model.apply_model(batch, levels, c_crossattn=context, transformer_options=transformer) + added
        for (_, place), part in zip(group, out.chunk(len(group)), strict=True):
            sums[place], counts[place] = sums[place] + part, counts[place] + 1
    return [total / max(1, count) for total, count in zip(sums, counts, strict=True)]


def _acts(cond: Options, sigma: Tensor) -> bool:
    """`get_area_and_mult`: whether a cond is evaluated at a noise level."""
    return bool(cond.get("timestep_end", 0.0) <= sigma[0] <= cond.get("timestep_start", float("inf")))


def linear_sigmas(steps: int, sampling: ModelSampling | None = None) -> Tensor:
    """[steps + 1]: evenly spaced timesteps from 999 to 0, then 0 (scheduler "normal")."""
    table = (sampling or ModelSampling()).sigmas
    return torch.cat([table[torch.linspace(999, 0, steps).round().long()], torch.zeros(1)])


class PromptServer:
    """`server.PromptServer`: remembers the texts sent to nodes, as sent and as the page, which takes them for HTML, shows them."""

    instance: PromptServer | None = None

    def __init__(self) -> None:
        self.texts: list[tuple[str, str]] = []
        self.sent: list[str] = []

    def send_progress_text(self, text: str, node_id: str, sid: str | None = None) -> None:
        """(text, node id), in order."""
        self.sent.append(text)
        self.texts.append((node_id, html.unescape(text).replace("  \n", "\n")))


class Executing:
    """`comfy_execution.utils`: the prompt under way, None outside."""

    prompt_id: str | None = None

    @classmethod
    def context(cls) -> Any:
        """`get_executing_context`."""
        return SimpleNamespace(prompt_id=cls.prompt_id) if cls.prompt_id else None


class FolderPaths:
    """`folder_paths`, as far as a pack registers a folder, lists it, and saves below the output folder."""

    def __init__(self, base: Path) -> None:
        self.base, self.models_dir = base, str(base / "models")
        self.folders: dict[str, list[Path]] = {}

    def get_output_directory(self) -> str:
        """Where ComfyUI saves."""
        return str(self.base / "output")

    def add_model_folder_path(self, name: str, path: str) -> None:
        """Adding a folder twice does nothing."""
        places = self.folders.setdefault(name, [])
        if Path(path) not in places:
            places.append(Path(path))

    def get_filename_list(self, name: str) -> list[str]:
        """All files below the folders, with their paths in them."""
        return sorted({str(f.relative_to(p)) for p in self.folders[name] for f in p.rglob("*") if f.is_file()})

    def get_full_path(self, name: str, filename: str) -> str | None:
        """Never leads out of the folders."""
        inside = os.path.relpath(os.path.join("/", filename), "/")
        return next((str(p / inside) for p in self.folders[name] if (p / inside).is_file()), None)

    def get_save_image_path(self, prefix: str, place: str) -> tuple[str, str, int, str, str]:
        """(folder, name, number, subfolder, prefix)."""
        folder, name = os.path.split(os.path.abspath(os.path.join(place, prefix)))
        if os.path.commonpath((place, folder)) != place:
            raise Exception("**** ERROR: Saving image outside the output folder is not allowed.")
        os.makedirs(folder, exist_ok=True)
        return folder, name, 1 + len(list(Path(folder).glob(f"{name}_*"))), "", prefix


def _modules(base: Path) -> dict[str, ModuleType]:
    contents: dict[str, Options] = {
        "comfy": {},
        "comfy.cli_args": {"args": SimpleNamespace(disable_comfy_compiler=False)},
        "comfy.model_patcher": {"create_model_options_clone": copy_nested},
        "comfy.patcher_extension": {"WrappersMP": WrappersMP, "add_wrapper_with_key": add_wrapper_with_key},
        "comfy.samplers": comfy_training.SAMPLERS,
        "comfy.model_management": comfy_training.management(),
        "comfy.utils": {"ProgressBar": comfy_training.ProgressBar},
        "comfy.sample": {"fix_empty_latent_channels": lambda model, latent, **scales: latent},
        "comfy_api": {},
        "comfy_api.latest": {"io": IO, "ui": UI, "ComfyExtension": object},
        "comfy_execution": {},
        "comfy_execution.utils": {"get_executing_context": Executing.context},
        "server": {"PromptServer": PromptServer},
        "folder_paths": {},
    }
    modules = {name: ModuleType(name) for name in contents}
    for name, values in contents.items():
        modules[name].__dict__.update(values)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, modules[name])
    modules["folder_paths"] = FolderPaths(base)  # type: ignore[assignment]
    return modules


@contextmanager
def installed(monkeypatch: pytest.MonkeyPatch, base: Path = Path("nowhere")) -> Iterator[PromptServer]:
    """ComfyUI importable, a server running; the pack's nodes are imported anew inside and forgotten after.

    base: the host's folder, where something is read or saved.
    """
    for name, module in _modules(base).items():
        monkeypatch.setitem(sys.modules, name, module)
    PromptServer.instance = PromptServer()
    try:
        from skipstone.nodes import messages

        monkeypatch.setattr(messages, "TIMED", math.inf)  # no test depends on how fast it runs
        yield PromptServer.instance
    finally:
        PromptServer.instance = None
        for name in [n for n in sys.modules if n == "skipstone.nodes" or n.startswith("skipstone.nodes.")]:
            del sys.modules[name]
