"""What is known of ComfyUI's samplers: when they evaluate the model, whether they add noise, and which cannot be forecast for."""

from __future__ import annotations

from typing import Any

_PP = ("", "_cfg_pp")
ONE_CALL_PER_SIGMA = frozenset(
    {name + pp for name in ("euler", "euler_ancestral", "dpmpp_2m", "gradient_estimation") for pp in _PP}
    | {name + pp for name in ("res_multistep", "res_multistep_ancestral") for pp in _PP}
    | {"dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde", "lms", "ddpm", "lcm", "ipndm", "ipndm_v", "deis", "er_sde"}
    | {"sa_solver", "unipc", "unipc_bh2"}
)
"""Samplers that evaluate the model once at each scheduled sigma (all but the last) and nowhere else."""

SEVERAL_CALLS_PER_STEP = frozenset(
    {
        "heun",
        "heunpp2",
        "exp_heun_2_x0",
        "exp_heun_2_x0_sde",
        "dpm_2",
        "dpm_2_ancestral",
        "dpmpp_sde",
        "seeds_2",
        "seeds_3",
    }
    | {"dpmpp_2s_ancestral" + pp for pp in _PP}
    | {"sa_solver_pece"}
)
"""Samplers that evaluate the model also between the scheduled sigmas, or twice at one. All calls of a step are decided together."""

DECLINED = {
    "dpm_adaptive": "dpm_adaptive chooses its own steps",
    "dpm_fast": "dpm_fast chooses its own steps",
    "ar_video": "ar_video draws one group of frames after another",
    "lcm": "lcm replaces all noise at each step",
}
"""Samplers that cannot be forecast for -> why: their calls do not follow the scheduled steps, or nothing of a step is left."""

NOISE_INSIDE_STEPS = frozenset({"dpmpp_sde", "seeds_2", "seeds_3"})
"""Samplers whose steps add noise between their calls. A line through two calls of one step would amplify it."""

_ONE_STEP = ("euler", "ddpm", "lcm")


def is_multistep(sampler: Any) -> bool:
    """Whether a sampler continues the outputs of earlier steps itself (DPM++ 2M, UniPC, LMS).

    Args:
        sampler: a `KSAMPLER`.
    """
    name = name_of(sampler)
    return name in ONE_CALL_PER_SIGMA | {"sa_solver_pece"} and not name.startswith(_ONE_STEP)


def is_first_order(sampler: Any) -> bool:
    """Whether a sampler goes from one scheduled sigma to the next along the denoised latent alone. ComfyUI's ddim is its euler.

    Args:
        sampler: a `KSAMPLER`.
    """
    return name_of(sampler) == "euler" and not churns(sampler)


def is_dpmpp_2m(sampler: Any) -> bool:
    """Whether a sampler goes from one scheduled sigma to the next along a line through the last two denoised latents.

    Args:
        sampler: a `KSAMPLER`.
    """
    return name_of(sampler) == "dpmpp_2m"


_ADD_NOISE = ("ancestral", "sde", "ddpm", "lcm", "seeds", "sa_solver")


def name_of(sampler: Any) -> str:
    """The name of a sampler's function, such as "dpmpp_2m_sde"; empty for samplers that have none.

    Args:
        sampler: a `KSAMPLER`. Its GPU variants have the name of the sampler.
    """
    name = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    return name.removeprefix("sample_").removesuffix("_function").removesuffix("_gpu")


def adds_noise(sampler: Any) -> bool:
    """Whether a sampler adds noise of its own, by its name and options; also true for unknown samplers, which may.

    Args:
        sampler: a `KSAMPLER`.
    """
    options, name = getattr(sampler, "extra_options", None) or {}, name_of(sampler)
    if name not in ONE_CALL_PER_SIGMA | SEVERAL_CALLS_PER_STEP or churns(sampler):
        return True
    return any(part in name for part in _ADD_NOISE) and options.get("eta") != 0 and options.get("s_noise") != 0


def churns(sampler: Any) -> bool:
    """Whether a sampler raises the noise before its calls, as euler and heun do with `s_churn`."""
    return bool((getattr(sampler, "extra_options", None) or {}).get("s_churn"))
