"""The ways to run one transformer block that `skipstone bench tokens` compares, each as a plain callable.

All merge exactly the same number of tokens, without randomness, so that dense matching gives the same output everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...core.errors import SkipstoneError
from ...core.recipe.token_merge import TokenMerge
from ...pipelines.accelerate import accelerate
from .one_block import Inputs, UNetModel, threshold_for, twin

Calls = Literal["recompute", "reuse", "ideal", "dense"]


@dataclass(frozen=True)
class Way:
    """One way to run the block. calls: do pairs get searched (recompute) or reused in the call that is timed?

    agrees: its output must equal the other ways' that agree.
    """

    name: str
    calls: Calls
    run: Callable[[], Tensor]
    agrees: bool = True


def ways(block: nn.Module, inputs: Inputs, merged: int) -> list[Way]:
    """Everything that merges `merged` tokens of each sample; peers only where they are installed."""
    dense, local = (threshold_for(inputs, merged, matching) for matching in ("dense", "local"))
    found = [
        Way("ideal", "ideal", ideal(block, inputs, merged), agrees=False),
        Way("Skipstone dense", "recompute", ours(block, inputs, dense, "every")),
        Way("Skipstone local", "recompute", ours(block, inputs, local, "every", "local"), agrees=False),
        Way("Skipstone reused", "reuse", ours(block, inputs, dense, (0,))),
    ]
    if find_spec("tomesd"):
        found.append(Way("tomesd", "recompute", tomesd(block, inputs, merged)))
    if find_spec("ca_tome"):
        found.append(Way("ca-tome", "recompute", ca_tome(block, inputs, dense, step=0)))
        found.append(Way("ca-tome reused", "reuse", ca_tome(block, inputs, dense, step=1)))
    return found


def absent_peers() -> list[str]:
    """Peers that are not installed."""
    peers = (("tomesd", "tomesd"), ("ca-tome", "ca_tome"))
    return [f"{name} (not installed)" for name, module in peers if not find_spec(module)]


def dense(block: nn.Module, inputs: Inputs) -> Callable[[], Tensor]:
    """The block as it is."""
    return _runner(UNetModel([twin(block)]), inputs)


def ideal(block: Any, inputs: Inputs, merged: int) -> Callable[[], Tensor]:
    """Merging that costs nothing: self-attention on N - merged tokens made ready before, all else on N."""
    reduced = block.norm1(inputs.tokens)[:, merged:].contiguous()
    restored = torch.zeros_like(inputs.tokens)

    @torch.no_grad()
    def run() -> Tensor:
        tokens = inputs.tokens
        block.norm1(tokens)
        block.attn1(reduced)
        tokens = restored + tokens
        tokens = block.attn2(block.norm2(tokens), context=inputs.context) + tokens
        return block.ff(block.norm3(tokens)) + tokens

    return run


def ours(
    block: nn.Module,
    inputs: Inputs,
    threshold: float,
    checkpoints: str | tuple[int, ...],
    matching: Literal["dense", "local"] = "dense",
) -> Callable[[], Tensor]:
    """Skipstone through its public verb, hooks included; `batch="max"` and `bucket=1` as the peers count."""
    root = UNetModel([twin(block)])
    settings = TokenMerge(threshold, checkpoints, matching=matching, batch="max", bucket=1, absolute=True)
    accelerate(root, settings).begin()
    return _runner(root, inputs)


def tomesd(block: nn.Module, inputs: Inputs, merged: int) -> Callable[[], Tensor]:
    """ToMe for Stable Diffusion, whose matching is dense and done at each call."""
    import tomesd as package

    root = UNetModel([twin(block)])
    package.apply_patch(_ldm_model(root), ratio=merged / inputs.count, use_rand=False)
    return _runner(root, inputs)


def ca_tome(block: nn.Module, inputs: Inputs, threshold: float, step: int) -> Callable[[], Tensor]:
    """The released CA-ToMe block with checkpoint 0: step 0 searches the pairs anew, others reuse those of the first run."""
    from ca_tome.patch import apply_patch

    root = UNetModel([twin(block)])
    apply_patch(_ldm_model(root), compute_on=[0], r=threshold, use_rand=False)
    for patched in root.input_blocks:
        patched.__dict__["inference_step"] = step
    return _runner(root, inputs)


def check(found: list[Way], merged: int, inputs: Inputs) -> float:
    """Run all once: each must run its attention on `N - merged` tokens and those that agree must give one output.

    Returns their largest difference. Raises :class:`SkipstoneError` for a way that does other work than it says.
    """
    reference, worst = None, 0.0
    for way in found:
        with _attention_tokens() as seen:
            output = way.run()
        if inputs.count - merged not in seen:
            raise SkipstoneError(f"{way.name} ran attention on {sorted(seen)} tokens, not {inputs.count - merged}")
        if way.agrees:
            reference = output if reference is None else reference
            worst = max(worst, float((output - reference).abs().max()))
    if worst > 1e-3:
        raise SkipstoneError(f"outputs at {merged} merged tokens differ by {worst:.2g}: the rows do not compare")
    return worst


def _runner(root: nn.Module, inputs: Inputs) -> Callable[[], Tensor]:
    """Each call is at a noise level of its own, as in a run."""
    timesteps = cycle(range(999, 0, -1))

    @torch.no_grad()
    def run() -> Tensor:
        return root(inputs.x, torch.full_like(inputs.timesteps, next(timesteps)), context=inputs.context)

    return run


def _ldm_model(root: nn.Module) -> nn.Module:
    """The nesting `model.diffusion_model` in which the peers look for ldm's network."""
    outer, inner = nn.Module(), nn.Module()
    inner.diffusion_model = root
    outer.model = inner
    return outer


@contextmanager
def _attention_tokens() -> Iterator[set[int]]:
    """The token counts that enter `scaled_dot_product_attention` as keys meanwhile."""
    from torch.overrides import TorchFunctionMode

    seen: set[int] = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.nn.functional.scaled_dot_product_attention:
                with suppress(IndexError):
                    seen.add(args[1].shape[2])
            return func(*args, **(kwargs or {}))

    with Watch():
        yield seen
