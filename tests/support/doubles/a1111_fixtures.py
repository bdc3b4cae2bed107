"""Fixtures of the A1111 script's tests, as a pytest plugin: a host, two checkpoints, a job that must leave no trace."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from doubles import a1111
from doubles.a1111_jobs import job_of
from doubles.a1111_page import Page


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[a1111.Host]:
    """A web UI with Skipstone loaded."""
    yield a1111.install(monkeypatch, tmp_path)
    a1111.forget_shim()


@pytest.fixture(scope="module")
def models() -> tuple[tiny.Case, tiny.Case]:
    """Two checkpoints of one architecture."""
    return tiny.ldm_unet(), tiny.ldm_unet(seed=1)


@pytest.fixture
def job(models: tuple[tiny.Case, tiny.Case]) -> Iterator[a1111.Job]:
    """One picture's job; nothing of it may be left on the U-Nets."""
    yield job_of(models[0])
    for case in models:
        assert list(a1111.traces(case.model)) == []


@pytest.fixture
def page(host: a1111.Host) -> Page:
    """A page that was just opened."""
    return Page(host)


@pytest.fixture
def on(page: Page) -> Page:
    """A page on which the panel is switched on."""
    page.set("enabled", True)
    return page
