"""`skipstone reproduce NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from ..lab.reproduce import run
from ..lab.reproduce.protocols import Name

Experiment = Annotated[Name, tyro.conf.Positional]


@dataclass(frozen=True)
class Reproduce(run.Reproduce):
    """The options, with the experiment's name as the first word.

    Example:
        >>> Reproduce(experiment="dato").batch
        4
    """

    experiment: Experiment = "ca-tome"
    """ca-tome; dato (ImageNet classes) or dato-coco; of block masking dit-256, dit-512 or pixart."""


def reproduce(options: Reproduce, command: str = "") -> dict[str, Any]:
    """Draw, measure and show. Raises :class:`SkipstoneError` for options or files that cannot be used.

    Args:
        options: of the command.
        command: the command line, for the figures.

    Returns what the JSON file holds.

    Example:
        >>> from pathlib import Path
        >>> reproduce(Reproduce(load=Path("no such file")))
        Traceback (most recent call last):
        skipstone.core.errors.RecipeError: 'no such file' holds no figures of 'bench reproduce' ...
    """
    return run.reproduce(options, command=command)
