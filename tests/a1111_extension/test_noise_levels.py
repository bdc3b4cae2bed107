"""The noise level of the U-Net's input, and its output's meaning, as each host's model says."""

from __future__ import annotations

from math import isfinite
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from doubles import a1111

from skipstone.a1111_extension.noise import levels_of
from skipstone.a1111_extension.sampler import adds_noise, is_multistep
from skipstone.a1111_extension.schedule import Schedule
from skipstone.core.errors import Decline
from skipstone.core.forecast.space import Noise


class CONST: ...


class EPS: ...


class V_PREDICTION(EPS): ...


class EDM(V_PREDICTION): ...


class ModelSamplingFlux: ...


def patched(**form: Any) -> Any:
    """A job of Forge (`predictor`) or reForge (`model_sampling`)."""
    model = SimpleNamespace(**form)
    return SimpleNamespace(sd_model=SimpleNamespace(forge_objects=SimpleNamespace(unet=SimpleNamespace(model=model))))


def forge(prediction_type: str, sigma_data: float = 1.0) -> Any:
    return patched(predictor=SimpleNamespace(prediction_type=prediction_type, sigma_data=sigma_data))


def reforge(*kinds: type) -> Any:
    return patched(model_sampling=type("ModelSampling", (ModelSamplingFlux, *kinds), {})())


def a1111_job(**model: Any) -> Any:
    return SimpleNamespace(sd_model=SimpleNamespace(**model))


SIGMAS = {"sigmas": torch.tensor([0.5, 0.5])}


@pytest.mark.parametrize(
    ("job", "level"),
    [
        (forge("epsilon"), Noise.of_karras(0.5, "eps")),
        (forge("v_prediction"), Noise.of_karras(0.5, "v")),
        (forge("const"), Noise.of_flow(0.5)),
        (forge("edm"), None),
        (forge("epsilon", sigma_data=0.5), None),
        (reforge(EPS), Noise.of_karras(0.5, "eps")),
        (reforge(V_PREDICTION), Noise.of_karras(0.5, "v")),
        (reforge(CONST), Noise.of_flow(0.5)),
        (reforge(EDM), None),
        (patched(), None),
    ],
)
def test_forge_puts_sigma_into_the_options_and_the_models_form_says_what_is_predicted(job: Any, level: Any) -> None:
    assert levels_of(job)(777.0, SIGMAS) == level
    assert levels_of(job)(777.0, {}) is None


def test_rows_at_different_levels_are_declined() -> None:
    with pytest.raises(Decline, match="different timesteps"):
        levels_of(forge("epsilon"))(777.0, {"sigmas": torch.tensor([0.5, 0.6])})


def test_sd3_is_a_flow_whatever_its_other_attributes_say() -> None:
    job = a1111_job(is_sd3=True, alphas_cumprod=a1111.SHARES, parameterization="eps")
    assert levels_of(job)(250.0, {}) == Noise.of_flow(0.25)


@pytest.mark.parametrize("t", [0.0, 0.5, 499.5, 998.999, 999.0])
def test_levels_lie_between_those_of_the_schedule(t: float) -> None:
    level = levels_of(a1111_job(alphas_cumprod=a1111.SHARES, parameterization="v"))(t, {})
    assert level is not None and level.predicts == "v" and level.alpha**2 + level.sigma**2 == pytest.approx(1)
    shares = a1111.SHARES.double().tolist()
    assert shares[min(int(t) + 1, 999)] - 1e-6 <= level.alpha**2 <= shares[int(t)] + 1e-6


def test_a_schedule_that_ends_in_pure_noise_has_a_finite_level() -> None:
    shares = torch.cat([a1111.SHARES[:-1], torch.zeros(1)])
    level = levels_of(a1111_job(alphas_cumprod=shares, parameterization="v"))(999.0, {})
    assert level is not None and isfinite(level.alpha) and level.alpha < 1e-4 and level.sigma == pytest.approx(1)


@pytest.mark.parametrize("model", [{}, {"alphas_cumprod": a1111.SHARES}, {"parameterization": "eps"}], ids=str)
def test_a_model_of_unknown_form_has_no_levels(model: dict[str, Any]) -> None:
    assert levels_of(a1111_job(**model))(500.0, {}) is None


@pytest.mark.parametrize(
    ("name", "schedule", "steps"),
    [
        ("Euler", {"sigmas": range(21)}, 20),
        ("Restart", {"sigmas": range(21)}, 20),
        ("DDIM", {"timesteps": range(20)}, 19),
        ("DDIM CFG++", {"timesteps": range(20)}, 19),
        ("PLMS", {"timesteps": range(20)}, 20),
        ("UniPC", {"timesteps": range(20)}, 20),
        ("DPM fast", {"n": 20}, None),
    ],
)
def test_the_steps_are_counted_in_the_schedule(name: str, schedule: dict[str, Any], steps: int | None) -> None:
    seen: list[Any] = []
    func = lambda model, x, **arguments: seen.append(count.steps)  # noqa: E731
    sampler = SimpleNamespace(config=SimpleNamespace(name=name), func=func)
    count = Schedule(sampler)
    sampler.func("model", "x", **schedule)
    count.remove()
    assert seen == [steps] and sampler.func is func


@pytest.mark.parametrize(
    ("name", "eta", "noisy"),
    [
        ("Euler", 1.0, False), ("Euler a", 1.0, True), ("Euler a", 0.0, False), ("DDIM", 0.0, False), ("DDIM", 1.0, True),
    ],
)  # fmt: skip
def test_a_sampler_adds_noise_by_its_eta(name: str, eta: float, noisy: bool) -> None:
    sampler = a1111.Sampler(name)
    sampler.eta = eta
    assert adds_noise(sampler) == noisy


@pytest.mark.parametrize(
    ("name", "multistep"),
    [("DPM++ 2M", True), ("DPM++ 3M SDE", True), ("UniPC", True), ("PLMS", True), ("LMS", True), ("DEIS", True)]
    + [
        (name, False)
        for name in ("Euler", "Euler a", "DDIM", "DPM++ SDE", "DPM++ 2S a", "DPM2", "Heun", "Restart", "LCM")
    ],
)
def test_a_sampler_continues_its_outputs_by_its_name(name: str, multistep: bool) -> None:
    assert is_multistep(SimpleNamespace(config=SimpleNamespace(name=name))) == multistep


@pytest.mark.parametrize("name", ["DPM++ 2M SDE", "DPM2 a", "DDPM", "LCM", "DPM++ 2M", "Restart", "LMS", "DPM fast"])
def test_a_sampler_without_eta_adds_noise_by_its_name(name: str) -> None:
    noisy = name in ("DPM++ 2M SDE", "DPM2 a", "DDPM", "LCM")
    assert adds_noise(SimpleNamespace(config=SimpleNamespace(name=name))) == noisy
    assert not adds_noise(None)
