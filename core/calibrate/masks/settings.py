"""How a mask is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ...errors import RecipeError
from ...recipe.validate import choice, integer, number
from .gates import Sampling

Form = Literal["search", "exchange", "windowed", "interleaved", "sequential", "paper"]
Start = Literal["rule", "uniform"]
Control = Literal["dual", "project", "fixed"]
Checkpointing = Literal["auto", "none", "block", "call"]
Caching = Literal["auto", "output", "branch"]

VERIFIED = ("search", "exchange")
"""Forms whose passes change a binary mask by moves that are verified; the others step on probabilities along gradients."""
PAPER: dict[str, Any] = {
    "start": "uniform",
    "control": "dual",
    "forecast": False,
    "cost_weighted": False,
    "sampling": "bernoulli",
    "loss_at": "end",
    "refine": 0,
}
"""What form="paper" stands for beside form="interleaved": timestep-aware block masking (arXiv 2603.19939) as published."""

_GRADIENT = {"sampling", "lr", "control", "weight_low", "weight_high", "cost_weighted"}
_READ_BY: dict[str, set[str]] = {
    "search": {"tries"},
    "exchange": {"tries", "checkpointing"},
    "windowed": {*_GRADIENT, "window", "checkpointing"},
    "interleaved": {*_GRADIENT, "advance", "loss_at", "checkpointing"},
    "sequential": {*_GRADIENT, "updates", "loss_at", "checkpointing"},
    "paper": {*_GRADIENT, "advance", "loss_at", "checkpointing"},
}
"""Settings that not every form reads, by the forms that do."""

_NUMBERS = {"initial": (0.0, 1.0), "sureness": (0.5, 1.0), "lr": (0.0, 10.0), "lambda1": (0.0, 1e6)}
_NUMBERS |= {"lambda2_ratio": (0.0, 100.0), "weight_low": (0.0, 1e3), "weight_high": (0.0, 1e3)}
_COUNTS = {"passes": (0, 10**6), "batch": (1, 10**4), "refine": (0, 10**6), "window": (0, 10**6), "updates": (1, 10**4)}
_COUNTS |= {"tries": (0, 10**6), "refine_batch": (1, 10**4), "profile_batch": (1, 10**4), "seed": (0, 2046)}


@dataclass(frozen=True)
class TrainSettings:
    """Settings of :func:`skipstone.core.calibrate.masks.trainer.train`."""

    target: float = 0.6
    """Share of the whole network's multiply-adds that the mask may need; met within 2 points."""
    speedup: float = 0.0
    """The same as a ratio, such as 1.6; wins over target where it is not 0."""
    passes: int = 20
    """Rounds of training."""
    batch: int = 4
    """Samples of a pass, over all processes; search uses none."""
    form: Form = "search"
    """search: verified moves of a binary mask. exchange: the same, chosen by estimates of every flip. windowed: gradients
    through several calls. interleaved: one loss and step per call. sequential: call after call. paper: interleaved as
    published, with a uniform start, sparsity and bi-modal terms, equal block costs, and no forecast or refinement."""
    window: int = 0
    """windowed: calls that gradients go back through; 0 is the whole run."""
    start: Start = "rule"
    """rule: an interval mask of the same budget. uniform: `initial` everywhere."""
    initial: float = 0.9
    """Probability of the uniform start."""
    sureness: float = 0.95
    """Probability of a run in the rule's start, and 1 less it of a reuse."""
    sampling: Sampling = "bernoulli"
    """How gates are drawn: bernoulli (straight-through), gumbel, or mean (the probability mixes)."""
    lr: float = 0.05
    """Adam's step on the probabilities."""
    control: Control = "project"
    """project: probabilities are moved to the budget after each pass. dual: lambda1 is adapted. fixed: it is kept."""
    lambda1: float = 1e-3
    """First weight of the sparsity term (dual, fixed)."""
    lambda2_ratio: float = 0.5
    """Weight of the bi-modal term, as a share of lambda1; up to 1 it never pushes a probability up."""
    weight_low: float = 0.5
    """w(s) where features vary more than at half the calls (Eq. 10)."""
    weight_high: float = 1.5
    """w(s) where they vary less."""
    cost_weighted: bool = True
    """Weigh the sparsity term by multiply-adds."""
    advance: Literal["student", "teacher"] = "student"
    """Whose output moves the sample on in the per-call forms."""
    loss_at: Literal["end", "output"] = "end"
    """Where the per-call forms compare: after the end block, or at the network's output."""
    updates: int = 8
    """sequential: steps on each call."""
    tries: int = 8
    """search, exchange: moves tried in a pass."""
    caching: Caching = "auto"
    """What is cached: a block's output, or the branch it adds; the family's default."""
    split: bool = False
    """Take a U-Net's transformers apart into their single blocks."""
    forecast: bool = True
    """Continue the last two cached values in a straight line, in training and in use."""
    checkpointing: Checkpointing = "auto"
    """What the backward pass evaluates again: block (per-call forms), call (windowed, exchange), or none."""
    refine: int = 0
    """Moves tried after a training by gradients."""
    refine_batch: int = 16
    """Samples on which moves are found; each move must also hold on as many others."""
    profile_batch: int = 4
    """Samples on which the feature variation is measured."""
    seed: int = 0
    """Of noises and draws; from 2047 on noises would be among those that masks are reported on."""

    def __post_init__(self) -> None:
        """Refuse what cannot run, and complete the paper's form. Raises :class:`RecipeError`."""
        choice("form", self.form, get_args(Form))
        choice("start", self.start, get_args(Start))
        choice("sampling", self.sampling, get_args(Sampling))
        choice("control", self.control, get_args(Control))
        choice("advance", self.advance, ("student", "teacher"))
        choice("loss_at", self.loss_at, ("end", "output"))
        choice("caching", self.caching, get_args(Caching))
        choice("checkpointing", self.checkpointing, get_args(Checkpointing))
        if self.speedup:
            number("speedup", self.speedup, 1.0, 100.0, "1.6 is a good beginning")
        number("target", self.target, 0.01, 1.0, "0.6 is a good beginning")
        for name, (low, high) in _NUMBERS.items():
            number(name, getattr(self, name), low, high, f"{_default(name)} is the default")
        for name, (least, most) in _COUNTS.items():
            integer(name, getattr(self, name), least, f"{_default(name)} is the default", most)
        if self.form == "paper":
            self._as_published()

    def _as_published(self) -> None:
        changed = self._changed()
        for name, value in PAPER.items():
            if name in changed and getattr(self, name) != value:
                raise RecipeError(f"form='paper' has {name}={value!r}: leave {name} out, or give form='interleaved'")
            object.__setattr__(self, name, value)

    def _changed(self) -> set[str]:
        """Names of the settings that differ from their defaults."""
        return {f.name for f in fields(self) if getattr(self, f.name) != f.default}

    def unread(self) -> str:
        """Settings that were given but are not used by this form, by name; empty where all are."""
        read = {"lambda1", "lambda2_ratio"} if self.control != "project" and self.form not in VERIFIED else set()
        read |= _READ_BY[self.form] | ({"initial"} if self.start == "uniform" else {"sureness"})
        read |= {"sureness"} if self.form in VERIFIED else {"refine"}
        partly = set().union(*_READ_BY.values()) | {"lambda1", "lambda2_ratio", "initial", "sureness"}
        return ", ".join(sorted(self._changed() & (partly - read)))

    @property
    def share(self) -> float:
        """The share of multiply-adds asked for."""
        return 1 / self.speedup if self.speedup else self.target

    @property
    def ceiling(self) -> float:
        """The most that a mask may need: a point more, so that an interval mask that all but fits is not torn apart."""
        return min(1.0, self.share + 0.01)

    def to_dict(self) -> dict[str, Any]:
        """For provenance and checkpoints."""
        return asdict(self)

    def check_same(self, other: dict[str, Any]) -> None:
        """Raise :class:`RecipeError` where a checkpoint was made with other settings (more passes may be asked for)."""
        free = {"passes", "refine", "refine_batch"}
        differing = [k for k, v in self.to_dict().items() if k not in free and other.get(k) != v]
        if differing:
            more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
            raise RecipeError(
                f"the checkpoint was made with other settings ({', '.join(differing[:5])}{more}): "
                "give the same, or train without --resume"
            )


def _default(name: str) -> Any:
    return getattr(TrainSettings, name)
