"""Patch a ComfyUI model with a recipe. The patched model is a clone; the network itself is touched only inside a call.

One OUTER_SAMPLE wrapper brackets each sampling run. It hangs the run's APPLY_MODEL wrapper into the guider's options for
as long as the run lasts, so that state belongs to one run whatever is nested, cancelled or spread over threads.
Several Skipstone nodes on one model share that wrapper: their recipes join into one plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy_api.latest import io
from torch import Tensor, nn

from ..core.engine.call import Call
from ..core.engine.engine import Engine
from ..core.engine.report import Report
from ..core.errors import ModelError, RecipeError, SkipstoneError
from ..core.models import unwrapped
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.recipe import Method, Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .attention import key_bias
from .calls import TRAIN_STEPS, Windows, call_of, planned_timesteps
from .messages import UNACCELERATED, log, node_text, show_on_node, show_run, warn, wrapped
from .schedules import skips_nothing
from .serving import known, refusal, unsupported

KEY = "skipstone"
WITHOUT = {
    TokenMerge.kind: "no tokens are merged",
    TokenPrune.kind: "no tokens are pruned",
    BlockSkip.kind: "no block is skipped",
}
_DOES = {TokenMerge.kind: "merges tokens", TokenPrune.kind: "prunes tokens", BlockSkip.kind: "skips blocks"}

Asked = dict[str, tuple[Method, Any]]
"""Kind of method -> its settings and the node that asked for it."""

Replaced = dict[Any, str]
"""Node -> what to show on it, because a later node took the place of its method."""


def patch_model(model: Any, recipe: Recipe, node_id: Any = None) -> Any:
    """A clone of a ModelPatcher that samples with `recipe`. After each run its report is shown on the node `node_id`.

    A method joins those that are on the model already, and replaces one of its own kind, or one that it cannot go with; a
    neutral one takes its kind off. With nothing left, or an empty recipe, the clone has no wrapper at all.
    """
    clone = model.clone()
    asked, replaced = _asked(model) if recipe.methods else ({}, {})
    clone.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    for method in recipe.methods:
        for kind in _excluded(asked, method):
            _replace(asked.pop(kind)[1], method, node_id, replaced)
        asked[method.kind] = (method, node_id)
    left = {kind: entry for kind, entry in asked.items() if not entry[0].neutral}
    if left:
        clone.add_wrapper_with_key(
            WrappersMP.OUTER_SAMPLE, KEY, OuterSample(tuple(left.items()), tuple(replaced.items()))
        )
    return clone


def patched(model: Any, make: Callable[[], Recipe], notice: Callable[[Recipe], str], node_id: Any) -> io.NodeOutput:
    """Patch a model, as the output of a node.

    If the recipe cannot be made, the node shows why and the model is returned unchanged.

    Args:
        model: the ModelPatcher.
        make: makes the recipe, or raises :class:`SkipstoneError`.
        notice: returns what to show on the node before sampling; nothing for "".
        node_id: the node.
    """
    try:
        recipe = make()
    except SkipstoneError as error:
        warn(f"{error}; {UNACCELERATED}", node_id)
        return io.NodeOutput(model)
    if text := notice(recipe):
        show_on_node(text, node_id)
    return io.NodeOutput(patch_model(model, recipe, node_id))


def off(text: str) -> Callable[[Recipe], str]:
    """Return what to show for a recipe: `off: text` if it changes nothing, else nothing."""
    return lambda recipe: f"off: {text}" if recipe.neutral else ""


def recipe_on(model: Any) -> Recipe:
    """What Skipstone nodes have put on a model, in one recipe; empty where there is nothing."""
    return Recipe.of(method for method, _ in _asked(model)[0].values())


def _asked(model: Any) -> tuple[Asked, Replaced]:
    """What earlier Skipstone nodes asked of this model, and which of them were replaced."""
    ours = model.wrappers.get(WrappersMP.OUTER_SAMPLE, {}).get(KEY, [])
    return (dict(ours[-1].asked), dict(ours[-1].replaced)) if ours else ({}, {})


def _excluded(asked: Asked, method: Method) -> list[str]:
    """Kinds that a later method takes off: its own, and those that the recipe's rules forbid beside it."""
    return [kind for kind, (earlier, _) in asked.items() if kind == method.kind or not _go_together(earlier, method)]


def _go_together(one: Method, other: Method) -> bool:
    try:
        Recipe.of([one, other])
    except RecipeError:
        return False
    return True


def _replace(node: Any, later: Method, node_id: Any, replaced: Replaced) -> None:
    """Show on a node that a later one took the place of its method."""
    if node is None or node == node_id:
        return
    does = "switches this off" if later.neutral else f"{_DOES[later.kind]} in its place"
    replaced[node] = wrapped(f"replaced: a later node {does}")
    log.warning("Skipstone: node %s is %s", node, replaced[node].replace("\n", " "))
    show_on_node(replaced[node], node)


@dataclass(frozen=True, eq=False)
class OuterSample:
    """The wrapper round one sampling run. Holds immutable values alone: ComfyUI copies what it finds in options.

    asked, replaced: the items of :data:`Asked` and :data:`Replaced`.
    """

    asked: tuple[tuple[str, tuple[Method, Any]], ...]
    replaced: tuple[tuple[Any, str], ...] = ()

    def __call__(
        self, executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Tensor, *args: Any, **kw: Any
    ) -> Any:
        """Bracket the run."""
        run = Run(dict(self.asked), dict(self.replaced), sampler, sigmas)
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

    def __init__(self, asked: Asked, replaced: Replaced, sampler: Any, sigmas: Tensor) -> None:
        """Before the first call; engines are made when their network is first called."""
        self._methods = tuple(method for method, _ in asked.values())
        self._nodes = tuple(dict.fromkeys(node for _, node in asked.values()))
        self._replaced = replaced
        self._sampler = sampler
        self._sigmas = sigmas
        self._windows = Windows()
        self._engines: dict[nn.Module, Engine | None] = {}
        self._refusals: dict[str, None] = {}
        self._failed = False

    @contextmanager
    def forward(self, model: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Iterator[None]:
        """Bracket one forward of a BaseModel. A forward that cannot be served runs unaccelerated, and the report says why."""
        engine = self._engine_or_none(model)
        if engine is None:
            yield
        else:
            with engine.call(lambda: self._call(model, x, sigma, options)):
                yield

    def _call(self, model: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Call:
        call = call_of(model.model_sampling, x, sigma, options)
        self._windows.check(call.timestep, options)
        return call

    def end(self) -> None:
        """End the engines' runs, free their state, and show the reports. Never raises, so that the picture is returned."""
        engines, self._engines = self._engines, {}
        try:
            self._show([engine.end() for engine in engines.values() if engine])
        except Exception as fault:
            self._give_up(fault)

    def _show(self, reports: list[Report]) -> None:
        texts = [node_text(report) for report in reports if report.calls]
        if texts:
            log.info("Skipstone: %s", " ".join(texts).replace("\n", " "))
        for node in self._nodes:
            shown = [*texts, *self._refusal_lines(), *filter(None, [self._replaced.get(node)])]
            if shown:
                show_run("\n".join(shown), node, showing="\n".join(self._refusal_lines()))
        for node in self._replaced.keys() - set(self._nodes):
            show_run(self._replaced[node], node, showing=self._replaced[node])

    def _give_up(self, fault: Exception) -> None:
        """An error of ours: sampling goes on without us, and the log has the traceback."""
        self._failed = True
        log.error("Skipstone failed in this run", exc_info=fault)
        self._refuse(f"an error in Skipstone ({type(fault).__name__}, see the log); {UNACCELERATED}")

    def _engine_or_none(self, model: Any) -> Engine | None:
        """The engine of this model's network; None also where making it failed."""
        try:
            return None if self._failed else self._engine(model)
        except Exception as fault:
            self._give_up(fault)
            return None

    def _engine(self, model: Any) -> Engine | None:
        """The engine of this model's network, in its run; None where nothing of the recipe can be done on it."""
        network = unwrapped(model.diffusion_model)
        if network not in self._engines:
            timesteps = planned_timesteps(self._sampler, self._sigmas, model.model_sampling)
            fitting = [m for m in self._methods if self._fits(m, model, network, timesteps)]
            self._engines[network] = _begun(network, fitting, timesteps) if fitting else None
        return self._engines[network]

    def _fits(self, method: Method, model: Any, network: nn.Module, timesteps: list[float] | None) -> bool:
        """Can this model do it, in this run? If not, the node shows the reason, and the other methods go on."""
        alone = len(self._methods) == 1
        try:
            _begun(network, [method], timesteps).end()
            reason = skips_nothing(method, network, timesteps)
        except ModelError:
            if not known(network):
                return self._refuse(f"{unsupported(model)}; {UNACCELERATED}")
            return self._refuse(refusal(model, method.kind) + f"; {UNACCELERATED}" * alone)
        except SkipstoneError as error:
            reason = str(error)
        return not reason or self._refuse(f"{reason}; {UNACCELERATED if alone else WITHOUT[method.kind]}")

    def _refuse(self, reason: str) -> bool:
        """Show a reason once. Returns False, for callers that return it."""
        if reason not in self._refusals:
            self._refusals[reason] = None
            log.warning("Skipstone: %s", reason)
            for node in self._nodes:
                show_on_node("\n".join(self._refusal_lines()), node)
        return False

    def _refusal_lines(self) -> list[str]:
        return [wrapped(reason) for reason in self._refusals]


def _begun(network: nn.Module, methods: list[Method], timesteps: list[float] | None) -> Engine:
    """An engine whose run has begun. Raises :class:`SkipstoneError` for what does not fit."""
    engine = Engine(network, Recipe.of(methods), key_bias)
    engine.begin(timesteps, TRAIN_STEPS)
    return engine
