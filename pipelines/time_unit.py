"""The unit in which a network takes its time: training timesteps, a share of them, or a share that rises."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class TimeUnit:
    """How a network's time argument follows from a training timestep.

    Args:
        scale: training timesteps per unit.
        rising: whether time runs from noise to picture, 1 - t / 1000 (Lumina2, Z-Image). Such networks predict the velocity
            from noise to picture.

    Example:
        >>> TimeUnit(1000.0, rising=True).timestep(0.25, train_steps=1000.0)
        750.0
    """

    scale: float = 1.0
    rising: bool = False

    def timestep(self, argument: float, train_steps: float = 1000.0) -> float:
        """Return the training timestep of an argument.

        Args:
            argument: the network's time argument.
            train_steps: number of training timesteps.
        """
        return train_steps - self.scale * argument if self.rising else self.scale * argument


UNITS = (TimeUnit(), TimeUnit(1000.0), TimeUnit(1000.0, rising=True))
"""Those of diffusers' networks."""


def unit_of(first: float) -> TimeUnit:
    """Return the unit of a network whose schedule is not known, from the time argument of a run's first call.

    Example:
        >>> [unit_of(argument) for argument in (999.0, 1.0, 0.0)] == list(UNITS)
        True
    """
    return UNITS[0] if first > 1 else UNITS[1] if first >= 0.5 else UNITS[2]


def place_of(
    argument: float, units: Iterable[TimeUnit], timesteps: list[float], expected: int | None, slack: float
) -> tuple[int, TimeUnit] | None:
    """Return the place of a call in the schedule, and the unit of its time argument; None for a call of another run.

    A scheduler that counts is believed where the argument may be its timestep: rounded arguments of two steps can be equal.

    Args:
        argument: the network's time argument.
        units: units that it may have.
        timesteps: the schedule.
        expected: place at which the scheduler stands, if it counts; of several possible places the nearest to it is taken.
        slack: largest distance from a timestep of the schedule.

    Example:
        >>> place_of(0.4, UNITS, [1000.0, 800.0, 600.0, 400.0, 200.0], expected=2, slack=3.0)
        (2, TimeUnit(scale=1000.0, rising=True))
    """
    found = []
    for unit in units:
        wanted = unit.timestep(argument)
        distances = [abs(wanted - t) for t in timesteps]
        place = min(range(len(distances)), key=distances.__getitem__)
        if expected is not None and expected < len(distances) and distances[expected] <= slack:
            place = expected
        if distances[place] <= slack:
            found.append((place, unit))
    return min(found, key=lambda pair: abs(pair[0] - (expected or 0)), default=None)
