"""Waiting for the device: at most once per layer where pairs are searched, never where they are reused.

Counted on the CPU: everything that would make the host wait for a GPU (reading a value, sizes that depend on values,
indices that come from a Python list).
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tiny
import torch
from device_waits import waits

from skipstone.core.recipe.token_merge import TokenMerge
from skipstone.pipelines.accelerate import accelerate

ALL = ("attn1", "attn2", "ff")
EACH = itertools.product(["ldm"], [("attn1",), ALL], ["dense", "local"], ["per_sample", "max"])


@pytest.mark.parametrize(("name", "targets", "matching", "batch"), [*EACH, ("diffusers", ALL, "local", "per_sample")])
def test_reuse_never_waits_and_a_search_waits_once(
    name: str, targets: Any, matching: Any, batch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    unet = tiny.BUILDERS[name]()
    merge = TokenMerge(
        threshold=0.6, bucket=1, checkpoints=(0, 3), absolute=True, targets=targets, matching=matching, batch=batch
    )
    x, cond = unet.latent(), unet.cond()
    with accelerate(unet.model, merge) as handle:
        unet(x, 900.0, cond)
        handle.begin()
        counts = []
        for t in (900.0, 700.0, 500.0, 300.0):
            timestep = torch.full((2,), t)
            with waits(monkeypatch) as found, torch.no_grad():
                unet.call(unet.model, x, timestep, cond)
            counts.append(sorted(found))
        report = handle.end()
    layers = {name.removesuffix(".attn2").removesuffix(".ff") for name in report.layers}
    reading_the_timestep = ["tolist"]
    declined = 4
    assert report.merged_share > 0.1
    assert counts[1] == counts[2] == reading_the_timestep
    searching = [[name for name in c if name != "index"] for c in (counts[0], counts[3])]
    assert searching == [[*reading_the_timestep, *["tolist"] * len(layers)]] * 2
    assert sum(len(names) for names in report.declined.values()) == declined
