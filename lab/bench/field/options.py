"""The options of `skipstone bench field`, and what is measured by them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ....core.errors import RecipeError
from ....pipelines.samplers import FLOW_SAMPLERS, SAMPLERS, check_sampler
from ...demo_models.loading import DEMOS
from ..figures import Files

_QUICK = (
    "Auto 1.5x", "Auto 2x", "Auto 3x", "CA-ToMe 0.7", "balanced 0.9", "calls 1.5x + rule 2",
    "TaylorSeer, order 2, 2x", "TaylorSeer, order 2, 3x", "FoCa, 2x", "Spectrum, 2x", "DPCache", "EasyCache 0.2",
    "tomesd 25%", "ca-tome 0.9", "DeepCache every 2", "cache-dit DBCache .24, TaylorSeer", "cache-dit SCM every 2, TaylorSeer",
    "FirstBlockCache 0.2", "diffusers TaylorSeer every 2", "MagCache 0.2", "PAB", "hicache-pp hermite",
)  # fmt: skip
"""Words in the names of a quick run's ways."""


class Cell(NamedTuple):
    """One part of the field: a dense run that ways are compared with.

    Args:
        model: name or path.
        sampler: short name.
        steps: of the dense run.
        guidance: scale.

    Example:
        >>> Cell("demo-dit", "ddim", 20, 3.0).title
        'demo-dit, ddim, 20 steps, guidance 3'
    """

    model: str
    sampler: str
    steps: int
    guidance: float

    @property
    def title(self) -> str:
        """In tables."""
        return f"{Path(self.model).name}, {self.sampler}, {self.steps} steps, guidance {self.guidance:g}"

    @property
    def file(self) -> str:
        """Name of its file, without the suffix."""
        return f"{Path(self.model).name}-{self.sampler}-{self.steps}-{self.guidance:g}"


@dataclass(frozen=True)
class FieldBench(Files):
    """Compare all that Skipstone does with the field: fewer steps, other samplers, packages, published rules. On the same noises.

    Each row is stored when it is measured, and the same command goes on after it was stopped.

    Example:
        >>> FieldBench(steps=(3,)).check()
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: --steps must be 8 or more, ...
    """

    models: tuple[str, ...] = tuple(DEMOS)
    """`demo`, `demo-dit`, `demo-flow`, diffusers folders, or single .safetensors files."""
    samplers: tuple[str, ...] = ("ddim", "dpmpp_2m")
    """Short names of diffusers' samplers: ddim, euler, euler_a, dpmpp_2m, dpmpp_2m_sde, unipc, heun ... On a flow model, ddim is
    euler."""
    steps: tuple[int, ...] = (20,)
    """Steps of the dense runs, such as 20 28 50."""
    guidance: tuple[float, ...] = (3.0,)
    """Guidance scales, such as 1 3 5."""
    noises: int = 32
    """Samples, the same for all ways. They are in no shipped profile or training."""
    only: tuple[str, ...] = ()
    """Measure only the ways whose name or group contains one of these, and fewer steps."""
    files: tuple[Path, ...] = ()
    """Masks (.safetensors) and recipes (.json) to compare as well."""
    ode_steps: int = 40
    """Steps of Heun's method whose result stands for the solution of the ODE; 0 leaves the column out."""
    rounds: int = 1
    """Timed rounds of one picture, all ways in turn; 0 takes no times."""
    quick: bool = False
    """A reduced run: 8 noises, one sampler, a choice of ways, no times. Some 10 minutes on two cores."""
    device: str = "cpu"
    """Where to run: cpu, cuda, mps. On CUDA times are taken by its events, and memory by its allocator."""
    half: bool = False
    """Run in fp16."""
    threads: int | None = None
    """torch threads; torch's own number without it."""
    batch: int = 8
    """Samples that are drawn together. A rule that decides during the run decides for them together."""
    work: Path = Path("out/bench_field")
    """Folder of what is measured, by which a stopped run goes on. Remove it to begin again."""
    html: Path = Path("out/bench_field.html")
    """The page."""
    brief: bool = False
    """Show Auto beside fewer steps and the best rival alone, a line for each speed-up; the page and the JSON file have all."""
    section: str = ""
    """Markers of the Markdown section: `<!-- bench field SECTION -->`."""
    out: Path = Path("out/bench_field.json")

    def check(self) -> None:
        """Raise :class:`RecipeError` for what cannot be measured."""
        if min(self.steps, default=0) < 8 or self.noises < 2 or self.batch < 1 or min(self.rounds, self.ode_steps) < 0:
            raise RecipeError(
                "--steps must be 8 or more, --noises 2 or more, --batch 1, --rounds and --ode-steps 0 or more"
            )
        for name in self.samplers:
            check_sampler(name, flow=False) if name in SAMPLERS or name not in FLOW_SAMPLERS else None

    def reduced(self) -> FieldBench:
        """Return these options as --quick has them; unchanged without it."""
        if not self.quick:
            return self
        return replace(
            self, samplers=self.samplers[:1], steps=self.steps[:1], guidance=self.guidance[:1], noises=min(self.noises, 8),
            only=self.only or _QUICK, rounds=0, ode_steps=0,
        )  # fmt: skip

    def cells(self) -> Iterator[Cell]:
        """Return the parts, one by one."""
        for model in self.models:
            for sampler in self.samplers:
                for steps in self.steps:
                    for guidance in self.guidance:
                        yield Cell(model, _own(model, sampler), steps, guidance)


def _own(model: str, sampler: str) -> str:
    """DDIM of a flow model is Euler."""
    return "euler" if DEMOS.get(model) == "flow" and sampler == "ddim" else sampler
