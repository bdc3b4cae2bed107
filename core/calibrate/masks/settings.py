"""The settings of mask training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ...errors import RecipeError
from ...recipe.block_skip import BlockSkip
from ...recipe.fields import check_fields, documented, setting, shared
from ...recipe.validate import number
from .gates import Sampling

Form = Literal["search", "exchange", "windowed", "interleaved", "sequential", "paper"]
Start = Literal["rule", "uniform"]
Control = Literal["dual", "project", "fixed"]
Checkpointing = Literal["auto", "none", "block", "call"]
Caching = Literal["auto", "output", "branch"]

PAPER: dict[str, Any] = {
    "start": "uniform",
    "control": "dual",
    "forecast": False,
    "cost_weighted": False,
    "sampling": "bernoulli",
    "credit": 0,
    "loss_at": "end",
    "refine": 0,
}
"""What form="paper" stands for beside form="interleaved": timestep-aware block masking (arXiv 2603.19939) as published."""


@documented
@dataclass(frozen=True)
class TrainSettings:
    """Settings of :func:`skipstone.core.calibrate.masks.trainer.train`. Raises :class:`RecipeError` for values that cannot run.

    Example:
        >>> TrainSettings(speedup=2.0).share
        0.5
    """

    target: float = setting(
        0.6,
        "Share of the model's computation that may run: 0.6 is about 1.7 times less than the full model, 0.4 is "
        "2.5 times less. Met within 2 points.",
        low=0.01, high=1.0, step=0.01, remedy="0.6 is a good beginning",
    )  # fmt: skip
    speedup: float = setting(
        0.0,
        "The target as a ratio of multiply-adds, such as 1.6. Replaces target where it is not 0.",
        low=0.0, high=100.0, remedy="1.6 is a good beginning", shown=False,
    )  # fmt: skip
    passes: int = setting(
        20,
        "Rounds of training. Start with 20; more rounds take longer and can find better masks.",
        low=0, high=10**6,
    )  # fmt: skip
    batch: int = setting(
        4,
        "Samples per round, over all processes. Not used by search.",
        low=1, high=10000, shown=False,
    )  # fmt: skip
    form: Form = setting(
        "search",
        "How the mask is found. search needs no gradients and the least memory; the others need the weights twice. "
        "exchange estimates changes by gradients; windowed, interleaved and sequential follow gradients through several "
        "calls, once per call, or call after call. paper is interleaved as published.",
        choices=get_args(Form), unlisted=("sequential",), advanced=True,
    )  # fmt: skip
    window: int = setting(
        0,
        "Calls that gradients go back through in the form windowed; 0 is the whole run.",
        low=0, high=10**6, shown=False,
    )  # fmt: skip
    start: Start = setting(
        "rule",
        "Where training starts: rule, an interval mask of the same budget, or uniform, the probability `initial` "
        "everywhere.",
        choices=get_args(Start), shown=False,
    )  # fmt: skip
    initial: float = setting(
        0.9,
        "Probability that a block runs, in the uniform start.",
        low=0.0, high=1.0, shown=False,
    )  # fmt: skip
    sureness: float = setting(
        0.95,
        "Probability that a block runs where the starting rule runs it; where it reuses, 1 less this.",
        low=0.5, high=1.0, shown=False,
    )  # fmt: skip
    sampling: Sampling = setting(
        "bernoulli",
        "How gates are drawn from probabilities: bernoulli (straight-through), gumbel, mean, which mixes both "
        "values by the probability, or row, which decides on all blocks of a call by one number.",
        choices=get_args(Sampling), shown=False,
    )  # fmt: skip
    lr: float = setting(
        0.05,
        "Adam's step size on the probabilities.",
        low=0.0, high=10.0, shown=False,
    )  # fmt: skip
    control: Control = setting(
        "project",
        "How the budget is met: project moves the probabilities to it after each round, dual adapts lambda1, fixed "
        "keeps lambda1.",
        choices=get_args(Control), shown=False,
    )  # fmt: skip
    lambda1: float = setting(
        0.001,
        "First weight of the sparsity term (dual, fixed).",
        low=0.0, high=1e6, shown=False,
    )  # fmt: skip
    lambda2_ratio: float = setting(
        0.5,
        "Weight of the bi-modal term, as a share of lambda1. Up to 1 it never pushes a probability up.",
        low=0.0, high=100.0, shown=False,
    )  # fmt: skip
    weight_low: float = setting(
        0.5,
        "w(s) of Eq. 10 where features vary more than at half the calls.",
        low=0.0, high=1000.0, shown=False,
    )  # fmt: skip
    weight_high: float = setting(
        1.5,
        "w(s) of Eq. 10 where features vary less.",
        low=0.0, high=1000.0, shown=False,
    )  # fmt: skip
    cost_weighted: bool = setting(True, "Weight the sparsity term by each block's multiply-adds.", shown=False)
    advance: Literal["student", "teacher"] = setting(
        "student",
        "Whose output moves a sample on to the next call, in the per-call forms: the masked network's (student) or "
        "the full one's (teacher).",
        choices=("student", "teacher"), shown=False,
    )  # fmt: skip
    loss_at: Literal["end", "output"] = setting(
        "end",
        "Where the per-call forms compare the two: after the last block, or at the network's output.",
        choices=("end", "output"), shown=False,
    )  # fmt: skip
    credit: int = setting(
        0,
        "Later calls whose losses reach a call's probabilities through what it cached, in the form interleaved. The paper "
        "has none.",
        low=0, high=10**6, shown=False,
    )  # fmt: skip
    updates: int = setting(
        8,
        "Steps on each call, in the form sequential.",
        low=1, high=10000, shown=False,
    )  # fmt: skip
    tries: int = setting(
        8,
        "Moves tried per round, in the forms search and exchange.",
        low=0, high=10**6, shown=False,
    )  # fmt: skip
    caching: Caching = shared(BlockSkip, "caching", "auto")
    split: bool = shared(BlockSkip, "split", False)
    forecast: bool = shared(BlockSkip, "forecast", True)
    checkpointing: Checkpointing = setting(
        "auto",
        "What the backward pass computes again to save memory: block (per-call forms), call (windowed, exchange), "
        "or none.",
        choices=get_args(Checkpointing), shown=False,
    )  # fmt: skip
    refine: int = setting(
        0,
        "Moves tried after a training by gradients.",
        low=0, high=10**6, shown=False,
    )  # fmt: skip
    refine_batch: int = setting(
        16,
        "Number of samples on which changes of the mask are compared; each must also hold on as many others. Fewer are "
        "faster and need less memory, but the mask fits them more closely.",
        low=1, high=10000, advanced=True,
    )  # fmt: skip
    profile_batch: int = setting(
        4,
        "Samples on which the variation of features is measured.",
        low=1, high=10000, shown=False,
    )  # fmt: skip
    seed: int = setting(
        0,
        "Seed of the training. The same seed gives the same mask.",
        low=0, high=2046, remedy="give 2046 at most; later noises are kept for reports on masks", advanced=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse values that cannot run, and complete the paper's form."""
        check_fields(self)
        if self.speedup:
            number("speedup", self.speedup, 1.0, 100.0, "1.6 is a good beginning")
        if self.form == "paper":
            self._as_published()

    def _as_published(self) -> None:
        changed = self.changed()
        for name, value in PAPER.items():
            if name in changed and getattr(self, name) != value:
                raise RecipeError(f"form='paper' has {name}={value!r}: leave {name} out, or give form='interleaved'")
            object.__setattr__(self, name, value)

    def changed(self) -> set[str]:
        """Names of the settings that differ from their defaults."""
        return {f.name for f in fields(self) if getattr(self, f.name) != f.default}

    @property
    def share(self) -> float:
        """The share of multiply-adds asked for."""
        return 1 / self.speedup if self.speedup else self.target

    @property
    def ceiling(self) -> float:
        """The most that a mask may need: a point more, so that an interval mask that almost fits keeps its shape."""
        return min(1.0, self.share + 0.01)

    def to_dict(self) -> dict[str, Any]:
        """As a dict, for provenance and checkpoints."""
        return asdict(self)

    def check_same(self, other: dict[str, Any]) -> None:
        """Raise :class:`RecipeError` if a checkpoint was made with other settings (more passes are allowed)."""
        free = {"passes", "refine", "refine_batch"}
        before = {f.name: f.default for f in fields(self)} | other  # a file may be older than a setting
        differing = [k for k, v in self.to_dict().items() if k not in free and before[k] != v]
        if differing:
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise RecipeError(
                f"the checkpoint was made with other settings ({', '.join(differing[:5])}{more}): "
                "give the same, or train without --resume"
            )
