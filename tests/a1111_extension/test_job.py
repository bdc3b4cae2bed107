"""The A1111 and Forge script in jobs, driven by doubles of the host: on, off, hires and swaps, bad ends, jobs inside jobs."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import tiny
import torch
from doubles import a1111
from doubles.a1111_jobs import LAYERS, ON, dense, fresh, refused, runs

from skipstone.a1111_extension.infotext import MERGED
from skipstone.a1111_extension.table import BOTH, CUSTOM, FIRST, HIRES

pytest_plugins = ["doubles.a1111_fixtures"]


# -- loading --


def test_the_shim_shows_the_host_one_script_and_takes_no_generic_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("core", "nodes", "tests", "a1111_extension"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    host = a1111.install(monkeypatch)
    shown = [v for v in vars(host.module).values() if isinstance(v, type) and issubclass(v, a1111.Script)]
    assert [c.__name__ for c in shown] == ["SkipstoneScript"]
    assert shown[0].__module__ == "_skipstone_webui.a1111_extension.script"
    assert not hasattr(sys.modules["_skipstone_webui"], "comfy_entrypoint"), "the root __init__ was run"
    assert all(len(found) == 1 for found in host.callbacks.values())
    a1111.forget_shim()


def test_reload_ui_registers_again_and_leaves_nothing_of_the_old_code_on_the_model(
    host: a1111.Host, job: a1111.Job
) -> None:
    script = host.script()
    script.process_before_every_sampling(job, *ON, x=job.latent)
    hooks = ["._forward_hooks", "._forward_pre_hooks", "input_blocks.0._forward_pre_hooks"]
    assert list(a1111.traces(job.unet)) == hooks
    again = a1111.load_shim()
    assert list(a1111.traces(job.unet)) == []
    assert again.SkipstoneScript is not host.module.SkipstoneScript
    assert [len(found) for found in host.callbacks.values()] == [2] * len(host.callbacks)


# -- a job --


def test_disabled_is_as_never_installed(host: a1111.Host, job: a1111.Job) -> None:
    script, seen = host.script(), []
    host.on_step = lambda job, step: seen.extend(a1111.traces(job.unet))
    x = host.process_images(script, job, False, 0.0)
    assert torch.equal(x, dense(host, job))
    assert seen == [] and runs(host) == [] and job.extra_generation_params == {} and job.comments == {}


def test_a_neutral_threshold_touches_nothing(host: a1111.Host, job: a1111.Job) -> None:
    seen: list[str] = []
    host.on_step = lambda job, step: seen.extend(a1111.traces(job.unet))
    x = host.process_images(host.script(), job, True, 1.0)
    assert torch.equal(x, dense(host, job))
    assert seen == [] and runs(host) == []


@pytest.mark.parametrize("forge", [False, True], ids=["a1111", "forge"])
def test_off_on_off_equals_off(host: a1111.Host, job: a1111.Job, forge: bool) -> None:
    script = host.script()
    job = fresh(job, forge=forge)
    off = host.process_images(script, job, False)
    on = host.process_images(script, fresh(job), *ON)
    assert not torch.equal(on, off)
    assert torch.equal(host.process_images(script, fresh(job), False), off)
    (run,) = runs(host)
    assert run.report.calls == 5 and run.report.served == LAYERS and run.report.merged_share > 0.5
    assert run.title == "one pass, 128 x 128"


def test_the_picture_tells_what_was_merged(host: a1111.Host, job: a1111.Job) -> None:
    host.process_images(host.script(), job, *ON)
    share = runs(host)[0].report.merged_share
    assert job.extra_generation_params == {
        "Skipstone threshold": "0",
        "Skipstone checkpoints": "config_3",
        MERGED: f"{share:.0%}",
    }


@pytest.mark.parametrize(
    ("passes", "titles", "forge"),
    [(BOTH, 2, True), (FIRST, 1, False), (HIRES, 1, True), (HIRES, 1, False)],
)
def test_the_hires_switch_chooses_the_passes(
    host: a1111.Host, job: a1111.Job, passes: str, titles: int, forge: bool
) -> None:
    job = fresh(job, enable_hr=True, forge=forge)
    x = host.process_images(host.script(), job, *ON, "config_3", "", passes)
    found = [run.title for run in reversed(runs(host))]
    expected = {FIRST: ["first pass, 128 x 128"], HIRES: ["hires pass, 256 x 256"]}
    assert found == expected.get(passes, expected[FIRST] + expected[HIRES])
    assert all(run.report.calls == 5 for run in runs(host))
    assert len(job.extra_generation_params[MERGED].split(" / ")) == titles
    assert all(run.report.merged_share > 0.1 for run in runs(host)) and x.isfinite().all()


def test_a_hires_switch_without_a_hires_pass_is_told(host: a1111.Host, job: a1111.Job) -> None:
    x = host.process_images(host.script(), job, *ON, "config_3", "", HIRES)
    assert torch.equal(x, dense(host, job))
    (text,) = refused(job)
    assert "no hires pass" in text


def test_how_the_rows_are_batched_changes_nothing(host: a1111.Host, job: a1111.Job) -> None:
    args = (*ON, "every")
    x = host.process_images(host.script(), job, *args)
    host.calls = a1111.split
    y = host.process_images(host.script(), fresh(job), *args)
    forge = host.process_images(host.script(), fresh(job, forge=True), *args)
    assert torch.allclose(x, y, atol=1e-5) and torch.allclose(x, forge, atol=1e-5)
    assert [r.report.calls for r in runs(host)] == [5, 5, 5]


def test_unconds_dropped_in_mid_run_leave_the_conds_their_pairs(host: a1111.Host, job: a1111.Job) -> None:
    host.calls = lambda step, conds: [2 * conds] if step < 2 else [conds]
    args = (True, 0.3, CUSTOM, "0")
    x = host.process_images(host.script(), job, *args)
    y = host.process_images(host.script(), fresh(job, forge=True), *args)
    assert torch.allclose(x, y, atol=1e-5), "in Forge, where unconds come first, other rows' pairs were reused"
    for run in runs(host):
        assert {layer.searched for layer in run.report.layers.values()} == {1}
        assert {layer.reused for layer in run.report.layers.values()} == {4}


def test_each_job_starts_with_a_search_of_its_own(host: a1111.Host, job: a1111.Job) -> None:
    script = host.script()
    first = host.process_images(script, job, *ON, CUSTOM, "0")
    other = fresh(job, latent=tiny.noise(*job.latent.shape, seed=9))
    host.process_images(script, other, *ON, CUSTOM, "0")
    assert torch.equal(host.process_images(script, fresh(job), *ON, CUSTOM, "0"), first)


# -- jobs that end badly, and jobs inside jobs --


def test_an_exception_in_the_unet_leaves_the_next_disabled_job_exact(host: a1111.Host, job: a1111.Job) -> None:
    script, handles = host.script(), []

    def fail(job: a1111.Job, step: int) -> None:
        if step == 2:
            module = job.unet.middle_block
            handles.append(
                module.register_forward_pre_hook(lambda *a: (_ for _ in ()).throw(RuntimeError("no memory")))
            )

    host.on_step = fail
    with pytest.raises(RuntimeError, match="no memory"):
        host.process_images(script, job, *ON)
    handles[0].remove()
    host.on_step = lambda job, step: None
    assert not any(trace.endswith("forward") for trace in a1111.traces(job.unet)), "leaf overrides outlived the call"
    assert list(a1111.traces(job.unet)), "the host never told that the job ended"
    script.before_process(fresh(job), False)
    assert list(a1111.traces(job.unet)) == []
    x = host.process_images(script, fresh(job), False)
    assert torch.equal(x, dense(host, job))
    assert list(a1111.traces(job.unet)) == []


def test_an_interrupt_frees_the_model_and_keeps_the_report(host: a1111.Host, job: a1111.Job) -> None:
    def interrupt(job: a1111.Job, step: int) -> None:
        if step == 3:
            raise a1111.Interrupted

    host.on_step = interrupt
    host.process_images(host.script(), job, *ON)
    assert runs(host)[0].report.calls == 3


def test_the_model_is_free_before_the_vae_runs(host: a1111.Host, job: a1111.Job) -> None:
    script = host.script()
    script.process_before_every_sampling(job, *ON, x=job.latent)
    host._sample(job, job.latent)
    script.post_sample(job, SimpleNamespace(samples=job.latent), *ON)
    assert list(a1111.traces(job.unet)) == []
    assert MERGED in job.extra_generation_params


def test_a_job_inside_a_job_runs_plain_and_the_outer_one_goes_on(host: a1111.Host, job: a1111.Job) -> None:
    seen = []

    def nested(job: a1111.Job, step: int) -> None:
        if step == 2 and job is outer:
            inner = fresh(job, latent=2 * job.latent)
            seen.append((host._sample(inner, inner.latent), dense(host, inner)))

    outer = job
    alone = host.process_images(host.script(), fresh(job), *ON)
    host.on_step = nested
    x = host.process_images(host.script(), outer, *ON)
    assert torch.equal(*seen[0])
    assert torch.equal(x, alone)
    assert runs(host)[0].report.calls == 5


def test_a_nested_job_with_the_panel_on_serves_itself(host: a1111.Host, job: a1111.Job) -> None:
    script, args = host.script(), (*ON, "every")
    script.before_process(job, *args)
    script.process(job, *args)
    host._begin(script, job, args, job.latent)
    host._sample(job, job.latent)
    nested = host.process_images(script, fresh(job), *args)
    host._begin(script, job, args, job.latent)
    assert torch.equal(host._sample(job, job.latent), nested)
    script.postprocess(job, None, *args)
    assert [run.report.calls for run in runs(host)] == [5, 5, 5]


# -- model swaps --


def test_a_refiner_of_another_object_is_served_and_the_first_one_let_go(
    host: a1111.Host, job: a1111.Job, models: tuple[tiny.Case, tiny.Case]
) -> None:
    def swap(job: a1111.Job, step: int) -> None:
        if step == 3:
            job.sd_model.model.diffusion_model = models[1].model

    host.on_step = swap
    host.process_images(host.script(), job, *ON)
    assert [(run.title, run.report.calls) for run in reversed(runs(host))] == [
        ("one pass, 128 x 128", 3),
        ("one pass, 128 x 128, after a model switch", 2),
    ]
    assert all(run.report.served == LAYERS for run in runs(host))


@pytest.mark.parametrize("how", ["another checkpoint", "loaded again"])
def test_new_weights_in_the_same_modules_start_afresh(host: a1111.Host, job: a1111.Job, how: str) -> None:
    def swap(job: a1111.Job, step: int) -> None:
        if step == 3 and how == "another checkpoint":
            job.sd_model.sd_checkpoint_info.filename = "second.safetensors"
        elif step == 3:
            host.fire("on_model_loaded", job.sd_model)

    host.on_step = swap
    host.process_images(host.script(), job, *ON, CUSTOM, "0")
    assert [run.report.calls for run in reversed(runs(host))] == [3, 2]
    assert all({layer.searched for layer in run.report.layers.values()} == {1} for run in runs(host))
