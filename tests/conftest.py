"""What all tests share: one thread, repeatable hypothesis, and the tiny models of `tiny.py` as fixtures."""

from __future__ import annotations

import gc
import os

import pytest
import tiny
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
torch.backends.mkldnn.enabled = False  # for tiny convolutions, reordering the weights costs more than it saves
gc.set_threshold(50_000)  # collections over everything that thousands of tests import take a tenth of the time
settings.register_profile(
    "skipstone",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("skipstone")


HOSTS = [f"{name}_PATH" for name in ("COMFYUI", "WEBUI", "FORGE", "REFORGE", "CLASSIC", "NEO", "SGM")]
"""Each is the folder of a host; see the tests in `hosts`."""

LEFT_OUT = {
    "hosts": "" if any(map(os.environ.get, HOSTS)) else f"set one of {', '.join(HOSTS)}",
    "gpu": "" if os.environ.get("SKIPSTONE_TEST_DEVICE") or torch.cuda.is_available() else "there is no CUDA",
}
"""Folder -> why its tests do not run here."""

collect_ignore = [folder for folder, why in LEFT_OUT.items() if why]


def pytest_report_header() -> list[str]:
    """Return the lines that say whether tests run in real hosts, and on a GPU."""
    return [f"tests/{folder}: {f'left out; {why}' if why else 'run'}" for folder, why in LEFT_OUT.items()]


def pytest_collection_finish() -> None:
    """What is imported stays: collections need not look through it again, so that tests may watch objects die."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=list(tiny.BUILDERS))
def case(request: pytest.FixtureRequest) -> tiny.Case:
    """Each family of model in turn."""
    return tiny.BUILDERS[request.param]()


@pytest.fixture(params=["diffusers", "dit"])
def either(request: pytest.FixtureRequest) -> tiny.Case:
    """A U-Net and a transformer: for what is the same in all families."""
    return tiny.BUILDERS[request.param]()


@pytest.fixture(params=["ldm", "diffusers"])
def unet(request: pytest.FixtureRequest) -> tiny.Case:
    """The two U-Nets with attention at the latent's own resolution."""
    return tiny.BUILDERS[request.param]()
