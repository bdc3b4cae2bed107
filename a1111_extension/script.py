"""The script that the host runs: its hooks, in the order in which the host calls them."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

from modules import script_callbacks, scripts

from ..core.engine.fitting import without
from ..core.errors import SkipstoneError
from ..core.recipe.recipe import Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from . import options, panel, tab, xyz
from .controls import QUIET
from .history import History
from .host import attention_refusal, is_hires, refusal
from .infotext import INFOTEXT, REFUSED, infotext_of
from .lifecycle import Lifecycle
from .model_files import located
from .planned import WATCHED
from .results import one_line, refuse, tell_refused, used
from .settings import PanelSettings
from .status import Outcome, console, header, outcome_of, status

log = logging.getLogger("skipstone")

HISTORY = History(options.kept_runs)
LIFECYCLE = Lifecycle(HISTORY)
PANELS: dict[str, panel.Panel] = {}
OUTCOMES: dict[str, Outcome] = {}
"""Shared by the host's two script instances and the tab: the reports, the pass under way, the panels' components, and the
outcome of each tab's last picture."""


class SkipstoneScript(scripts.Script):
    """The always visible panel of one tab. The instance keeps no state of a job: each hook reads its arguments."""

    def __init__(self) -> None:
        """One for each tab."""
        super().__init__()
        self.watched: dict[str, Any] = {}

    def title(self) -> str:
        """The name by which the API finds the script."""
        return "Skipstone"

    def show(self, is_img2img: bool) -> Any:
        """In both tabs, always."""
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        """The panel. The order of its components is the order of the API's arguments."""
        try:
            built = panel.build(self.elem_id, is_img2img)
        except Exception as fault:
            print(f"Skipstone has no panel in this web UI, and is off: {one_line(f'{type(fault).__name__}: {fault}')}")
            return []
        tabname = _tab(is_img2img)
        PANELS[tabname] = built
        self.infotext_fields = built.infotext_fields
        self.paste_field_names = built.paste_field_names
        built.watched = self.watched
        self.on_after_component(partial(_connect, built, tabname), elem_id=f"html_log_{tabname}")
        return built.components

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """Find the host's controls that the panel reads.

        Args:
            component: that the host has just made.
            kwargs: not used.
        """
        tab, _, name = str(getattr(component, "elem_id", None)).partition("_")
        if tab == _tab(self.is_img2img) and name in WATCHED:
            self.watched[name] = component

    def before_process(self, p: Any, *args: Any) -> None:
        """A job begins. Clean up after an earlier one that ended in an exception, even if the panel is off.

        Args:
            p: the processing object.
            args: values of the panel.
        """
        LIFECYCLE.end()

    def process(self, p: Any, *args: Any) -> None:
        """Write the infotext if the panel is on. The cells of an X/Y/Z plot share one dict, so earlier keys are removed first.

        Args:
            p: the processing object.
            args: values of the panel.
        """
        for key in [key for key in p.extra_generation_params if key.startswith(INFOTEXT)]:
            del p.extra_generation_params[key]
        p.skipstone_outcome = Outcome()
        self._keep(p)
        settings = _wanted(p, args)
        if settings is None:
            return
        p.skipstone_outcome.on = True
        p.skipstone_results = {}
        p.extra_generation_params.update(infotext_of(settings))
        if not (settings.serves(hires=False) or (settings.serves(hires=True) and getattr(p, "enable_hr", False))):
            refuse(p, "the first pass is off and this picture has no hires pass that is on")

    def process_before_every_sampling(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """A pass begins. Forge calls this twice before a hires pass; the second call begins it again.

        Args:
            p: the processing object.
            args: values of the panel.
            kwargs: of the host; `x` is the noise.
        """
        LIFECYCLE.end()
        settings = _wanted(p, args)
        if settings is None:
            return
        try:
            _begin(p, located(settings.recipe_of(is_hires(p))), _title(p, kwargs.get("x")))
        except Exception as fault:  # a host that is unlike those known draws as without the script
            log.debug("Skipstone could not begin a pass", exc_info=True)
            refuse(p, f"unexpected error, please report it: {type(fault).__name__}: {fault}")

    def post_sample(self, p: Any, ps: Any, *args: Any) -> None:
        """Sampling has ended or was interrupted: free everything before the VAE runs and the infotext is written.

        Args:
            p: the processing object.
            ps: not used.
            args: values of the panel.
        """
        LIFECYCLE.end()

    def postprocess_batch(self, p: Any, *args: Any, **kwargs: Any) -> None:
        """The same for hosts without `post_sample`.

        Args:
            p: the processing object.
            args: values of the panel.
            kwargs: not used.
        """
        LIFECYCLE.end()

    def postprocess(self, p: Any, processed: Any, *args: Any) -> None:
        """The same at the end of the job, whose outcome is known now.

        Args:
            p: the processing object.
            processed: not used.
            args: values of the panel.
        """
        LIFECYCLE.end()
        outcome = outcome_of(p)
        outcome.refused, outcome.ended = p.extra_generation_params.get(REFUSED, ""), True
        self._keep(p)
        if (line := console(outcome)) and options.writes_console():
            print(line)  # the host's log shows warnings alone

    def _keep(self, p: Any) -> None:
        """This job is its tab's last one. A job within it, such as a face detailer's, is over when it ends."""
        if not (getattr(p, "is_api", False) or getattr(p, "skipstone_apart", False)):
            OUTCOMES[_tab(self.is_img2img)] = outcome_of(p)


def register() -> None:
    """Register the callbacks. The host drops them before it loads the shim again, so this runs at each load."""
    script_callbacks.on_cfg_denoiser(LIFECYCLE.on_step)
    script_callbacks.on_model_loaded(LIFECYCLE.on_model_loaded)
    script_callbacks.on_script_unloaded(LIFECYCLE.end)
    script_callbacks.on_before_ui(xyz.add_axes)
    script_callbacks.on_ui_settings(options.add_options)
    script_callbacks.on_ui_tabs(partial(tab.build, HISTORY, PANELS))


def _wanted(p: Any, args: tuple[Any, ...]) -> PanelSettings | None:
    """The settings in force for a job. None when off, or when they cannot run, which is reported once."""
    try:
        settings = xyz.with_axes(PanelSettings.of_args(args), p)
        if settings.enabled:
            located(settings.as_recipe())
        return settings if settings.enabled else None
    except SkipstoneError as error:
        refuse(p, str(error))
        return None


def _begin(p: Any, recipe: Recipe, title: str) -> None:
    """Begin a pass with what of the recipe can run in it."""
    if recipe.neutral:
        return
    if reason := refusal(p):
        return tell_refused(p, recipe, [method.kind for method in used(recipe)], reason, title)
    recipe = options.within_cache(_without_tokens(recipe, p, title))
    if not recipe.neutral:
        LIFECYCLE.begin(p, recipe, title)


def _without_tokens(recipe: Recipe, p: Any, title: str) -> Recipe:
    """The recipe, without merging and pruning where another feature already patches the U-Net's attention."""
    tokens = [method.kind for method in used(recipe) if isinstance(method, (TokenMerge, TokenPrune))]
    if not tokens or not (reason := attention_refusal(p)):
        return recipe
    tell_refused(p, recipe, tokens, reason, title)
    return without(recipe, set(tokens))


def _title(p: Any, latent: Any) -> str:
    kind = "hires pass" if is_hires(p) else "first pass" if getattr(p, "enable_hr", False) else "one pass"
    height, width = (8 * side for side in latent.shape[-2:]) if latent is not None else (p.height, p.width)
    return f"{kind}, {width} x {height}"


def _tab(img2img: bool) -> str:
    return "img2img" if img2img else "txt2img"


def _connect(built: panel.Panel, tab: str, made: Any) -> None:
    """Connect the panel's controls, and update its lines on the last picture whenever one is done."""
    built.connect()
    outputs = [built.last_run, built.gain]
    built.ended.click(fn=partial(_last, tab), inputs=[], outputs=outputs, **QUIET)


def _last(tab: str) -> list[str]:
    return [status(OUTCOMES.get(tab)), header(OUTCOMES.get(tab))]
