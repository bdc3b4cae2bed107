"""What all tests on the GPU share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from gpu import exact


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Numbers are as exact as the device can: errors of TF32 and of sums in another order grow from step to step."""
    with exact():
        yield
