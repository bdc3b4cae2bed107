"""The corrected line: what it missed at skipped steps is put right, exactly where the noise follows a parabola."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor

from skipstone.core.forecast.corrected import _MOVES, CorrectedHistory
from skipstone.core.forecast.history import History
from skipstone.core.forecast.predictors import PREDICTORS
from skipstone.core.forecast.space import Noise
from skipstone.core.plan.step_lengths import slopes

LEVELS = (20.0, 12.0, 7.0, 4.0, 2.5, 1.5, 0.9, 0.5, 0.25)
POSITIONS = tuple(np.linspace(0, 1, len(LEVELS)).tolist())


@dataclass
class Run:
    """A sampler whose network sees a picture that moves by a share of the drift of x / alpha: its noise follows.

    On the dense path the noise is a parabola of the position.

    at: the noise level of a step, and what the network predicts there.
    end: sigma / alpha after the last step.
    slopes: how far each step continues the last change of the picture (DPM++ 2M); none for Euler.
    """

    at: Sequence[Noise]
    end: float = 0.1
    slopes: tuple[float, ...] = ()

    @property
    def levels(self) -> tuple[float, ...]:
        return *(noise.ratio for noise in self.at), self.end

    def history(self) -> CorrectedHistory:
        return CorrectedHistory(POSITIONS, self.levels, self.slopes)

    def dense_noise(self, step: int) -> Tensor:
        place, shape = POSITIONS[step], (2, 4, 3, 3)
        return (
            tiny.noise(*shape, seed=1) + place * tiny.noise(*shape, seed=2) + place**2 * tiny.noise(*shape, seed=3)
        ).double()

    def draw(self, keys: Sequence[int], history: History | None, repays: bool = True) -> tuple[Tensor, Tensor]:
        """Return what the sampler ends at with these keys, and with all of them."""
        x = dense = torch.zeros(2, 4, 3, 3, dtype=torch.float64)  # both over alpha
        last = dense_last = x  # the pictures of the step before
        share = 1 - (_MOVES if self.slopes else 0)
        for step, noise in enumerate(self.at):
            space, place, level = noise.affine("eps"), POSITIONS[step], self.levels[step]
            assert space is not None
            own, given = self.dense_noise(step), x * noise.alpha
            output = (own + share * (x - dense) / level - space.x * given) / space.o
            if history is not None and step in keys:
                found = history.add(place, space, given, output, history.corrects(place))
                output = output if found is None else found
            elif history is not None:
                output = history.forecast(place, space, given)
                output = history.repaid(place, space, given, output) if repays else output
                history.passed(place)
            picture = x - level * (space.x * given + space.o * output.double())
            x, last = self.moved(step, x, picture, last), picture
            picture = dense - level * own
            dense, dense_last = self.moved(step, dense, picture, dense_last), picture
        return x, dense

    def moved(self, step: int, x: Tensor, picture: Tensor, before: Tensor) -> Tensor:
        """The sampler's step."""
        kept, slope = self.levels[step + 1] / self.levels[step], self.slopes[step] if self.slopes else 0.0
        return kept * x + (1 - kept) * (picture + slope * (picture - before))


KINDS = {
    "noise": lambda level: Noise.of_karras(level, "eps"),
    "velocity": lambda level: Noise.of_karras(level, "v"),
    "picture": lambda level: Noise.of_karras(level, "x0", scaled=False),
    "flow": lambda level: Noise.of_flow(level / (1 + level)),
    "rising": lambda level: Noise.of_flow(level / (1 + level), "-flow"),
}


@pytest.mark.parametrize("end", [0.1, 0.0])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_parabola_ends_where_the_dense_run_ends(kind: str, end: float) -> None:
    run = Run(list(map(KINDS[kind], LEVELS)), end)
    for keys in ((0, 1, 3, 4, 6, 8), (0, 1, 3, 5, 7, 8), (0, 1, 4, 5, 8)):
        corrected, dense = run.draw(keys, run.history())
        line, _ = run.draw(keys, History(PREDICTORS["line"]))
        assert (corrected - dense).norm() < 1e-6 * dense.norm()
        assert (line - dense).norm() > 1e-5 * dense.norm() or end == 0


def test_without_gaps_nothing_is_changed() -> None:
    run = Run(list(map(KINDS["noise"], LEVELS)))
    found, dense = run.draw(range(len(LEVELS)), run.history())
    assert torch.equal(found, dense)


@pytest.mark.parametrize("end", [0.1, 0.0])
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_sampler_that_continues_pictures_ends_there_too(kind: str, end: float) -> None:
    """DPM++ 2M, also where gaps follow each other, and where steps between them run."""
    run = Run(list(map(KINDS[kind], LEVELS)), end, slopes((*LEVELS, end)))
    for keys in ((0, 1, 3, 4, 6, 8), (0, 1, 3, 5, 7, 8), (0, 1, 4, 5, 6, 8), (0, 1, 4, 7, 8)):
        corrected, dense = run.draw(keys, run.history())
        line, _ = run.draw(keys, History(PREDICTORS["line"]))
        assert (corrected - dense).norm() < 2e-6 * dense.norm()
        assert (line - dense).norm() > 1e-5 * dense.norm() or end == 0


def test_what_a_sampler_continues_of_a_correction_is_taken_back_at_forecasts_too() -> None:
    run = Run(list(map(KINDS["noise"], LEVELS)), slopes=slopes((*LEVELS, 0.1)))
    owing, dense = run.draw((0, 1, 3, 5, 7, 8), run.history(), repays=False)
    assert (owing - dense).norm() > 1e-4 * dense.norm()


def test_what_was_added_counts_as_memory() -> None:
    space, x = KINDS["noise"](9.0).affine("eps"), tiny.noise(1, 4, 2, 2)
    one, two = (
        CorrectedHistory(POSITIONS, (*LEVELS, 0.1)),
        CorrectedHistory(POSITIONS, (*LEVELS, 0.1), slopes((*LEVELS, 0.1))),
    )
    for history in (one, two):
        history.add(POSITIONS[0], space, x, x)
        history.passed(POSITIONS[1])
        history.add(POSITIONS[2], space, x, 2 * x, correct=True)
    assert two.nbytes == one.nbytes + x.nbytes
    two.add(POSITIONS[4], space, x, x)  # a step was not seen: what the sampler continues is not known any more
    assert two.nbytes == one.nbytes


@pytest.mark.parametrize(
    ("levels", "passed", "position"),
    [
        (LEVELS, (), 1),  # nothing was skipped
        (LEVELS, (1, 3), 4),  # a step between was not seen
        (LEVELS, (1, 2), 2),  # no new one
        ((20.0, float("inf"), *LEVELS[2:]), (1,), 2),  # no picture in the latent of a skipped step
        ((20.0, 12.0, 12.0, *LEVELS[3:]), (1,), 2),  # a step that goes nowhere
    ],
)
def test_what_is_not_known_is_not_corrected(levels: Sequence[float], passed: Sequence[int], position: int) -> None:
    history, x, space = (
        CorrectedHistory(POSITIONS, (*levels, 0.0)),
        tiny.noise(1, 4, 2, 2),
        KINDS["noise"](9.0).affine("eps"),
    )
    history.add(POSITIONS[0], space, x, x)
    for step in passed:
        history.passed(POSITIONS[step])
    assert not history.corrects(POSITIONS[position])
    assert history.add(POSITIONS[position], space, x, x) is None


def test_a_run_that_left_its_announced_levels_is_not_corrected() -> None:
    history, x, space = (
        CorrectedHistory(POSITIONS, (*LEVELS, 0.0)),
        tiny.noise(1, 4, 2, 2),
        KINDS["noise"](9.0).affine("eps"),
    )
    history.add(POSITIONS[0], space, x, x)
    history.passed(POSITIONS[1] + 0.02)
    assert not history.corrects(POSITIONS[2])


def test_a_learned_variance_stays_as_it_is() -> None:
    history, space = CorrectedHistory(POSITIONS, (*LEVELS, 0.0)), KINDS["noise"](9.0).affine("eps")
    x, outputs = tiny.noise(1, 4, 2, 2), [tiny.noise(1, 8, 2, 2, seed=seed) for seed in range(3)]
    history.add(POSITIONS[0], space, x, outputs[0])
    history.add(POSITIONS[1], space, x, outputs[1])
    history.passed(POSITIONS[2])
    found = history.add(POSITIONS[3], space, x, outputs[2], correct=True)
    assert found is not None and not torch.equal(found[:, :4], outputs[2][:, :4])
    assert torch.equal(found[:, 4:], outputs[2][:, 4:])
