"""Doubles of AUTOMATIC1111 1.10 and Forge as recorded from their sources: the modules, gradio, and the course of a job.

Hooks are called in the host's order and with its arguments, but what they raise is not swallowed.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from doubles.components import GRADIO_ARGUMENTS, Component
from doubles.kept_core import KeptCore
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[3]
SHIM = ROOT / "scripts" / "skipstone.py"
CALLBACKS = ("on_cfg_denoiser", "on_model_loaded", "on_script_unloaded", "on_before_ui", "on_ui_settings", "on_ui_tabs")


SHARES = torch.cumprod(1 - torch.linspace(0.0292, 0.1095, 1000) ** 2, 0)
"""`alphas_cumprod` of SD1."""
LOG_SIGMAS = ((1 - SHARES) / SHARES).sqrt().log().double()


class InputAccordion(Component):
    """`modules.ui_components.InputAccordion`: a checkbox that is also an accordion."""

    kind = "Checkbox"

    def extra(self) -> Component:
        """A place in its header."""
        return sys.modules["gradio"].Column()


def refresh_button(component: Component, method: Any, args: Callable[[], dict[str, Any]], elem_id: str) -> None:
    """`modules.ui_common.create_refresh_button`."""
    component.refresh = lambda: (method(), component.__dict__.update(args()))  # type: ignore[attr-defined]


class Script:
    """`modules.scripts.Script`."""

    infotext_fields = None
    paste_field_names = None
    is_img2img = False

    def __init__(self) -> None:
        self.registered: dict[str, Callable[[Any], None]] = {}

    def elem_id(self, item_id: str) -> str:
        """As the host makes it."""
        return f"script_{'img2img' if self.is_img2img else 'txt2img'}_{self.title().lower()}_{item_id}"

    def on_after_component(self, callback: Callable[[Any], None], *, elem_id: str) -> None:
        """Registered in `ui`; called when the component is made."""
        self.registered[elem_id] = callback


class OptionInfo:
    """`modules.options.OptionInfo`."""

    def __init__(
        self, default: Any, label: str = "", component: Any = None, component_args: Any = None, section: Any = None
    ) -> None:
        self.default, self.label, self.component, self.section = default, label, component, section
        self.shown = component(label=label, value=default, **(component_args or {})) if component else None


class AxisOption:
    """`xyz_grid.py`'s AxisOption."""

    def __init__(self, label: str, type: Any, apply: Any, confirm: Any = None, choices: Any = None) -> None:
        self.label, self.type, self.apply, self.confirm, self.choices = label, type, apply, confirm, choices


def parse_infotext(text: str) -> dict[str, str]:
    """The parameters line as `infotext_utils.parse_generation_parameters` reads it."""
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', text)
    return {k: json.loads(v) if v.startswith('"') else v for k, v in found}


def write_infotext(params: dict[str, Any]) -> str:
    """The parameters line as `processing.create_infotext` writes it."""
    quoted = {k: json.dumps(v) if re.search(r"[,:\n]", str(v)) else v for k, v in params.items()}
    return ", ".join(f"{k}: {v}" for k, v in quoted.items())


def paste(script: Any, params: dict[str, str]) -> None:
    """As `infotext_utils.paste_func`: an update as it is, other values in the type of the component's first value."""
    for component, read in script.infotext_fields:
        value = read(params)
        if isinstance(value, dict):
            component.value = value["value"]
        elif value is not None and component.value is not None:
            component.value = type(component.value)(value)


def args_by_infotext(script: Any, params: dict[str, str]) -> list[Any]:
    """The script's arguments of a request by infotext alone, as `Api.apply_infotext` fills them: each field that the infotext has,
    in the type of the component's first value."""
    values = {component: component.value for component in script.components}
    for component, read in script.infotext_fields:
        value = read(params)
        if value is not None and component.value is not None:
            values[component] = type(component.value)(value)
    return list(values.values())


@dataclass
class Job:
    """`StableDiffusionProcessing`: what the hooks read and write of it.

    counted: number of steps by the host's count, where it is not that of the timesteps. predicts: the model's output.
    """

    unet: nn.Module
    latent: Tensor
    cond: Tensor
    uncond: Tensor
    timesteps: tuple[float, ...] = (999.0, 749.5, 499.5, 249.5, 0.0)
    enable_hr: bool = False
    is_hr_pass: bool = False
    forge: bool = False
    token_merging: float = 0.0
    sampler_name: str = "Euler"
    counted: int = 0
    predicts: str = "eps"
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.height, self.width = (8 * side for side in self.latent.shape[-2:])
        self.sd_model = SimpleNamespace(sd_checkpoint_info=SimpleNamespace(filename="first.safetensors"))
        self.sampler = Sampler(self.sampler_name)
        inner = SimpleNamespace(diffusion_model=self.unet)
        if self.forge:
            kinds = {"eps": "epsilon", "v": "v_prediction", "flow": "const"}
            inner.predictor = SimpleNamespace(sigma_data=1.0, prediction_type=kinds.get(self.predicts, self.predicts))
            self.sd_model.forge_objects = SimpleNamespace(unet=SimpleNamespace(model=inner))
        else:
            self.sd_model.model, self.sd_model.applied_token_merged_ratio = inner, self.token_merging
            self.sd_model.alphas_cumprod = SHARES
            self.sd_model.parameterization = self.predicts

    @property
    def in_use(self) -> nn.Module:
        """The U-Net loaded now."""
        return (self.sd_model.forge_objects.unet if self.forge else self.sd_model).model.diffusion_model

    def comment(self, text: str) -> None:
        """A line under the picture, once."""
        self.comments[text] = 1

    def get_token_merging_ratio(self, for_hr: bool = False) -> float:
        """The ratio asked for."""
        return self.token_merging


def sample(model: Any, x: Tensor, sigmas: Tensor) -> Tensor:
    """A sampler's function of k-diffusion. The double's levels are timesteps, and zero at the end."""
    for t in sigmas[:-1].tolist():
        x = 0.95 * x + 0.1 * torch.tanh(model(x, t))
    return x


def sample_ancestral(model: Any, x: Tensor, sigmas: Tensor, eta: float = 1.0) -> Tensor:
    """One that can add noise."""
    return sample(model, x, sigmas)


def ddim(model: Any, x: Tensor, timesteps: Tensor, eta: float = 0.0) -> Tensor:
    """`sd_samplers_timesteps_impl.ddim`: its timesteps rise, and the first of them is not called."""
    return sample(model, x, timesteps.flip(0))


class Sampler:
    """`sd_samplers_common.Sampler`: the host makes one for each pass, and calls its `func` with the schedule by name."""

    def __init__(self, name: str) -> None:
        self.config = SimpleNamespace(name=name)
        self.func: Callable[..., Tensor] = {"DDIM": ddim}.get(name, sample_ancestral if name[-2:] == " a" else sample)
        self.eta = 0.0 if self.func is ddim else 1.0
        model = SimpleNamespace(alphas_cumprod=SHARES)
        denoiser = SimpleNamespace(sigmas=torch.zeros(1), sigma_to_t=lambda level: level, inner_model=model)
        self.model_wrap_cfg = SimpleNamespace(inner_model=denoiser)

    def sample(self, model: Any, x: Tensor, timesteps: Sequence[float]) -> Tensor:
        """Sample. It passes what the function takes."""
        takes = inspect.signature(self.func).parameters
        schedule = {"sigmas": torch.tensor([*timesteps, 0.0]), "timesteps": torch.tensor([0.0, *timesteps[::-1]])}
        given = {"eta": self.eta, **schedule}
        return self.func(model, x, **{name: value for name, value in given.items() if name in takes})


class Interrupted(BaseException):
    """`sd_samplers_common.InterruptedException`."""


Calls = Callable[[int, int], list[int]]


def batched(step: int, conds: int) -> list[int]:
    """All rows in one call."""
    return [2 * conds]


def split(step: int, conds: int) -> list[int]:
    """`batch_cond_uncond` off: conds, then unconds."""
    return [conds, conds]


SHOWN = ("steps", "sampling", "hires", "hires_steps", "denoising", "width", "height", "hr_scale")
"""The host's own controls of a script's tab."""


@dataclass
class Host:
    """A web UI with Skipstone loaded: its module, the callbacks it registered, the components it made."""

    module: ModuleType
    callbacks: dict[str, list[Callable[..., Any]]]
    opts: SimpleNamespace
    xyz: SimpleNamespace
    sd_unet: ModuleType
    models: ModuleType
    made: dict[str, Component]
    options: dict[str, OptionInfo]
    calls: Calls = batched
    on_step: Callable[[Job, int], None] = lambda job, step: None

    def script(self, img2img: bool = False) -> Any:
        """A new script instance with its UI built, as the host makes one per tab."""
        script = self.module.SkipstoneScript()
        script.is_img2img = img2img
        tab = "img2img" if img2img else "txt2img"
        script.steps = sys.modules["gradio"].Slider(1, 150, 20, elem_id=f"{tab}_steps")
        script.sampling = sys.modules["gradio"].Dropdown(["Euler", "LCM"], value="Euler", elem_id=f"{tab}_sampling")
        script.hires = sys.modules["gradio"].Checkbox(False, elem_id="txt2img_hr-checkbox")
        script.hires_steps = sys.modules["gradio"].Slider(0, 150, 0, elem_id="txt2img_hires_steps")
        script.denoising = sys.modules["gradio"].Slider(0, 1, 0.7, elem_id=f"{tab}_denoising_strength")
        script.width = sys.modules["gradio"].Slider(64, 2048, 512, elem_id=f"{tab}_width")
        script.height = sys.modules["gradio"].Slider(64, 2048, 512, elem_id=f"{tab}_height")
        script.hr_scale = sys.modules["gradio"].Slider(1, 4, 2, elem_id="txt2img_hr_scale")
        for name in SHOWN:
            script.after_component(getattr(script, name))
        script.components = script.ui(img2img)
        for elem_id, callback in script.registered.items():
            callback(SimpleNamespace(component=html(elem_id)))
        return script

    def fire(self, callback: str, *args: Any) -> Any:
        """Call what was registered under a name of :data:`CALLBACKS`."""
        return [f(*args) for f in self.callbacks[callback]]

    def process_images(self, script: Any, job: Job, *args: Any) -> Tensor:
        """`processing.process_images` as far as the script sees it. An exception in the U-Net skips what follows it."""
        script.before_process(job, *args)
        script.process(job, *args)
        x = job.latent
        try:
            self._begin(script, job, args, x)
            x = self._sample(job, x)
            if job.enable_hr:
                job.is_hr_pass = True
                x = nn.functional.interpolate(x, scale_factor=2.0)
                for _ in range(2 if job.forge else 1):
                    self._begin(script, job, args, x)
                x = self._sample(job, x)
                job.is_hr_pass = False
        except Interrupted:
            pass
        script.post_sample(job, SimpleNamespace(samples=x), *args)
        script.postprocess_batch(job, *args, images=x, batch_number=0)
        script.postprocess(job, SimpleNamespace(), *args)
        return x

    def _begin(self, script: Any, job: Job, args: tuple[Any, ...], x: Tensor) -> None:
        job.sampler = Sampler(job.sampler_name)
        script.process_before_every_sampling(job, *args, x=x, noise=x, c=job.cond, uc=job.uncond)

    def _sample(self, job: Job, x: Tensor) -> Tensor:
        steps = itertools.count()

        def denoise(x: Tensor, t: float) -> Tensor:
            self.on_step(job, step := next(steps))
            return self._denoise(job, x, t, step)

        return job.sampler.sample(denoise, x, job.timesteps)

    def _denoise(self, job: Job, x: Tensor, t: float, step: int) -> Tensor:
        """`CFGDenoiser.forward`: the callback, then the conds in as many calls as the layout says.

        A1111 has the rows [conds, unconds]; Forge goes through its list from the end, so unconds come first there.
        """
        steps = job.counted or len(job.timesteps)
        denoiser = SimpleNamespace(p=job, step=step, steps=steps, total_steps=steps, sampler=job.sampler)
        params = SimpleNamespace(denoiser=denoiser, text_cond=job.cond, text_uncond=job.uncond)
        self.fire("on_cfg_denoiser", params)
        calls = self.calls(step, len(x))
        chunks = [(0, job.cond), (1, job.uncond)][: sum(calls) // len(x)]
        chunks = chunks[::-1] if job.forge else chunks
        outputs: dict[int, Tensor] = {}
        for count in calls:
            now, chunks = chunks[: count // len(x)], chunks[count // len(x) :]
            options = {"transformer_options": _options(now, t)} if job.forge else {}
            out = call_unet(job.in_use, torch.cat([x] * len(now)), t, torch.cat([c for _, c in now]), **options)
            outputs |= {mark: part for (mark, _), part in zip(now, out.chunk(len(now)), strict=True)}
        return outputs[1] + 3.0 * (outputs[0] - outputs[1]) if 1 in outputs else outputs[0]


def _options(chunks: list[tuple[int, Tensor]], t: float) -> dict[str, Any]:
    """Forge's `transformer_options`: its marks of the chunks, and sigma for one picture."""
    low = int(t)
    log = torch.lerp(LOG_SIGMAS[low], LOG_SIGMAS[min(low + 1, 999)], t - low) if t > 1 else torch.tensor(t).log()
    return {"cond_or_uncond": [mark for mark, _ in chunks], "sigmas": log.exp().view(1).float()}


def call_unet(unet: nn.Module, x: Tensor, t: float, context: Tensor, **options: Any) -> Tensor:
    """One U-Net call with the host's arguments; Forge's Flux has another name for the time."""
    time = "timestep" if hasattr(unet, "double_blocks") else "timesteps"
    with torch.no_grad():
        return unet(x, **{time: torch.full((len(x),), t)}, context=context, **options)


def html(elem_id: str) -> Component:
    """The host's own line below the picture."""
    return sys.modules["gradio"].HTML("", elem_id=elem_id)


def install(monkeypatch: pytest.MonkeyPatch, models: Path = Path("no models"), shim: Path = SHIM) -> Host:
    """Put the doubles in place of the host's modules and load the shim as the host does. models: its models folder."""
    callbacks: dict[str, list[Any]] = {name: [] for name in CALLBACKS}
    options: dict[str, OptionInfo] = {}
    opts = type("Options", (SimpleNamespace,), {"add_option": staticmethod(options.__setitem__)})()
    xyz = SimpleNamespace(AxisOption=AxisOption, axis_options=[])
    grid = SimpleNamespace(script_class=type("Script", (), {"__module__": "xyz_grid.py"}), module=xyz)
    modules = {
        "scripts": {"Script": Script, "AlwaysVisible": object(), "scripts_data": [grid]},
        "script_callbacks": {name: callbacks[name].append for name in CALLBACKS},
        "ui_components": {"InputAccordion": InputAccordion},
        "ui_common": {"create_refresh_button": refresh_button},
        "paths_internal": {"models_path": str(models)},
        "shared": {"opts": opts, "OptionInfo": OptionInfo},
        "sd_models": {"model_data": SimpleNamespace(sd_model=None)},
        "sd_unet": {"current_unet": None},
    }
    package = _module(monkeypatch, "modules", {"__path__": []})
    for name, content in modules.items():
        setattr(package, name, _module(monkeypatch, f"modules.{name}", content))
    made: dict[str, Component] = {}
    kinds = {kind: type(kind, (Component,), {"kind": kind, "made": made}) for kind in GRADIO_ARGUMENTS}
    _module(monkeypatch, "gradio", {**kinds, "update": lambda **kwargs: {"__type__": "update", **kwargs}})
    return Host(
        load_shim(shim),
        callbacks,
        opts,
        xyz,
        sys.modules["modules.sd_unet"],
        sys.modules["modules.sd_models"],
        made,
        options,
    )


def load_shim(shim: Path = SHIM) -> ModuleType:
    """`modules.script_loading.load_module`: the module is not put into sys.modules."""
    spec = importlib.util.spec_from_file_location(shim.name, shim)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with KeptCore.installed(shim == SHIM):
        spec.loader.exec_module(module)
    return module


def forget_shim() -> None:
    """Take the private package out of sys.modules again."""
    for name in [n for n in sys.modules if n.split(".")[0] == "_skipstone_webui"]:
        KeptCore.keep(name, sys.modules.pop(name))


def traces(root: nn.Module) -> Iterator[str]:
    """Everything that a job could have left on a model: hooks, and instance attributes over methods."""
    for name, module in root.named_modules():
        for hooks in ("_forward_hooks", "_forward_pre_hooks"):
            yield from (f"{name}.{hooks}" for _ in getattr(module, hooks))
        if "forward" in module.__dict__:
            yield f"{name}.forward"


def _module(monkeypatch: pytest.MonkeyPatch, name: str, content: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(content)
    monkeypatch.setitem(sys.modules, name, module)
    return module
