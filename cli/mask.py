"""`skipstone blocks` and `skipstone mask make|show|check|convert`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from ..core.errors import ModelError, shown
from ..core.files import whole_file
from ..core.models import Family, recognise
from ..core.models.graph import BlockGraph
from ..core.plan.block_plan import even_timesteps, graph_of, rule_mask
from ..core.plan.liveness import State, liveness
from ..core.plan.mask_fit import fitted, mapped
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import Mask
from ..core.recipe.validate import integer
from ..lab.demo_models.loading import load_model
from .options import helped

Model = Annotated[str, tyro.conf.Positional]
File = Annotated[Path, tyro.conf.Positional]


@dataclass(frozen=True)
class Blocks:
    """Print the blocks of a model that a mask can skip, in the order they run.

    Example:
        >>> Blocks("demo").config is None
        True
    """

    model: Model
    """`demo`, a diffusers folder, or a single .safetensors file."""
    config: Path | None = None
    """For a single file: a local diffusers folder of the same kind of model."""


@dataclass(frozen=True)
class MakeMask:
    """Write a mask by a rule, for a model and a number of calls.

    Example:
        >>> MakeMask("demo", rule="interval", every=3).calls
        50
    """

    model: Model
    """`demo`, a diffusers folder, or a single .safetensors file."""
    rule: Annotated[str, helped(BlockSkip, "rule")] = BlockSkip.rule
    every: Annotated[int, helped(BlockSkip, "every")] = BlockSkip.every
    branch: Annotated[int, helped(BlockSkip, "branch")] = BlockSkip.branch
    depths: Annotated[tuple[int, ...], helped(BlockSkip, "depths")] = BlockSkip.depths
    calls: int = 50
    """Calls of the denoiser."""
    out: Path = Path("mask.safetensors")
    """File to write."""
    config: Path | None = None
    """For a single file: a local diffusers folder of the same kind of model."""


@dataclass(frozen=True)
class ShowMask:
    """Print the contents of a mask file; with --png draw it.

    Example:
        >>> ShowMask(Path("mask.safetensors")).png is None
        True
    """

    file: File
    """Mask file."""
    png: Path | None = None
    """Picture to write: calls by blocks."""


@dataclass(frozen=True)
class CheckMask:
    """Check whether a mask file fits a model.

    Example:
        >>> CheckMask(Path("mask.safetensors"), "demo").model
        'demo'
    """

    file: File
    """Mask file."""
    model: Model
    """`demo`, a diffusers folder, or a single .safetensors file."""
    config: Path | None = None
    """For a single file: a local diffusers folder of the same kind of model."""


@dataclass(frozen=True)
class ConvertMask:
    """Map a mask to another number of calls, by timestep.

    Example:
        >>> ConvertMask(Path("mask.safetensors"), calls=25, out=Path("mask_25.safetensors")).calls
        25
    """

    file: File
    """Mask file."""
    calls: int
    """Number of calls of the run."""
    out: Path
    """File to write."""


def show_blocks(options: Blocks) -> None:
    """Print the catalogue of a model's blocks. Raises :class:`ModelError` for a model that cannot be used.

    Example:
        >>> show_blocks(Blocks("demo-dit"))
        diffusers DiT: 16 blocks, cached as branch (possible: branch, output, difference)
          transformer_blocks.0.attn1 ...
    """
    family, graph = _model(options.model, options.config)
    print(
        f"{family.name}: {len(graph.masked)} blocks, cached as {graph.caching} (possible: {', '.join(family.cachings)})"
    )
    for i in graph.masked:
        block = graph.blocks[i]
        depth = "middle" if block.depth > len(graph) else f"depth {block.depth}"
        print(f"  {block.name:48} {block.kind:16} {depth}")


def make_mask(options: MakeMask) -> None:
    """Make a mask by a rule and write it. Raises :class:`SkipstoneError` for a model or rule that cannot be used.

    Example:
        >>> make_mask(MakeMask("demo", calls=0))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: calls=0 must be a whole number from 1 on: 50 is the default
    """
    settings = BlockSkip(rule=options.rule, every=options.every, branch=options.branch, depths=options.depths)
    family, graph = _model(options.model, options.config, settings)
    mask = rule_mask(settings, graph, family.name, _even_timesteps(options.calls))
    mask.save(options.out)
    print(f"{options.out}: {_line(mask)}")


def show_mask(options: ShowMask) -> None:
    """Print a mask file, and draw it. Raises :class:`MaskError` for a file that cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     Mask(np.eye(2, dtype=bool) | True, "toy", ("a", "b"), (999.0, 0.0), "output").save(Path(folder, "mask.safetensors"))
        ...     show_mask(ShowMask(Path(folder, "mask.safetensors")))
        /...: toy, 2 calls x 2 blocks, 100% run, output cached
        made by: unknown
    """
    mask = Mask.load(options.file)
    print(f"{options.file}: {_line(mask)}")
    print(f"made by: {mask.provenance or 'unknown'}")
    if options.png:
        from ..core.plan.heatmap import heatmap

        states = np.where(mask.run, State.RUN, State.REUSE)
        picture = heatmap(states, mask.blocks, f"{mask.family}, {len(mask.run)} calls")
        with whole_file(options.png) as part:
            picture.save(part)
        print(f"wrote {options.png}")


def check_mask(options: CheckMask) -> None:
    """Print one line if a mask fits a model. Raises :class:`MaskError` if it does not.

    Example:
        >>> check_mask(CheckMask(Path("no such file"), "demo"))
        Traceback (most recent call last):
        skipstone.core.errors.MaskError: ...
    """
    mask = Mask.load(options.file)
    family, graph = _model(options.model, options.config, BlockSkip(mask=mask))
    states = liveness(fitted(mask, family.name, graph).run, graph)
    print(f"{options.file}: fits; {int((states == State.RUN).sum())} of {states.size} block runs are needed")


def convert_mask(options: ConvertMask) -> None:
    """Map a mask to another number of calls and write it. Raises :class:`SkipstoneError` for a file or number that cannot be used.

    Example:
        >>> convert_mask(ConvertMask(Path("no such file"), calls=25, out=Path("mask_25.safetensors")))
        Traceback (most recent call last):
        skipstone.core.errors.MaskError: ...
    """
    mask = mapped(Mask.load(options.file), _even_timesteps(options.calls))
    mask.save(options.out)
    print(f"{options.out}: {_line(mask)}")


def _even_timesteps(calls: int) -> tuple[float, ...]:
    integer("calls", calls, 1, "50 is the default")
    return even_timesteps(calls)


def _line(mask: Mask) -> str:
    return (
        f"{mask.family}, {len(mask.run)} calls x {len(mask.blocks)} blocks, {mask.share:.0%} run, {mask.caching} cached"
    )


def _model(model: str, config: Path | None, settings: BlockSkip | None = None) -> tuple[Family, BlockGraph]:
    pipe: Any = load_model(model, config=config)
    network = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    if network is None:
        raise ModelError(f"{shown(model)} has neither a unet nor a transformer: give a pipeline that has one")
    family = recognise(network)
    return family, graph_of(settings or BlockSkip(), family, network)
