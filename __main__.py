"""`python -m skipstone`, the same as the `skipstone` command."""

from __future__ import annotations

import sys

from .core.cli import main

sys.exit(main())
