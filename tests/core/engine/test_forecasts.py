"""Corrected forecasts in the engine: the output of the call that runs after a gap goes to the sampler corrected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from skipstone.core.engine.call import Call
from skipstone.core.engine.clock import Stream
from skipstone.core.engine.engine import Engine
from skipstone.core.engine.forecasts import Forecasts
from skipstone.core.forecast.space import Noise
from skipstone.core.plan.run import Horizon
from skipstone.core.plan.step_lengths import slopes
from skipstone.core.recipe.auto import Auto
from skipstone.core.recipe.call_skip import CallSkip
from skipstone.core.recipe.recipe import Recipe

TIMES = tuple(np.linspace(950.0, 50.0, 10).tolist())
LEVELS = (20.0, 12.0, 7.0, 4.0, 2.5, 1.5, 0.9, 0.5, 0.25, 0.12, 0.05)
RUN = Horizon(TIMES, levels=LEVELS)
TWO = Horizon(TIMES, multistep=True, levels=LEVELS, slopes=slopes(LEVELS))
KEYS = (0, 1, 3, 4, 6, 7, 9)
CORRECTED = CallSkip(keys=KEYS, predictor="corrected")


class Keeping(nn.Module):
    """A network whose picture moves by a share of the latent's drift; on the dense path its noise is a parabola."""

    def __init__(self, moves: float = 0.0) -> None:
        super().__init__()
        self.moves = moves
        self.weight = nn.Parameter(tiny.noise(3, 1, 4, 4, 4), requires_grad=False)
        self.dense: dict[int, Tensor] = {}

    def noise(self, step: int, cond: float) -> Tensor:
        """The noise of a step on the dense path [1, 4, 4, 4]."""
        place = step / 9
        return (1 + cond) * (self.weight[0] + place * self.weight[1] + place**2 * self.weight[2])

    def forward(self, x: Tensor, step: int, conds: list[float]) -> Tensor:
        """The noise in x over alpha [rows, 4, 4, 4]."""
        drift = (1 - self.moves) * (x - self.dense[step]) / LEVELS[step] if step in self.dense else 0.0
        return torch.cat([self.noise(step, cond) for cond in conds]) + drift


@dataclass
class Host:
    """Euler with guidance, or DPM++ 2M where the horizon has slopes.

    seen: the conds of a step, where they are not all.
    """

    settings: Any
    horizon: Horizon = RUN
    seen: dict[int, tuple[float, ...]] = field(default_factory=dict)
    net: Keeping = field(default_factory=Keeping)
    changed: list[int] = field(default_factory=list)

    def draw(self) -> Tensor:
        self.dense = self._drawn(self._dense)
        self.engine = Engine(self.net, Recipe.of([self.settings]))
        with torch.no_grad():
            self.engine.start(self.horizon)
            x = self._drawn(self._forward)
            self.report = self.engine.end()
        return x

    def _drawn(self, forward: Callable[[Tensor, int], Tensor]) -> Tensor:
        x = before = torch.zeros(1, 4, 4, 4)
        for step in range(10):
            picture = x - LEVELS[step] * self._guided(forward(x, step))
            kept, slope = LEVELS[step + 1] / LEVELS[step], self.horizon.slopes[step] if self.horizon.slopes else 0.0
            x, before = kept * x + (1 - kept) * (picture + slope * (picture - before)), picture
        return x

    def _dense(self, x: Tensor, step: int) -> Tensor:
        self.net.dense[step] = x
        return self.net(x, step, [0.0, 1.0])

    def _forward(self, x: Tensor, step: int) -> Tensor:
        conds = list(self.seen.get(step, (0.0, 1.0)))
        rows, streams = torch.cat([x] * len(conds)), tuple(Stream(cond, 1) for cond in conds)
        noise, ran = Noise.of_karras(LEVELS[step], "eps", scaled=False), []

        def run() -> Tensor:
            ran.append(self.net(rows, step, conds))
            return ran[0]

        output = self.engine.forward(lambda: Call(TIMES[step], (4, 4), streams, input=rows, noise=noise), run)
        self.changed += [step] * bool(ran and output is not ran[0])
        return output

    @staticmethod
    def _guided(output: Tensor) -> Tensor:
        empty, cond = output[:1], output[-1:]
        return empty + 3.0 * (cond - empty)


def error(host: Host) -> float:
    found = host.draw()
    return float((found - host.dense).norm() / host.dense.norm())


def test_a_guided_run_ends_where_the_dense_run_ends() -> None:
    host, line = Host(CORRECTED), Host(CallSkip(keys=KEYS, predictor="line"))
    assert error(host) < 1e-5 and error(line) > 3e-5
    assert host.changed == [3, 6, 9] and line.changed == []
    assert host.report.forecast_as == "corrected line on eps" and host.report.calls_run == 7
    assert host.report.chosen["predictor"] == "corrected"


def test_a_sampler_that_continues_pictures_ends_there_too() -> None:
    """It gets what it continues of a correction back at each of its next steps, of which some are forecast."""
    keys = (0, 1, 3, 5, 6, 7, 9)
    host, line = (
        Host(CallSkip(keys=keys, predictor=name), TWO, net=Keeping(moves=0.3)) for name in ("corrected", "line")
    )
    assert error(host) < 1e-5 and error(line) > 3e-5
    assert host.changed == [3, 5, 6, 7, 9] and line.changed == []


def test_the_guard_compares_the_forecast_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what the sampler gets in its place."""
    given: list[bool] = []
    continued = Forecasts.continued
    monkeypatch.setattr(Forecasts, "continued", lambda *args: [given.append(args[-1]), continued(*args)][1])
    Host(CORRECTED, TWO).draw()
    assert given.count(True) == 3 and given.count(False) == 3


def test_only_what_all_streams_missed_is_corrected() -> None:
    assert Host(CORRECTED, seen={2: (1.0,)}).draw().isfinite().all()
    host = Host(CORRECTED, seen={2: (1.0,)})
    host.draw()
    assert host.changed == [6, 9]


@pytest.mark.parametrize(
    ("settings", "horizon"),
    [
        (CORRECTED, Horizon(TIMES)),
        (CORRECTED, Horizon(TIMES, levels=LEVELS[:-1])),
        (CORRECTED, Horizon(TIMES, levels=LEVELS, stochastic=True)),
        (CORRECTED, Horizon(TIMES, levels=LEVELS, slopes=LEVELS)),
        (CallSkip(keys=KEYS, predictor="corrected", space="x0"), RUN),
    ],
)
def test_without_the_levels_it_is_a_line_and_the_report_says_so(settings: CallSkip, horizon: Horizon) -> None:
    host = Host(settings, horizon)
    host.draw()
    assert host.changed == [] and host.report.chosen["predictor"] == "line"
    assert any(note.startswith("a straight line: ") for note in host.report.notes)


@pytest.mark.parametrize(
    ("auto", "horizon", "how"),
    [
        (Auto(speedup=1.5), RUN, "corrected line on eps"),
        (Auto(speedup=2.0), RUN, "corrected line on eps"),
        (Auto(speedup=2.0), TWO, "corrected line on eps"),
        (Auto(speedup=2.5), RUN, "line on eps"),
        (Auto(speedup=1.5), Horizon(TIMES), "line on eps"),
        (Auto(speedup=1.5), Horizon(TIMES, stochastic=True), "line on x0"),
    ],
)
def test_auto_corrects_where_it_can(auto: Auto, horizon: Horizon, how: str) -> None:
    host = Host(auto, horizon)
    host.draw()
    assert host.report.forecast_as == how
    assert not any("a straight line" in note for note in host.report.notes)


def test_an_output_keeps_its_form_and_its_precision() -> None:
    known, call = Forecasts(CORRECTED, RUN), _call(0)
    known.keep(call, tiny.noise(1, 4, 4, 4).bfloat16(), first=True)
    known.passed(_call(1))
    found = known.keep(_call(2), tiny.noise(1, 4, 4, 4, seed=1).bfloat16(), first=False)
    assert found is not None and found.dtype == torch.float32 and found.shape == (1, 4, 4, 4)


def _call(step: int) -> Call:
    noise = Noise.of_karras(LEVELS[step], "eps")
    return Call(TIMES[step], (4, 4), (Stream("cond", 1),), input=tiny.noise(1, 4, 4, 4), noise=noise)
