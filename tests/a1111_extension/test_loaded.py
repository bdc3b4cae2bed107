"""The panel offers what the loaded model can use, and its live line speaks of that model at the size of the picture."""

from __future__ import annotations

from typing import Any

import pytest
from doubles import a1111
from doubles.a1111_flux import flux
from doubles.a1111_jobs import fresh
from doubles.a1111_page import Page

from skipstone.a1111_extension.outlook import AMBER
from skipstone.a1111_extension.planned import Planned
from skipstone.a1111_extension.table import LEVEL_CHOICES
from skipstone.a1111_extension.view import OFFERS

pytest_plugins = ["doubles.a1111_fixtures"]

ALL = [offer.name for offer in OFFERS]


def load(host: a1111.Host, job: a1111.Job) -> None:
    """The host has loaded this job's model."""
    host.models.model_data.sd_model = job.sd_model


def replaced(host: a1111.Host) -> None:
    """A TensorRT engine stands in for the U-Net."""
    host.sd_unet.current_unet = object()


def look(page: Page) -> None:
    """What the page's script does once the host's settings changed."""
    page.panel.look.act("click")


def choices(page: Page, name: str) -> list[str]:
    """What a group of buttons offers."""
    return list(page.panel.methods.choices if name == "methods" else page.made[name].choices)


def test_a_u_net_can_use_everything(page: Page, job: a1111.Job) -> None:
    load(page.host, job)
    page.set("enabled", True)
    assert page["level"] == "Balanced"
    assert (choices(page, "methods"), choices(page, "level")) == (ALL, list(LEVEL_CHOICES))


def test_before_a_model_is_loaded_everything_is_offered(on: Page) -> None:
    assert (choices(on, "methods"), choices(on, "level")) == (ALL, list(LEVEL_CHOICES)) and AMBER[:12] not in on.told


def test_presets_that_the_model_cannot_use_are_withheld(page: Page, job: a1111.Job) -> None:
    load(page.host, job)
    replaced(page.host)
    page.set("enabled", True)
    assert (page["level"], choices(page, "level"), choices(page, "hires_pass")) == (
        "Custom",
        ["Custom"],
        ["off", "as preset"],
    )
    assert choices(page, "methods") == ["Merge", "Recipe"], "what is in use stays in sight"
    assert page.told.startswith(AMBER[:20]) and "merges no tokens: an SD Unet such as TensorRT" in page.told


def test_a_preset_in_use_stays_in_sight_with_the_reason_when_the_model_changes(on: Page, job: a1111.Job) -> None:
    load(on.host, job)
    replaced(on.host)
    look(on)
    assert (on["level"], choices(on, "level")) == ("Balanced", ["Balanced", "Custom"])
    assert "Skipstone skips no steps: an SD Unet" in on.told and "The model runs" not in on.told
    on.host.sd_unet.current_unet = None
    look(on)
    assert choices(on, "level") == list(LEVEL_CHOICES) and "at 11 of 20 steps" in on.told


def test_a_transformer_is_offered_calls_and_blocks(page: Page, job: a1111.Job) -> None:
    load(page.host, fresh(job, unet=flux().model, forge=True))
    page.set("enabled", True)
    assert choices(page, "level") == list(LEVEL_CHOICES) and "at 11 of 20 steps" in page.told
    page.set("level", "Custom")
    page.choose("Blocks")
    assert choices(page, "methods") == ["Auto", "Calls", "Blocks", "Mask", "Recipe"]
    page.paste({"Skipstone threshold": "0.5", "Skipstone speedup": "2"})
    assert "at 10 of 20 steps" in page.told and "merges no tokens: " in page.told
    assert choices(page, "methods") == ["Auto", "Calls", "Merge", "Blocks", "Mask", "Recipe"]


def test_what_forge_will_load_with_the_next_picture_is_not_known_yet(on: Page, job: a1111.Job) -> None:
    data = on.host.models.model_data
    load(on.host, job)
    replaced(on.host)
    data.forge_loading_parameters, data.forge_hash = {"checkpoint_info": "other"}, "{}"
    look(on)
    assert choices(on, "level") == list(LEVEL_CHOICES)
    data.forge_hash = str(data.forge_loading_parameters)
    look(on)
    assert choices(on, "level") == ["Balanced", "Custom"]


def test_a_picture_shows_what_merging_can_save_at_its_size(page: Page, job: a1111.Job) -> None:
    load(page.host, job)
    page.set("enabled", True)
    page.set("level", "Custom")
    assert page.told == "Skipstone merges tokens: what it saves is shown after a picture."
    page.set(page.script.width, job.width, "change")
    page.set(page.script.height, job.height, "change")
    page.set("threshold", 0.0)
    page.generate(job)
    share = page.host.module._script.OUTCOMES["txt2img"].shares["one pass, 128 x 128"]
    assert 0.01 < share < 1
    assert page.told == (
        f"Skipstone merges tokens in layers that do {round(100 * share)}% of the work at 128 x 128: "
        f"at most {1 / (1 - share):.1f}x faster by that."
    )
    page.set(page.script.width, 256, "change")
    assert page.told == "Skipstone merges tokens: what it saves is shown after a picture."


@pytest.mark.parametrize(
    ("options", "hires", "reason"),
    [
        ({"hypertile_enable_unet": True}, False, "Hypertile splits"),
        ({"hypertile_enable_unet_secondpass": True}, True, "Hypertile splits"),
        ({"token_merging_ratio": 0.5}, False, "token merging is on"),
        ({"token_merging_ratio_hr": 0.5}, True, "token merging is on"),
    ],
    ids=str,
)
def test_what_else_patches_the_attention_is_said_before_the_picture(
    page: Page, job: a1111.Job, options: dict[str, Any], hires: bool, reason: str
) -> None:
    load(page.host, job)
    vars(page.host.opts).update(options)
    page.set("enabled", True)
    page.set("level", "Custom")
    page.set(page.script.hires, True, "change")
    first, second = page.told.split("Hires pass: ")
    assert reason in (second if hires else first) and (not hires or reason not in first)


@pytest.mark.parametrize(
    ("resize", "size"),
    [
        ({"hr_scale": 1.5}, "768 x 1152"),
        ({"hr_resize_x": 1024}, "1024 x 1536"),
        ({"hr_resize_y": 1024}, "680 x 1024"),
        ({"hr_resize_x": 1024, "hr_resize_y": 1024}, "1024 x 1024"),
        ({"hr_resize_x": 600, "hr_resize_y": 1204}, "600 x 1200"),
    ],
    ids=str,
)
def test_the_hires_pass_has_the_size_that_the_host_computes(resize: dict[str, int], size: str) -> None:
    """As `calculate_target_resolution` of the host, in whole places of the latent."""
    shown = {"steps": 20, "width": 512, "height": 768, "hr-checkbox": True, "hr_scale": 2, **resize}
    planned = Planned.of(shown, img2img=False)
    assert planned.first.size == "512 x 768" and planned.hires is not None and planned.hires.size == size
