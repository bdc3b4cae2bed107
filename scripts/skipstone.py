"""Skipstone for AUTOMATIC1111, Forge and reForge: they load `scripts/*.py` of an extension's root.

The root folder is bound to a private package name, so that `core`, `nodes` and `tests` can never meet another extension's
modules of these names. The root `__init__.py`, ComfyUI's entry, is not run.
"""

import importlib
import os
import sys
import types

_PACKAGE = "_skipstone_webui"
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def _load():
    """Import the extension afresh: "Reload UI" runs this file again, and edited code and callbacks must come with it."""
    old = sys.modules.get(f"{_PACKAGE}.a1111_extension.script")
    if old is not None:
        old.LIFECYCLE.end()
    for name in [n for n in sys.modules if n == _PACKAGE or n.startswith(_PACKAGE + ".")]:
        del sys.modules[name]
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [_ROOT]
    sys.modules[_PACKAGE] = package
    return importlib.import_module(f"{_PACKAGE}.a1111_extension.script")


try:
    _script = _load()
    _script.register()
    SkipstoneScript = _script.SkipstoneScript
except Exception as fault:
    print(
        f"Skipstone is off, because it does not know this web UI: {type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
    )
