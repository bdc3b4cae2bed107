"""A headless Chromium for the tests of pages.

Needs Playwright for Python, and Chromium: Playwright's own, or the one that `CHROMIUM_PATH` names or that is in the PATH.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

PATIENCE = 120_000
"""Milliseconds to wait for a page: a loaded machine is slow."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    api = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python: pip install playwright")
    with api.sync_playwright() as play:
        path = os.environ.get("CHROMIUM_PATH") or shutil.which("chromium")
        try:
            found = play.chromium.launch(
                executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            )
        except api.Error as error:
            pytest.skip(
                f"needs Chromium, by `playwright install chromium` or CHROMIUM_PATH: {str(error).splitlines()[0]}"
            )
        yield found
        found.close()
