"""The panel in txt2img and img2img."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import gradio as gr
from modules.ui_components import InputAccordion

from ..core.errors import SkipstoneError
from ..core.recipe.auto import LEVELS, Auto
from .controls import QUIET, ElemId, control, folded, rows
from .infotext import read_infotext
from .loaded import loaded
from .options import opening_preset
from .outlook import outlook, refused
from .planned import Planned
from .settings import EXCLUSIVE, OF_PASSES, SETTLED, PanelSettings, level_of
from .table import FIELDS, NO_PRESET, OWN, WINDOW, Entry
from .view import CONDITIONAL, OFFERS, SHARED, methods_of, offered, visible, with_methods

infotext_reader = cache(read_infotext)
"""What reads a field from pasted infotext: one function per field, the same in both tabs, since it is also the name by which
"Send to img2img" finds the field."""


_LED = ("level", *SETTLED, "recipe")
"""Fields that another control may set."""

_OFFERED = ("level", "hires_pass")
"""Fields of which the loaded model may not be able to use all choices."""

_SEEN = dict.fromkeys(("enabled", "level", *EXCLUSIVE, "checkpoints", "depths", "mask", "recipe", *OF_PASSES, *WINDOW))
"""Fields on whose change the page changes."""


@dataclass
class Panel:
    """The parts of a panel that the host and the tab use.

    Args:
        components: in the order of :data:`FIELDS`.
        last_run: one line about the last picture.
        gain: its gain, in the header.
        methods: the choice of methods.
        outlook: one line on what the settings will do.
        echo: the same line out of sight, whose change the tab can follow. For HTML, gradio 4 says so at every update of the page:
            an answer to that event would cause the next one.
        parts: name -> a part of the panel that is shown for some settings only.
        look: a button that the page's script presses when the host's settings changed, another checkpoint among them.
        ended: a button that the page's script presses when a picture is done.
        img2img: whether it is that of image to image.
        watched: the host's own controls (:data:`.planned.WATCHED`).
    """

    components: list[Any]
    last_run: Any
    gain: Any
    methods: Any
    outlook: Any
    echo: Any
    parts: dict[str, Any]
    look: Any
    ended: Any
    img2img: bool = False
    watched: dict[str, Any] = field(default_factory=dict)

    @property
    def infotext_fields(self) -> list[tuple[Any, Callable[..., Any]]]:
        """Each component, with the function that reads it from pasted infotext."""
        return list(zip(self.components, map(infotext_reader, FIELDS), strict=True))

    @property
    def paste_field_names(self) -> list[Callable[..., Any]]:
        """The fields that "Send to img2img" copies."""
        return [name for _, name in self.infotext_fields]

    def connect(self) -> None:
        """Connect the controls, once the host has made its own."""
        made = dict(zip(FIELDS, self.components, strict=True))
        led = [made[name] for name in _LED]
        outputs = [made["level"], made["speedup"]]
        made["enabled"].change(fn=_opened, inputs=[made["enabled"], made["level"]], outputs=outputs, **QUIET)
        for level, speedup in (("level", "speedup"), ("hires_level", "hires_speedup")):
            made[level].input(fn=_strength, inputs=[made[level]], outputs=[made[speedup]], **QUIET)
        made["hires_speedup"].input(fn=level_of, inputs=[made["hires_speedup"]], outputs=[made["hires_level"]], **QUIET)
        for name in EXCLUSIVE:
            inputs = [made["level"], *(made[other] for other in EXCLUSIVE)]
            made[name].input(fn=partial(after, name), inputs=inputs, outputs=led[:-1], **QUIET)
        self.methods.input(fn=_chosen, inputs=[self.methods, *self.components], outputs=led, **QUIET)
        led_too = [self.methods, *(made[name] for name in _OFFERED)]
        shown = [*led_too, *self.parts.values(), *(made[entry.name] for entry in CONDITIONAL), self.outlook, self.echo]
        inputs = [self.methods, *self.watched.values(), *self.components]
        seen = (self.methods, *self.watched.values(), *(made[name] for name in _SEEN))
        for event in (self.look.click, self.ended.click, *(one.change for one in seen)):
            event(fn=partial(self._shown, tuple(self.watched)), inputs=inputs, outputs=shown, **QUIET)

    def _shown(self, watched: tuple[str, ...], methods: list[str], *values: Any) -> list[Any]:
        """The methods in use, the choices that the loaded model can use, what is shown, and the outlook.

        Args:
            watched: names of the host's controls.
            methods: chosen now.
            values: of the host's controls, then of the panel's.
        """
        planned, model = Planned.of(dict(zip(watched, values, strict=False)), self.img2img), loaded()
        try:
            panel = PanelSettings.of_args(values[len(watched) :])
        except SkipstoneError as error:
            return [*(gr.update() for _ in (methods, *_OFFERED, *self.parts, *CONDITIONAL)), *2 * [refused(str(error))]]
        used = methods_of(panel, methods)
        seen = visible(panel, used)
        shown = [*(name in seen for name in self.parts), *(panel.uses(entry) for entry in CONDITIONAL)]
        choices = offered(panel, model, used)
        led = [
            gr.update(value=used, choices=choices["methods"]),
            *(gr.update(choices=choices[name]) for name in _OFFERED),
        ]
        return [*led, *(gr.update(visible=show) for show in shown), *2 * [outlook(panel, planned, model)]]


def build(elem_id: ElemId, img2img: bool = False) -> Panel:
    """Make the panel's components in the gradio block under construction.

    Args:
        elem_id: the host's maker of element ids.
        img2img: whether it is for image to image, which has one pass.
    """
    enabled = FIELDS["enabled"]
    with InputAccordion(enabled.default, label=enabled.label, elem_id=elem_id("enable")) as switch:
        with switch.extra() if hasattr(switch, "extra") else nullcontext():
            gain = gr.HTML("", elem_id=elem_id("gain"))
        made = {"enabled": switch, "level": control(FIELDS["level"], elem_id, value=NO_PRESET)}
        parts = {"strength": gr.Column(elem_id=elem_id("strength_part"))}
        with parts["strength"]:
            made["speedup"] = control(FIELDS["speedup"], elem_id)
        with gr.Column(visible=not img2img, elem_id=elem_id("passes_part")):
            made |= rows([FIELDS[name] for name in OF_PASSES[:2]], elem_id)
            made |= rows([FIELDS[name] for name in OF_PASSES[2:]], elem_id, visible=False)
        parts["window"] = gr.Column(elem_id=elem_id("window_part"))
        with parts["window"]:
            made |= rows([FIELDS[name] for name in WINDOW], elem_id)
        told = gr.HTML("", elem_id=elem_id("told"))
        with gr.Column(elem_classes=["skipstone-hidden"]):  # gradio leaves what is invisible to it out of the page
            echo = gr.Textbox("", elem_id=elem_id("echo"))
            look = gr.Button("Look again", elem_id=elem_id("look"))
            ended = gr.Button("Picture done", elem_id=elem_id("ended"))
        parts["custom"] = gr.Column(visible=False, elem_id=elem_id("custom_part"))
        with parts["custom"]:
            methods = gr.CheckboxGroup(
                [offer.name for offer in OFFERS],
                value=[],
                label="Methods",
                info="Several can be combined. What cannot is switched off: the last choice counts.",
                elem_id=elem_id("methods"),
            )
            for offer in OFFERS:
                _part(f"{offer.name.lower()}_part", [e for e in offer.entries if not e.expert], made, parts, elem_id)
            with parts["recipe_part"]:
                made["recipe"] = control(FIELDS["recipe"], elem_id, lines=2, max_lines=20)
        with folded("Expert", elem_id("expert")):
            made["passes"] = control(FIELDS["passes"], elem_id)
            _part("shared_expert", SHARED, made, parts, elem_id)
            for offer in OFFERS:
                if entries := [e for e in offer.entries if e.expert]:
                    _part(f"{offer.name.lower()}_expert", entries, made, parts, elem_id)
        last_run = gr.HTML("No picture yet.", elem_id=elem_id("last_run"))
    return Panel([made[name] for name in FIELDS], last_run, gain, methods, told, echo, parts, look, ended, img2img)


def _part(name: str, entries: list[Entry], made: dict[str, Any], parts: dict[str, Any], elem_id: ElemId) -> None:
    """Some controls that are shown and hidden together; hidden at first."""
    parts[name] = gr.Column(visible=False, elem_id=elem_id(name))
    with parts[name]:
        made |= rows(entries, elem_id)


def _opened(enabled: bool, level: str | None) -> list[Any]:
    """Preset and strength: a panel without a preset gets one when it is switched on at the page. Pasted settings have theirs."""
    if not enabled or level:
        return [gr.update(), gr.update()]
    preset = OWN if Auto.kind in loaded().refused else opening_preset()
    return [preset, _strength(preset)]


def _strength(level: str) -> float:
    """The speedup of a preset. Custom begins without."""
    return LEVELS.get(level.lower(), 1.0)


def after(chosen: str, level: str | None, *values: Any) -> list[Any]:
    """Return the preset and the fields of :data:`SETTLED` after a choice. The preset is the nearest to the strength.

    Args:
        chosen: the field that was set.
        level: the preset.
        values: of :data:`EXCLUSIVE`.
    """
    try:
        settled = PanelSettings.of_args([{"level": level, **dict(zip(EXCLUSIVE, values, strict=True))}]).after(chosen)
    except SkipstoneError:
        return [level, *values[: len(SETTLED)]]
    if chosen == "speedup" and settled.level != OWN:
        level = level_of(settled.speedup)
    return [level, *(getattr(settled, name) for name in SETTLED)]


def _chosen(methods: list[str], *values: Any) -> list[Any]:
    """The fields of :data:`_LED` once these methods are chosen."""
    try:
        settled = with_methods(PanelSettings.of_args(values), methods)
    except SkipstoneError:
        return [gr.update() for _ in _LED]
    return [getattr(settled, name) for name in _LED]
