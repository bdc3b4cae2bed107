"""One sampling run of a patched model: the engines of its methods, and what its nodes show at its end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..core.engine.call import Call
from ..core.engine.engine import Engine
from ..core.engine.report import Report
from ..core.engine.run_log import RunLog
from ..core.errors import ModelError, SkipstoneError
from ..core.models import unwrapped
from ..core.recipe.auto import Auto
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.call_skip import CallSkip
from ..core.recipe.recipe import Method, Recipe
from ..core.recipe.token_merge import TokenMerge
from ..core.recipe.token_prune import TokenPrune
from .attention import key_bias
from .calls import TRAIN_STEPS, Windows, call_of, calls_ahead, hook_strengths, planned_timesteps
from .cond_batch import CondBatch, Conds
from .kernels import COMFYUI, with_kernels
from .messages import UNACCELERATED, LiveText, log, node_text, progress, show_on_node, show_run, wrapped
from .records import Record
from .schedules import skips_nothing
from .serving import known, refusal, unsupported
from .whole_calls import WholeCallMethod, WholeCalls

WITHOUT = {
    TokenMerge.kind: "no tokens are merged",
    TokenPrune.kind: "no tokens are pruned",
    BlockSkip.kind: "no block is skipped",
    CallSkip.kind: "no call is skipped",
    Auto.kind: "no call is skipped",
}

Asked = dict[str, tuple[Method, Any]]
"""Kind of method -> its settings and the node that asked for it."""

Replaced = dict[Any, str]
"""Node -> what to show on it, because a later node took the place of its method."""


class Run:
    """One sampling run, and the report at its end.

    Whole calls are skipped by one engine. The other methods have an engine per network object (several GPUs hold several), for
    which skipped calls do not exist.

    Args:
        asked: the methods, each with its node.
        replaced: nodes whose method a later one replaced.
        sampler: a `KSAMPLER`.
        sigmas: noise levels of its steps [steps + 1], falling.
    """

    def __init__(self, asked: Asked, replaced: Replaced, sampler: Any, sigmas: Tensor) -> None:
        """Before the first call; engines are made when their network is first called."""
        methods = [method for method, _ in asked.values()]
        self._alone = len(methods) == 1
        self._methods = tuple(m for m in methods if not isinstance(m, WholeCallMethod))
        whole = next((m for m in methods if isinstance(m, WholeCallMethod)), None)
        self._calls = WholeCalls(whole, sampler, sigmas, self._methods) if whole else None
        self._nodes = tuple(dict.fromkeys(node for _, node in asked.values()))
        self._replaced = replaced
        self._sampler = sampler
        self._sigmas = sigmas
        self._windows = Windows()
        self._engines: dict[nn.Module, Engine | None] = {}
        self._refusals: dict[str, None] = {}
        self._failed = False
        self._log, self._live = RunLog(), LiveText()
        self._reports: list[Report] = []

    @property
    def skips_calls(self) -> bool:
        """Whether :meth:`batch` must stand in for `calc_cond_batch`."""
        return self._calls is not None

    def keep_calls(self, reason: str) -> None:
        """Skip no calls in this run, and show why; nothing for ""."""
        if reason and self._calls is not None:
            self._calls = None
            self._refuse(f"{reason}; {self._without(CallSkip.kind)}")

    def batch(self, executor: Any, model: Any, conds: Conds, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Any:
        """Evaluate a batch of conds as `calc_cond_batch` does, or forecast its outputs.

        Args:
            executor: the next wrapper of `calc_cond_batch`.
            model: a `BaseModel`.
            conds: what is evaluated.
            x: the latent [B, ...], in the sampler's scale.
            sigma: its noise level [B].
            options: the model_options.
        """
        args = model, conds, x, sigma, options
        batch = self._batch_or_none(*args)
        if self._calls is None or batch is None:
            return executor(*args)
        with self._logged():
            return self._calls.answer(executor, batch, *args)

    def _batch_or_none(self, model: Any, conds: Conds, x: Tensor, sigma: Tensor, options: Any) -> CondBatch | None:
        """The batch, in a run of the calls' engine; None where nothing is evaluated, or where reading it failed."""
        try:
            if self._failed or self._calls is None:
                return None
            self._calls.begin(model)
            batch = CondBatch.of(conds, x, sigma, options)
            return batch if batch.active else None
        except Exception as fault:
            self._give_up(fault)
            return None

    @contextmanager
    def forward(self, model: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Bracket one forward of a BaseModel. A forward that cannot be served runs unaccelerated, and the report says why.

        Yields the transformer_options to run it with.

        Args:
            model: the `BaseModel`.
            x: its input [rows, ...].
            sigma: its noise level [rows].
            options: the transformer_options.
        """
        engine = self._engine_or_none(model)
        if engine is None:
            yield options
        else:
            with self._logged(), engine.call(lambda: self._call(model, x, sigma, options)):
                yield with_kernels(options) if engine.reaches_kernels else options

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Bracket a forward, or a batch of them: log it, and show the run so far."""
        self._log.begin()
        yield
        try:
            whole = self._calls.report if self._calls else None
            if self._log.update(whole, [e.running.meter.report for e in self._engines.values() if e and e.running]):
                self._show_progress(whole)
        except Exception as fault:
            self._give_up(fault)

    def _show_progress(self, whole: Report | None) -> None:
        if self._live.due():
            error = whole.error_text if whole else ""
            text = progress(self._log, calls_ahead(self._sampler, self._sigmas), error)
            self._live.show([text, *self._refusal_lines()], self._nodes)

    def _call(self, model: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> Call:
        call = call_of(model.model_sampling, x, sigma, options, hook_strengths(model))
        call = replace(call, step=self._calls.step_of_runs(call.step)) if self._calls else call
        self._windows.check(call.timestep, options)
        return call

    @property
    def record(self) -> Record:
        """What the run did, after its end."""
        return Record(tuple(self._reports), tuple(self._refusals), self._log)

    def end(self) -> None:
        """End the engines' runs, free their state, and show the reports. Never raises, so that the picture is returned."""
        engines, self._engines = self._engines, {}
        self._log.end()
        try:
            reports = [engine.end() for engine in engines.values() if engine]
            self._reports = _together(self._calls.end() if self._calls else None, reports)
            self._log.compare(self._reports)
            self._show(self._reports)
        except Exception as fault:
            self._give_up(fault)

    def _show(self, reports: list[Report]) -> None:
        texts = [node_text(report, self._log) for report in reports if report.calls]
        if texts:
            log.info("Skipstone: %s", " ".join(texts).replace("\n", " "))
        for node in self._nodes:
            shown = [*texts, *self._refusal_lines(), *filter(None, [self._replaced.get(node)])]
            if shown:
                showing = "" if self._live.shown else "\n".join(self._refusal_lines())
                show_run("\n".join(shown), node, showing=showing)
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
            timesteps = self._timesteps(model)
            methods = (*self._methods, *(self._calls.beside if self._calls else ()))
            fitting = [m for m in methods if self._fits(m, model, network, timesteps)]
            self._engines[network] = _begun(network, fitting, timesteps) if fitting else None
        return self._engines[network]

    def _timesteps(self, model: Any) -> Sequence[float] | None:
        """The timesteps of the calls that will run; None if they are not known."""
        horizon = self._calls.horizon if self._calls else None
        return horizon.timesteps if horizon else planned_timesteps(self._sampler, self._sigmas, model.model_sampling)

    def _fits(self, method: Method, model: Any, network: nn.Module, timesteps: Sequence[float] | None) -> bool:
        """Can this model do it, in this run? If not, the node shows the reason, and the other methods go on."""
        try:
            _begun(network, [method], timesteps).end()
            reason = skips_nothing(method, network, timesteps)
        except ModelError:
            if not known(network):
                return self._refuse(
                    f"{unsupported(model)}; {UNACCELERATED if self._calls is None else WITHOUT[method.kind]}"
                )
            return self._refuse(refusal(model, method.kind) + f"; {UNACCELERATED}" * self._alone)
        except SkipstoneError as error:
            reason = str(error)
        return not reason or self._refuse(f"{reason}; {self._without(method.kind)}")

    def _without(self, kind: str) -> str:
        """What becomes of a run in which a method does nothing."""
        return UNACCELERATED if self._alone else WITHOUT[kind]

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


def _begun(network: nn.Module, methods: list[Method], timesteps: Sequence[float] | None) -> Engine:
    """An engine whose run has begun. Raises :class:`SkipstoneError` for what does not fit."""
    engine = Engine(network, Recipe.of(methods), key_bias, kernels=COMFYUI)
    engine.begin(timesteps, TRAIN_STEPS)
    return engine


def _together(calls: Report | None, parts: list[Report]) -> list[Report]:
    """The reports to show: that of call skipping joined with the first of the other methods."""
    if calls is None or not calls.calls or not parts:
        return [*([calls] if calls else []), *parts]
    first, *others = parts
    joined = replace(
        first,
        calls=calls.calls,
        calls_forecast=calls.calls_forecast,
        forecast_as=calls.forecast_as,
        chosen=calls.chosen,
        beside=calls.beside,
        estimated_error=calls.estimated_error,
        allowed_error=calls.allowed_error,
        compared=calls.compared,
        cache_bytes=calls.cache_bytes + first.cache_bytes,
        notes=list(dict.fromkeys([*calls.notes, *first.notes])),
        declined={**calls.declined, **first.declined},
    )
    return [joined, *others]
