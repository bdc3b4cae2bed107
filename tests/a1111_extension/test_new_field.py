"""A setting that is added to a settings class is in the A1111 panel, tab, infotext, X/Y/Z plot and API by that one line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from doubles import a1111

from skipstone.a1111_extension.table import ORDER

LINES = {
    "token_merge": 'glow: float = setting(0.5, "How much it glows.", low=0.0, high=9.0, usual=(0.0, 2.0), step=0.1)',
    "token_prune": 'tint: str = setting("red", "Its tint.", choices=("red", "blue"), advanced=True)',
    "block_skip": 'shiny: bool = setting(False, "Makes it shine.", label="Shine")',
}
"""Settings file -> the one line that is added to its class."""

NEW = {"glow": 1.5, "tint": "blue", "shiny": True}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[a1111.Host]:
    """A web UI with a copy of Skipstone that has the three lines."""
    for room in ("core", "a1111_extension", "scripts"):
        shutil.copytree(a1111.ROOT / room, tmp_path / room)
    for file, line in LINES.items():
        path = tmp_path / "core" / "recipe" / f"{file}.py"
        before, after = path.read_text(encoding="utf-8").split(f'\n    kind = "{file}"')
        path.write_text(f'{before}    {line}\n\n    kind = "{file}"{after}', encoding="utf-8")
    yield a1111.install(monkeypatch, tmp_path, tmp_path / "scripts" / "skipstone.py")
    a1111.forget_shim()


def module(name: str) -> Any:
    return sys.modules[f"_skipstone_webui.a1111_extension.{name}"]


def test_a_new_setting_has_a_control_in_panel_and_tab_and_comes_last_in_the_arguments(host: a1111.Host) -> None:
    names = [c.elem_id.removeprefix("script_txt2img_skipstone_") for c in host.script().components]
    assert names[1:] == [*ORDER[1:], *NEW]
    host.fire("on_ui_tabs")
    for prefix in ("script_txt2img_skipstone_", "skipstone_tab_"):
        glow, tint, shiny = (host.made[prefix + name] for name in NEW)
        assert (glow.kind, glow.label, glow.info, glow.value) == ("Slider", "Glow", "How much it glows.", 0.5)
        assert (glow.minimum, glow.maximum, glow.step) == (0.0, 2.0, 0.1)
        assert (tint.kind, tint.choices, tint.value) == ("Dropdown", ["red", "blue"], "red")
        assert (shiny.kind, shiny.label, shiny.value) == ("Checkbox", "Shine", False)


def test_a_new_setting_is_taken_by_name_and_by_place_and_goes_through_the_infotext(host: a1111.Host) -> None:
    panel_of, infotext = module("settings").PanelSettings, module("infotext")
    asked = {"enabled": True, "threshold": 1.0, "dato": "custom", "rule": "interval"}
    panel = panel_of.of_args([{**asked, **NEW}])
    assert panel == panel_of.of_args(list(vars(panel).values()))
    merge, prune, skip = panel.as_recipe().methods
    assert (merge.glow, prune.tint, skip.shiny) == tuple(NEW.values())
    assert panel_of.of_recipe(panel.as_recipe()) == panel
    told = infotext.infotext_of(panel)
    assert {key: told[f"Skipstone {key}"] for key in NEW} == {"glow": "1.5", "tint": "blue", "shiny": "True"}
    assert {name: infotext.read_infotext(name)(told) for name in NEW} == NEW
    assert not {f"Skipstone {key}" for key in NEW} & set(infotext.infotext_of(panel_of.of_args([asked])))


def test_a_new_setting_is_an_axis_and_is_sent_by_the_tab(host: a1111.Host) -> None:
    host.fire("on_before_ui")
    axes = {axis.label: axis for axis in host.xyz.axis_options}
    cell = type("Job", (), {})()
    axes["[Skipstone] Glow"].apply(cell, 1.5, [])
    axes["[Skipstone] Shine"].apply(cell, "True", [])
    found = module("xyz").with_axes(module("settings").PanelSettings(), cell).as_recipe()
    assert [(getattr(m, "glow", 0), getattr(m, "shiny", 0)) for m in found.methods] == [(1.5, 0), (0, True)]
    with pytest.raises(ValueError, match="glow=10"):
        axes["[Skipstone] Glow"].confirm(cell, [10.0])
    script = host.script()
    host.fire("on_ui_tabs")
    host.made["skipstone_tab_glow"].set(1.5)
    host.made["skipstone_use_txt2img"].act("click")
    assert script.components[len(ORDER)].value == 1.5
