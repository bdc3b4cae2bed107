"""What the script needs of each web UI, read in its source (`WEBUI_PATH`, `FORGE_PATH`, `REFORGE_PATH`, `CLASSIC_PATH`), and the
script beside Forge Neo's own Spectrum, from its source (`NEO_PATH`): each the folder of a checkout."""

from __future__ import annotations

import ast
import os
from copy import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import args_of, fresh

from skipstone.a1111_extension.infotext import CALLS_RUN, MERGED, REFUSED

pytest_plugins = ["doubles.a1111_fixtures"]

TIMES = tuple(999.0 - 50.0 * k for k in range(20))
SPECTRUM = {
    "w": 0.25, "m": 6, "lam": 0.5, "window_size": 2, "flex_window": 0.0, "warmup_steps": 6, "stop_caching_step": 0.9,
}  # fmt: skip
"""The defaults of its panel."""


USED = {
    "script_callbacks": {
        "on_cfg_denoiser", "on_model_loaded", "on_script_unloaded", "on_before_ui", "on_ui_settings", "on_ui_tabs",
    },
    "scripts": {"Script", "AlwaysVisible", "scripts_data"},
    "ui_common": {"create_refresh_button"},
    "ui_components": {"InputAccordion"},
    "paths_internal": {"models_path", "roboto_ttf_file"},
    "processing": {"fix_seed", "process_images"},
    "txt2img": {"txt2img_create_processing"},
    "call_queue": {"queue_lock"},
    "sd_unet": {"current_unet"},
    "sd_models": {"model_data"},
    "errors": {"report"},
    "shared": {"opts", "state"},
}  # fmt: skip
"""Module of the web UI -> names that the script takes from it."""
HOOKS = (
    "before_process", "process", "process_before_every_sampling", "post_sample", "postprocess_batch", "postprocess",
    "after_component",
)  # fmt: skip
"""Methods of the script that the web UI calls."""


def names_in(module: Path) -> set[str]:
    """The names that a module has once it is imported; nothing is run."""
    found: set[str] = set()
    for node in ast.parse(module.read_text(errors="replace")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            found |= {one.id for one in ast.walk(node) if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
    return found


@pytest.mark.parametrize("host_name", ["WEBUI", "FORGE", "REFORGE", "CLASSIC"])
def test_a_web_ui_has_what_the_script_takes_from_it(host_name: str) -> None:
    path = os.environ.get(f"{host_name}_PATH")
    if not path:
        pytest.skip(f"needs a checkout: set {host_name}_PATH")
    modules = Path(path, "modules")
    missing = {name: wanted - names_in(modules / f"{name}.py") for name, wanted in USED.items()}
    assert not {name: lacks for name, lacks in missing.items() if lacks}
    runner = (modules / "scripts.py").read_text(errors="replace")
    assert [hook for hook in HOOKS if f"script.{hook}(" not in runner] == []


class Patcher(SimpleNamespace):
    """Forge's patcher as far as Spectrum uses it."""

    def clone(self) -> Patcher:
        """A copy with options of its own."""
        return copy(self)

    def set_model_unet_function_wrapper(self, wrapper: Any) -> None:
        """As Forge stores it."""
        self.model_options = {"model_function_wrapper": wrapper}


@pytest.fixture
def spectrum(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Neo's own class."""
    path = os.environ.get("NEO_PATH")
    if not path:
        pytest.skip("needs a checkout of Forge Neo: set NEO_PATH")
    monkeypatch.syspath_prepend(os.path.join(path, "extensions-builtin", "sd_forge_spectrum"))
    from lib_spectrum.forecaster import SpectrumNode

    return SpectrumNode


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The timesteps at which the network is called, through the patcher's wrapper as Forge does."""
    seen: list[float] = []
    plain = a1111.call_unet

    def call(unet: Any, x: torch.Tensor, t: float, context: torch.Tensor, **options: Any) -> torch.Tensor:
        def network(x: torch.Tensor, timestep: torch.Tensor, **more: Any) -> torch.Tensor:
            seen.append(t)
            return plain(unet, x, t, context, **options)

        wrapper = JOB[0].sd_model.forge_objects.unet.model_options.get("model_function_wrapper")
        given = {"input": x, "timestep": torch.full((len(x),), t), "c": dict(options)}
        return wrapper(network, given) if wrapper else network(x, given["timestep"])

    monkeypatch.setattr(a1111, "call_unet", call)
    return seen


JOB: list[a1111.Job] = []


def neo(job: a1111.Job) -> a1111.Job:
    """A picture of Forge, whose calls go through its patcher."""
    made = fresh(job, forge=True, timesteps=TIMES)
    made.sd_model.forge_objects.unet = Patcher(model=made.sd_model.forge_objects.unet.model, model_options={})
    JOB[:] = [made]
    return made


def test_spectrum_and_call_skipping_are_not_on_together(
    host: a1111.Host, job: a1111.Job, spectrum: Any, calls: list[float]
) -> None:
    def add(p: a1111.Job, step: int) -> None:
        if step == 0:
            objects = p.sd_model.forge_objects
            objects.unet = spectrum.patch(objects.unet, len(TIMES), **SPECTRUM)

    host.on_step = add
    alone = neo(job)
    drawn = host.process_images(host.script(), alone, False)
    by_spectrum = list(calls)
    assert len(by_spectrum) < len(TIMES)
    both = neo(job)
    calls.clear()
    picture = host.process_images(host.script(), both, *args_of(threshold=1.0, speedup=2.0))
    assert torch.equal(picture, drawn) and calls == by_spectrum
    assert "Spectrum" in both.extra_generation_params[REFUSED] and CALLS_RUN not in both.extra_generation_params
    merging = neo(job)
    calls.clear()
    picture = host.process_images(host.script(), merging, *args_of(threshold=0.0, speedup=2.0))
    assert not torch.equal(picture, drawn) and calls == by_spectrum and MERGED in merging.extra_generation_params
