"""Patch a ComfyUI model with a recipe. The patched model is a clone; the network itself is touched only inside a call.

One OUTER_SAMPLE wrapper brackets each sampling run. It hangs the run's APPLY_MODEL wrapper into the guider's options for
as long as the run lasts, so that state belongs to one run whatever is nested, cancelled or spread over threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor, nn

from ..core.blocks import unwrapped
from ..core.engine.engine import Engine
from ..core.errors import Decline, ModelError, SkipstoneError
from ..core.recipe import Recipe
from .attention import key_bias
from .calls import TRAIN_STEPS, call_of, planned_timesteps
from .messages import log, node_text, show_on_node, warn

KEY = "skipstone"


def patch_model(model: Any, recipe: Recipe, node_id: Any = None) -> Any:
    """A clone of a ModelPatcher that samples with `recipe`. After each run its report is shown on the node `node_id`.

    A neutral recipe gives a clone without any wrapper. A model that is patched already gets the new recipe instead.
    """
    clone = model.clone()
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    if not recipe.neutral:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _outer_sample(recipe, node_id))
    return clone


def _outer_sample(recipe: Recipe, node_id: Any) -> Callable[..., Any]:
    """The wrapper round one sampling run. A closure over immutable values: ComfyUI copies what it finds in options."""

    def outer_sample(
        executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Tensor, *args: Any, **kw: Any
    ) -> Any:
        run = Run(recipe, sampler, sigmas, node_id)
        with _hung_into(executor.class_obj, run):
            try:
                return executor(noise, latent, sampler, sigmas, *args, **kw)
            finally:
                run.end()

    return outer_sample


@contextmanager
def _hung_into(guider: Any, run: Run) -> Iterator[None]:
    """While sampling, the guider's options carry the run's wrapper; then they are the object they were."""
    before = guider.model_options
    guider.model_options = create_model_options_clone(before)

    def apply_model(executor: Any, x: Tensor, t: Tensor, *args: Any, **kw: Any) -> Any:
        options = kw.get("transformer_options") or (args[3] if len(args) > 3 else None) or {}
        with run.forward(executor.class_obj, x, t, options):
            return executor(x, t, *args, **kw)

    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model, guider.model_options, is_model_options=True)
    try:
        yield
    finally:
        guider.model_options = before


class Run:
    """One sampling run: an engine per network object (several GPUs hold several), and the report at its end."""

    def __init__(self, recipe: Recipe, sampler: Any, sigmas: Tensor, node_id: Any) -> None:
        """Before the first call; engines are made when their network is first called."""
        self._recipe = recipe
        self._sampler = sampler
        self._sigmas = sigmas
        self._node_id = node_id
        self._engines: dict[nn.Module, Engine] = {}
        self._refusals: set[str] = set()

    @contextmanager
    def forward(self, model: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Iterator[None]:
        """Bracket one forward of a BaseModel. Our own refusals are told once and the forward runs dense."""
        with ExitStack() as bracket:
            try:
                engine = self._engine(model)
                call = call_of(model.model_sampling, x, sigma, options)
                bracket.enter_context(engine.call(call))
            except ModelError:
                self._refuse(f"{type(model).__name__} is not supported: use SD1.x, SD2.x, SDXL or PixArt")
            except (SkipstoneError, Decline) as reason:
                self._refuse(str(reason))
            yield

    def end(self) -> None:
        """End the engines' runs, free their state, and tell what was done."""
        reports = [engine.end() for engine in self._engines.values()]
        self._engines = {}
        texts = [node_text(report) for report in reports if report.calls]
        if texts:
            log.info("Skipstone: %s", " ".join(texts).replace("\n", " "))
            show_on_node("\n".join(texts), self._node_id)

    def _engine(self, model: Any) -> Engine:
        network = unwrapped(model.diffusion_model)
        if network not in self._engines:
            engine = Engine(network, self._recipe, key_bias)
            engine.begin(planned_timesteps(self._sampler, self._sigmas, model.model_sampling), TRAIN_STEPS)
            self._engines[network] = engine
        return self._engines[network]

    def _refuse(self, reason: str) -> None:
        if reason not in self._refusals:
            self._refusals.add(reason)
            warn(f"{reason}; the image comes dense", self._node_id)
