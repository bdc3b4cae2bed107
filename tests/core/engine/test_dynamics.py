"""Dynamics: change between the last two distinct outputs, per call, shared by the conds of a sample."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.engine.call import Call, raw_output
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.dynamics import Dynamics
from skipstone.core.recipe.token_prune import Align

SIZE = (6, 8)


class Feed:
    """Feeds outputs to dynamics, forward by forward."""

    def __init__(self, aligned: Align = True) -> None:
        self.dynamics = Dynamics(aligned)
        self.index = -1

    def call(
        self, forwards: Sequence[dict[str, Tensor]], inputs: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor | None]:
        """One call: each forward maps cond names to raw outputs. Returns what each cond could read before its own."""
        self.index += 1
        read: dict[str, Tensor | None] = {}
        for number, outputs in enumerate(forwards):
            streams = tuple(Stream(name, len(out)) for name, out in outputs.items())
            (whole, *more) = outputs.values()
            given = torch.cat([inputs[name] for name in outputs]) if inputs else None
            call = Call(900.0 - self.index, SIZE, streams, input=given)
            self.dynamics.arrive(call, new=number == 0)
            if number == 0:
                self.dynamics.settle()
            found = self.dynamics.of_forward()
            rows = [None] * len(outputs) if found is None else found.split([len(o) for o in outputs.values()])
            read |= dict(zip(outputs, rows, strict=True))
            self.dynamics.note(self.index, call, torch.cat([whole, *more]) if more else whole)
        return read


def out(seed: int, rows: int = 1) -> Tensor:
    return tiny.noise(rows, 4, *SIZE, seed=seed)


def test_the_first_two_calls_have_none_and_the_third_reads_the_change_between_them() -> None:
    feed = Feed()
    assert feed.call([{"a": out(0)}])["a"] is None
    assert feed.call([{"a": out(1)}])["a"] is None
    read = feed.call([{"a": out(2)}])["a"]
    assert read is not None and torch.equal(read, (out(1) - out(0)).abs().mean(1))


def test_a_repeated_output_changes_nothing_and_the_next_change_is_divided_by_the_calls_between() -> None:
    feed = Feed()
    for seed in (0, 1, 1, 1, 2):
        read = feed.call([{"a": out(seed)}])["a"]
        if feed.index in (3, 4):
            assert read is not None and torch.equal(read, (out(1) - out(0)).abs().mean(1))
    last = feed.call([{"a": out(2)}])["a"]
    assert last is not None and torch.allclose(last, (out(2) - out(1)).abs().mean(1) / 3)


def test_a_head_that_rounds_another_way_counts_as_a_repeat() -> None:
    feed = Feed()
    for output in (out(0), out(1), out(1) * (1 + 1e-6)):
        feed.call([{"a": output}])
    read = feed.call([{"a": out(2)}])["a"]
    assert read is not None and torch.equal(read, (out(1) - out(0)).abs().mean(1))


def test_samples_repeat_one_by_one() -> None:
    feed = Feed()
    feed.call([{"a": out(0, 2)}])
    feed.call([{"a": out(1, 2)}])
    feed.call([{"a": torch.cat([out(1, 2)[:1], out(5)])}])
    read = feed.call([{"a": out(3, 2)}])["a"]
    assert read is not None
    assert torch.equal(read[0], (out(1, 2) - out(0, 2)).abs().mean(1)[0])
    assert torch.equal(read[1], (out(5)[0] - out(1, 2)[1]).abs().mean(0))


@pytest.mark.parametrize("layout", ["batched", "swapped", "split", "split and swapped", "changing"])
def test_cond_and_uncond_share_the_mean_of_both_in_any_batching(layout: str) -> None:
    feed = Feed()
    for k in range(4):
        cond, uncond = {"cond": out(k, 2)}, {"uncond": out(10 + k, 2)}
        forwards = {
            "batched": [cond | uncond],
            "swapped": [uncond | cond],
            "split": [cond, uncond],
            "split and swapped": [uncond, cond],
            "changing": [cond, uncond] if k % 2 else [uncond | cond],
        }[layout]
        read = feed.call(forwards)
    change = [(out(s + 2, 2) - out(s + 1, 2)).abs().mean(1) for s in (0, 10)]
    for name in ("cond", "uncond"):
        assert read[name] is not None and torch.equal(read[name], (change[0] + change[1]) / 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", ["cond", "uncond"])
@pytest.mark.parametrize("split", [False, True])
def test_the_released_codes_alignment_takes_the_dynamics_of_the_first_half(first: str, split: bool) -> None:
    feed = Feed(aligned="first")
    for k in range(4):
        halves = [{"cond": out(k, 2)}, {"uncond": out(10 + k, 2)}]
        halves = halves if first == "cond" else halves[::-1]
        read = feed.call(halves if split else [halves[0] | halves[1]])
    start = {"cond": 0, "uncond": 10}[first]
    change = (out(start + 2, 2) - out(start + 1, 2)).abs().mean(1)
    assert all(torch.equal(read[name], change) for name in ("cond", "uncond"))  # type: ignore[arg-type]


def test_unaligned_streams_read_their_own() -> None:
    feed = Feed(aligned=False)
    for k in range(3):
        read = feed.call([{"cond": out(k), "uncond": out(10 + k)}])
    for name, start in (("cond", 0), ("uncond", 10)):
        assert torch.equal(read[name], (out(start + 1) - out(start)).abs().mean(1))  # type: ignore[arg-type]


def test_rows_are_of_one_sample_when_they_denoise_the_same_latent_whatever_their_place() -> None:
    feed = Feed()
    latents = out(50, 2)
    inputs = {"both": torch.cat([latents, latents.flip(0)])}
    for k in range(3):
        read = feed.call([{"both": out(k, 4)}], inputs)["both"]
    assert read is not None
    change = (out(1, 4) - out(0, 4)).abs().mean(1)
    assert torch.equal(read[0], (change[0] + change[3]) / 2) and torch.equal(read[0], read[3])
    assert torch.equal(read[1], (change[1] + change[2]) / 2) and torch.equal(read[1], read[2])


def test_samples_that_denoise_other_latents_share_nothing() -> None:
    feed = Feed()
    for k in range(3):
        read = feed.call([{"a": out(k, 2)}], {"a": out(50, 2)})["a"]
    assert read is not None and torch.equal(read, (out(1, 2) - out(0, 2)).abs().mean(1))


def test_a_cond_that_is_new_reads_what_its_sample_has_that_came_before_it() -> None:
    feed = Feed()
    for k in range(3):
        feed.call([{"uncond": out(10 + k)}])
    read = feed.call([{"uncond": out(13)}, {"cond": out(3)}])
    assert read["cond"] is not None and torch.equal(read["cond"], read["uncond"])  # type: ignore[arg-type]


def test_what_a_stream_had_that_was_away_at_the_last_call_is_not_mixed_in() -> None:
    feed = Feed()
    for k in range(2):
        feed.call([{"cond": out(k), "uncond": out(10 + k)}])
    feed.call([{"uncond": out(12)}])
    read = feed.call([{"uncond": out(13)}])["uncond"]
    assert torch.equal(read, (out(12) - out(11)).abs().mean(1))  # type: ignore[arg-type]


def test_outputs_are_kept_as_they_were_when_the_host_edits_its_own() -> None:
    feed = Feed()
    for k in range(3):
        output = out(k)
        read = feed.call([{"a": output}])["a"]
        output.zero_()
    assert torch.equal(read, (out(1) - out(0)).abs().mean(1))  # type: ignore[arg-type]


def test_the_prediction_is_found_in_what_networks_return() -> None:
    class Output:
        sample = out(0)

    tensor = out(1)
    assert raw_output(tensor) is tensor
    assert raw_output((tensor, 1)) is tensor
    assert raw_output(Output()) is Output.sample
    assert raw_output(None) is None and raw_output(()) is None
