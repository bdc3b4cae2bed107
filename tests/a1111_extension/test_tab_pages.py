"""The tab's other pages: both ways between tab and panel, Compare, files, the mask's drawing, profiles."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from doubles import a1111
from doubles.a1111_jobs import fresh
from PIL import Image

from skipstone.a1111_extension.table import TABLE
from skipstone.core.forecast.profile import HeldOut, Profile
from skipstone.core.forecast.space import Noise
from skipstone.core.models import recognise
from skipstone.core.plan.mask_states import mask_for
from skipstone.core.recipe.auto import Auto
from skipstone.core.recipe.block_skip import BlockSkip
from skipstone.core.recipe.mask import Mask
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

pytest_plugins = ["doubles.a1111_fixtures"]


class Tab(dict[str, a1111.Component]):
    """The tab's components by element id, and the panels that it was built with."""

    panels: dict[str, Any]


@pytest.fixture
def tab(host: a1111.Host, job: a1111.Job) -> Tab:
    """The tab's components, and the panel's under their own names; a model is loaded."""
    for img2img in (False, True):
        host.script(img2img)
    host.fire("on_ui_tabs")
    host.models.model_data.sd_model = job.sd_model
    found = Tab(host.made)
    found.panels = dict(host.module._script.PANELS)
    return found


def panel(tab: Tab, name: str, tabname: str = "txt2img") -> a1111.Component:
    """The component of a panel's field."""
    at = [entry.name for entry in TABLE].index(name)
    return tab.panels[tabname].components[at]


def models(host: a1111.Host, kind: str) -> Path:
    folder = Path(sys.modules["modules.paths_internal"].models_path) / f"skipstone_{kind}s"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# -- both ways --


def test_what_is_set_in_the_tab_is_in_the_panel_at_once(tab: Tab) -> None:
    tab["skipstone_tab_threshold"].set(0.55)
    assert (panel(tab, "threshold").value, panel(tab, "level").value) == (0.55, "Custom")
    assert panel(tab, "enabled").value is False, "settings alone switch nothing on"
    assert panel(tab, "threshold", "img2img").value == 0.7


def test_what_is_set_in_the_panel_is_in_the_tab_when_it_is_opened(tab: Tab) -> None:
    for name, value in (("level", "Custom"), ("threshold", 0.6), ("rule", "deepcache"), ("every", 5)):
        panel(tab, name).value = value
    tab["skipstone_refresh"].act("click")
    assert tab["skipstone_tab_threshold"].value == 0.6 and tab["skipstone_tab_every"].value == 5
    assert Recipe.from_json(tab["skipstone_tab_recipe"].value).skip == BlockSkip(rule="deepcache", every=5)


def test_a_recipe_in_the_panels_box_is_shown_by_the_tabs_controls(tab: Tab) -> None:
    recipe = Recipe.of([BlockSkip(rule="deepcache", every=4, rectify="off")])
    panel(tab, "level").value, panel(tab, "recipe").value = "Custom", recipe.to_json()
    tab["skipstone_refresh"].act("click")
    assert (tab["skipstone_tab_rule"].value, tab["skipstone_tab_every"].value) == ("deepcache", 4)
    tab["skipstone_tab_every"].set(2)
    kept = Recipe.from_json(panel(tab, "recipe").value).skip
    assert kept == BlockSkip(rule="deepcache", every=2, rectify="off")


@pytest.mark.parametrize(
    ("name", "value", "level", "speedup"),
    [
        ("level", "Fast", "Fast", 2.5),
        ("speedup", 1.4, "Gentle", 1.4),
        ("guard", False, "Balanced", 1.8),
        ("threshold", 0.5, "Custom", 1.0),
        ("level", "Custom", "Custom", 1.0),
    ],
)
def test_a_preset_stays_while_only_its_own_settings_are_set(
    tab: Tab, name: str, value: Any, level: str, speedup: float
) -> None:
    tab["skipstone_tab_level"].set("Balanced")
    assert Recipe.from_json(tab["skipstone_tab_recipe"].value) == Recipe.of([Auto(speedup=1.8)])
    tab[f"skipstone_tab_{name}"].set(value)
    shown = [(tab[f"skipstone_tab_{one}"].value, panel(tab, one).value) for one in ("level", "speedup")]
    assert shown == [(level, level), (speedup, speedup)]
    assert panel(tab, name).value == value
    merge = Recipe.from_json(tab["skipstone_tab_recipe"].value).merge
    assert (merge.threshold if merge else None) == {"threshold": 0.5, "level": 0.7}.get(
        name if level == "Custom" else ""
    )


def test_a_refused_recipe_in_the_panel_leaves_the_tab_as_it_is(tab: Tab) -> None:
    before = tab["skipstone_tab_threshold"].value
    panel(tab, "level").value, panel(tab, "recipe").value = "Custom", "<b>"
    tab["skipstone_refresh"].act("click")
    assert "color" in tab["skipstone_tab_told"].value and "<b>" not in tab["skipstone_tab_told"].value
    assert tab["skipstone_tab_threshold"].value == before


# -- Compare --


def a_page(gradio: int) -> tuple[Any, list[Any]]:
    """A component inside a page of one of the gradio versions, and what its Generate button sends."""
    sent = [SimpleNamespace(_id=n, elem_id=f"c{n}", parent=None) for n in range(3)]
    button = SimpleNamespace(_id=7, elem_id="txt2img_generate")
    blocks = {one._id: one for one in (*sent, button)}
    other = {"targets": [7], "trigger": "click", "inputs": [2]}
    if gradio == 3:
        events = [other, {"targets": [7], "trigger": "click", "inputs": [0, 1, 2]}]
        root = SimpleNamespace(parent=None, blocks=blocks, fns=[], dependencies=events)
    else:
        events = [
            SimpleNamespace(targets=[(7, "click")], inputs=sent[2:]),
            SimpleNamespace(targets=[(7, "click")], inputs=sent),
        ]
        root = SimpleNamespace(parent=None, blocks=blocks, fns=dict(enumerate(events)))
    column = SimpleNamespace(parent=root)
    for one in sent:
        one.parent = column
    return sent[1], sent


def compare_module(host: a1111.Host) -> Any:
    return sys.modules["_skipstone_webui.a1111_extension.tab_compare"]


@pytest.mark.parametrize("gradio", [3, 4])
def test_compare_finds_what_the_generate_button_sends(host: a1111.Host, gradio: int) -> None:
    inside, sent = a_page(gradio)
    assert compare_module(host).generate_inputs(inside) == sent
    assert compare_module(host).generate_inputs(SimpleNamespace(parent=None)) == []


def test_without_the_generate_button_compare_says_so(tab: Tab) -> None:
    assert "Compare is off" in tab["skipstone_compared"].value and tab["skipstone_compare"].events["click"] == []


class Requests:
    """The host's functions that Compare calls; a picture is grey, and darker where Skipstone was on."""

    def __init__(self, host: a1111.Host, monkeypatch: pytest.MonkeyPatch, failing: str = "") -> None:
        self.made: list[Any] = []
        self.failing, self.errors = failing, []
        self.state = SimpleNamespace(begun=0, interrupted=False, skipped=False, begin=self._begin, end=lambda: None)
        self.state.interrupt = lambda: setattr(self.state, "interrupted", True)
        sys.modules["modules.shared"].state = self.state  # type: ignore[attr-defined]
        functions = {
            "txt2img": {"txt2img_create_processing": self.create},
            "processing": {"process_images": self.process, "fix_seed": lambda p: setattr(p, "seed", 42)},
            "call_queue": {"queue_lock": nullcontext()},
            "errors": {"report": lambda text, exc_info: self.errors.append(text)},
        }
        for name, content in functions.items():
            module = ModuleType(f"modules.{name}")
            module.__dict__.update(content)
            monkeypatch.setitem(sys.modules, f"modules.{name}", module)

    def _begin(self, job: str) -> None:
        self.state.begun += 1

    def create(self, task: str, request: Any, *values: Any) -> Any:
        p = SimpleNamespace(values=values, seed=-1, subseed=-1, steps=20, hr_second_pass_steps=0, close=lambda: None)
        self.made.append(p)
        return p

    def process(self, p: Any) -> Any:
        if self.failing and p.values[0]:
            raise RuntimeError(self.failing)
        return SimpleNamespace(images=[Image.new("RGB", (16, 16), (120, 120, 120 - 10 * p.values[0]))])


@pytest.fixture
def comparison(host: a1111.Host) -> Any:
    """A comparison in which the page sends a task, the switch, and the rest of the panel's values."""
    fields = sys.modules["_skipstone_webui.a1111_extension.table"].FIELDS
    return compare_module(host).Comparison(range(1, 1 + len(fields)))


VALUES = ("task(1)", *[0] * 80)


def test_compare_draws_the_same_seed_without_and_with_skipstone(
    host: a1111.Host, comparison: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Requests(host, monkeypatch)
    page = comparison(*VALUES)
    drawn = [(p.values[0], p.seed, p.steps) for p in sorted(requests.made, key=lambda p: (p.values[0], p.steps))]
    assert drawn == [(False, 42, 1), (False, 42, 20), (True, 42, 20)], "the first of one step warms up"
    assert all((p.batch_size, p.n_iter, p.do_not_save_samples) == (1, 1, True) for p in requests.made)
    assert re.search(r"PSNR 32\.9 dB, SSIM 0\.\d+", page) and page.count("<img ") == 4 and "skipstone-wipe" in page


def test_an_exception_of_the_host_is_one_escaped_line(
    host: a1111.Host, comparison: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Requests(host, monkeypatch, failing="<b>out of memory")
    page = comparison(*VALUES)
    assert "&lt;b&gt;out of memory" in page and "<b>" not in page and len(requests.errors) == 1


def test_an_interrupt_ends_the_comparison(host: a1111.Host, comparison: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Requests(host, monkeypatch)
    process = requests.process
    monkeypatch.setattr(
        sys.modules["modules.processing"], "process_images", lambda p: (comparison.interrupt(), process(p))[1]
    )
    assert "interrupted" in comparison(*VALUES)
    assert not requests.state.interrupted, "the next job is not interrupted too"


def test_a_comparison_is_not_the_panels_last_picture(host: a1111.Host, job: a1111.Job) -> None:
    script = host.script()
    apart = fresh(job)
    apart.skipstone_apart = True  # type: ignore[attr-defined]
    host.process_images(script, apart, True, 0.0)
    panel = host.module._script.PANELS["txt2img"]
    panel.ended.act("click")
    assert panel.last_run.value == "No picture yet."


# -- recipes and masks --


@pytest.fixture
def mask(host: a1111.Host, job: a1111.Job) -> Mask:
    """A mask of five steps for the tiny network, saved as "own.safetensors"."""
    found, _ = mask_for(job.unet, recognise(job.unet), BlockSkip(rule="interval", every=2), 5)
    found.save(models(host, "mask") / "own.safetensors")
    return found


def test_a_recipe_is_saved_listed_renamed_loaded_and_deleted(host: a1111.Host, tab: Tab) -> None:
    tab["skipstone_tab_threshold"].set(0.55)
    tab["skipstone_files_name"].value = "mine"
    tab["skipstone_files_save"].act("click")
    assert (
        tab["skipstone_files_chosen"].value == "recipe: mine.json" and "mine.json" in tab["skipstone_files_list"].value
    )
    tab["skipstone_files_name"].value = "ours"
    tab["skipstone_files_rename"].act("click")
    assert tab["skipstone_files_chosen"].value == "recipe: ours.json"
    assert [path.name for path in models(host, "recipe").iterdir()] == ["ours.json"]
    tab["skipstone_tab_threshold"].set(0.9)
    tab["skipstone_files_load"].act("click")
    assert (panel(tab, "threshold").value, panel(tab, "enabled").value) == (0.55, True)
    assert "fits the loaded model" in tab["skipstone_files_told"].value
    tab["skipstone_files_delete"].act("click")
    assert tab["skipstone_files_asks"].visible and (models(host, "recipe") / "ours.json").exists()
    tab["skipstone_files_keep"].act("click")
    assert not tab["skipstone_files_asks"].visible and (models(host, "recipe") / "ours.json").exists()
    tab["skipstone_files_delete"].act("click")
    tab["skipstone_files_really"].act("click")
    assert list(models(host, "recipe").iterdir()) == [] and not tab["skipstone_files_asks"].visible
    assert "There is no recipe or mask yet" in tab["skipstone_files_list"].value


def test_a_mask_is_listed_with_its_model_steps_and_saving_and_loads_as_a_rule(
    host: a1111.Host, tab: Tab, mask: Mask
) -> None:
    tab["skipstone_refresh"].act("click")
    cells = re.findall(r"<td>(.*?)</td>", tab["skipstone_files_list"].value)
    saving = f"{round(100 * (1 - mask.share))}% of the blocks"
    assert cells == ["mask", "own.safetensors", mask.family, "5", saving, "yes"]
    tab["skipstone_files_chosen"].set("mask: own.safetensors")
    assert "It fits the loaded model" in tab["skipstone_files_told"].value
    tab["skipstone_files_load"].act("click")
    assert (panel(tab, "rule").value, panel(tab, "mask").value) == ("mask", "own.safetensors")


def test_a_mask_of_another_network_does_not_fit(host: a1111.Host, tab: Tab) -> None:
    Mask(np.ones((2, 1), bool), "SD3", ("a",), (999.0, 0.0)).save(models(host, "mask") / "other.safetensors")
    Recipe.of([TokenMerge()]).save(models(host, "recipe") / "merge.json")
    tab["skipstone_refresh"].act("click")
    cells = re.findall(r"<td>(.*?)</td>", tab["skipstone_files_list"].value, re.DOTALL)
    assert (cells[1], cells[5], cells[7]) == ("merge.json", "yes", "other.safetensors")
    assert cells[11].startswith("no: the mask is for a SD3")
    tab["skipstone_files_chosen"].set("mask: other.safetensors")
    assert "does not fit the loaded model: the mask is for a SD3" in tab["skipstone_files_told"].value


def test_without_a_model_the_verdict_says_so(host: a1111.Host, tab: Tab, mask: Mask) -> None:
    host.models.model_data.sd_model = None
    tab["skipstone_refresh"].act("click")
    assert "<td>no model is loaded</td>" in tab["skipstone_files_list"].value
    tab["skipstone_files_chosen"].set("mask: own.safetensors")
    assert "no model is loaded yet" in tab["skipstone_files_told"].value


@pytest.mark.parametrize("name", ["", "  ", "../up", "a/b", ".hidden", "a\nb", "x" * 200, "<b>", "C:evil"])
@pytest.mark.parametrize("button", ["save", "rename"])
def test_only_plain_names_are_taken(host: a1111.Host, tab: Tab, button: str, name: str) -> None:
    Recipe.of([TokenMerge()]).save(models(host, "recipe") / "a.json")
    tab["skipstone_files_chosen"].set("recipe: a.json")
    tab["skipstone_files_name"].value = name
    tab[f"skipstone_files_{button}"].act("click")
    assert "cannot be a file" in tab["skipstone_files_told"].value and "<b>" not in tab["skipstone_files_told"].value
    assert [path.name for path in models(host, "recipe").rglob("*")] == ["a.json"]


def test_no_file_is_overwritten(host: a1111.Host, tab: Tab) -> None:
    Recipe.of([TokenMerge(threshold=0.3)]).save(models(host, "recipe") / "a.json")
    tab["skipstone_files_name"].value = "a"
    tab["skipstone_files_save"].act("click")
    assert "already" in tab["skipstone_files_told"].value
    assert Recipe.load(models(host, "recipe") / "a.json").merge == TokenMerge(threshold=0.3)


@pytest.mark.parametrize("button", ["load", "rename", "delete", "really"])
@pytest.mark.parametrize(
    "chosen", ["", "recipe: gone.json", "mask: ../../secret.safetensors", "profile: a.safetensors", "<b>"]
)
def test_what_is_not_in_the_folders_is_left_alone(host: a1111.Host, tab: Tab, button: str, chosen: str) -> None:
    secret = models(host, "mask").parent.parent / "secret.safetensors"
    secret.write_bytes(b"")
    tab["skipstone_files_name"].value = "b"
    tab["skipstone_files_chosen"].value = chosen
    tab[f"skipstone_files_{button}"].act("click")
    told = tab["skipstone_files_told"].value
    assert ("color" in told or (button == "delete" and "Delete the" in told)) and "<b>" not in told and secret.exists()


@pytest.mark.parametrize("gradio", [3, 4])
def test_uploads_are_recognised_by_their_content(
    host: a1111.Host, tab: Tab, mask: Mask, tmp_path: Path, gradio: int
) -> None:
    file = tmp_path / "own2.safetensors"
    mask.save(file)
    given = SimpleNamespace(name=str(file), orig_name="sent.safetensors") if gradio == 3 else str(file)
    tab["skipstone_files_upload"].set(given, event="upload")
    name = "sent.safetensors" if gradio == 3 else "own2.safetensors"
    assert tab["skipstone_files_chosen"].value == f"mask: {name}" and (models(host, "mask") / name).exists()
    file.write_text("<b>")
    tab["skipstone_files_upload"].set(str(file), event="upload")
    assert "is no recipe or mask" in tab["skipstone_files_told"].value
    assert sorted(path.name for path in models(host, "mask").iterdir()) == sorted(["own.safetensors", name])


def test_a_broken_file_is_one_row_of_the_list(host: a1111.Host, tab: Tab) -> None:
    (models(host, "recipe") / "bad.json").write_text('{"<b>": 1}')
    tab["skipstone_refresh"].act("click")
    shown = tab["skipstone_files_list"].value
    assert "bad.json" in shown and "not a Skipstone recipe" in shown and "<b>" not in shown


# -- the mask's drawing --


def drawn(tab: Tab) -> str:
    tab["skipstone_mask_draw"].act("click")
    return str(tab["skipstone_mask_drawing"].value)


def test_the_panels_rule_and_a_mask_file_are_drawn(host: a1111.Host, tab: Tab, mask: Mask) -> None:
    tab["skipstone_tab_rule"].set("interval")
    tab["skipstone_mask_steps"].value = 8
    assert re.search(r"alt='.*, 8 steps: \d+ of \d+ blocks run'", drawn(tab))
    tab["skipstone_mask"].value, tab["skipstone_mask_steps"].value = "own.safetensors", 5
    assert f"5 steps: {int(mask.run.sum())} of {mask.run.size} blocks run" in drawn(tab) or "5 steps: " in drawn(tab)


def test_settings_that_skip_no_blocks_have_no_drawing(tab: Tab) -> None:
    assert "these settings skip no blocks" in drawn(tab)
    tab["skipstone_mask"].value = "<b>.safetensors"
    assert "color" in drawn(tab) and "<b>" not in drawn(tab)


# -- profiles --


@pytest.fixture
def profile(host: a1111.Host) -> Profile:
    """One of another network, with two measured choices of steps, saved as "toy.safetensors"."""
    level = Noise(0.6, 0.8, "eps")
    plans = tuple(HeldOut((0, n), "eps", "line", (0.01, 0.02, 0.03), name="<b>") for n in (1, 2))
    found = Profile(np.eye(6), (900.0, 500.0, 10.0), (level,) * 3, "1 weights", plans=plans)
    found.save(models(host, "profile") / "toy.safetensors")
    return found


def test_record_sets_the_panel_for_the_next_picture(host: a1111.Host, tab: Tab) -> None:
    tab["skipstone_profiles_name"].value = "mine"
    tab["skipstone_profiles_record"].act("click")
    values = {name: panel(tab, name).value for name in ("enabled", "level", "speedup", "profile", "record")}
    assert values == {
        "enabled": True,
        "level": "Balanced",
        "speedup": 1.8,
        "profile": "mine.safetensors",
        "record": True,
    }
    tab["skipstone_profiles_name"].value = "../mine"
    tab["skipstone_profiles_record"].act("click")
    assert (
        "cannot be a file" in tab["skipstone_profiles_told"].value and panel(tab, "profile").value == "mine.safetensors"
    )


def test_a_recorded_profile_is_listed_shown_used_and_deleted(host: a1111.Host, tab: Tab, job: a1111.Job) -> None:
    tab["skipstone_profiles_name"].value = "mine"
    tab["skipstone_profiles_record"].act("click")
    long = fresh(job, timesteps=tuple(999.0 - 50 * n for n in range(20)))
    host.process_images(host.script(), long, *(one.value for one in tab.panels["txt2img"].components))
    tab["skipstone_refresh"].act("click")
    assert "mine.safetensors" in tab["skipstone_profiles_list"].value
    tab["skipstone_profiles_chosen"].set("profile: mine.safetensors")
    told = tab["skipstone_profiles_told"].value
    assert (
        "It fits the loaded model" in told
        and "20 steps, from timestep 999 to 49" in told
        and "promises no error" in told
    )
    tab["skipstone_profiles_use"].act("click")
    assert (panel(tab, "profile").value, panel(tab, "record").value) == ("mine.safetensors", False)
    tab["skipstone_profiles_delete"].act("click")
    tab["skipstone_profiles_really"].act("click")
    assert list(models(host, "profile").iterdir()) == []


def test_a_measured_profile_has_a_row_for_each_choice_of_steps(host: a1111.Host, tab: Tab, profile: Profile) -> None:
    tab["skipstone_profiles_chosen"].set("profile: toy.safetensors")
    told = tab["skipstone_profiles_told"].value
    assert "does not fit the loaded model: the profile is of another network" in told
    assert told.count("<tr>") == 3 and "<td>2 of 3</td><td>&lt;b&gt;</td><td>line on eps</td><td>0.020</td>" in told
