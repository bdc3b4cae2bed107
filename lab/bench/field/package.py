"""A way that a package installs on the network itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .way import Host, Predict, Way

Put = Callable[[Host], object]
"""Installs a package on a host's network. Any error of the package is a line in the table."""


def network_way(name: str, group: str, put: Put) -> Way:
    """Return a way that a package installs on the network.

    Args:
        name: in tables.
        group: the package.
        put: installs it.

    Example:
        >>> network_way("nothing", "none", lambda host: None).group
        'none'
    """

    @contextmanager
    def install(host: Host) -> Iterator[Predict]:
        with quiet():
            put(host)
            yield host.denoiser.predict

    return Way(name, group, install)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep packages' log lines off the console, up to warnings.

    Example:
        >>> with quiet():
        ...     logging.getLogger("a package").warning("what it says of itself")
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
