"""Conds in any batching: batched, split, reordered or dropped, the same pairs at the same calls; nested and cancelled runs."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.merge import PairsFound
from skipstone.core.recipe.recipe import Recipe
from skipstone.core.recipe.token_merge import TokenMerge

STEPS = [900.0, 750.0, 600.0, 450.0, 300.0, 150.0]
MERGE = TokenMerge(threshold=0.5, bucket=1, checkpoints=(0, 3), absolute=True)
Layout = list[list[str]]
"""Forwards of one call, each a list of cond names."""
Plan = dict[tuple[str, int, Hashable], Tensor]


class Host:
    """A small host: conds with latents of their own, evaluated in any batching under an engine."""

    def __init__(self, case: tiny.Case, merge: TokenMerge = MERGE, conds: Sequence[str] = ("cond", "uncond")) -> None:
        self.case = case
        self.plan: Plan = {}
        self.cond = {name: case.cond(2, seed=20 + i) for i, name in enumerate(conds)}
        self.engine = Engine(case.model, Recipe(merge), observer=self._found)

    def _found(self, found: PairsFound) -> None:
        at = 0
        for stream in found.streams:
            self.plan[found.layer, found.call, stream.key] = found.pairs.partner[at : at + stream.rows]
            at += stream.rows

    def forward(self, t: float, names: Sequence[str], x: dict[str, Tensor]) -> dict[str, Tensor]:
        """One forward for the given conds."""
        batch = torch.cat([x[n] for n in names])
        streams = tuple(Stream((n, tuple(x[n].shape)), len(x[n])) for n in names)
        with self.engine.call(Call(t, tuple(batch.shape[2:]), streams)):  # type: ignore[arg-type]
            out = self.case(batch, t, torch.cat([self.cond[n][: len(x[n])] for n in names]))
        return dict(zip(names, out.split([len(x[n]) for n in names]), strict=True))

    def run(
        self, layouts: Callable[[int], Layout], steps: Sequence[float] = STEPS, planned: bool = True
    ) -> dict[str, Tensor]:
        """A run in which every cond denoises a latent of its own; the layout of each call is given by its index."""
        x = {n: self.case.latent(2, seed=30 + i) for i, n in enumerate(self.cond)}
        with self.engine.run(list(steps) if planned else None):
            for k, t in enumerate(steps):
                for names in layouts(k):
                    x |= {n: tiny.step(x[n], out) for n, out in self.forward(t, names, x).items()}
        return x


BATCHED: Layout = [["cond", "uncond"]]
SPLIT: Layout = [["cond"], ["uncond"]]
LAYOUTS: dict[str, Callable[[int], Layout]] = {
    "batched": lambda k: BATCHED,
    "split": lambda k: SPLIT,
    "reordered": lambda k: [["uncond", "cond"]],
    "split in changing order": lambda k: SPLIT if k % 2 else SPLIT[::-1],
    "batched, then split": lambda k: BATCHED if k < 2 else SPLIT,
    "split, then batched": lambda k: SPLIT if k < 2 else BATCHED,
    "swapped at each call": lambda k: [["cond", "uncond"][:: 1 if k % 2 else -1]],
}


def same_plan(a: Plan, b: Plan) -> bool:
    """Pairs were searched at the same places and calls, for the same conds, and are the same."""
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


TRIED = [("dit", layout) for layout in LAYOUTS if layout != "batched"]
TRIED += [(name, "swapped at each call") for name in tiny.BUILDERS if name != "dit"]


@cache
def batched(name: str, planned: bool) -> tuple[Host, dict[str, Tensor]]:
    """A run of a model with cond and uncond in one batch; the same model always gives the same."""
    host = Host(tiny.BUILDERS[name]())
    return host, host.run(LAYOUTS["batched"], planned=planned)


@pytest.mark.parametrize(
    ("name", "layout", "planned"),
    [
        *((*tried, True) for tried in TRIED),
        ("dit", "split, then batched", False),
        ("dit", "swapped at each call", False),
    ],
)
def test_any_batching_gives_the_same_plan_and_picture(name: str, layout: str, planned: bool) -> None:
    reference, expected = batched(name, planned)
    other = Host(reference.case)
    got = other.run(LAYOUTS[layout], planned=planned)
    assert {call for _, call, _ in reference.plan} == {0, 3}
    assert same_plan(other.plan, reference.plan)
    for cond in expected:
        torch.testing.assert_close(got[cond], expected[cond], atol=1e-4, rtol=1e-4)
    assert other.engine.report.calls == len(STEPS)
    assert other.engine.report.planned is planned


def test_conds_have_pairs_of_their_own(either: tiny.Case) -> None:
    host = Host(either)
    host.run(LAYOUTS["split"])
    differs = [
        not torch.equal(pairs, host.plan[layer, call, ("uncond", key[1])])  # type: ignore[index]
        for (layer, call, key), pairs in host.plan.items()
        if key[0] == "cond"  # type: ignore[index]
    ]
    assert all(differs)


def test_an_uncond_dropped_in_mid_run_leaves_the_cond_as_it_was(either: tiny.Case) -> None:
    reference, other = Host(either), Host(either)
    expected = reference.run(LAYOUTS["batched"])
    got = other.run(lambda k: BATCHED if k < 2 else [["cond"]])
    kept = {key: pairs for key, pairs in reference.plan.items() if key[1] == 0 or key[2][0] == "cond"}  # type: ignore[index]
    assert same_plan(other.plan, kept)
    torch.testing.assert_close(got["cond"], expected["cond"], atol=1e-4, rtol=1e-4)
    assert other.engine.report.planned


def test_a_cond_that_appears_in_mid_run_gets_pairs_of_its_own(either: tiny.Case) -> None:
    host = Host(either)
    host.run(lambda k: [["cond"]] if k < 2 else SPLIT)
    searched = {(call, key[0]) for _, call, key in host.plan}  # type: ignore[index]
    assert searched == {(0, "cond"), (2, "uncond"), (3, "cond"), (3, "uncond")}


def test_four_conds_in_uneven_batches(unet: tiny.Case) -> None:
    names = ("a", "b", "c", "d")
    reference, other = Host(unet, conds=names), Host(unet, conds=names)
    expected = reference.run(lambda k: [list(names)])
    got = other.run(lambda k: [["c"], ["a", "d"], ["b"]] if k % 2 else [["d", "b", "a"], ["c"]])
    assert same_plan(other.plan, reference.plan)
    for name in names:
        torch.testing.assert_close(got[name], expected[name], atol=1e-4, rtol=1e-4)


def test_several_resolutions_and_batch_sizes_in_one_run(unet: tiny.Case) -> None:
    sizes = {"whole": (2, (16, 16)), "wide": (1, (8, 24)), "tall": (2, (20, 8))}
    x0 = {n: unet.latent(b, seed=9, size=s) for n, (b, s) in sizes.items()}

    def run(host: Host, names: Sequence[str]) -> dict[str, Tensor]:
        x = {n: x0[n] for n in names}
        with host.engine.run(STEPS):
            for t in STEPS:
                for name in names:
                    x[name] = tiny.step(x[name], host.forward(t, [name], x)[name])
        assert host.engine.report.calls == len(STEPS)
        return x

    together = run(Host(unet, conds=tuple(sizes)), tuple(sizes))
    for name in sizes:
        host = Host(unet, conds=tuple(sizes))
        assert torch.equal(run(host, [name])[name], together[name])


def test_equally_many_tokens_in_another_shape_have_pairs_of_their_own(unet: tiny.Case) -> None:
    found: list[PairsFound] = []
    engine, cond = Engine(unet.model, Recipe(MERGE), observer=found.append), unet.cond(1)
    with engine.run(STEPS):
        for t, size in zip(STEPS[:3], ((16, 16), (8, 32), (16, 16)), strict=True):
            with engine.call(Call(t, size, (Stream("cond", 1),))):
                unet(unet.latent(1, size=size), t, cond)
    assert sorted({f.call for f in found}) == [0, 1]


def test_streams_that_do_not_add_up_to_the_batch_run_dense(unet: tiny.Case) -> None:
    """A host or pack that changes the batch behind the engine's back."""
    engine, x, cond = Engine(unet.model, Recipe(MERGE)), unet.latent(3), unet.cond(3)
    dense = unet(x, 900.0, cond)
    with engine.run(), engine.call(Call(900.0, (16, 16), (Stream("cond", 2),))):
        assert torch.equal(unet(x, 900.0, cond), dense)
    (reason,) = engine.report.declined
    assert "batch of 3 where 2 rows were announced" in reason
    assert "\n" not in reason


def test_a_batch_that_changes_in_mid_run_is_searched_anew(unet: tiny.Case) -> None:
    host, alone = Host(unet), Host(unet)
    x, pair = unet.latent(2), {"cond": unet.latent(2)}
    with host.engine.run(STEPS):
        host.forward(STEPS[0], ["cond"], pair)
        after = host.forward(STEPS[1], ["cond"], {"cond": x[:1]})["cond"]
    with alone.engine.run(STEPS):
        alone.forward(STEPS[1], ["cond"], {"cond": x[:1]})
    assert {call for _, call, _ in host.plan} == {0, 1}
    assert after.shape[0] == 1


# Runs in runs, cancelled and raising runs


def test_a_run_nested_between_calls_changes_nothing(unet: tiny.Case) -> None:
    plain, nesting = Host(unet), Host(unet)
    expected = plain.run(LAYOUTS["batched"])
    before = tiny.snapshot(unet.model)

    def layout(k: int) -> Layout:
        if k in (1, 4):
            inner = Host(unet)
            inner.engine = nesting.engine
            result = inner.run(LAYOUTS["split"], STEPS[:2])
            assert nesting.engine.report.calls == 2
            assert set(result) == {"cond", "uncond"}
        return BATCHED

    got = nesting.run(layout)
    assert all(torch.equal(got[n], expected[n]) for n in expected)
    assert nesting.engine.report.calls == len(STEPS)
    assert nesting.engine.running is None
    assert tiny.snapshot(unet.model) == before


def test_a_run_nested_inside_a_forward_ends_well(unet: tiny.Case) -> None:
    """Some packs evaluate the model again from a hook inside it."""
    host, before, nested = Host(unet), tiny.snapshot(unet.model), []
    block = next(m for n, m in unet.model.named_modules() if n.endswith("transformer_blocks.0"))
    x = {"cond": unet.latent(2)}

    def once(*_: Any) -> None:
        if not nested:
            nested.append(1)
            with host.engine.run(STEPS):
                nested.append(host.forward(STEPS[0], ["cond"], x)["cond"])

    hook = block.register_forward_hook(once)
    with host.engine.run(STEPS):
        out = host.forward(STEPS[0], ["cond"], x)["cond"]
    hook.remove()
    assert len(nested) == 2
    assert out.isfinite().all()
    assert host.engine.running is None
    assert tiny.snapshot(unet.model) == before


ENDS = [(RuntimeError, True), (KeyboardInterrupt, True), (RuntimeError, False), (KeyboardInterrupt, False)]


@pytest.mark.parametrize(
    ("name", "kind", "inside"), [*(("diffusers", *end) for end in ENDS), ("dit", KeyboardInterrupt, True)]
)
def test_a_cancelled_run_leaves_nothing(name: str, kind: type[BaseException], inside: bool) -> None:
    """That an exception in the network of any family leaves nothing is in test_lifetime."""
    other, clean = batched(name, planned=True)
    case = other.case
    host, before = Host(case), tiny.snapshot(case.model)
    deep = [m for n, m in case.model.named_modules() if n.endswith((".ff", ".mlp"))][-1]

    def cancel(*_: Any) -> None:
        raise kind("cancelled")

    def layout(k: int) -> Layout:
        if k == 2 and not inside:
            cancel()
        return BATCHED

    with pytest.raises(kind, match="cancelled"):
        if inside:
            hook = deep.register_forward_pre_hook(cancel)
        host.run(layout)
    if inside:
        hook.remove()
    assert tiny.snapshot(case.model) == before
    assert host.engine.running is None
    again = host.run(LAYOUTS["batched"])
    assert all(torch.equal(again[n], clean[n]) for n in clean)


def test_an_exception_in_a_nested_run_ends_only_that_one(unet: tiny.Case) -> None:
    host = Host(unet)
    with host.engine.run(STEPS) as outer:
        with pytest.raises(RuntimeError), host.engine.run(STEPS):
            host.engine.begin(STEPS)
            raise RuntimeError
        assert host.engine.running is outer


def test_a_run_left_open_inside_is_ended_with_the_outer(unet: tiny.Case) -> None:
    host = Host(unet)
    with host.engine.run(STEPS):
        host.engine.begin()
    assert host.engine.running is None
    assert host.engine.end().calls == 0
