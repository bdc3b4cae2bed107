"""The ways to run one transformer block that `skipstone bench tokens` compares, each as a plain callable.

All merge the same number of tokens, without randomness, so that dense matching gives the same output everywhere.
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

ROUNDED = 0.03
"""Share of the tokens by which ways may differ in half precision."""
Calls = Literal["recompute", "reuse", "ideal", "dense"]


@dataclass(frozen=True)
class Way:
    """One way to run the block.

    Args:
        name: in tables.
        calls: whether pairs are searched ("recompute") or reused in the call that is timed.
        run: runs the block once.
        agrees: whether its output must equal that of the others that agree.

    Example:
        >>> Way("ideal", "ideal", lambda: torch.zeros(1), agrees=False).calls
        'ideal'
    """

    name: str
    calls: Calls
    run: Callable[[], Tensor]
    agrees: bool = True


def ways(block: nn.Module, inputs: Inputs, merged: int) -> list[Way]:
    """Every way that merges `merged` tokens of each sample; peers only if they are installed.

    Args:
        block: of ldm.
        inputs: of the block.
        merged: tokens per sample.

    Example:
        >>> from .one_block import make_inputs, new_block
        >>> found, inputs = ways(new_block(), make_inputs(64), merged=16), make_inputs(64)
        >>> found[0].name, check(found[:2], 16, inputs)
        ('ideal', 0.0)
    """
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
    """Names of peers that are not installed.

    Example:
        >>> all("not installed" in name for name in absent_peers())
        True
    """
    peers = (("tomesd", "tomesd"), ("ca-tome", "ca_tome"))
    return [f"{name} (not installed)" for name, module in peers if not find_spec(module)]


def dense(block: nn.Module, inputs: Inputs) -> Callable[[], Tensor]:
    """The unchanged block.

    Args:
        block: of ldm.
        inputs: of the block.

    Example:
        >>> from .one_block import make_inputs, new_block
        >>> dense(new_block(), make_inputs(64))().shape
        torch.Size([2, 64, 320])
    """
    return _runner(UNetModel([twin(block)]), inputs)


def ideal(block: Any, inputs: Inputs, merged: int) -> Callable[[], Tensor]:
    """Merging at no cost: self-attention on N - merged tokens that were prepared before, everything else on N.

    Args:
        block: of ldm.
        inputs: of the block.
        merged: tokens per sample.

    Example:
        >>> from .one_block import make_inputs, new_block
        >>> ideal(new_block(), make_inputs(64), merged=16)().shape
        torch.Size([2, 64, 320])
    """
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
    """Skipstone's public API, hooks included; `batch="max"` and `bucket=1` as the peers count.

    Args:
        block: of ldm.
        inputs: of the block.
        threshold: above which tokens merge.
        checkpoints: of :class:`TokenMerge`.
        matching: of :class:`TokenMerge`.

    Example:
        >>> from .one_block import make_inputs, new_block
        >>> ours(new_block(), make_inputs(64), threshold=0.5, checkpoints=(0,))().shape
        torch.Size([2, 64, 320])
    """
    root = UNetModel([twin(block)])
    settings = TokenMerge(threshold, checkpoints, matching=matching, batch="max", bucket=1, absolute=True)
    accelerate(root, settings).begin()
    return _runner(root, inputs)


def tomesd(block: nn.Module, inputs: Inputs, merged: int) -> Callable[[], Tensor]:
    """ToMe for Stable Diffusion (arXiv 2303.17604), whose matching is dense and runs at each call.

    Args:
        block: of ldm.
        inputs: of the block.
        merged: tokens per sample.

    Example:
        >>> from .one_block import make_inputs, new_block
        >>> not find_spec("tomesd") or tomesd(new_block(), make_inputs(64), merged=16)().shape == (2, 64, 320)
        True
    """
    import tomesd as package

    root = UNetModel([twin(block)])
    package.apply_patch(_ldm_model(root), ratio=merged / inputs.count, use_rand=False)
    return _runner(root, inputs)


def ca_tome(block: nn.Module, inputs: Inputs, threshold: float, step: int) -> Callable[[], Tensor]:
    """The released CA-ToMe block with checkpoint 0: step 0 searches the pairs, others reuse those of the first run.

    Args:
        block: of ldm.
        inputs: of the block.
        threshold: above which tokens merge.
        step: number of the call that is timed.

    Example:
        >>> from .one_block import make_inputs, new_block
        >>> not find_spec("ca_tome") or ca_tome(new_block(), make_inputs(64), 0.5, step=0)().shape == (2, 64, 320)
        True
    """
    from ca_tome.patch import apply_patch

    root = UNetModel([twin(block)])
    apply_patch(_ldm_model(root), compute_on=[0], r=threshold, use_rand=False)
    for patched in root.input_blocks:
        patched.__dict__["inference_step"] = step
    return _runner(root, inputs)


def check(found: list[Way], merged: int, inputs: Inputs) -> float:
    """Run all once: each must run its attention on `N - merged` tokens, and those that agree must give one output.

    In half precision scores are equal by chance, and ways that round them differently merge some other tokens: there the number
    may differ by :data:`ROUNDED` of the tokens, and outputs are not held against each other.

    Args:
        found: the ways.
        merged: tokens per sample.
        inputs: of the block.

    Returns their largest difference. Raises :class:`SkipstoneError` for a way that does other work than it should.

    Example:
        >>> from .one_block import make_inputs, new_block
        >>> inputs = make_inputs(64)
        >>> check([Way("dense", "dense", dense(new_block(), inputs))], merged=16, inputs=inputs)
        Traceback (most recent call last):
        skipstone.core.errors.SkipstoneError: dense ran attention on [64, 77] tokens, not 48
    """
    reference, worst, exact = None, 0.0, inputs.x.dtype == torch.float32
    wanted = inputs.count - merged
    accepted = range(wanted, wanted + 1) if exact else _around(wanted, ROUNDED * inputs.count)
    for way in found:
        with _attention_tokens() as seen:
            output = way.run()
        if not seen & set(accepted):
            raise SkipstoneError(f"{way.name} ran attention on {sorted(seen)} tokens, not {wanted}")
        if way.agrees and exact:
            reference = output if reference is None else reference
            worst = max(worst, float((output - reference).abs().max()))
    if worst > 1e-3:
        raise SkipstoneError(f"outputs at {merged} merged tokens differ by {worst:.2g}: the rows do not compare")
    return worst


def _around(wanted: int, spread: float) -> range:
    return range(round(wanted - spread), round(wanted + spread) + 1)


def _runner(root: nn.Module, inputs: Inputs) -> Callable[[], Tensor]:
    """Run the network; each call is at another noise level, as in a run."""
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
