"""A program that uses `core` where nothing but torch, numpy, safetensors and einops is installed.

Run as `python core_alone.py`: it prints the modules that it imported, and the report's figures of a run with all methods.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

GROUND = ("torch", "numpy", "safetensors", "einops")


def with_requirements(*names: str) -> set[str]:
    """Distributions and all that they need, extras left out."""
    found: set[str] = set()
    open_names = list(names)
    while open_names:
        name = normal(open_names.pop())
        if name not in found:
            found.add(name)
            open_names += [normal(line) for line in required(name)]
    return found


def required(name: str) -> list[str]:
    """Requirement lines of a distribution, without those of extras; empty if it is not installed."""
    try:
        return [line for line in requires(name) or [] if "extra ==" not in line]
    except ModuleNotFoundError:
        return []


def normal(line: str) -> str:
    """The distribution's name in a requirement line, in the form in which names are compared."""
    name = re.match(r"[\w.-]+", line)
    return re.sub(r"[-_.]+", "-", name.group() if name else line).lower()


class Missing(MetaPathFinder):
    """Makes packages look as if they were not installed."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Raise for the missing packages; None leaves the others to the finders after this one."""
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def third_party() -> set[str]:
    """Names of installed packages that neither `core`'s requirements nor theirs bring."""
    kept = with_requirements(*GROUND) | {"skipstone", "setuptools", "pip"}
    return {name for name, owners in packages_distributions().items() if not {normal(o) for o in owners} & kept}


def import_all() -> list[str]:
    """Import every module of `core`; their names."""
    core = importlib.import_module("skipstone.core")
    names = [info.name for info in pkgutil.walk_packages(core.__path__, "skipstone.core.")]
    for name in names:
        importlib.import_module(name)
    return names


def sample() -> dict[str, Any]:
    """Sample a tiny transformer with all three methods; figures of the report."""
    import torch
    from doubles.paper_dit import PaperDiT

    from skipstone.core.engine.call import Call
    from skipstone.core.engine.clock import Stream
    from skipstone.core.engine.engine import Engine
    from skipstone.core.recipe.block_skip import BlockSkip
    from skipstone.core.recipe.recipe import Recipe
    from skipstone.core.recipe.token_merge import TokenMerge
    from skipstone.core.recipe.token_prune import TokenPrune

    model = PaperDiT().eval().requires_grad_(False)
    recipe = Recipe(
        TokenMerge(threshold=-1.0, bucket=1), "", BlockSkip("interval", 2), TokenPrune(0.5, targets=("ff",))
    )
    engine, x, label = Engine(model, recipe), torch.ones(2, 4, 8, 8), torch.zeros(2, dtype=torch.long)
    engine.begin()
    for t in (900.0, 600.0, 300.0, 100.0):
        with torch.no_grad(), engine.call(Call(t, (8, 8), (Stream("all", 2),), input=x)):
            x = x + 0.1 * model(x, torch.full((2,), t), label)[:, :4]
    report = engine.end()
    tokens = {layer.verb: layer.kept / layer.tokens for layer in report.layers.values()}
    return {"calls": report.calls, "kept": tokens, "run": report.blocks_run, "reused": report.blocks_reused}


if __name__ == "__main__":
    sys.meta_path.insert(0, Missing(third_party()))
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    print(json.dumps({"modules": import_all(), "report": sample(), "missing": sorted(third_party())}))
