"""The A1111 script is loaded for each test; what it imports of `core` is kept between tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

ROOT = Path(__file__).resolve().parents[3]


class KeptCore(Loader):
    """Imports the private package's `core` once for all tests: it knows no host, and takes most of the time of a load."""

    modules: ClassVar[dict[str, tuple[ModuleType, ModuleSpec | None]]] = {}

    @classmethod
    def keep(cls, name: str, module: ModuleType) -> None:
        """For the next test, if it belongs to `core` of this checkout."""
        if name.startswith("_skipstone_webui.core") and Path(str(module.__file__)).is_relative_to(ROOT):
            cls.modules[name] = module, module.__spec__

    @classmethod
    @contextmanager
    def installed(cls, really: bool) -> Iterator[None]:
        """While a script is loaded."""
        before = sys.meta_path[:]
        sys.meta_path[:0] = [cls()] if really else []  # type: ignore[list-item]
        yield
        sys.meta_path[:] = before

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """For what was kept."""
        return ModuleSpec(name, self) if name in self.modules else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module as it is."""
        return self.modules[spec.name][0]

    def exec_module(self, module: ModuleType) -> None:
        """It ran long ago."""
        module.__spec__ = self.modules[module.__name__][1]
