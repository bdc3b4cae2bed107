"""A profile: what one needs to know of a model's runs to choose calls and forecasts, in a file of a few kB.

The Gram matrix of all inputs and outputs of a dense run scores every space, predictor and choice of calls without running
the network again, because a forecast is linear. Held-out results of some plans give the errors that can be promised.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from ..errors import ProfileError, reason_of, shown, shown_path
from ..files import write_safetensors
from .names import CallPredictorName, Space
from .space import RAW, Affine, Noise

FORMAT_VERSION = 1
TURNED = 0.3
"""Relative error from which on a picture counts as another picture."""

_MOST_CALLS = 1000
_MOST_ENTRIES = 1 << 22


@dataclass(frozen=True)
class HeldOut:
    """How one plan did on noises that were not used to choose it.

    Args:
        keys: steps at which the network ran.
        space: what was forecast.
        predictor: how.
        errors: relative error of the final latent of each noise.
        one_call: for each key but the first, the relative one-call error that 95 % of the noises stayed under; None for a
            key where nothing was forecast.
        name: how the keys were chosen.
        beside: methods that acted at the steps that ran, in a recipe's form.
        share: measured share of the dense run's multiply-adds; 0 without other methods, where it is that of the steps.

    Example:
        >>> HeldOut((0, 2), "eps", "line", (0.01, 0.03, 0.02)).quantile(0.5)
        0.02
    """

    keys: tuple[int, ...]
    space: Space
    predictor: CallPredictorName
    errors: tuple[float, ...]
    one_call: tuple[float, ...] = ()
    name: str = ""
    beside: tuple[dict[str, Any], ...] = ()
    share: float = 0.0

    def cost(self, steps: int) -> float:
        """Return the share of a dense run's multiply-adds.

        Args:
            steps: number of steps of the run.
        """
        return self.share or len(self.keys) / steps

    def quantile(self, share: float) -> float:
        """Return the error that this share of new pictures stays under: a conformal quantile, inf if there are too few noises."""
        place = math.ceil(share * (len(self.errors) + 1)) - 1
        return sorted(self.errors)[place] if place < len(self.errors) else math.inf

    @property
    def mean(self) -> float:
        """Geometric mean of the errors."""
        return float(np.exp(np.log(np.maximum(self.errors, 1e-9)).mean()))

    @property
    def turned(self) -> float:
        """Share of the noises that gave another picture (:data:`TURNED`)."""
        return float(np.mean(np.asarray(self.errors) >= TURNED))


@dataclass(frozen=True)
class Profile:
    """The profile of a model with one sampler, number of steps and guidance.

    Args:
        gram: mean inner products of inputs x_0..x_{T-1} and outputs o_0..o_{T-1}, averaged over elements and noises,
            float64 [2T, 2T].
        timesteps: training timestep of each call, falling.
        noises: noise level of each call.
        network: identifies the network.
        sampler: name of the sampler.
        guidance: scale of classifier-free guidance.
        sensitivity: how far an error in the output of each call moves the final latent, float64 [T]; None if not measured.
        plans: held-out results.
        provenance: how it was made, for people.

    Raises :class:`ProfileError` for contradictions.

    Example:
        >>> level = Noise(0.6, 0.8, "eps")
        >>> Profile(np.eye(4), (900.0, 500.0), (level, level), "toy").steps
        2
    """

    gram: np.ndarray
    timesteps: tuple[float, ...]
    noises: tuple[Noise, ...]
    network: str
    sampler: str = ""
    guidance: float = 1.0
    sensitivity: np.ndarray | None = None
    plans: tuple[HeldOut, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse contradictions."""
        steps, gram = len(self.timesteps), self.gram
        if not 1 < steps <= _MOST_CALLS or len(self.noises) != steps:
            raise ProfileError(
                f"a profile of {steps} calls and {len(self.noises)} noise levels: record 2 calls or more"
            )
        if gram.shape != (2 * steps, 2 * steps) or not np.isfinite(gram).all():
            raise ProfileError(f"a Gram matrix of shape {list(gram.shape)} does not fit {steps} calls")
        if self.sensitivity is not None and self.sensitivity.shape != (steps,):
            raise ProfileError(f"{self.sensitivity.shape} sensitivities do not fit {steps} calls")
        if any(k.keys[0] != 0 or k.keys[-1] >= steps for k in self.plans):
            raise ProfileError("a plan of the profile has calls outside its run")

    @property
    def steps(self) -> int:
        """Number of calls."""
        return len(self.timesteps)

    @cached_property
    def positions(self) -> np.ndarray:
        """Position of each call, from 0 (noisiest) to 1 (cleanest)."""
        times = np.asarray(self.timesteps)
        return (times[0] - times) / (times[0] - times[-1])

    def space_at(self, call: int, space: Space) -> Affine:
        """Return how a space follows from input and output at a call; the raw output where it does not.

        Args:
            call: number of the call.
            space: what is forecast.
        """
        found = self.noises[call].affine(space)
        return found if found is not None and found.invertible else RAW

    def step_weights(self) -> np.ndarray:
        """Return how far an error in each output moves the next input, float64 [T], from the noise levels alone."""
        weights = []
        for here, there in zip(self.noises, [*self.noises[1:], None], strict=True):
            x0, eps = here.affine("x0"), here.affine("eps")
            alpha, sigma = (there.alpha, there.sigma) if there else (1.0, 0.0)
            weights.append(abs(alpha * (x0.o if x0 else 0.0) + sigma * (eps.o if eps else 0.0)))
        return np.asarray(weights)

    def path_weights(self) -> dict[str, np.ndarray]:
        """Return what an error at each step counts in a shortest path, float64 [T], by the name of the path."""
        found = {"weighted shortest path": np.sqrt(self.step_weights())}
        return found if self.sensitivity is None else found | {"shortest path by sensitivity": self.sensitivity}

    def save(self, path: str | Path) -> None:
        """Write the profile as a safetensors file. Raises :class:`FileError`."""
        tensors = {"gram": torch.from_numpy(self.gram.astype(np.float32))}
        if self.sensitivity is not None:
            tensors["sensitivity"] = torch.from_numpy(self.sensitivity.astype(np.float32))
        head = {
            "skipstone_profile": FORMAT_VERSION,
            "timesteps": list(self.timesteps),
            "noises": [asdict(noise) for noise in self.noises],
            "network": self.network,
            "sampler": self.sampler,
            "guidance": self.guidance,
            "plans": [asdict(plan) for plan in self.plans],
            "provenance": self.provenance,
        }
        write_safetensors(path, tensors, {"profile": json.dumps(head)})

    @classmethod
    def load(cls, path: str | Path) -> Profile:
        """Read a profile file. Raises :class:`ProfileError` for a file that is not one."""
        try:
            with safe_open(str(path), framework="pt") as file:
                head = json.loads((file.metadata() or {}).get("profile", "null"))
                tensors = {name: _array(file, name) for name in ("gram", "sensitivity") if name in file.keys()}
            if not isinstance(head, dict) or head.get("skipstone_profile") != FORMAT_VERSION:
                raise ValueError("no profile of this format")
            return cls._from_parts(head, tensors)
        except (OSError, SafetensorError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ProfileError(
                f"cannot use profile {shown_path(path)} ({reason_of(error)}): make one with `skipstone profile`"
            ) from None

    @classmethod
    def _from_parts(cls, head: dict[str, Any], tensors: dict[str, np.ndarray]) -> Profile:
        plans: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in plan.items()} for plan in head["plans"]
        ]
        return cls(
            gram=tensors["gram"],
            timesteps=tuple(map(float, head["timesteps"])),
            noises=tuple(Noise(**noise) for noise in head["noises"]),
            network=str(head["network"]),
            sampler=str(head["sampler"]),
            guidance=float(head["guidance"]),
            sensitivity=tensors.get("sensitivity"),
            plans=tuple(HeldOut(**plan) for plan in plans),
            provenance=dict(head["provenance"]),
        )

    def fits(self, network: str) -> None:
        """Raise :class:`ProfileError` if the profile is of another network."""
        if network != self.network:
            raise ProfileError(
                f"the profile is of another network ({shown(self.network)}, not {shown(network)}): make one of this model"
            )


def gram_of(inputs: torch.Tensor, outputs: torch.Tensor) -> np.ndarray:
    """Return the Gram matrix of a run, float64 [2T, 2T].

    Args:
        inputs: of the network at each call [T, rows, ...].
        outputs: of the network [T, rows, ...], guidance applied.

    Example:
        >>> gram_of(torch.ones(2, 1, 4), 2 * torch.ones(2, 1, 4))[0].tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    rows = torch.cat([inputs.flatten(1), outputs.flatten(1)]).double()
    return (rows @ rows.T / rows.shape[1]).cpu().numpy()


def _array(file: Any, name: str) -> np.ndarray:
    size = math.prod(file.get_slice(name).get_shape())
    if size > _MOST_ENTRIES:
        raise ValueError(f"{name} has {size} entries, more than any profile needs")
    return np.asarray(file.get_tensor(name).numpy(), dtype=np.float64)
