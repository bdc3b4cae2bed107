"""`core` needs torch, numpy, safetensors and einops, and nothing else that is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests" / "support" / "core_alone.py"


def test_core_imports_and_samples_where_its_four_requirements_are_all_there_is() -> None:
    done = subprocess.run([sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert {"diffusers", "transformers", "PIL", "matplotlib", "tyro", "rich", "torchmetrics"} <= set(seen["missing"])
    files = (p.relative_to(ROOT).with_suffix("") for p in (ROOT / "core").rglob("*.py"))
    modules = {".".join(("skipstone", *file.parts)).removesuffix(".__init__") for file in files}
    assert set(seen["modules"]) == modules - {"skipstone.core"}
    assert seen["report"] == {"calls": 4, "kept": {"merged": 0.25, "pruned": 0.5}, "run": 8, "reused": 8}
