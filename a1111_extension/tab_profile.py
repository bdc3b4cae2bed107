"""The tab's page *Profile*: records one from the next picture, shows and deletes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import gradio as gr

from ..core.errors import SkipstoneError
from ..core.forecast.names import described
from ..core.forecast.profile import HeldOut, Profile
from ..core.recipe.auto import LEVELS
from .controls import QUIET
from .model_files import free_path, opened
from .pages import amber, paragraph, table
from .panel import Panel
from .settings import PanelSettings
from .tab_files import Shelf
from .tab_try import bound
from .table import FIELDS, OWN


def build(panels: Mapping[str, Panel]) -> tuple[list[Any], Callable[[], list[Any]]]:
    """Make the page.

    Args:
        panels: by tab name.

    Returns what a refresh sets, and the function that gives it.
    """
    gr.HTML(
        paragraph(
            "A profile says which steps of your model matter most. Auto then chooses the steps that run by it.",
            "Record: the next txt2img picture runs in full, and its profile is written to models/skipstone_profiles; the "
            "pictures after it use the profile. `skipstone profile` also measures the error that can be promised.",
        )
    )
    buttons = {"record": "Record from the next picture", "use": "Use in txt2img's Auto"}
    shelf = Shelf(("profile",), "profiles", shown, **buttons)
    record, use = shelf.buttons
    written = bound(panels)
    record.click(fn=partial(_recorded, shelf), inputs=[shelf.name, *written], outputs=[shelf.told, *written], **QUIET)
    use.click(fn=partial(_used, shelf), inputs=[shelf.chosen, *written], outputs=[shelf.told, *written], **QUIET)
    return shelf.outputs, shelf.refreshed


def shown(kind: str, name: str) -> str:
    """A profile as HTML: what it was measured on, and the choices of steps that it has errors of.

    Args:
        kind: "profile".
        name: of the file.
    """
    try:
        profile = opened(kind, name)
    except SkipstoneError as error:
        return amber(str(error))
    assert isinstance(profile, Profile)
    about = [
        f"{profile.steps} steps, from timestep {profile.timesteps[0]:.0f} to {profile.timesteps[-1]:.0f}",
        f"network: {profile.network}",
        *([f"sampler {profile.sampler}, guidance {profile.guidance:g}"] if profile.sampler else []),
    ]
    head = ("steps that run", "chosen by", "forecast", "error of 50% of pictures", "of 90%")
    plans = table(head, [_row(plan, profile.steps) for plan in profile.plans]) if profile.plans else ""
    return paragraph(*about) + (plans or paragraph("It was recorded from one picture, so that it promises no error."))


def _row(plan: HeldOut, steps: int) -> tuple[str, ...]:
    middle, most = plan.quantile(0.5), plan.quantile(0.9)
    return (
        f"{len(plan.keys)} of {steps}",
        plan.name,
        described(plan.predictor, plan.space),
        f"{middle:.3f}",
        f"{most:.3f}",
    )


def _recorded(shelf: Shelf, name: str, *values: Any) -> list[Any]:
    """Message, and the panel's values: the next picture is recorded."""
    try:
        file = free_path("profile", name or "").name
        panel = _with_auto(values)
    except SkipstoneError as error:
        return _refused(error)
    told = f"The next txt2img picture runs in full and is recorded as {file}."
    return [paragraph(told), *_written(panel.but(profile=file, record=True))]


def _used(shelf: Shelf, chosen: str, *values: Any) -> list[Any]:
    """Message, and the panel's values: Auto chooses by this profile."""
    try:
        _, name = shelf.kind_and_name(chosen)
        panel = _with_auto(values)
    except SkipstoneError as error:
        return _refused(error)
    return [
        paragraph(f"txt2img's panel is on, and Auto uses {name}."),
        *_written(panel.but(profile=name, record=False)),
    ]


def _refused(error: SkipstoneError) -> list[Any]:
    return [amber(str(error)), *(gr.update() for _ in FIELDS)]


def _with_auto(values: tuple[Any, ...]) -> PanelSettings:
    """The panel's values; where they do not use Auto, with its balanced preset. Raises :class:`SkipstoneError`."""
    panel = PanelSettings.of_args(values)
    auto = panel.level != OWN or panel.speedup > 1 or panel.max_error > 0
    return panel if auto else panel.but(level="Balanced", speedup=LEVELS["balanced"])


def _written(panel: PanelSettings) -> list[Any]:
    """The panel's values, switched on; those that a profile does not concern stay as they are."""
    changed = {name: getattr(panel, name) for name in ("level", "speedup", "profile", "record")} | {"enabled": True}
    return [changed.get(name, gr.update()) for name in FIELDS]
