"""Patch a ComfyUI model with a recipe. The patched model is a clone; the network itself is touched only inside a call.

One OUTER_SAMPLE wrapper brackets each sampling run. It hangs the run's APPLY_MODEL wrapper into the guider's options for
as long as the run lasts, so that state belongs to one run whatever is nested, cancelled or spread over threads. Where whole
calls are skipped, a CALC_COND_BATCH wrapper decides above it, so that ControlNets and hooks are skipped as well.
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
from torch import Tensor

from ..core.errors import RecipeError, SkipstoneError
from ..core.recipe.auto import Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.recipe import Method, Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .compiler import compiler_off
from .cond_batch import Conds
from .messages import UNACCELERATED, log, show_on_node, warn, wrapped
from .records import Record, keep, last_record
from .run import Asked, Replaced, Run
from .whole_calls import unfit

KEY = "skipstone"
_DOES = {
    TokenMerge.kind: "merges tokens",
    TokenPrune.kind: "prunes tokens",
    BlockSkip.kind: "skips blocks",
    CallSkip.kind: "skips calls",
    Auto.kind: "skips calls",
}


def patch_model(model: Any, recipe: Recipe, node_id: Any = None) -> Any:
    """A clone of a ModelPatcher that samples with `recipe`. After each run its report is shown on the node `node_id`.

    A method joins those that are on the model already, and replaces one of its own kind, or one that it cannot go with; a
    neutral one takes its kind off. With nothing left, or an empty recipe, the clone has no wrapper at all.

    Args:
        model: the ModelPatcher.
        recipe: the methods to add.
        node_id: the node that shows the report.
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


def record_of(model: Any) -> Record | None:
    """What the last run of a model did; None before it, and for a model without Skipstone nodes."""
    ours = _ours(model)
    return last_record(ours) if ours else None


def _ours(model: Any) -> OuterSample | None:
    return next(iter(model.wrappers.get(WrappersMP.OUTER_SAMPLE, {}).get(KEY, [])[-1:]), None)


def _asked(model: Any) -> tuple[Asked, Replaced]:
    """What earlier Skipstone nodes asked of this model, and which of them were replaced."""
    ours = _ours(model)
    return (dict(ours.asked), dict(ours.replaced)) if ours else ({}, {})


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

    Args:
        asked: the items of :data:`Asked`.
        replaced: the items of :data:`Replaced`.
    """

    asked: tuple[tuple[str, tuple[Method, Any]], ...]
    replaced: tuple[tuple[Any, str], ...] = ()

    def __call__(
        self, executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Tensor, *args: Any, **kw: Any
    ) -> Any:
        """Bracket the run."""
        run = Run(dict(self.asked), dict(self.replaced), sampler, sigmas)
        run.keep_calls(unfit(executor.class_obj, sampler, kw.get("latent_shapes")))
        with compiler_off(), _hung_into(executor.class_obj, run):
            try:
                return executor(noise, latent, sampler, sigmas, *args, **kw)
            finally:
                run.end()
                keep(self, run.record)


@contextmanager
def _hung_into(guider: Any, run: Run) -> Iterator[None]:
    """While sampling, the guider's options carry the run's wrapper; then they are the object they were."""
    before = guider.model_options
    guider.model_options = create_model_options_clone(before)

    def apply_model(executor: Any, x: Tensor, t: Tensor, *args: Any, **kw: Any) -> Any:
        options = kw.get("transformer_options") or (args[3] if len(args) > 3 else None) or {}
        with run.forward(executor.class_obj, x, t, options) as seen:
            if len(args) > 3:  # after c_concat, c_crossattn and control
                return executor(x, t, *args[:3], seen, *args[4:], **kw)
            return executor(x, t, *args, **{**kw, "transformer_options": seen})

    def calc_cond_batch(executor: Any, model: Any, conds: Conds, x: Tensor, sigma: Tensor, options: Any) -> Any:
        return run.batch(executor, model, conds, x, sigma, options)

    add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_model, guider.model_options, is_model_options=True)
    if run.skips_calls:
        add_wrapper_with_key(
            WrappersMP.CALC_COND_BATCH, KEY, calc_cond_batch, guider.model_options, is_model_options=True
        )
    try:
        yield
    finally:
        guider.model_options = before
