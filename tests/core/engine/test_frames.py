"""Dynamics of videos and packed latents: every frame is chosen from as if it were a picture of its own."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.call import Call, raw_output
from skipstone.core.engine.clock import Stream, Tick
from skipstone.core.engine.frames import by_frame, pictures_of
from skipstone.core.engine.kernel import SDPA
from skipstone.core.engine.kernel_sites import Kernels
from skipstone.core.engine.meter import Meter
from skipstone.core.engine.prune import PrunePart
from skipstone.core.plan.run import Horizon
from skipstone.core.recipe.token_prune import TokenPrune
from skipstone.core.tokens.grid import Grid

KERNELS = Kernels(SDPA, (), nn.Identity())
ROWS, FRAMES, H, W = 2, 3, 4, 6
STREAMS = (Stream("cond", 1), Stream("uncond", 1))
INPUT = tiny.noise(1, 4, FRAMES, H, W, seed=1).repeat(2, 1, 1, 1, 1)
OUTPUTS = [tiny.noise(ROWS, 4, FRAMES, H, W, seed=seed) for seed in (2, 3, 4)]
METRIC = tiny.noise(ROWS * FRAMES, H * W, 8, seed=5)


def folded(x: Tensor) -> Tensor:
    """Frames as rows."""
    return x.transpose(1, 2).flatten(0, 1)


def packed(x: Tensor) -> Tensor:
    """Tokens as rows."""
    return x.flatten(2).transpose(1, 2)


def call_of(kind: str, t: float) -> Call:
    """One forward of a video, packed or not, or of its frames as pictures."""
    if kind == "pictures":
        return Call(t, (H, W), tuple(Stream(s.key, s.rows * FRAMES) for s in STREAMS), input=folded(INPUT))
    if kind == "video":
        return Call(t, (FRAMES, H, W), STREAMS, input=INPUT)
    return Call(t, (FRAMES * H * W,), STREAMS, input=packed(INPUT), packed=(FRAMES, H, W))


def chosen(kind: str, frames: int = FRAMES) -> tuple[Tensor, Meter, PrunePart]:
    """Partners of all tokens at the third call, by the dynamics of the first two."""
    meter = Meter()
    part = PrunePart(TokenPrune(ratio=0.5, alpha=0.0), [], Horizon(), meter, kernels=KERNELS)
    form = {"pictures": folded, "packed": packed}.get(kind, lambda x: x)
    for index, output in enumerate(OUTPUTS):
        part.begin(Tick(index, True, False, 0), call_of(kind, 900.0 - index))
        pairs = part.find(0, METRIC[: ROWS * frames], Grid(H, W, 1), "").pairs
        part.listen(form(output))
        part.end()
    return pairs.partner, meter, part


@pytest.mark.parametrize("kind", ["video", "packed"])
def test_frames_are_chosen_from_like_pictures(kind: str) -> None:
    partner, meter, part = chosen(kind)
    wanted, _, _ = chosen("pictures")
    assert torch.equal(partner, wanted) and not meter.finish().notes
    assert part.nbytes == chosen("pictures")[2].nbytes > 0
    part.forget(call_of(kind, 0.0).keys())
    assert part._dynamics.nbytes == 0


def test_bases_are_where_the_output_changes_most() -> None:
    """One token of each cell changes; it is never pruned."""
    part = PrunePart(TokenPrune(ratio=0.75, alpha=0.0), [], Horizon(), Meter(), kernels=KERNELS)
    change = torch.zeros(ROWS, 4, FRAMES, H, W)
    change[:, :, torch.arange(FRAMES), 1::2, 1::2] = 1.0
    for index, output in enumerate((torch.zeros_like(change), change, change)):
        part.begin(Tick(index, True, False, 0), call_of("packed", 900.0 - index))
        pairs = part.find(0, METRIC, Grid(H, W, 1), "").pairs
        part.listen(packed(output))
        part.end()
    kept = (pairs.partner == torch.arange(H * W)).view(-1, H, W)
    assert kept[:, 1::2, 1::2].all() and kept.sum() == ROWS * FRAMES * H * W // 4


def test_tokens_of_several_frames_and_odd_outputs_have_no_dynamics_and_say_so() -> None:
    _, meter, _ = chosen("video", frames=1)
    assert meter.finish().notes == ["no dynamics: a token covers several frames"]
    meter = Meter()
    part = PrunePart(TokenPrune(ratio=0.5), [], Horizon(), meter, kernels=KERNELS)
    part.begin(Tick(0, True, False, 0), call_of("packed", 1.0))
    part.listen(torch.zeros(ROWS, 7, 4))
    part.end()
    assert meter.finish().notes == ["no dynamics: the network returns [2, 7, 4] for a latent [72]"]
    assert by_frame(Call(1.0, (72,), STREAMS)) is None
    assert pictures_of(torch.zeros(1, 4, H, W), call_of("video", 1.0)) is None


def test_a_list_of_rows_is_one_prediction() -> None:
    rows = [torch.zeros(4, 1, 8, 8), torch.ones(4, 1, 8, 8)]
    assert torch.equal(raw_output((rows,)), torch.stack(rows))
    assert raw_output(([rows[0], torch.zeros(1)],)) is None and raw_output(([],)) is None
