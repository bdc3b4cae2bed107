"""The nodes that make, keep and draw masks, driven by doubles of the host: rules, files, pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from comfy_models import SKIP, Lumina2, Unknown, full_disk, made, network, nodes, patch, patcher, said, sample, server
from doubles import comfy

from skipstone.core.errors import RecipeError
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask

__all__ = ["network", "patcher", "server"]

ROOT = Path(__file__).resolve().parents[2]


def saved(patcher: comfy.ModelPatcher, tmp_path: Path, name: str = "own.safetensors", **changes: Any) -> Mask:
    """A mask file in models/skipstone_masks."""
    mask = replace(made(patcher), **changes)
    (tmp_path / "models/skipstone_masks").mkdir(parents=True, exist_ok=True)
    mask.save(tmp_path / "models/skipstone_masks" / name)
    return mask


# the rule node


def rules() -> Any:
    from skipstone.nodes import mask_rule

    return mask_rule


def rule_schema() -> comfy.Schema:
    return rules().SkipstoneMaskRule.define_schema()


def test_left_alone_the_widgets_are_deepcache(server: comfy.PromptServer) -> None:
    defaults = {i.id: i.default for i in rule_schema().inputs}
    assert rules().build_rule(**defaults) == BlockSkip(rule="deepcache", every=3) == rules().build_rule()


def test_each_widget_reaches_its_setting(server: comfy.PromptServer) -> None:
    want: dict[str, Any] = {
        "every": 4,
        "branch": 2,
        "mode": "quad",
        "last_full": True,
        "caching": "output",
        "split": True,
    }
    built = rules().build_rule(rule="depths", depths="12 1,0;3", start_percent=0.1, end_percent=0.9, **want)
    assert built == BlockSkip(rule="depths", depths=(12, 1, 0, 3), start=0.1, end=0.9, **want)
    assert {*want, "rule", "depths", "start_percent", "end_percent"} == {i.id for i in rule_schema().inputs}


def test_every_choice_of_every_list_builds_a_rule(server: comfy.PromptServer) -> None:
    for widget in rule_schema().inputs:
        for choice in getattr(widget, "options", []):
            built = rules().build_rule(**{"depths": "12, 1", widget.id: choice})
            assert getattr(built, widget.id) == choice


WRONG = [
    {"rule": "depths", "depths": "deep"},
    {"rule": "depths", "depths": ""},
    {"rule": "depths", "depths": "9" * 30},
    {"start_percent": 0.8, "end_percent": 0.2},
]


@pytest.mark.parametrize("wrong", WRONG, ids=["word", "empty", "endless", "window"])
def test_a_wrong_setting_hands_no_mask_on(server: comfy.PromptServer, wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError) as error:
        rules().build_rule(**wrong)
    assert rules().SkipstoneMaskRule.run("4", **wrong) is None
    assert said(server, "4") == f"{error.value}; sampling runs unaccelerated" and len(str(error.value)) < 140


# files


def test_the_loader_lists_masks_alone_and_says_where_they_go(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    def options() -> list[str]:
        return nodes().SkipstoneMaskLoader.define_schema().inputs[0].options

    assert options() == ["(no mask yet: put one into models/skipstone_masks)"]
    saved(patcher, tmp_path)
    (tmp_path / "models/skipstone_masks/notes.txt").write_text("no mask")
    assert options() == ["own.safetensors"]


def test_a_loaded_mask_does_what_it_says(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    saved(patcher, tmp_path)
    mask = nodes().SkipstoneMaskLoader.run("4", file="own.safetensors")
    assert said(server, "4").startswith("ldm U-Net, 10 steps x ")
    model = nodes().SkipstoneBlockMask.run("5", model=patcher, mask=mask)
    assert torch.equal(sample(model), sample(patch(patcher, SKIP)))


def test_a_changed_file_is_read_again(patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path) -> None:
    import os

    saved(patcher, tmp_path)
    before = nodes().SkipstoneMaskLoader.fingerprint_inputs("own.safetensors")
    os.utime(tmp_path / "models/skipstone_masks/own.safetensors", (1, 1))
    assert before != nodes().SkipstoneMaskLoader.fingerprint_inputs("own.safetensors") == 1.0
    assert nodes().SkipstoneMaskLoader.fingerprint_inputs("gone.safetensors") == 0.0


def _with_header(path: Path, text: str) -> None:
    from safetensors.torch import save_file

    save_file({"run": torch.ones(1, 1, dtype=torch.uint8)}, str(path), metadata={"mask": text})


HOSTILE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "text": lambda path: path.write_text("not a mask"),
    "empty": lambda path: path.write_bytes(b""),
    "huge header": lambda path: path.write_bytes((2**62).to_bytes(8, "little") + b"{}"),
    "nested": lambda path: _with_header(path, "[" * 100_000),
    "list": lambda path: _with_header(path, "[1]"),
    "no blocks": lambda path: _with_header(path, json.dumps({"skipstone_mask": 1, "family": "Flux"})),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path, attack: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    saved(patcher, tmp_path)
    HOSTILE[attack](tmp_path / "models/skipstone_masks/own.safetensors")
    assert nodes().SkipstoneMaskLoader.run("4", file="own.safetensors") is None
    (record,) = caplog.records
    assert record.getMessage().endswith("; sampling runs unaccelerated") and "\n" not in record.getMessage()


@pytest.mark.parametrize("name", ["gone.safetensors", "../../secret.safetensors", "(no mask yet: put one there)"])
def test_a_file_elsewhere_is_not_found(server: comfy.PromptServer, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.safetensors").write_text("")
    assert nodes().SkipstoneMaskLoader.run("4", file=name) is None
    assert said(server, "4").startswith("there is no mask")


def test_saved_masks_are_listed_and_numbered(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    for _ in range(2):
        nodes().SkipstoneMaskSaver.run("6", model=patcher, mask=SKIP, steps=7, filename_prefix="deep")
    names = nodes().SkipstoneMaskLoader.define_schema().inputs[0].options
    assert names == ["deep_00001_.safetensors", "deep_00002_.safetensors"]
    assert said(server, "6").startswith("deep_00002_.safetensors: ldm U-Net, 7 steps x ")
    mask = Mask.load(tmp_path / "output/skipstone_masks" / names[0])
    assert np.array_equal(mask.run, made(patcher, 7).run) and mask.provenance["rule"] == "deepcache"


def test_a_loaded_mask_is_saved_for_other_steps(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    given = BlockSkip(mask=made(patcher))
    nodes().SkipstoneMaskSaver.run("6", model=patcher, mask=given, steps=30, filename_prefix="mask")
    assert "30 steps" in said(server, "6")


def test_nothing_is_saved_outside_the_folder_or_without_a_mask(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    saver = nodes().SkipstoneMaskSaver
    saver.run("6", model=patcher, mask=SKIP, steps=7, filename_prefix="../../elsewhere")
    assert "leads out of output/skipstone_masks" in said(server, "6")
    saver.run("6", model=patcher, mask=None, steps=7, filename_prefix="mask")
    assert said(server, "6") == "no mask came in: see the node before; nothing was saved"
    saver.run("6", model=comfy.ModelPatcher(Lumina2(Unknown())), mask=SKIP, steps=7, filename_prefix="mask")
    assert "Lumina2 is not supported" in said(server, "6")
    assert not list(tmp_path.rglob("*.safetensors"))


# the picture


def test_the_preview_draws_each_step_and_block(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    from skipstone.core.plan.heatmap import COLOURS
    from skipstone.core.plan.liveness import State
    from skipstone.core.plan.mask_states import states_of
    from skipstone.nodes.masks import mask_of

    image = nodes().SkipstoneMaskPreview.run("8", model=patcher, mask=SKIP, steps=9)
    assert image.dtype == torch.float32 and image.ndim == 4 and image.shape[::3] == (1, 3)
    assert 0.0 <= image.min() < image.max() <= 1.0
    mask, graph = mask_of(patcher, SKIP, 9)
    states = states_of(mask, graph)
    assert states.shape == (9, len(mask.blocks)) and len(mask.blocks) < len(graph), "samplers have no row"
    pixels = (image[0] * 255).round().int()
    cells = {s: int((pixels == torch.tensor(COLOURS[s])).all(-1).sum()) for s in State}
    assert {s: int((states == s).sum()) for s in State}[State.DEAD] > 0
    for s in State:
        assert cells[s] == pytest.approx(int((states == s).sum()) * 12 * 12 + 13 * 13, rel=0.2)


def test_what_cannot_be_drawn_is_written(patcher: comfy.ModelPatcher, server: comfy.PromptServer) -> None:
    model = comfy.ModelPatcher(Lumina2(Unknown()))
    for given, mask, words in ((model, SKIP, "Lumina2 is not supported"), (patcher, None, "no mask came in")):
        image = nodes().SkipstoneMaskPreview.run("8", model=given, mask=mask, steps=9)
        assert image.shape[::3] == (1, 3) and words in said(server, "8")


@pytest.mark.parametrize("forecast", [False, True])
def test_a_saved_mask_loads_as_the_very_same_mask(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path, forecast: bool
) -> None:
    """Also one that was made for other noise levels than evenly spaced ones, with what was learned."""
    own = tuple(float(t) for t in np.linspace(30.5, 0.5, 10) ** 2)
    learned = np.linspace(0, 1, made(patcher).run.size).reshape(made(patcher).run.shape).astype(np.float32)
    mask = saved(patcher, tmp_path, timesteps=own, probabilities=learned, forecast=forecast, provenance={"by": "hand"})
    loaded = nodes().SkipstoneMaskLoader.run("1", file="own.safetensors")
    nodes().SkipstoneMaskSaver.run("2", model=patcher, mask=loaded, steps=10, filename_prefix="again")
    again = Mask.load(tmp_path / "output/skipstone_masks/again_00001_.safetensors")
    assert again.timesteps == mask.timesteps and again.forecast is forecast and again.provenance == {"by": "hand"}
    np.testing.assert_array_equal(again.run, mask.run)
    np.testing.assert_array_equal(again.probabilities, mask.probabilities)
    first, second = (sample(patch(patcher, BlockSkip(mask=one))) for one in (mask, again))
    assert torch.equal(first, second)
    assert torch.equal(first, sample(patch(patcher, BlockSkip(mask=replace(mask, forecast=False))))) is not forecast


def test_a_forecast_that_is_set_beside_a_rule_is_saved_with_it(patcher: comfy.ModelPatcher) -> None:
    settings = replace(SKIP, forecast=True)
    assert made(patcher, settings=settings).forecast and not made(patcher).forecast
    assert torch.equal(
        sample(patch(patcher, BlockSkip(mask=made(patcher, settings=settings)))), sample(patch(patcher, settings))
    )


def test_a_folder_that_cannot_be_written_is_told_and_nothing_breaks(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path
) -> None:
    """A file stands where the folder should be: true for every user, root too."""
    (tmp_path / "output").mkdir(exist_ok=True)
    (tmp_path / "output/skipstone_masks").write_text("in the way")
    nodes().SkipstoneMaskSaver.run("3", model=patcher, mask=SKIP, steps=10, filename_prefix="mask")
    assert "cannot" in said(server, "3") and said(server, "3").endswith("nothing was saved")


def test_a_full_disk_is_told_and_leaves_no_file(
    patcher: comfy.ModelPatcher, server: comfy.PromptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    nodes().SkipstoneMaskSaver.run("3", model=patcher, mask=SKIP, steps=10, filename_prefix="mask")
    assert "No space left on device" in said(server, "3") and said(server, "3").endswith("nothing was saved")
    assert not [f for f in (tmp_path / "output").rglob("*") if f.is_file()]
