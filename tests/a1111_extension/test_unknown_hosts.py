"""A web UI that is broken or unlike those known: the panel is off with one line. Forge Neo's Spectrum skips calls itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doubles import a1111
from doubles.a1111_jobs import ON, args_of, dense, fresh, refused

from skipstone.a1111_extension.infotext import BLOCKS_RUN, CALLS_RUN, MERGED, REFUSED

pytest_plugins = ["doubles.a1111_fixtures"]

TIMES = tuple(999.0 - 90.5 * k for k in range(12))
TWICE: dict[str, Any] = {"threshold": 1.0, "speedup": 2.0}


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().out.splitlines()
    assert len(line) < 300
    return line


@pytest.mark.parametrize(
    ("module", "missing", "says"),
    [
        ("script_callbacks", "on_cfg_denoiser", "has no attribute 'on_cfg_denoiser'"),
        ("ui_components", "InputAccordion", "cannot import name 'InputAccordion'"),
        ("scripts", "Script", "has no attribute 'Script'"),
    ],
)
def test_a_web_ui_without_what_the_script_needs_has_one_line_and_no_script(
    host: a1111.Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str, missing: str,
    says: str,
) -> None:  # fmt: skip
    monkeypatch.delattr(sys.modules[f"modules.{module}"], missing)
    loaded = a1111.load_shim()
    line = one_line(capsys)
    assert line.startswith("Skipstone is off, because it does not know this web UI: ") and says in line
    assert not hasattr(loaded, "SkipstoneScript")


def test_a_page_that_cannot_be_built_leaves_pictures_as_they_are(
    host: a1111.Host, job: a1111.Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise TypeError("got an unexpected\nkeyword argument 'info'")

    monkeypatch.setattr(sys.modules["gradio"], "Slider", fail)
    script = host.module.SkipstoneScript()
    assert script.ui(False) == []
    assert one_line(capsys) == (
        "Skipstone has no panel in this web UI, and is off: TypeError: got an unexpected keyword argument 'info'"
    )
    assert torch.equal(host.process_images(script, job), dense(host, job)) and job.extra_generation_params == {}
    host.fire("on_before_ui")


def test_a_model_kept_elsewhere_is_refused_in_one_line(
    host: a1111.Host, job: a1111.Job, capsys: pytest.CaptureFixture[str]
) -> None:
    script, before = host.script(), dense(host, job)
    held = job.sd_model.model
    job.sd_model.model = SimpleNamespace(network=held.diffusion_model)
    script.process(job, *ON)
    script.process_before_every_sampling(job, *ON, x=job.latent)
    script.postprocess(job, None, *ON)
    assert one_line(capsys).startswith(
        "Skipstone did nothing: this web UI keeps its model where Skipstone does not know it"
    )
    job.sd_model.model = held
    assert torch.equal(host.process_images(script, fresh(job), False), before)


def test_an_unexpected_error_before_a_pass_is_one_line_and_the_picture_unaccelerated(
    host: a1111.Host, job: a1111.Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise KeyError("sampler")

    monkeypatch.setattr(sys.modules["_skipstone_webui.a1111_extension.lifecycle"], "Schedule", fail)
    assert torch.equal(host.process_images(host.script(), job, *ON), dense(host, job))
    assert refused(job) == ["Skipstone did nothing: unexpected error, please report it: KeyError: 'sampler'"]


# -- Forge Neo's Spectrum --


def spectrum(*args: Any) -> None:
    """Its wrapper around the model is known by its name."""


spectrum.__qualname__ = "SpectrumNode.patch.<locals>.spectrum_unet_wrapper"


@pytest.fixture
def neo(job: a1111.Job) -> a1111.Job:
    """A picture of twelve steps in Forge."""
    return fresh(job, timesteps=TIMES, forge=True)


def add(job: a1111.Job, wrapper: Any = spectrum) -> None:
    job.sd_model.forge_objects.unet.model_options = {"model_function_wrapper": wrapper}


@pytest.mark.parametrize("when", ["before", "after"])
def test_calls_that_spectrum_skips_are_not_skipped_twice_whichever_script_comes_first(
    host: a1111.Host, neo: a1111.Job, when: str
) -> None:
    if when == "before":
        add(neo)
    else:
        host.on_step = lambda job, step: add(job) if step == 0 else None
    assert torch.equal(host.process_images(host.script(), neo, *args_of(**TWICE)), dense(host, neo))
    assert neo.extra_generation_params[REFUSED] == (
        "did nothing: the web UI's own Spectrum skips calls already: turn one of the two off"
    )
    assert CALLS_RUN not in neo.extra_generation_params


def test_methods_inside_a_call_run_beside_spectrum(host: a1111.Host, neo: a1111.Job) -> None:
    host.on_step = lambda job, step: add(job) if step == 0 else None
    host.process_images(host.script(), neo, *args_of(threshold=0.0, rule="interval", every=3, speedup=2.0))
    told = neo.extra_generation_params
    assert MERGED in told and BLOCKS_RUN in told and CALLS_RUN not in told
    assert told[REFUSED].startswith("skipped no calls: the web UI's own Spectrum")


def test_another_extensions_wrapper_hinders_nothing(host: a1111.Host, neo: a1111.Job) -> None:
    add(neo, one_line)
    host.process_images(host.script(), neo, *args_of(**TWICE))
    assert neo.extra_generation_params[CALLS_RUN] == "50%" and REFUSED not in neo.extra_generation_params
