"""Patch a ComfyUI model with a recipe. The patched model is a clone; the network itself is touched only inside a call.

One OUTER_SAMPLE wrapper brackets each sampling run. It hangs the run's APPLY_MODEL wrapper into the guider's options for
as long as the run lasts, so that state belongs to one run whatever is nested, cancelled or spread over threads.
Several Skipstone nodes on one model share that wrapper: their recipes join into one plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.latest import io
from torch import Tensor, nn

from ..core.blocks import unwrapped
from ..core.engine.engine import Engine
from ..core.errors import Decline, ModelError, RecipeError, SkipstoneError
from ..core.recipe import Method, Recipe, TokenMerge
from ..core.recipe_prune import TokenPrune
from ..core.recipe_skip import BlockSkip
from .attention import key_bias
from .calls import TRAIN_STEPS, call_of, planned_timesteps
from .messages import log, node_text, show_on_node, show_on_nodes, warn, wrapped

KEY = "skipstone"
_TOKENS = "use SD1.x, SD2.x, SDXL or PixArt"
SERVES = {
    TokenMerge.kind: _TOKENS,
    TokenPrune.kind: _TOKENS,
    BlockSkip.kind: "block masks serve SD1.x, SD2.x, SDXL, SVD, PixArt, SD3, Flux and Chroma",
}
WITHOUT = {
    TokenMerge.kind: "no tokens are merged",
    TokenPrune.kind: "no tokens are pruned",
    BlockSkip.kind: "no block is skipped",
}


def patch_model(model: Any, recipe: Recipe, node_id: Any = None) -> Any:
    """A clone of a ModelPatcher that samples with `recipe`. After each run its report is shown on the node `node_id`.

    A method joins those that are on the model already, and replaces one of its own kind, or one that it cannot go with; a
    neutral one takes its kind off. With nothing left, or an empty recipe, the clone has no wrapper at all.
    """
    clone = model.clone()
    asked = dict(_asked(model)) if recipe.methods else {}
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    for method in recipe.methods:
        asked = _joined(asked, method, node_id)
    left = {kind: entry for kind, entry in asked.items() if not entry[0].neutral}
    if left:
        clone.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, OuterSample(tuple(left.items())))
    return clone


def patched(model: Any, make: Callable[[], Recipe], tell: Callable[[Recipe], str], node_id: Any) -> io.NodeOutput:
    """What a node puts out that patches by a recipe. tell: what to show on the node before sampling, nothing for "".

    What cannot be made is told on the node, and the model passes through as it is.
    """
    try:
        recipe = make()
    except SkipstoneError as error:
        warn(f"{error}; the image comes dense", node_id)
        return io.NodeOutput(model)
    if told := tell(recipe):
        show_on_node(told, node_id)
    return io.NodeOutput(patch_model(model, recipe, node_id))


def off(text: str) -> Callable[[Recipe], str]:
    """Tells of a recipe that it does nothing, and of another nothing."""
    return lambda recipe: f"off: {text}" if recipe.neutral else ""


Asked = tuple[tuple[str, tuple[Method, Any]], ...]
"""Kind of method -> its settings and the node that asked for it."""


def recipe_on(model: Any) -> Recipe:
    """What Skipstone nodes have put on a model, in one recipe; empty where there is nothing."""
    return Recipe.of(method for _, (method, _) in _asked(model))


def _joined(asked: dict[str, tuple[Method, Any]], method: Method, node_id: Any) -> dict[str, tuple[Method, Any]]:
    """One method more. The later one counts: an earlier one that the recipe's rules forbid beside it is taken off."""
    left = {kind: entry for kind, entry in asked.items() if kind != method.kind}
    for kind, (earlier, node) in list(left.items()):
        try:
            Recipe.of([earlier, method])
        except RecipeError:
            del left[kind]
            warn(f"{WITHOUT[kind]}: a later node has {method.kind} for the same layers, and the later one counts", node)
    return {**left, method.kind: (method, node_id)}


def _asked(model: Any) -> Asked:
    """What earlier Skipstone nodes asked of this model."""
    ours = model.wrappers.get(WrappersMP.OUTER_SAMPLE, {}).get(KEY, [])
    return ours[-1].asked if ours else ()


@dataclass(frozen=True, eq=False)
class OuterSample:
    """The wrapper round one sampling run. Holds immutable values alone: ComfyUI copies what it finds in options."""

    asked: Asked

    def __call__(
        self, executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Tensor, *args: Any, **kw: Any
    ) -> Any:
        """Bracket the run."""
        run = Run(self.asked, sampler, sigmas)
        with _hung_into(executor.class_obj, run):
            try:
                return executor(noise, latent, sampler, sigmas, *args, **kw)
            finally:
                run.end()


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

    def __init__(self, asked: Asked, sampler: Any, sigmas: Tensor) -> None:
        """Before the first call; engines are made when their network is first called."""
        self._methods = tuple(method for _, (method, _) in asked)
        self._nodes = tuple(dict.fromkeys(node for _, (_, node) in asked))
        self._sampler = sampler
        self._sigmas = sigmas
        self._engines: dict[nn.Module, Engine | None] = {}
        self._refusals: dict[str, None] = {}

    @contextmanager
    def forward(self, model: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Iterator[None]:
        """Bracket one forward of a BaseModel. Our own refusals are told once and the forward runs dense."""
        with ExitStack() as bracket:
            try:
                if engine := self._engine(model):
                    bracket.enter_context(engine.call(call_of(model.model_sampling, x, sigma, options)))
            except (SkipstoneError, Decline) as reason:
                self._refuse(f"{reason}; the image comes dense")
            yield

    def end(self) -> None:
        """End the engines' runs, free their state, and tell what was done."""
        reports = [engine.end() for engine in self._engines.values() if engine]
        self._engines = {}
        texts = [node_text(report) for report in reports if report.calls]
        if texts:
            log.info("Skipstone: %s", " ".join(texts).replace("\n", " "))
            show_on_nodes("\n".join([*texts, *map(wrapped, self._refusals)]), self._nodes)

    def _engine(self, model: Any) -> Engine | None:
        """The engine of this model's network, in its run; None where nothing of the recipe can be done on it."""
        network = unwrapped(model.diffusion_model)
        if network not in self._engines:
            timesteps = planned_timesteps(self._sampler, self._sigmas, model.model_sampling)
            fitting = [m for m in self._methods if self._fits(m, model, network, timesteps)]
            self._engines[network] = _begun(network, fitting, timesteps) if fitting else None
        return self._engines[network]

    def _fits(self, method: Method, model: Any, network: nn.Module, timesteps: list[float] | None) -> bool:
        """Can this model do it? If not, the reason is told, and the other methods go on."""
        less = WITHOUT[method.kind] if len(self._methods) > 1 else "the image comes dense"
        try:
            _begun(network, [method], timesteps).end()
        except ModelError:
            self._refuse(f"{type(model).__name__} is not supported: {SERVES[method.kind]}; {less}")
        except SkipstoneError as reason:
            self._refuse(f"{reason}; {less}")
        else:
            return True
        return False

    def _refuse(self, reason: str) -> None:
        if reason not in self._refusals:
            self._refusals[reason] = None
            log.warning("Skipstone: %s", reason)
            show_on_nodes("\n".join(map(wrapped, self._refusals)), self._nodes)


def _begun(network: nn.Module, methods: list[Method], timesteps: list[float] | None) -> Engine:
    """An engine whose run has begun. Raises :class:`SkipstoneError` for what does not fit."""
    engine = Engine(network, Recipe.of(methods), key_bias)
    engine.begin(timesteps, TRAIN_STEPS)
    return engine
