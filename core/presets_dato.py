"""DaTo's schedules (arXiv 2501.00375, released code): cache depths for the 51 calls of 50 PLMS steps, with pruning.

Each list has one depth for every call from 1 on; call 0 runs everything. Written for SD1.5 and mapped to other samplers
and step counts by timestep, as published: neither the first nor the last call is treated apart.
"""

from __future__ import annotations

from dataclasses import replace

from .recipe_prune import TokenPrune
from .recipe_skip import BlockSkip, parse_depths

_COCO = (
    "1 1 1 1 0 1 1 0 1 1 0 1 1 12 1 0 0 0 1 1 0 1 0 12 0 "
    "0 0 0 0 0 1 0 1 0 1 12 0 0 0 0 0 0 1 0 1 12 0 1 0 1"
)  # 5 full calls (0, 14, 24, 36, 46), 21 shallow, 25 repeated
_B = (
    "0 1 0 0 0 0 0 0 1 1 0 12 0 1 1 0 12 1 1 0 0 12 0 1 0 "
    "0 0 1 1 1 0 0 1 0 1 0 1 1 1 1 1 12 0 0 1 0 0 1 1 1"
)  # 5 full calls (0, 12, 17, 22, 42), 22 shallow, 24 repeated
_C = (
    "0 1 1 1 1 1 11 1 1 1 1 1 1 1 0 0 11 1 1 1 0 11 1 0 1 "
    "1 1 1 1 11 0 0 1 1 1 1 1 1 1 1 11 1 1 1 1 1 1 1 1 1"
)  # 6 full calls (0, 7, 17, 22, 30, 41), 38 shallow, 7 repeated
_D = (
    "1 1 1 1 1 1 1 1 1 1 1 12 12 1 1 1 1 1 1 12 1 1 1 1 1 "
    "1 1 1 1 1 1 1 1 1 0 12 1 12 1 1 1 12 1 1 1 1 1 1 12 1"
)  # 8 full calls (0, 12, 13, 20, 36, 38, 42, 49), 42 shallow, 1 repeated

_GENTLE = "0 0 0 12 0 0 12 12 0 12 12 0 0 12 1 12 0 0 12"
# 9 full calls of 20, 1 shallow, 10 forecast; found on the demo U-Net by `skipstone search demo --steps 20` from lists with forecast

_PRUNE = TokenPrune(ratio=0.4)
_AS_RELEASED = replace(_PRUNE, normalise=False, flip_prob=0.5, recover_from="kept", max_downsample=1, align_cfg="first")


def _depths(text: str) -> BlockSkip:
    return BlockSkip(rule="depths", depths=parse_depths(text))


DATO: dict[str, tuple[TokenPrune | BlockSkip, ...]] = {
    "dato_coco": (_PRUNE, _depths(_COCO)),
    "dato_b": (_PRUNE, _depths(_B)),
    "dato_c": (_PRUNE, _depths(_C)),
    "dato_d": (_PRUNE, _depths(_D)),
    "dato_reference": (_AS_RELEASED, _depths(_COCO)),
    "dato_gentle": (replace(_PRUNE, ratio=0.0), replace(_depths(_GENTLE), forecast=True)),
}
"""Preset name -> its methods. `dato_gentle` is our own, for 20 to 30 steps: calls are forecast, not repeated, nothing is pruned."""
