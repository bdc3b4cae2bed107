"""What the tests of demos and benches share."""

from __future__ import annotations

from pathlib import Path

import icons
import pytest


@pytest.fixture(scope="session")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the demo's models, narrow: by kind."""
    return icons.save_narrow(tmp_path_factory.mktemp("narrow"))
